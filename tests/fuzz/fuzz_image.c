// tests/fuzz/fuzz_image.c: PNG and JPEG. Checksums of PNG chunks are put right first, or few inputs would pass them.
#include "fuzz.h"
#include "io/image.h"
#include <zlib.h>

static uint32_t be32(const uint8_t *p) { return (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3]; }

static void mend_checksums(uint8_t *png, size_t size) {
    for (size_t at = 8; size >= 20 && at <= size - 12;) {
        uint32_t length = be32(png + at);
        if (length > size - at - 12)
            return;
        uint32_t crc = (uint32_t)crc32(crc32(0, NULL, 0), png + at + 4, length + 4);
        for (int i = 0; i < 4; i++)
            png[at + 8 + length + (size_t)i] = (uint8_t)(crc >> (24 - 8 * i));
        at += length + 12;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *copy = malloc(size + 1);
    memcpy(copy, data, size);
    mend_checksums(copy, size);
    hd_image image, small;
    if (hd_image_decode("input", copy, size, size ? data[size - 1] % 5 : 0, &image) == HD_OK) {
        if (hd_image_cover(&image, 7, 5, &small) == HD_OK)
            hd_image_free(&small);
    }
    hd_image_free(&image);
    free(copy);
    expect_no_memory();
    return 0;
}
