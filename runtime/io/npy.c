// io/npy.c: NumPy's .npy and .npz.
// Layer: io. Called by: bind_io.c. Threads: any.
#include "io/npy.h"
#include "core/alloc.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

// Header ---------------------------------------------------------------------
// After the magic, version and length stands a Python literal such as
//   {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }

typedef struct {
    const char *where, *p, *end;
} reader;

static hd_status bad(const reader *r, const char *what) {
    return hd_fail(HD_EFORMAT, "%s: bad npy header: %s", r->where, what);
}

static void skip_space(reader *r) {
    while (r->p < r->end && (*r->p == ' ' || *r->p == '\t' || *r->p == '\n'))
        r->p++;
}

static bool take(reader *r, char c) {
    skip_space(r);
    if (r->p == r->end || *r->p != c)
        return false;
    r->p++;
    return true;
}

static bool take_word(reader *r, const char *word) {
    skip_space(r);
    size_t n = strlen(word);
    if ((size_t)(r->end - r->p) < n || memcmp(r->p, word, n) != 0)
        return false;
    r->p += n;
    return true;
}

// A quoted string without escapes, at most 31 characters.
static bool take_string(reader *r, char out[32]) {
    skip_space(r);
    if (r->p == r->end || (*r->p != '\'' && *r->p != '"'))
        return false;
    char quote = *r->p++;
    size_t n = 0;
    while (r->p < r->end && *r->p != quote && *r->p != '\\' && n < 31)
        out[n++] = *r->p++;
    out[n] = 0;
    return r->p < r->end && *r->p++ == quote;
}

static bool take_integer(reader *r, int64_t *out) {
    skip_space(r);
    int64_t v = 0;
    const char *start = r->p;
    for (; r->p < r->end && *r->p >= '0' && *r->p <= '9'; r->p++)
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, *r->p - '0', &v))
            return false;
    if (r->p == start)
        return false;
    if (r->p < r->end && *r->p == 'L') // Python 2
        r->p++;
    *out = v;
    return true;
}

static hd_status take_shape(reader *r, hd_npy *out) {
    if (!take(r, '('))
        return bad(r, "shape is not a tuple");
    while (!take(r, ')')) {
        if (out->ndim == HD_MAX_DIMS)
            return hd_fail(HD_EFORMAT, "%s: too many dimensions: expected at most %d", r->where, HD_MAX_DIMS);
        if (!take_integer(r, &out->shape[out->ndim]))
            return bad(r, "an extent is no whole number, or too large");
        out->ndim++;
        if (take(r, ','))
            continue;
        if (!take(r, ')'))
            return bad(r, "shape is not closed");
        break;
    }
    return HD_OK;
}

static hd_status take_descr(reader *r, hd_npy *out) {
    char descr[32];
    if (!take_string(r, descr))
        return bad(r, "descr is not a string");
    bool order = descr[0] && strchr("<>|=", descr[0]) != NULL;
    const char *kind = descr + order;
    out->big_endian = descr[0] == '>';
    for (int t = 0; t < HD_NUM_COUNT; t++)
        if (hd_numbers[t].numpy && strcmp(kind, hd_numbers[t].numpy) == 0) {
            out->type = (hd_number)t;
            return HD_OK;
        }
    if (kind[0] == 'O')
        return hd_fail(HD_EFORMAT, "%s holds Python objects, which are never read", r->where);
    return hd_fail(HD_EFORMAT, "%s: unknown element type: got '%s', expected one like '<f4', '<i8' or '|u1'", r->where,
                   descr);
}

static hd_status take_dict(reader *r, hd_npy *out) {
    int seen = 0; // bits: descr, fortran_order, shape
    if (!take(r, '{'))
        return bad(r, "not a dictionary");
    while (!take(r, '}')) {
        char key[32];
        if (!take_string(r, key) || !take(r, ':'))
            return bad(r, "a key is missing");
        int bit = strcmp(key, "descr") == 0           ? 1
                  : strcmp(key, "fortran_order") == 0 ? 2
                  : strcmp(key, "shape") == 0         ? 4
                                                      : 0;
        if (bit == 0 || seen & bit)
            return bad(r, bit ? "a key stands twice" : "an unknown key");
        seen |= bit;
        if (bit == 1)
            HD_CHECK(take_descr(r, out));
        else if (bit == 4)
            HD_CHECK(take_shape(r, out));
        else if (take_word(r, "True"))
            out->fortran = true;
        else if (!take_word(r, "False"))
            return bad(r, "fortran_order is neither True nor False");
        if (take(r, ','))
            continue;
        if (!take(r, '}'))
            return bad(r, "the dictionary is not closed");
        break;
    }
    skip_space(r);
    if (r->p != r->end)
        return bad(r, "text behind the dictionary");
    return seen == 7 ? HD_OK : bad(r, "descr, fortran_order or shape is missing");
}

hd_status hd_npy_parse(const char *where, const unsigned char *bytes, size_t size, hd_npy *out) {
    *out = (hd_npy){0};
    if (size < 10 || memcmp(bytes, "\x93NUMPY", 6) != 0)
        return hd_fail(HD_EFORMAT, "%s is no npy file: it does not begin with its magic number", where);
    int version = bytes[6];
    size_t start = version == 1 ? 10 : 12;
    if (version < 1 || version > 3 || size < start)
        return hd_fail(HD_EFORMAT, "%s: npy version %d is not known", where, version);
    size_t length = bytes[8] | (size_t)bytes[9] << 8;
    if (version > 1)
        length |= (size_t)bytes[10] << 16 | (size_t)bytes[11] << 24;
    if (length > size - start)
        return hd_fail(HD_EFORMAT, "%s is cut short: its header claims %zu bytes, got %zu", where, length,
                       size - start);
    reader r = {where, (const char *)bytes + start, (const char *)bytes + start + length};
    HD_CHECK(take_dict(&r, out));
    int64_t need;
    size_t have = size - start - length;
    if (!hd_extent_bytes(out->ndim, out->shape, hd_numbers[out->type].size, &need))
        return hd_fail(HD_EFORMAT, "%s: its shape overflows", where);
    if ((uint64_t)need != have)
        return hd_fail(HD_EFORMAT, "%s %s: got %zu bytes of data, expected %lld from its shape", where,
                       have < (uint64_t)need ? "is cut short" : "is too long", have, (long long)need);
    out->count = need / (int64_t)hd_numbers[out->type].size;
    out->data = bytes + start + length;
    return HD_OK;
}

// Writing --------------------------------------------------------------------

// Magic, version 1.0, length and dictionary, padded so that the data begin at a multiple of 64.
static size_t make_header(const hd_view *v, char out[512]) {
    const char *type = hd_numbers[hd_number_of(v->dtype)].numpy;
    char *p = out + 10, *end = out + 512;
    p += snprintf(p, (size_t)(end - p), "{'descr': '%c%s', 'fortran_order': False, 'shape': (",
                  hd_dtype_size(v->dtype) == 1 ? '|' : '<', type);
    for (int d = 0; d < v->ndim; d++)
        p += snprintf(p, (size_t)(end - p), "%s%lld%s", d ? " " : "", (long long)v->shape[d],
                      d + 1 < v->ndim || v->ndim == 1 ? "," : "");
    p += snprintf(p, (size_t)(end - p), "), }");
    size_t total = ((size_t)(p - out) + 1 + 63) / 64 * 64, length = total - 10;
    memset(p, ' ', total - (size_t)(p - out));
    out[total - 1] = '\n';
    memcpy(out, "\x93NUMPY\x01", 8); // the string's own zero is the minor version
    out[8] = (char)(length & 255);
    out[9] = (char)(length >> 8);
    return total;
}

#define PIECE ((size_t)1 << 18)

// Header and elements, to the writer or (w == NULL) into the CRC.
static hd_status pass_array(const hd_view *v, hd_writer *w, uint32_t *crc) {
    char header[512];
    size_t n = make_header(v, header);
    int64_t step = (int64_t)(PIECE / hd_dtype_size(v->dtype)), count = hd_view_numel(v);
    unsigned char *piece = hd_alloc(PIECE);
    if (!piece)
        return hd_fail(HD_ENOMEM, "save: no memory for a buffer of %zu bytes", PIECE);
    hd_status status = HD_OK;
    if (w)
        status = hd_writer_put(w, header, n);
    else
        *crc = (uint32_t)crc32(crc32(0, NULL, 0), (const Bytef *)header, (uInt)n);
    for (int64_t at = 0; at < count && status == HD_OK; at += step) {
        int64_t now = count - at < step ? count - at : step;
        size_t bytes = (size_t)now * hd_dtype_size(v->dtype);
        hd_view_pack(v, at, now, piece);
        if (w)
            status = hd_writer_put(w, piece, bytes);
        else
            *crc = (uint32_t)crc32(*crc, piece, (uInt)bytes);
    }
    hd_free(piece);
    return status;
}

hd_status hd_npy_write(const char *path, const hd_view *v) {
    hd_writer *w;
    HD_CHECK(hd_writer_open(path, &w));
    hd_status status = pass_array(v, w, NULL);
    if (status == HD_OK)
        return hd_writer_commit(w, false);
    hd_writer_abort(w);
    return status;
}

// Zip ------------------------------------------------------------------------
// Sizes come from the central directory alone (PKWARE APPNOTE 4.3.12, 4.3.16); local headers give only their own
// length.

static uint32_t u16(const unsigned char *p) { return p[0] | (uint32_t)p[1] << 8; }
static uint32_t u32(const unsigned char *p) { return u16(p) | u16(p + 2) << 16; }

static hd_status zip_bad(const char *where, const char *what) {
    return hd_fail(HD_EFORMAT, "%s: bad zip file: %s", where, what);
}

// One record of the central directory at p, `left` bytes before its end; *length is the record's.
static hd_status read_member(const char *where, const hd_bytes *file, const unsigned char *p, size_t left,
                             hd_npz_member *m, size_t *length) {
    if (left < 46 || memcmp(p, "PK\1\2", 4) != 0)
        return zip_bad(where, "its directory is damaged");
    size_t name = u16(p + 28), offset = u32(p + 42);
    *length = 46 + name + u16(p + 30) + u16(p + 32);
    if (*length > left)
        return zip_bad(where, "its directory is cut short");
    *m = (hd_npz_member){.crc = u32(p + 16), .packed = u32(p + 20), .size = u32(p + 24), .method = (int)u16(p + 10)};
    if (m->packed == UINT32_MAX || m->size == UINT32_MAX || offset == UINT32_MAX)
        return zip_bad(where, "members over 4 GiB are not read");
    if (u16(p + 8) & 1 || (m->method != 0 && m->method != 8))
        return zip_bad(where, "a member is encrypted, or packed by an unknown method");
    if (offset > file->size || file->size - offset < 30 || memcmp(file->data + offset, "PK\3\4", 4) != 0)
        return zip_bad(where, "a member is not where its directory says");
    m->offset = offset + 30 + u16(file->data + offset + 26) + u16(file->data + offset + 28);
    if (m->offset > file->size || file->size - m->offset < m->packed)
        return zip_bad(where, "a member is cut short");
    if (m->method == 0 ? m->packed != m->size : m->size / 1032 > m->packed + 1) // deflate's best is 1032:1
        return zip_bad(where, "a member claims an impossible size");
    bool npy = name > 4 && memcmp(p + 46 + name - 4, ".npy", 4) == 0;
    m->name = hd_strndup((const char *)p + 46, name - (npy ? 4 : 0));
    return m->name ? HD_OK : hd_fail(HD_ENOMEM, "%s: no memory", where);
}

// The end record is the last "PK\5\6" whose comment reaches the end of the file.
static const unsigned char *find_end(const hd_bytes *f) {
    for (size_t back = 22; back <= f->size && back <= 22 + 65535; back++) {
        const unsigned char *p = f->data + f->size - back;
        if (memcmp(p, "PK\5\6", 4) == 0 && 22 + u16(p + 20) == back)
            return p;
    }
    return NULL;
}

hd_status hd_npz_parse(const char *where, hd_npz *z) {
    const unsigned char *end = find_end(&z->file);
    if (!end)
        return zip_bad(where, "no end record; the file is cut short, or no zip file");
    size_t count = u16(end + 10), size = u32(end + 12), start = u32(end + 16), at = (size_t)(end - z->file.data);
    if (start > at || size > at - start || count * 46 > size)
        return zip_bad(where, "its directory does not fit");
    z->members = hd_calloc(count + 1, sizeof *z->members);
    if (!z->members)
        return hd_fail(HD_ENOMEM, "%s: no memory", where);
    const unsigned char *p = z->file.data + start;
    for (size_t i = 0; i < count; i++) {
        size_t length = 0, left = size - (size_t)(p - z->file.data - start);
        HD_CHECK(read_member(where, &z->file, p, left, &z->members[i], &length));
        z->count++;
        p += length;
    }
    return HD_OK;
}

hd_status hd_npz_open(const char *path, hd_npz *out) {
    *out = (hd_npz){0};
    HD_CHECK(hd_file_read(path, HD_NPY_CAP, &out->file));
    hd_status status = hd_npz_parse(path, out);
    if (status != HD_OK)
        hd_npz_close(out);
    return status;
}

static voidpf zip_alloc(voidpf unused, uInt count, uInt size) {
    (void)unused;
    return hd_calloc(count, size);
}

static void zip_free(voidpf unused, voidpf block) {
    (void)unused;
    hd_free(block);
}

// Raw inflate that grows its buffer with what comes out and stops at the claimed size.
static hd_status unpack(const char *where, const unsigned char *src, size_t packed, size_t size, hd_bytes *out) {
    z_stream s = {.next_in = (Bytef *)(uintptr_t)src, .avail_in = (uInt)packed, .zalloc = zip_alloc, .zfree = zip_free};
    if (inflateInit2(&s, -MAX_WBITS) != Z_OK)
        return hd_fail(HD_ENOMEM, "%s: no memory to unpack", where);
    size_t capacity = 0;
    hd_status status = HD_OK;
    int code = Z_OK;
    while (status == HD_OK && code == Z_OK && out->size <= size) {
        status = hd_bytes_reserve(out, &capacity, out->size + 65536);
        if (status != HD_OK)
            break;
        s.next_out = out->data + out->size;
        s.avail_out = (uInt)(capacity - out->size > 1u << 30 ? 1u << 30 : capacity - out->size);
        size_t room = s.avail_out;
        code = inflate(&s, Z_NO_FLUSH);
        out->size += room - s.avail_out;
    }
    inflateEnd(&s);
    if (code == Z_MEM_ERROR)
        return hd_fail(HD_ENOMEM, "%s: no memory to unpack", where);
    if (status == HD_OK && (code != Z_STREAM_END || out->size != size))
        status = zip_bad(where, "packed data are damaged");
    return status;
}

hd_status hd_npz_read(const char *where, const hd_npz *z, int i, hd_bytes *out) {
    *out = (hd_bytes){0};
    const hd_npz_member *m = &z->members[i];
    const unsigned char *src = z->file.data + m->offset;
    hd_status status;
    size_t capacity = 0;
    if (m->method == 8) {
        status = unpack(where, src, m->packed, m->size, out);
    } else if ((status = hd_bytes_reserve(out, &capacity, m->size)) == HD_OK) {
        memcpy(out->data, src, m->size);
        out->size = m->size;
    }
    if (status == HD_OK && crc32_z(crc32(0, NULL, 0), out->data, out->size) != m->crc)
        status = zip_bad(where, "the checksum of a member differs");
    if (status != HD_OK)
        hd_bytes_free(out);
    return status;
}

void hd_npz_close(hd_npz *z) {
    for (int i = 0; i < z->count; i++)
        hd_free(z->members[i].name);
    hd_free(z->members);
    hd_bytes_free(&z->file);
    *z = (hd_npz){0};
}

static void put16(unsigned char *p, size_t v) {
    p[0] = v & 255;
    p[1] = v >> 8 & 255;
}

static void put32(unsigned char *p, size_t v) {
    put16(p, v);
    put16(p + 2, v >> 16);
}

// The 26 bytes that a local header (from byte 4) and a directory record (from byte 6) share. The date is 1980-01-01, so
// that equal arrays give equal files.
static void put_common(unsigned char *p, uint32_t crc, size_t size, size_t name) {
    memset(p, 0, 26);
    put16(p, 20); // needs version 2.0
    put16(p + 8, 1 << 5 | 1);
    put32(p + 10, crc);
    put32(p + 14, size);
    put32(p + 18, size);
    put16(p + 22, name);
}

typedef struct {
    uint32_t crc;
    size_t size, offset;
} placed;

static hd_status put_member(hd_writer *w, const char *name, const hd_view *v, placed *place, size_t *at) {
    unsigned char head[30] = "PK\3\4";
    char text[512];
    int64_t bytes = hd_view_numel(v) * (int64_t)hd_dtype_size(v->dtype);
    *place = (placed){.size = make_header(v, text) + (size_t)bytes, .offset = *at};
    *at += 30 + strlen(name) + 4 + place->size;
    if (*at >= UINT32_MAX)
        return hd_fail(HD_EARG, "save: an npz file cannot hold more than 4 GiB");
    HD_CHECK(pass_array(v, NULL, &place->crc));
    put_common(head + 4, place->crc, place->size, strlen(name) + 4);
    HD_CHECK(hd_writer_put(w, head, sizeof head));
    HD_CHECK(hd_writer_put(w, name, strlen(name)));
    HD_CHECK(hd_writer_put(w, ".npy", 4));
    return pass_array(v, w, NULL);
}

static hd_status put_record(hd_writer *w, const char *name, const placed *place, size_t *size) {
    unsigned char head[46] = "PK\1\2\x14";
    put_common(head + 6, place->crc, place->size, strlen(name) + 4);
    put32(head + 42, place->offset);
    *size += sizeof head + strlen(name) + 4;
    HD_CHECK(hd_writer_put(w, head, sizeof head));
    HD_CHECK(hd_writer_put(w, name, strlen(name)));
    return hd_writer_put(w, ".npy", 4);
}

static hd_status put_all(hd_writer *w, const char *const *names, const hd_view *views, int count, placed *places) {
    size_t at = 0, directory = 0;
    for (int i = 0; i < count; i++)
        HD_CHECK(put_member(w, names[i], &views[i], &places[i], &at));
    for (int i = 0; i < count; i++)
        HD_CHECK(put_record(w, names[i], &places[i], &directory));
    unsigned char end[22] = "PK\5\6";
    put16(end + 8, (size_t)count);
    put16(end + 10, (size_t)count);
    put32(end + 12, directory);
    put32(end + 16, at);
    return hd_writer_put(w, end, sizeof end);
}

hd_status hd_npz_write(const char *path, const char *const *names, const hd_view *views, int count) {
    if (count > 65535)
        return hd_fail(HD_EARG, "save '%s': too many arrays: got %d, expected at most 65535", path, count);
    placed *places = hd_calloc((size_t)count + 1, sizeof *places);
    if (!places)
        return hd_fail(HD_ENOMEM, "save '%s': no memory", path);
    hd_writer *w = NULL;
    hd_status status = hd_writer_open(path, &w);
    if (status == HD_OK)
        status = put_all(w, names, views, count, places);
    if (status == HD_OK)
        status = hd_writer_commit(w, false);
    else
        hd_writer_abort(w);
    hd_free(places);
    return status;
}
