// io/font.h: the pictures of a bitmap colour font (Noto Color Emoji).
// Read: tables cmap (format 12), CBLC and CBDT with one strike, index format 1, image format 17 (PNG).
// Format: OpenType 1.9, chapters cmap, CBLC, CBDT.
#ifndef HD_FONT_H
#define HD_FONT_H

#include "io/file.h"
#include <stdint.h>

typedef struct {
    uint32_t code, glyph;  // code point and glyph number
    size_t offset, length; // of its PNG in the file
} hd_font_glyph;

typedef struct {
    hd_bytes file;
    int count;
    hd_font_glyph *glyphs; // one for each code point that has a picture, in the order of code points
} hd_font;

// Look for `name` in the usual font folders and below them. HD_EIO when it is not there; else hd_free(*path).
hd_status hd_font_find(const char *name, char **path);

hd_status hd_font_open(const char *path, hd_font *out); // on failure *out is empty
hd_status hd_font_parse(const char *where, hd_font *f); // the same for f->file already there; used by tests
void hd_font_close(hd_font *f);

// Picture i as planes red, green, blue of size x size at out: composited on white in real numbers, padded with white to
// a square (the smaller half of an odd rest above and left), averaged over exact cells, rounded half up. No gamma.
hd_status hd_font_picture(const hd_font *f, int i, int size, unsigned char *out);

#endif
