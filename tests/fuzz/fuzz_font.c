// tests/fuzz/fuzz_font.c: the tables of a bitmap font and its first pictures.
#define FUZZ_MENDS
#include "fuzz.h"
#include "io/font.h"
#include "png.h"

static size_t mend(uint8_t *data, size_t size, size_t max) {
    (void)max;
    for (uint8_t *p = data; (p = memmem(p, size - (size_t)(p - data), "\x89PNG", 4)); p += 4)
        mend_png(p, size - (size_t)(p - data));
    return size;
}

static void one_input(const uint8_t *data, size_t size) {
    hd_font font;
    uint8_t picture[3 * 8 * 8];
    if (hd_font_open(as_file(data, size), &font) == HD_OK)
        for (int i = 0; i < font.count && i < 3; i++)
            hd_font_picture(&font, i, 8, picture);
    hd_font_close(&font);
}
