// tests/c/test_io_data.c: pictures, the emoji font, data sets and the batch maker.
#include "scratch.h"

#include <math.h>
#include <zlib.h>

#include "core/alloc.h"
#include "io/cifar.h"
#include "io/font.h"
#include "io/idx.h"
#include "io/image.h"
#include "io/loader.h"
#include "io/resample.h"
#include "io/shapes.h"

// Pictures -------------------------------------------------------------------

// A picture with edges, slopes and noise, so that every row filter has work.
static hd_image sample_picture(int width, int height, int channels) {
    hd_image image = {width, height, channels, hd_alloc((size_t)width * (size_t)height * (size_t)channels)};
    uint32_t noise = 1;
    for (int i = 0; i < width * height * channels; i++) {
        noise = noise * 1664525 + 1013904223;
        int y = i / (width * channels), x = i / channels % width;
        image.pixels[i] = (unsigned char)(y < height / 2 ? 7 * x + 3 * y + i % channels : (int)(noise >> 24));
    }
    return image;
}

static void test_png_gives_back_the_same_pixels(void **state) {
    (void)state;
    static const int sizes[][2] = {{1, 1}, {7, 5}, {64, 33}, {300, 1}};
    for (int s = 0; s < COUNT(sizes); s++)
        for (int channels = 1; channels <= 4; channels++) {
            hd_image image = sample_picture(sizes[s][0], sizes[s][1], channels), back;
            hd_bytes png;
            assert_ok(hd_image_encode(&image, &png));
            assert_ok(hd_image_decode("t", png.data, png.size, 0, &back));
            assert_true(back.width == image.width && back.height == image.height && back.channels == channels);
            assert_memory_equal(back.pixels, image.pixels, (size_t)(image.width * image.height * channels));
            hd_image_free(&image);
            hd_image_free(&back);
            hd_bytes_free(&png);
        }
}

static void test_png_refuses_every_cut_and_every_changed_byte(void **state) {
    (void)state;
    hd_image image = sample_picture(9, 6, 3), back;
    hd_bytes png;
    assert_ok(hd_image_encode(&image, &png));
    for (size_t n = 0; n < png.size; n++)
        assert_int_equal(hd_image_decode("t", png.data, n, 3, &back), HD_EFORMAT);
    for (size_t i = 0; i < png.size; i++) { // signature, lengths and checksums leave no byte unguarded
        png.data[i] ^= 0x10;
        assert_int_equal(hd_image_decode("t", png.data, png.size, 3, &back), HD_EFORMAT);
        assert_null(back.pixels);
        png.data[i] ^= 0x10;
    }
    hd_image_free(&image);
    hd_bytes_free(&png);
}

// A PNG built from chunks "NAME" and bodies; checksums are right.
typedef struct {
    unsigned char bytes[4096];
    size_t size;
} builder;

static void put32(unsigned char *p, uint32_t v) {
    for (int i = 0; i < 4; i++)
        p[i] = (unsigned char)(v >> (24 - 8 * i));
}

static void chunk(builder *b, const char *name, const void *body, size_t size) {
    unsigned char *p = b->bytes + b->size;
    put32(p, (uint32_t)size);
    memcpy(p + 4, name, 4);
    if (size)
        memcpy(p + 8, body, size);
    put32(p + 8 + size, (uint32_t)crc32(crc32(0, NULL, 0), p + 4, (uInt)size + 4));
    b->size += size + 12;
}

static builder begin_png(uint32_t width, uint32_t height, int depth, int type, int interlace) {
    builder b = {.size = 8};
    memcpy(b.bytes, "\x89PNG\r\n\x1A\n", 8);
    unsigned char head[13] = {[8] = (unsigned char)depth, (unsigned char)type, 0, 0, (unsigned char)interlace};
    put32(head, width);
    put32(head + 4, height);
    chunk(&b, "IHDR", head, sizeof head);
    return b;
}

static void data_chunk(builder *b, size_t raw) {
    unsigned char zeros[2000] = {0}, packed[2100];
    uLongf n = sizeof packed;
    assert_int_equal(compress(packed, &n, zeros, (uLong)raw), Z_OK);
    chunk(b, "IDAT", packed, n);
}

static void expect_png(const builder *b, const char *words) {
    hd_image image;
    if (words)
        assert_fails(hd_image_decode("t", b->bytes, b->size, 3, &image), HD_EFORMAT, words);
    else
        assert_ok(hd_image_decode("t", b->bytes, b->size, 3, &image));
    hd_image_free(&image);
}

static void test_png_headers_are_checked_before_decoding(void **state) {
    (void)state;
    static const struct {
        uint32_t width, height;
        int depth, type, interlace;
        const char *words;
    } heads[] = {
        {4, 4, 8, 2, 0, NULL},
        {0, 4, 8, 2, 0, "empty"},
        {4, 0, 8, 2, 0, "empty"},
        {16385, 1, 8, 2, 0, "too large"},
        {16384, 16384, 1, 0, 0, "too large"},
        {0x7FFFFFFF, 0x7FFFFFFF, 8, 2, 0, "too large"},
        {0xFFFFFFFF, 4, 8, 2, 0, "too large"},
        {4, 4, 3, 2, 0, "bit depth"},
        {4, 4, 4, 2, 0, "bit depth"},
        {4, 4, 16, 3, 0, "bit depth"},
        {4, 4, 255, 0, 0, "bit depth"},
        {4, 4, 8, 9, 0, "bit depth"},
        {4, 4, 8, 2, 2, "interlace method"},
        {8000, 8000, 8, 2, 0, "impossible"}, // 192 MB of pixels claimed by a file of 100 bytes
    };
    for (int i = 0; i < COUNT(heads); i++) {
        builder b = begin_png(heads[i].width, heads[i].height, heads[i].depth, heads[i].type, heads[i].interlace);
        data_chunk(&b, 4 * 13);
        chunk(&b, "IEND", "", 0);
        expect_png(&b, heads[i].words);
    }
}

static void test_png_chunks_must_stand_in_order(void **state) {
    (void)state;
    builder b = begin_png(4, 4, 8, 2, 0);
    chunk(&b, "IEND", "", 0);
    expect_png(&b, "no pixels");
    b = begin_png(4, 4, 8, 3, 0);
    data_chunk(&b, 20);
    chunk(&b, "IEND", "", 0);
    expect_png(&b, "palette is missing");
    b = begin_png(4, 4, 8, 2, 0);
    data_chunk(&b, 52);
    chunk(&b, "teXt", "x", 1);
    data_chunk(&b, 52);
    chunk(&b, "IEND", "", 0);
    expect_png(&b, "do not follow each other");
    b = begin_png(4, 4, 8, 2, 0);
    chunk(&b, "PLTE", "1234", 4);
    expect_png(&b, "wrong length");
    b = begin_png(4, 4, 8, 0, 0);
    chunk(&b, "PLTE", "123", 3);
    expect_png(&b, "where none may be");
    b = begin_png(4, 4, 8, 2, 0);
    chunk(&b, "NEWC", "", 0);
    expect_png(&b, "unknown critical chunk");
    b = begin_png(4, 4, 8, 2, 0);
    chunk(&b, "zTXt", "name\0\1", 6);
    expect_png(&b, "compression method");
    b = begin_png(4, 4, 8, 2, 0);
    chunk(&b, "IHDR", "1234567890123", 13);
    expect_png(&b, "second IHDR");
    b = begin_png(4, 4, 8, 2, 0);
    chunk(&b, "IEND", "x", 1);
    expect_png(&b, "IEND is not empty");
    b = (builder){.size = 8};
    memcpy(b.bytes, "\x89PNG\r\n\x1A\n", 8);
    data_chunk(&b, 52);
    expect_png(&b, "IHDR is not the first");
}

static void test_jpeg_structure_is_checked_before_decoding(void **state) {
    (void)state;
    static const struct {
        const char *bytes;
        size_t size;
        const char *words;
    } bad[] = {
        {"\xFF\xD8\xFF", 3, "cut short"},
        {"\xFF\xD8\xFF\xD9", 4, "no pixels"},
        {"\xFF\xD8\xFF\xE0\xFF\xFF", 6, "longer than the file"},
        {"\xFF\xD8\xFF\xE0\x00\x01", 6, "longer than the file"},
        {"\xFF\xD8\xFF\xE0", 4, "longer than the file"},
        {"\xFF\xD8\xFF\xC0\x00\x08\x08\xFF\xFF\xFF\xFF\x01", 12, "too large"},
        {"\xFF\xD8\xFF\xC0\x00\x08\x08\x00\x00\x00\x01\x01", 12, "empty"},
        {"\xFF\xD8\xFF\xC2\x00\x08\x08\x1F\x00\x1F\x00\x01\xFF\xDA\x00\x06\x00\x00\x00\x00\xFF\xD9", 22, "impossible"},
        {"\xFF\xD8\xFF\xDA\x00\x02\xFF\xD9", 8, "scan header"},
        {"\xFF\xD8\xFF\xDA\x00\x06\x01\x00\x00\x00\xFF\xD9", 12, "scan header"},
        {"\xFF\xD8\xFF\xDA\x00\x08\x01\x01\x00\x00\x3F\x00\xFF\xD9", 14, "table that is not there"},
        {"\xFF\xD8\xFF\xC4\x00\x05\x00\x00\x00", 9, "Huffman table"},
        {"\xFF\xD8\xFF\xC4\x00\x14\x00\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 24, "Huffman table"},
        {"GIF89a", 6, "got a GIF file, expected PNG or JPEG"},
        {"text", 4, "neither a PNG nor a JPEG"},
        {"", 0, "neither a PNG nor a JPEG"},
    };
    for (int i = 0; i < COUNT(bad); i++) {
        hd_image image;
        assert_fails(hd_image_decode("t", (const unsigned char *)bad[i].bytes, bad[i].size, 3, &image), HD_EFORMAT,
                     bad[i].words);
    }
}

// Resampling -----------------------------------------------------------------

static void line_source(const void *from, int y, double *row) {
    (void)y;
    memcpy(row, from, 3 * sizeof *row);
}

typedef struct {
    double *out;
    int width;
} line;

static void line_sink(void *to, int y, const double *row) {
    const line *l = to;
    assert_int_equal(y, 0);
    memcpy(l->out, row, (size_t)l->width * sizeof *row);
}

static void resample_line(const double *three, int width, double *out) {
    line to = {out, width};
    hd_resample_args args = {.width = 3,
                             .height = 1,
                             .channels = 1,
                             .out_width = width,
                             .out_height = 1,
                             .source = line_source,
                             .from = three,
                             .sink = line_sink,
                             .to = &to};
    assert_ok(hd_resample(&args));
}

static void test_shrinking_averages_over_exact_areas(void **state) {
    (void)state;
    const double in[3] = {0, 90, 180};
    double out[8];
    resample_line(in, 2, out); // cells of 1.5 pixels
    assert_true(fabs(out[0] - 30) < 1e-12 && fabs(out[1] - 150) < 1e-12);
    resample_line(in, 1, out);
    assert_true(fabs(out[0] - 90) < 1e-12);
    resample_line(in, 3, out);
    assert_true(out[0] == 0 && out[1] == 90 && out[2] == 180);
}

static void test_enlarging_interpolates_between_centres(void **state) {
    (void)state;
    const double in[3] = {0, 90, 180};
    double out[8];
    resample_line(in, 6, out);
    const double expected[6] = {0, 22.5, 67.5, 112.5, 157.5, 180};
    for (int i = 0; i < 6; i++)
        assert_true(fabs(out[i] - expected[i]) < 1e-12);
}

static void test_bytes_round_half_up(void **state) {
    (void)state;
    assert_int_equal(hd_round_byte(0.5), 1);
    assert_int_equal(hd_round_byte(0.49), 0);
    assert_int_equal(hd_round_byte(254.5), 255);
    assert_int_equal(hd_round_byte(-3), 0);
    assert_int_equal(hd_round_byte(1e9), 255);
    assert_int_equal(hd_round_byte(NAN), 0);
}

static void test_cover_takes_the_middle(void **state) {
    (void)state;
    unsigned char pixels[6 * 2] = {1, 2, 10, 20, 3, 4, 1, 2, 30, 40, 3, 4}; // 6 x 2, middle 2 x 2
    hd_image image = {6, 2, 1, pixels}, small;
    assert_ok(hd_image_cover(&image, 1, 1, &small));
    assert_int_equal(small.pixels[0], 25);
    hd_image_free(&small);
    assert_ok(hd_image_cover(&image, 6, 2, &small));
    assert_memory_equal(small.pixels, pixels, sizeof pixels);
    hd_image_free(&small);
}

// Font -----------------------------------------------------------------------

#define FONT "NotoColorEmoji.ttf"

// Golden values of font 2.042: record, glyph, code point, CRC-32 of the 32x32 picture.
static void test_emoji_give_the_golden_pictures(void **state) {
    (void)state;
    static const struct {
        int record;
        uint32_t glyph, code, crc;
    } golden[] = {{0, 4, 0x0023, 0xE9779A49},
                  {200, 205, 0x1F1E6, 0x8177FFFF},
                  {700, 705, 0x1F4D5, 0xB679CDAB},
                  {1100, 1105, 0x1F924, 0xF5554B7D},
                  {1445, 1470, 0xFE837, 0x8D28286C}};
    char *path;
    if (hd_font_find(FONT, &path) != HD_OK)
        skip();
    hd_font font;
    assert_ok(hd_font_open(path, &font));
    hd_free(path);
    bool known = font.count == 1446; // another version has other pictures
    for (int i = 0; i < COUNT(golden) && known; i++) {
        unsigned char picture[3072];
        assert_int_equal(font.glyphs[golden[i].record].glyph, golden[i].glyph);
        assert_int_equal(font.glyphs[golden[i].record].code, golden[i].code);
        assert_ok(hd_font_picture(&font, golden[i].record, 32, picture));
        assert_int_equal(crc32(crc32(0, NULL, 0), picture, sizeof picture), golden[i].crc);
    }
    hd_font_close(&font);
    if (!known)
        skip();
}

static void test_emoji_equal_the_reference_set(void **state) {
    (void)state;
    hd_bytes expected;
    char *path;
    if (hd_file_read("../shared/data/emoji32/emoji32.bin", 1 << 24, &expected) != HD_OK)
        skip();
    if (hd_font_find(FONT, &path) != HD_OK) {
        hd_bytes_free(&expected);
        skip();
    }
    hd_font font;
    assert_ok(hd_font_open(path, &font));
    assert_int_equal(font.count, expected.size / 3073);
    for (int i = 0; i < font.count; i++) {
        unsigned char picture[3072];
        assert_ok(hd_font_picture(&font, i, 32, picture));
        for (int k = 0; k < 3072; k++)
            assert_true(abs(picture[k] - expected.data[(size_t)i * 3073 + 1 + (size_t)k]) <= 1);
    }
    hd_font_close(&font);
    hd_bytes_free(&expected);
    hd_free(path);
}

static void test_other_sizes_keep_the_mean(void **state) {
    (void)state;
    char *path;
    if (hd_font_find(FONT, &path) != HD_OK)
        skip();
    hd_font font;
    assert_ok(hd_font_open(path, &font));
    hd_free(path);
    static const int sizes[] = {8, 17, 64, 136};
    unsigned char *picture = malloc(3 * 136 * 136);
    double means[COUNT(sizes)] = {0};
    for (int s = 0; s < COUNT(sizes); s++) {
        int n = 3 * sizes[s] * sizes[s];
        assert_ok(hd_font_picture(&font, font.count / 2, sizes[s], picture));
        for (int i = 0; i < n; i++)
            means[s] += picture[i] / (double)n;
        assert_true(fabs(means[s] - means[0]) < 0.7);
    }
    free(picture);
    hd_font_close(&font);
}

static void set16(unsigned char *p, int v) {
    p[0] = (unsigned char)(v >> 8);
    p[1] = (unsigned char)v;
}

enum { CMAP = 64, CBLC = 104, CBDT = 184 }; // where the tables of the tiny font stand

// The smallest font that counts: glyph 1 has a picture, code point 0x41 shows it.
static size_t tiny_font(unsigned char *f) {
    memset(f, 0, CBDT);
    set16(f + 4, 3);
    static const char *const tags[] = {"CBDT", "CBLC", "cmap"};
    hd_image image = sample_picture(4, 2, 4);
    hd_bytes png;
    assert_ok(hd_image_encode(&image, &png));
    const uint32_t places[3][2] = {{CBDT, (uint32_t)(4 + 9 + png.size)}, {CBLC, 80}, {CMAP, 40}};
    for (int i = 0; i < 3; i++) {
        memcpy(f + 12 + 16 * i, tags[i], 4);
        put32(f + 12 + 16 * i + 8, places[i][0]);
        put32(f + 12 + 16 * i + 12, places[i][1]);
    }
    set16(f + CMAP + 2, 1);                         // one subtable
    put32(f + CMAP + 8, 12);                        // where
    set16(f + CMAP + 12, 12);                       // format
    put32(f + CMAP + 24, 1);                        // one group
    put32(f + CMAP + 28, 0x41);                     // first code
    put32(f + CMAP + 32, 0x41);                     // last code
    put32(f + CMAP + 36, 1);                        // first glyph
    put32(f + CBLC + 4, 1);                         // one strike
    put32(f + CBLC + 8, 56);                        // its index array
    put32(f + CBLC + 16, 1);                        // with one subtable
    set16(f + CBLC + 50, 1);                        // last glyph of the strike
    set16(f + CBLC + 56, 1);                        // first glyph
    set16(f + CBLC + 58, 1);                        // last glyph
    put32(f + CBLC + 60, 8);                        // the subtable, behind the array
    set16(f + CBLC + 64, 1);                        // index format
    set16(f + CBLC + 66, 17);                       // image format
    put32(f + CBLC + 68, 4);                        // where the pictures begin in CBDT
    put32(f + CBLC + 76, (uint32_t)(9 + png.size)); // end of the first
    memset(f + CBDT, 0, 9);
    put32(f + CBDT + 9, (uint32_t)png.size);
    memcpy(f + CBDT + 13, png.data, png.size);
    size_t size = CBDT + 13 + png.size;
    hd_image_free(&image);
    hd_bytes_free(&png);
    return size;
}

static hd_status parse_font(const unsigned char *bytes, size_t size, hd_font *font) {
    *font = (hd_font){0};
    size_t capacity = 0;
    assert_ok(hd_bytes_reserve(&font->file, &capacity, size));
    memcpy(font->file.data, bytes, size);
    font->file.size = size;
    return hd_font_parse("t", font);
}

static void test_font_refuses_cuts_and_survives_changed_bytes(void **state) {
    (void)state;
    unsigned char bytes[1024], picture[3 * 64];
    size_t size = tiny_font(bytes);
    hd_font font;
    assert_ok(parse_font(bytes, size, &font));
    assert_int_equal(font.count, 1);
    assert_int_equal(font.glyphs[0].code, 0x41);
    assert_ok(hd_font_picture(&font, 0, 8, picture));
    assert_int_equal(picture[0], 255); // two white rows above, in a cell of their own
    hd_font_close(&font);
    bytes[CBLC + 51] = 0; // the strike ends before the subtable's glyph
    assert_fails(parse_font(bytes, size, &font), HD_EFORMAT, "its index is damaged");
    hd_font_close(&font);
    bytes[CBLC + 51] = 1;
    for (size_t n = 0; n < size; n++) {
        assert_int_equal(parse_font(bytes, n, &font), HD_EFORMAT);
        hd_font_close(&font);
    }
    for (size_t i = 0; i < size; i++)
        for (int bit = 0; bit < 8; bit++) {
            bytes[i] ^= (unsigned char)(1 << bit);
            if (parse_font(bytes, size, &font) == HD_OK)
                for (int k = 0; k < font.count; k++)
                    if (hd_font_picture(&font, k, 8, picture) != HD_OK)
                        assert_non_null(strstr(hd_message(), "U+"));
            hd_font_close(&font);
            bytes[i] ^= (unsigned char)(1 << bit);
        }
}

// Sets -----------------------------------------------------------------------

static void test_cifar_reads_records_and_refuses_others(void **state) {
    (void)state;
    static unsigned char records[2 * 3073], pixels[2 * 3072];
    int64_t n, labels[2];
    for (int i = 0; i < COUNT(records); i++)
        records[i] = (unsigned char)(i % 251);
    records[0] = 9, records[3073] = 0;
    spill("c.bin", records, sizeof records);
    assert_ok(hd_cifar_count(at("c.bin"), &n));
    assert_int_equal(n, 2);
    assert_ok(hd_cifar_read(at("c.bin"), 2, pixels, labels));
    assert_int_equal(labels[0], 10);
    assert_int_equal(labels[1], 1);
    assert_memory_equal(pixels + 3072, records + 3074, 3072);
    records[3073] = 10;
    spill("c.bin", records, sizeof records);
    assert_fails(hd_cifar_read(at("c.bin"), 2, pixels, labels), HD_EFORMAT, "label of record 2 is 10");
    spill("c.bin", records, sizeof records - 1);
    assert_fails(hd_cifar_count(at("c.bin"), &n), HD_EFORMAT, "multiple of 3073");
    assert_int_equal(hd_cifar_read(at("c.bin"), 2, pixels, labels), HD_EIO);
    spill("c.bin", "", 0);
    assert_fails(hd_cifar_count(at("c.bin"), &n), HD_EFORMAT, "cut short");
    unlink(at("c.bin"));
}

static void test_idx_data_must_fit_the_header(void **state) {
    (void)state;
    unsigned char good[] = {0, 0, 8, 2, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6, 7};
    hd_idx idx;
    hd_bytes file = {good, 18};
    assert_ok(hd_idx_parse("t", &file, &idx));
    assert_true(idx.ndim == 2 && idx.shape[0] == 2 && idx.shape[1] == 3 && idx.data[5] == 6);
    for (size_t n = 0; n < 20; n++) {
        file.size = n;
        if (n != 18)
            assert_int_equal(hd_idx_parse("t", &file, &idx), HD_EFORMAT);
    }
    file.size = 18;
    static const struct {
        int at, value;
        const char *words;
    } bad[] = {{0, 1, "magic"}, {2, 13, "type 13"}, {3, 0, "0 dimensions"}, {3, 9, "9 dimensions"}, {4, 0x80, "fit"}};
    for (int i = 0; i < COUNT(bad); i++) {
        unsigned char keep = good[bad[i].at];
        good[bad[i].at] = (unsigned char)bad[i].value;
        assert_fails(hd_idx_parse("t", &file, &idx), HD_EFORMAT, bad[i].words);
        good[bad[i].at] = keep;
    }
    unsigned char overflow[] = {0, 0, 8, 3, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255};
    file = (hd_bytes){overflow, sizeof overflow};
    assert_fails(hd_idx_parse("t", &file, &idx), HD_EFORMAT, "fit");
}

static void test_shapes_depend_on_seed_and_number_alone(void **state) {
    (void)state;
    unsigned char a[3072], b[3072];
    int kinds = 0, first = hd_shape_draw(1, 5, 32, a);
    hd_shape_draw(2, 5, 32, b);
    assert_memory_not_equal(a, b, sizeof a);
    assert_int_equal(hd_shape_draw(1, 5, 32, b), first);
    assert_memory_equal(a, b, sizeof a);
    for (int i = 0; i < 100; i++) {
        int ink = 0;
        kinds |= 1 << hd_shape_draw(3, i, 32, a);
        for (int k = 0; k < 1024; k++)
            ink += a[k] < 250 || a[1024 + k] < 250 || a[2048 + k] < 250;
        assert_true(ink > 40 && ink < 800); // something, on white
        assert_true(a[0] == 255 && a[1023] == 255);
    }
    assert_int_equal(kinds, (1 << HD_SHAPE_KINDS) - 1);
}

// Loader ---------------------------------------------------------------------

enum { N = 23, C = 3, H = 4, W = 5, ITEM = C * H * W };

static uint8_t set_x[N * ITEM];
static int64_t set_labels[N];

static hd_loader_config loader_config(int prefetch) {
    for (int i = 0; i < N * ITEM; i++)
        set_x[i] = (uint8_t)(i * 7 + i / ITEM);
    for (int i = 0; i < N; i++)
        set_labels[i] = i + 1;
    return (hd_loader_config){.x = set_x,
                              .labels = set_labels,
                              .n = N,
                              .c = C,
                              .h = H,
                              .w = W,
                              .batch = 5,
                              .seed = 9,
                              .flip = true,
                              .shuffle = true,
                              .prefetch = prefetch};
}

static void test_orders_are_permutations_of_seed_and_epoch(void **state) {
    (void)state;
    static const int64_t golden[8] = {1, 5, 7, 2, 6, 4, 0, 3}; // seed 1, epoch 0: changes here change everyone's runs
    int64_t order[1000], other[1000];
    hd_loader_order(1, 0, 8, order);
    assert_memory_equal(order, golden, sizeof golden);
    hd_loader_order(1, 0, 1000, order);
    hd_loader_order(1, 1, 1000, other);
    assert_memory_not_equal(order, other, sizeof order);
    hd_loader_order(2, 0, 1000, other);
    assert_memory_not_equal(order, other, sizeof order);
    char seen[1000] = {0};
    int64_t moved = 0;
    for (int i = 0; i < 1000; i++) {
        assert_true(order[i] >= 0 && order[i] < 1000 && !seen[order[i]]);
        seen[order[i]] = 1;
        moved += llabs(order[i] - i);
    }
    assert_true(moved > 300000 && moved < 370000); // expected n*n/3
}

static void test_half_of_the_pictures_are_mirrored(void **state) {
    (void)state;
    int flips = 0, changed = 0;
    for (int i = 0; i < 1000; i++) {
        flips += hd_loader_flips(1, 0, i);
        changed += hd_loader_flips(1, 0, i) != hd_loader_flips(1, 1, i);
    }
    assert_true(flips > 440 && flips < 560);
    assert_true(changed > 440 && changed < 560);
}

static void test_batches_hold_the_right_pictures(void **state) {
    (void)state;
    hd_loader_config config = loader_config(2);
    hd_loader *l;
    assert_ok(hd_loader_new(&config, &l));
    int64_t order[N], labels[5];
    float x[5 * ITEM];
    for (int b = 0; b < 12; b++) { // three epochs of four full batches
        int epoch = b / 4;
        hd_loader_order(9, epoch, N, order);
        assert_ok(hd_loader_next(l, x, labels));
        for (int k = 0; k < 5; k++) {
            int64_t i = order[b % 4 * 5 + k];
            assert_int_equal(labels[k], i + 1);
            bool mirrored = hd_loader_flips(9, epoch, i);
            for (int c = 0; c < C; c++)
                for (int y = 0; y < H; y++)
                    for (int w = 0; w < W; w++) {
                        int from = mirrored ? W - 1 - w : w;
                        float expected = (float)(set_x[i * ITEM + (c * H + y) * W + from] / 127.5 - 1);
                        assert_true(x[k * ITEM + (y * W + w) * C + c] == expected);
                    }
        }
    }
    assert_int_equal(hd_loader_position(l), 12);
    hd_loader_free(l);
}

static void test_a_resumed_loader_sees_the_same_batches(void **state) {
    (void)state;
    hd_loader *a, *b;
    hd_loader_config with = loader_config(3), without = loader_config(0);
    assert_ok(hd_loader_new(&with, &a));
    assert_ok(hd_loader_new(&without, &b));
    float xa[5 * ITEM], xb[5 * ITEM];
    int64_t la[5], lb[5];
    for (int round = 0; round < 20; round++) {
        int start = round * 13 % 40;
        hd_loader_seek(a, start);
        hd_loader_seek(b, start);
        for (int i = 0; i < round; i++) {
            assert_ok(hd_loader_next(a, xa, la));
            assert_ok(hd_loader_next(b, xb, lb));
            assert_memory_equal(xa, xb, sizeof xa);
            assert_memory_equal(la, lb, sizeof la);
        }
        assert_int_equal(hd_loader_position(a), start + round);
    }
    hd_loader_free(a);
    hd_loader_free(b);
}

static void test_loaders_end_at_any_time(void **state) {
    (void)state;
    hd_loader_config config = loader_config(4);
    for (int i = 0; i < 200; i++) {
        hd_loader *l;
        float x[5 * ITEM];
        int64_t labels[5];
        assert_ok(hd_loader_new(&config, &l));
        for (int k = 0; k < i % 3; k++)
            assert_ok(hd_loader_next(l, x, labels));
        hd_loader_free(l);
    }
}

static void test_loader_refuses_impossible_settings(void **state) {
    (void)state;
    hd_loader *l;
    hd_loader_config config = loader_config(2);
    config.batch = N + 1;
    assert_fails(hd_loader_new(&config, &l), HD_EARG, "got 24, expected 1 to 23");
    config.batch = 0;
    assert_fails(hd_loader_new(&config, &l), HD_EARG, "size is wrong");
    config = loader_config(65);
    assert_fails(hd_loader_new(&config, &l), HD_EARG, "prefetch");
    config = loader_config(1);
    config.n = 0;
    assert_fails(hd_loader_new(&config, &l), HD_EARG, "empty");
    assert_null(l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_png_gives_back_the_same_pixels),
        TEST(test_png_refuses_every_cut_and_every_changed_byte),
        TEST(test_png_headers_are_checked_before_decoding),
        TEST(test_png_chunks_must_stand_in_order),
        TEST(test_jpeg_structure_is_checked_before_decoding),
        TEST(test_shrinking_averages_over_exact_areas),
        TEST(test_enlarging_interpolates_between_centres),
        TEST(test_bytes_round_half_up),
        TEST(test_cover_takes_the_middle),
        TEST(test_emoji_give_the_golden_pictures),
        TEST(test_emoji_equal_the_reference_set),
        TEST(test_other_sizes_keep_the_mean),
        TEST(test_font_refuses_cuts_and_survives_changed_bytes),
        TEST(test_cifar_reads_records_and_refuses_others),
        TEST(test_idx_data_must_fit_the_header),
        TEST(test_shapes_depend_on_seed_and_number_alone),
        TEST(test_orders_are_permutations_of_seed_and_epoch),
        TEST(test_half_of_the_pictures_are_mirrored),
        TEST(test_batches_hold_the_right_pictures),
        TEST(test_a_resumed_loader_sees_the_same_batches),
        TEST(test_loaders_end_at_any_time),
        TEST(test_loader_refuses_impossible_settings),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
