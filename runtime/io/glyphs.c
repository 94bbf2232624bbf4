// io/glyphs.c: see glyphs.h.
#include "io/glyphs.h"
#include <string.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#include <stb/stb_easy_font.h>
#pragma GCC diagnostic pop

enum { LETTERS = 16 }; // handed to stb at once

int hd_text_boxes(const char *text, int (*boxes)[4], int capacity, int *width) {
    struct {
        float x, y, z;
        unsigned char colour[4];
    } corners[LETTERS * HD_GLYPH_BOXES * 4];
    char part[LETTERS + 1];
    int count = 0;
    *width = 0;
    while (*text) {
        size_t n = 0;
        for (; *text && n < LETTERS; text++)
            if (((unsigned char)*text & 0xc0) != 0x80) // one '?' for a UTF-8 character
                part[n++] = *text >= 32 && *text < 127 ? *text : '?';
        part[n] = 0;
        const int strokes = stb_easy_font_print((float)*width, 0, part, NULL, corners, sizeof corners);
        for (int i = 0; i < strokes && count < capacity; i++, count++) {
            const int box[4] = {(int)corners[4 * i].x, (int)corners[4 * i].y, (int)corners[4 * i + 2].x,
                                (int)corners[4 * i + 2].y};
            memcpy(boxes[count], box, sizeof box);
        }
        *width += stb_easy_font_width(part);
    }
    return count;
}
