// io/image.c: PNG and JPEG in, PNG out.
// Layer: io. Called by: font.c, bind_io.c, bind_data.c. Threads: any.
#include "io/image.h"
#include "core/alloc.h"
#include "io/resample.h"
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

// stb_image ------------------------------------------------------------------

// Largest single block that the decoder may ask for: its buffers grow with what the file unpacks to.
static _Thread_local size_t block_cap;
// One that it asked for within the limit could not be had: the picture may be sound.
static _Thread_local bool out_of_memory;

// Zeroed, because a damaged picture may leave parts of a block unwritten, which must not show what was there before.
static void *stb_alloc(size_t size) {
    void *block = size > block_cap ? NULL : hd_alloc(size);
    out_of_memory = out_of_memory || (!block && size <= block_cap);
    return block ? memset(block, 0, size) : NULL;
}

static void *stb_realloc(void *old, size_t old_size, size_t size) {
    void *block = stb_alloc(size);
    if (block && old)
        memcpy(block, old, old_size < size ? old_size : size);
    if (block)
        hd_free(old);
    return block;
}

#define STB_IMAGE_IMPLEMENTATION
#define STBIDEF __attribute__((visibility("hidden"))) // no symbol for C modules to trip over
#define STBI_ONLY_PNG
#define STBI_ONLY_JPEG
#define STBI_NO_STDIO
#define STBI_NO_LINEAR
#define STBI_MAX_DIMENSIONS HD_IMAGE_SIDE_CAP
#define STBI_MALLOC(size) stb_alloc(size)
#define STBI_REALLOC_SIZED(block, old, size) stb_realloc(block, old, size)
#define STBI_FREE(block) hd_free(block)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#include <stb/stb_image.h>
#pragma GCC diagnostic pop

void hd_image_free(hd_image *image) {
    hd_free(image->pixels);
    *image = (hd_image){0};
}

static hd_status bad(const char *where, const char *kind, const char *what) {
    return hd_fail(HD_EFORMAT, "%s: bad %s file: %s", where, kind, what);
}

static uint32_t be16(const unsigned char *p) { return (uint32_t)p[0] << 8 | p[1]; }
static uint32_t be32(const unsigned char *p) { return be16(p) << 16 | be16(p + 2); }

static hd_status check_size(const char *where, size_t width, size_t height) {
    if (width == 0 || height == 0)
        return hd_fail(HD_EFORMAT, "%s: the picture is empty: %zux%zu pixels", where, width, height);
    if (width > HD_IMAGE_SIDE_CAP || height > HD_IMAGE_SIDE_CAP || width * height > HD_IMAGE_PIXEL_CAP)
        return hd_fail(
            HD_EFORMAT,
            "%s: the picture is too large: got %zux%zu pixels, expected sides up to %d and at most %zu in all", where,
            width, height, HD_IMAGE_SIDE_CAP, HD_IMAGE_PIXEL_CAP);
    return HD_OK;
}

// PNG ------------------------------------------------------------------------
// Portable Network Graphics (W3C, 3rd edition): 5.6 order of chunks, 11.2 critical chunks.
// The decoder gets a file rebuilt from what was checked: IHDR, PLTE, tRNS and all pixel data in one IDAT.

typedef struct {
    const char *where;
    uint32_t width, height;
    int depth, type;
    bool interlaced, palette, transparent, header, ended;
    int data;         // 0: no IDAT yet, 1: inside the run of IDATs, 2: behind it
    size_t data_size; // bytes of all IDATs
    hd_bytes clean;   // the rebuilt file; its room is that of the file
    size_t data_at;   // where its IDAT begins
} png_walk;

static bool is(const unsigned char *chunk, const char *name) { return memcmp(chunk + 4, name, 4) == 0; }

static void put_be32(unsigned char *p, uint32_t v) {
    for (int i = 0; i < 4; i++)
        p[i] = (unsigned char)(v >> (24 - 8 * i));
}

static void png_append(png_walk *w, const void *bytes, size_t size) {
    if (size)
        memcpy(w->clean.data + w->clean.size, bytes, size);
    w->clean.size += size;
}

static hd_status png_header(png_walk *w, const unsigned char *body, uint32_t length) {
    if (w->header || length != 13)
        return bad(w->where, "PNG", "a second IHDR, or one of a wrong length");
    w->header = true;
    w->width = be32(body);
    w->height = be32(body + 4);
    w->depth = body[8];
    w->type = body[9];
    w->interlaced = body[12] == 1;
    static const unsigned depths[7] = {[0] = 0x10116, [2] = 0x10100, [3] = 0x116, [4] = 0x10100, [6] = 0x10100};
    if (w->type > 6 || w->depth > 16 || !(depths[w->type] >> w->depth & 1))
        return bad(w->where, "PNG", "an unknown pair of colour type and bit depth");
    if (body[10] != 0 || body[11] != 0 || body[12] > 1)
        return bad(w->where, "PNG", "an unknown compression, filter or interlace method");
    return check_size(w->where, w->width, w->height);
}

// iCCP and zTXt: a name of 1 to 79 bytes, a zero, the compression method, which must be 0.
static hd_status png_packed_text(const png_walk *w, const unsigned char *body, uint32_t length) {
    const unsigned char *zero = memchr(body, 0, length < 80 ? length : 80);
    if (!zero || zero == body || zero + 1 >= body + length || zero[1] != 0)
        return bad(w->where, "PNG", "an unknown compression method in iCCP or zTXt");
    return HD_OK;
}

static hd_status png_chunk(png_walk *w, const unsigned char *chunk, uint32_t length) {
    const unsigned char *body = chunk + 8;
    if (!w->header && !is(chunk, "IHDR"))
        return bad(w->where, "PNG", "IHDR is not the first chunk");
    if (is(chunk, "IDAT")) {
        if (w->data == 2)
            return bad(w->where, "PNG", "IDAT chunks do not follow each other");
        if (w->type == 3 && !w->palette)
            return bad(w->where, "PNG", "the palette is missing");
        if (!w->data) {
            w->data_at = w->clean.size;
            png_append(w, "\0\0\0\0IDAT", 8);
        }
        w->data = 1;
        w->data_size += length;
        png_append(w, body, length);
        return HD_OK;
    }
    if (w->data == 1)
        w->data = 2;
    if (is(chunk, "IHDR")) {
        png_append(w, chunk, length + 12);
        return png_header(w, body, length);
    }
    if (is(chunk, "tRNS")) {
        if (w->data || w->transparent)
            return bad(w->where, "PNG", "tRNS stands twice, or behind the pixels");
        w->transparent = true;
        png_append(w, chunk, length + 12);
        return HD_OK;
    }
    if (is(chunk, "PLTE")) {
        if (w->palette || w->data || w->type == 0 || w->type == 4)
            return bad(w->where, "PNG", "a palette where none may be");
        if (length == 0 || length % 3 != 0 || length > 768)
            return bad(w->where, "PNG", "a palette of a wrong length");
        w->palette = true;
        png_append(w, chunk, length + 12);
        return HD_OK;
    }
    if (is(chunk, "IEND")) {
        w->ended = true;
        return length ? bad(w->where, "PNG", "IEND is not empty") : HD_OK;
    }
    if (is(chunk, "iCCP") || is(chunk, "zTXt"))
        return png_packed_text(w, body, length);
    return chunk[4] & 32 ? HD_OK : bad(w->where, "PNG", "an unknown critical chunk"); // lower case: may be skipped
}

// Bytes that the filtered rows take, all passes together.
static size_t png_raw_size(const png_walk *w) {
    static const int samples[7] = {[0] = 1, [2] = 3, [3] = 1, [4] = 2, [6] = 4};
    static const int x0[7] = {0, 4, 0, 2, 0, 1, 0}, dx[7] = {8, 8, 4, 4, 2, 2, 1};
    static const int y0[7] = {0, 0, 4, 0, 2, 0, 1}, dy[7] = {8, 8, 8, 4, 4, 2, 2};
    size_t bits = (size_t)(samples[w->type] * w->depth), total = 0;
    for (int p = 0; p < (w->interlaced ? 7 : 1); p++) {
        size_t width = w->interlaced ? (w->width + (uint32_t)(dx[p] - 1 - x0[p])) / (uint32_t)dx[p] : w->width;
        size_t height = w->interlaced ? (w->height + (uint32_t)(dy[p] - 1 - y0[p])) / (uint32_t)dy[p] : w->height;
        if (width)
            total += ((width * bits + 7) / 8 + 1) * height;
    }
    return total;
}

static hd_status png_chunks(png_walk *w, const unsigned char *bytes, size_t size) {
    const char *where = w->where;
    png_append(w, bytes, 8); // the signature
    for (size_t at = 8; !w->ended;) {
        if (size - at < 12)
            return bad(where, "PNG", "it is cut short");
        const unsigned char *chunk = bytes + at;
        uint32_t length = be32(chunk);
        if (length > INT32_MAX || length > size - at - 12)
            return bad(where, "PNG", "a chunk is longer than the file");
        if (crc32(crc32(0, NULL, 0), chunk + 4, length + 4) != be32(chunk + 8 + length))
            return bad(where, "PNG", "the checksum of a chunk differs");
        HD_CHECK(png_chunk(w, chunk, length));
        at += length + 12;
    }
    return w->data_size ? HD_OK : bad(where, "PNG", "no pixels");
}

// Check the file and rebuild it in *clean, which the caller frees.
static hd_status png_check(const char *where, const unsigned char *bytes, size_t size, hd_bytes *clean) {
    png_walk w = {.where = where};
    size_t capacity = 0;
    HD_CHECK(hd_bytes_reserve(&w.clean, &capacity, size + 12));
    hd_status status = png_chunks(&w, bytes, size);
    *clean = w.clean;
    HD_CHECK(status);
    put_be32(w.clean.data + w.data_at, (uint32_t)w.data_size);
    png_append(&w, "\0\0\0\0\0\0\0\0IEND\0\0\0\0", 16); // the IDAT's checksum is not looked at
    *clean = w.clean;
    size_t raw = png_raw_size(&w), pixels = (size_t)w.width * w.height;
    if (raw / 1032 > w.data_size) // deflate's best is 1032:1
        return bad(where, "PNG", "the size it claims is impossible for its length");
    block_cap = 2 * raw + 8 * pixels + 2 * size + (1 << 20);
    return HD_OK;
}

// JPEG -----------------------------------------------------------------------
// ITU-T T.81, B.1: markers FF xx; all but RSTn, SOI, EOI and TEM are followed by a length that counts itself.

#define SCAN_CAP 256 // a progressive picture has about ten

typedef struct {
    const char *where;
    const unsigned char *bytes;
    size_t size, at, width, height;
    int scans;
    bool progressive;
    unsigned tables; // bit 4 * class + number: this Huffman table is there
} jpeg_walk;

// The next marker, or 0 at the end of the file. Skips entropy-coded data and fill bytes.
static int jpeg_marker(jpeg_walk *w) {
    for (; w->at + 1 < w->size; w->at++) {
        int m = w->bytes[w->at + 1];
        if (w->bytes[w->at] == 0xFF && m != 0 && m != 0xFF && !(m >= 0xD0 && m <= 0xD7)) {
            w->at += 2;
            return m;
        }
    }
    return 0;
}

// DHT: tables of one byte for class and number, 16 counts of codes by length, and as many symbols. More than 256
// symbols, or more codes than their lengths allow (Kraft), would write past the decoder's tables in stb_image 2.27.
static hd_status jpeg_tables(jpeg_walk *w, const unsigned char *p, size_t left) {
    while (left > 0) {
        size_t symbols = 0, codes = 0;
        for (size_t i = 1; i <= 16 && left >= 17; i++) {
            symbols += p[i];
            codes += (size_t)p[i] << (16 - i);
        }
        if (left < 17 || symbols > 256 || codes > 65536 || symbols > left - 17 || p[0] >> 4 > 1 || (p[0] & 15) > 3)
            return bad(w->where, "JPEG", "a Huffman table is damaged");
        w->tables |= 1u << (4 * (p[0] >> 4) + (p[0] & 15));
        p += 17 + symbols;
        left -= 17 + symbols;
    }
    return HD_OK;
}

// SOS: every Huffman table that the scan names must be there. Body: n, n pairs of component and tables (DC, AC), first
// and last coefficient, bit positions.
static hd_status jpeg_scan(jpeg_walk *w, const unsigned char *p, size_t size) {
    if (++w->scans > SCAN_CAP)
        return bad(w->where, "JPEG", "too many scans");
    if (size < 1 || size != 4 + 2 * (size_t)p[0])
        return bad(w->where, "JPEG", "a scan header is damaged");
    const unsigned char *rest = p + 1 + 2 * p[0];
    for (int i = 0; i < p[0]; i++) {
        unsigned dc = p[2 + 2 * i] >> 4, ac = p[2 + 2 * i] & 15;
        bool needs_dc = !w->progressive || (rest[0] == 0 && rest[2] >> 4 == 0),
             needs_ac = !w->progressive || rest[0] > 0;
        if (dc > 3 || ac > 3 || (needs_dc && !(w->tables >> dc & 1)) || (needs_ac && !(w->tables >> (4 + ac) & 1)))
            return bad(w->where, "JPEG", "a scan uses a Huffman table that is not there");
    }
    return HD_OK;
}

static hd_status jpeg_segment(jpeg_walk *w, int marker) {
    const unsigned char *p = w->bytes + w->at;
    size_t left = w->size - w->at;
    if (left < 2 || be16(p) < 2 || be16(p) > left)
        return bad(w->where, "JPEG", "a segment is longer than the file");
    if (marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC) { // SOFn
        if (w->width || be16(p) < 8)
            return bad(w->where, "JPEG", "a second frame header, or a short one");
        w->progressive = marker == 0xC2;
        w->height = be16(p + 3);
        w->width = be16(p + 5);
        HD_CHECK(check_size(w->where, w->width, w->height));
    }
    if (marker == 0xC4)
        HD_CHECK(jpeg_tables(w, p + 2, be16(p) - 2));
    if (marker == 0xDA)
        HD_CHECK(jpeg_scan(w, p + 2, be16(p) - 2));
    w->at += be16(p);
    return HD_OK;
}

// A block of 64 pixels takes at least one bit, hence at most 512 pixels a byte.
static hd_status jpeg_check(const char *where, const unsigned char *bytes, size_t size) {
    jpeg_walk w = {.where = where, .bytes = bytes, .size = size, .at = 2};
    int marker;
    while ((marker = jpeg_marker(&w)) != 0xD9) {
        if (marker == 0)
            return bad(where, "JPEG", "it is cut short");
        if (marker != 0x01 && marker != 0xD8)
            HD_CHECK(jpeg_segment(&w, marker));
    }
    if (!w.width || !w.scans)
        return bad(where, "JPEG", "no pixels");
    if (w.width * w.height / 512 > size + 128)
        return bad(where, "JPEG", "the size it claims is impossible for its length");
    block_cap = 16 * (w.width + 64) * (w.height + 64) + (1 << 20);
    return HD_OK;
}

// Reading --------------------------------------------------------------------

static hd_status run_decoder(const char *where, const unsigned char *bytes, size_t size, int channels, hd_image *out) {
    int stored;
    out_of_memory = false;
    out->pixels = stbi_load_from_memory(bytes, (int)size, &out->width, &out->height, &stored, channels);
    if (!out->pixels) {
        *out = (hd_image){0};
        if (out_of_memory)
            return hd_fail(HD_ENOMEM, "%s: no memory to decode the picture", where);
        return hd_fail(HD_EFORMAT, "%s: cannot decode the picture: %s", where, stbi_failure_reason());
    }
    out->channels = channels ? channels : stored;
    return HD_OK;
}

// Other formats that a folder of pictures may hold, by their first bytes.
static const char *other_format(const unsigned char *bytes, size_t size) {
    static const struct {
        const char *start, *name;
        size_t length;
    } known[] = {{"BM", "BMP", 2}, {"GIF8", "GIF", 4}, {"RIFF", "WebP", 4}, {"II*\0", "TIFF", 4}, {"MM\0*", "TIFF", 4}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (size >= known[i].length && memcmp(bytes, known[i].start, known[i].length) == 0)
            return known[i].name;
    return NULL;
}

hd_status hd_image_decode(const char *where, const unsigned char *bytes, size_t size, int channels, hd_image *out) {
    *out = (hd_image){0};
    if (size > HD_IMAGE_FILE_CAP)
        return hd_fail(HD_EFORMAT, "%s is too large: got %zu bytes, expected at most %zu", where, size,
                       HD_IMAGE_FILE_CAP);
    if (size >= 8 && memcmp(bytes, "\x89PNG\r\n\x1A\n", 8) == 0) {
        hd_bytes clean = {0};
        hd_status status = png_check(where, bytes, size, &clean);
        if (status == HD_OK)
            status = run_decoder(where, clean.data, clean.size, channels, out);
        hd_bytes_free(&clean);
        return status;
    }
    const char *other = other_format(bytes, size);
    if (other)
        return hd_fail(HD_EFORMAT, "%s: this kind of picture is not read: got a %s file, expected PNG or JPEG", where,
                       other);
    if (size < 3 || memcmp(bytes, "\xFF\xD8\xFF", 3) != 0)
        return hd_fail(HD_EFORMAT, "%s is neither a PNG nor a JPEG file", where);
    HD_CHECK(jpeg_check(where, bytes, size));
    return run_decoder(where, bytes, size, channels, out);
}

hd_status hd_image_read(const char *path, int channels, hd_image *out) {
    *out = (hd_image){0};
    hd_bytes file;
    HD_CHECK(hd_file_read(path, HD_IMAGE_FILE_CAP, &file));
    char where[512];
    snprintf(where, sizeof where, "'%s'", path);
    hd_status status = hd_image_decode(where, file.data, file.size, channels, out);
    hd_bytes_free(&file);
    return status;
}

// Writing --------------------------------------------------------------------

static int paeth(int a, int b, int c) {
    int p = a + b - c, pa = abs(p - a), pb = abs(p - b), pc = abs(p - c);
    return pa <= pb && pa <= pc ? a : pb <= pc ? b : c;
}

// Filter one row of n bytes (step: bytes of a pixel; above: the row before, or zeros); returns the sum of the absolute
// differences, by which the best of the five filters is chosen (PNG, 12.7).
static long filter_row(int kind, const unsigned char *row, const unsigned char *above, size_t n, size_t step,
                       unsigned char *out) {
    long sum = 0;
    for (size_t i = 0; i < n; i++) {
        int a = i >= step ? row[i - step] : 0, b = above[i], c = i >= step ? above[i - step] : 0;
        int guess = kind == 0 ? 0 : kind == 1 ? a : kind == 2 ? b : kind == 3 ? (a + b) / 2 : paeth(a, b, c);
        out[i] = (unsigned char)(row[i] - guess);
        sum += abs((signed char)out[i]);
    }
    return sum;
}

// All rows, each as filter number and filtered bytes. scratch: n bytes of zeros, then n free bytes.
static void filter_all(const hd_image *image, size_t n, unsigned char *scratch, unsigned char *out) {
    for (int y = 0; y < image->height; y++) {
        const unsigned char *row = image->pixels + (size_t)y * n, *above = y ? row - n : scratch;
        long best = -1;
        for (int kind = 0; kind < 5; kind++) {
            long sum = filter_row(kind, row, above, n, (size_t)image->channels, scratch + n);
            if (best >= 0 && sum >= best)
                continue;
            best = sum;
            out[0] = (unsigned char)kind;
            memcpy(out + 1, scratch + n, n);
        }
        out += n + 1;
    }
}

// A chunk whose body already stands at p + 8; returns the place behind it.
static unsigned char *close_chunk(unsigned char *p, const char *name, size_t length) {
    put_be32(p, (uint32_t)length);
    memcpy(p + 4, name, 4);
    put_be32(p + 8 + length, (uint32_t)crc32(crc32(0, NULL, 0), p + 4, (uInt)length + 4));
    return p + 12 + length;
}

static hd_status write_chunks(const hd_image *image, const unsigned char *raw, size_t raw_size, hd_bytes *out) {
    uLongf packed = compressBound((uLong)raw_size);
    size_t capacity = 0;
    HD_CHECK(hd_bytes_reserve(out, &capacity, 8 + 25 + 12 + packed + 12));
    unsigned char *p = out->data;
    memcpy(p, "\x89PNG\r\n\x1A\n", 8);
    p += 8;
    put_be32(p + 8, (uint32_t)image->width);
    put_be32(p + 12, (uint32_t)image->height);
    memcpy(p + 16, ((const unsigned char[4][5]){{8, 0}, {8, 4}, {8, 2}, {8, 6}})[image->channels - 1], 5);
    p = close_chunk(p, "IHDR", 13);
    if (compress2(p + 8, &packed, raw, (uLong)raw_size, 6) != Z_OK)
        return hd_fail(HD_ENOMEM, "image: no memory to pack the picture");
    p = close_chunk(p, "IDAT", packed);
    p = close_chunk(p, "IEND", 0);
    out->size = (size_t)(p - out->data);
    return HD_OK;
}

hd_status hd_image_encode(const hd_image *image, hd_bytes *out) {
    *out = (hd_bytes){0};
    HD_CHECK(check_size("image", (size_t)image->width, (size_t)image->height));
    size_t n = (size_t)image->width * (size_t)image->channels, raw_size = (n + 1) * (size_t)image->height;
    unsigned char *raw = hd_alloc(raw_size), *scratch = hd_alloc(2 * n);
    hd_status status = HD_OK;
    if (!raw || !scratch) {
        status = hd_fail(HD_ENOMEM, "image: no memory to write a picture of %dx%d", image->width, image->height);
    } else {
        memset(scratch, 0, n);
        filter_all(image, n, scratch, raw);
        status = write_chunks(image, raw, raw_size, out);
    }
    hd_free(raw);
    hd_free(scratch);
    if (status != HD_OK)
        hd_bytes_free(out);
    return status;
}

// Resizing -------------------------------------------------------------------

typedef struct {
    const hd_image *image;
    int x, y, width;
} part;

static void part_row(const void *from, int y, double *row) {
    const part *p = from;
    const hd_image *image = p->image;
    size_t c = (size_t)image->channels;
    const unsigned char *src = image->pixels + ((size_t)(p->y + y) * (size_t)image->width + (size_t)p->x) * c;
    for (size_t i = 0; i < (size_t)p->width * c; i++)
        row[i] = src[i];
}

static void image_row(void *to, int y, const double *row) {
    hd_image *image = to;
    size_t n = (size_t)image->width * (size_t)image->channels;
    for (size_t i = 0; i < n; i++)
        image->pixels[(size_t)y * n + i] = hd_round_byte(row[i]);
}

hd_status hd_image_cover(const hd_image *image, int out_width, int out_height, hd_image *out) {
    *out = (hd_image){.width = out_width, .height = out_height, .channels = image->channels};
    // The part is as wide or as high as the picture.
    int64_t width = image->width, height = image->height;
    if (width * out_height > height * out_width)
        width = (height * out_width + out_height / 2) / out_height;
    else
        height = (width * out_height + out_width / 2) / out_width;
    width = width < 1 ? 1 : width;
    height = height < 1 ? 1 : height;
    part from = {image, (image->width - (int)width) / 2, (image->height - (int)height) / 2, (int)width};
    out->pixels = hd_alloc((size_t)out_width * (size_t)out_height * (size_t)image->channels);
    if (!out->pixels) {
        *out = (hd_image){0};
        return hd_fail(HD_ENOMEM, "resize: no memory for a picture of %dx%d", out_width, out_height);
    }
    hd_resample_args args = {.width = (int)width,
                             .height = (int)height,
                             .channels = image->channels,
                             .out_width = out_width,
                             .out_height = out_height,
                             .source = part_row,
                             .from = &from,
                             .sink = image_row,
                             .to = out};
    hd_status status = hd_resample(&args);
    if (status != HD_OK)
        hd_image_free(out);
    return status;
}
