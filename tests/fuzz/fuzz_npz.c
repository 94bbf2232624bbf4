// tests/fuzz/fuzz_npz.c: the input as .npz, a zip of arrays.
#define FUZZ_MENDS
#include "fuzz.h"
#include "array.h"
#include <zlib.h>

static void put32(uint8_t *p, size_t v) {
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}

static uint8_t *next_mark(uint8_t *p, const uint8_t *end, const char *mark) {
    return p < end ? memmem(p, (size_t)(end - p), mark, 4) : NULL;
}

// Unpacked size and checksum of a member, into its directory record.
static void mend_content(uint8_t *record, const uint8_t *packed, size_t size) {
    static uint8_t out[1 << 16];
    z_stream s = {.next_in = (Bytef *)(uintptr_t)packed, .avail_in = (uInt)size, .next_out = out};
    s.avail_out = sizeof out;
    size_t unpacked = size;
    if (record[10] == 8 && inflateInit2(&s, -MAX_WBITS) == Z_OK) {
        inflate(&s, Z_FINISH);
        unpacked = s.total_out;
        inflateEnd(&s);
        packed = out;
    }
    put32(record + 16, crc32(crc32(0, NULL, 0), packed, (uInt)unpacked));
    put32(record + 20, size);
    put32(record + 24, unpacked);
}

// Places, sizes and checksums: record i of the directory belongs to local header i, whose data end at the next mark.
static size_t mend(uint8_t *data, size_t size, size_t max) {
    (void)max;
    uint8_t *end = data + size, *first = next_mark(data, end, "PK\1\2"), *record = first, *last = NULL;
    uint8_t *local = next_mark(data, end, "PK\3\4");
    while (record && local && end - record >= 46 && end - local >= 30 && local < first) {
        uint8_t *next = next_mark(local + 4, first, "PK\3\4");
        uint8_t *packed = local + 30 + (local[26] | local[27] << 8) + (local[28] | local[29] << 8);
        put32(record + 42, (size_t)(local - data));
        if (packed <= (next ? next : first))
            mend_content(record, packed, (size_t)((next ? next : first) - packed));
        local = next;
        record = next_mark(record + 46, end, "PK\1\2");
    }
    for (uint8_t *p = first; p && (p = next_mark(p, end, "PK\5\6")); p += 4)
        last = p;
    if (last && end - last >= 22) {
        put32(last + 12, (size_t)(last - first));
        put32(last + 16, (size_t)(first - data));
        last[20] = (uint8_t)(end - last - 22);
        last[21] = (uint8_t)((end - last - 22) >> 8);
    }
    return size;
}

static void one_input(const uint8_t *data, size_t size) {
    hd_npz z;
    if (hd_npz_open(as_file(data, size), &z) == HD_OK)
        for (int i = 0; i < z.count; i++) {
            hd_bytes member;
            if (hd_npz_read("member", &z, i, &member) == HD_OK)
                read_array(member.data, member.size);
            hd_bytes_free(&member);
        }
    hd_npz_close(&z);
}
