// io/font.c: the pictures of a bitmap colour font.
// Layer: io. Called by: bind_data.c. Threads: any.
#include "io/font.h"
#include "core/alloc.h"
#include "io/image.h"
#include "io/resample.h"
#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

// Finding --------------------------------------------------------------------

static char *joined(const char *folder, const char *name) {
    const size_t size = strlen(folder) + strlen(name) + 2;
    char *path = hd_alloc(size);
    if (path)
        snprintf(path, size, "%s/%s", folder, name);
    return path;
}

static bool is_kind(const char *path, mode_t kind) {
    struct stat st;
    return stat(path, &st) == 0 && (st.st_mode & S_IFMT) == kind;
}

static int visible(const struct dirent *entry) { return entry->d_name[0] != '.'; }

// Depth first in sorted order, `depth` folders deep. NULL when it is not there.
static char *search(const char *folder, const char *name, int depth) {
    char *path = joined(folder, name), *found = NULL;
    if (path && is_kind(path, S_IFREG))
        return path;
    hd_free(path);
    struct dirent **entries;
    int n = depth > 0 ? scandir(folder, &entries, visible, alphasort) : -1;
    for (int i = 0; i < n; i++) {
        char *below = found ? NULL : joined(folder, entries[i]->d_name);
        if (below && is_kind(below, S_IFDIR))
            found = search(below, name, depth - 1);
        hd_free(below);
        free(entries[i]);
    }
    if (n >= 0)
        free(entries);
    return found;
}

hd_status hd_font_find(const char *name, char **path) {
    *path = NULL;
    const char *home = getenv("HOME"), *data = getenv("XDG_DATA_HOME");
    const struct {
        const char *base, *below;
    } folders[] = {
        {data, "fonts"},         {home, ".local/share/fonts"}, {home, ".fonts"},     {"/usr/local/share", "fonts"},
        {"/usr/share", "fonts"}, {home, "Library/Fonts"},      {"/Library", "Fonts"}};
    for (size_t i = 0; i < sizeof folders / sizeof *folders && !*path; i++) {
        char *folder = folders[i].base && *folders[i].base ? joined(folders[i].base, folders[i].below) : NULL;
        if (folder)
            *path = search(folder, name, 4);
        hd_free(folder);
    }
    if (!*path)
        return hd_fail(HD_EIO, "the font '%s' is in none of the usual folders", name);
    return HD_OK;
}

// Tables ---------------------------------------------------------------------

// A range of the file. Reading outside it gives 0, and `broken` remembers that.
typedef struct {
    const unsigned char *data;
    size_t size;
    bool broken;
} table;

static uint32_t get(table *t, size_t at, int bytes) {
    if (at > t->size || t->size - at < (size_t)bytes) {
        t->broken = true;
        return 0;
    }
    uint32_t v = 0;
    for (int i = 0; i < bytes; i++)
        v = v << 8 | t->data[at + (size_t)i];
    return v;
}

static uint32_t u16(table *t, size_t at) { return get(t, at, 2); }
static uint32_t u32(table *t, size_t at) { return get(t, at, 4); }

static hd_status bad(const char *where, const char *what) {
    return hd_fail(HD_EFORMAT, "%s: bad font file: %s", where, what);
}

static hd_status find_table(const char *where, const hd_bytes *file, const char *tag, table *out) {
    table all = {file->data, file->size, false};
    uint32_t count = u16(&all, 4);
    for (uint32_t i = 0; i < count && !all.broken; i++) {
        size_t at = 12 + 16 * (size_t)i, offset = u32(&all, at + 8), length = u32(&all, at + 12);
        if (all.broken || memcmp(file->data + at, tag, 4) != 0)
            continue;
        if (offset > file->size || file->size - offset < length)
            return bad(where, "a table is cut short");
        *out = (table){file->data + offset, length, false};
        return HD_OK;
    }
    return hd_fail(HD_EFORMAT, "%s has no table '%s': it is no bitmap colour font", where, tag);
}

// Offset and length of a glyph's PNG in CBDT; length 0: it has none.
typedef struct {
    uint32_t offset, length;
} place;

// One index subtable of format 1: offsets of the glyphs first to last, one more behind them.
static hd_status read_subtable(const char *where, table *cblc, table *cbdt, size_t at, uint32_t first, uint32_t last,
                               place *places) {
    if (u16(cblc, at) != 1 || u16(cblc, at + 2) != 17)
        return bad(where, "expected index format 1 and image format 17");
    size_t base = u32(cblc, at + 4);
    for (uint32_t g = first; g <= last; g++) {
        size_t slot = at + 8 + 4 * (size_t)(g - first), begin = u32(cblc, slot), end = u32(cblc, slot + 4);
        if (cblc->broken || begin > end)
            return bad(where, "the offsets of its pictures are damaged");
        if (begin == end)
            continue;               // a glyph without picture
        size_t head = base + begin; // small metrics (5 bytes), length (4 bytes), PNG
        uint32_t length = u32(cbdt, head + 5);
        if (cbdt->broken || end - begin < 9 || length > end - begin - 9 || cbdt->size - head - 9 < length)
            return bad(where, "a picture is cut short");
        places[g] = (place){(uint32_t)(head + 9), length};
    }
    return HD_OK;
}

// The pictures of glyphs 0 to *last, the last one of the only strike; the caller frees *places, also on failure.
static hd_status read_places(const char *where, const hd_bytes *file, place **places, uint32_t *last,
                             size_t *data_start) {
    table cblc, cbdt;
    HD_CHECK(find_table(where, file, "CBLC", &cblc));
    HD_CHECK(find_table(where, file, "CBDT", &cbdt));
    *data_start = (size_t)(cbdt.data - file->data);
    if (u32(&cblc, 4) != 1)
        return bad(where, "expected one size of pictures");
    size_t array = u32(&cblc, 8);
    uint32_t count = u32(&cblc, 16);
    *last = u16(&cblc, 50);
    *places = hd_calloc(*last + 1, sizeof **places);
    if (!*places)
        return hd_fail(HD_ENOMEM, "%s: no memory for its list of pictures", where);
    uint32_t next = 0; // ranges rise, so that no glyph is read twice
    for (uint32_t i = 0; i < count; i++) {
        size_t at = array + 8 * (size_t)i;
        uint32_t from = u16(&cblc, at), to = u16(&cblc, at + 2);
        size_t sub = array + u32(&cblc, at + 4);
        if (cblc.broken || from < next || to < from || to > *last)
            return bad(where, "its index is damaged");
        HD_CHECK(read_subtable(where, &cblc, &cbdt, sub, from, to, *places));
        next = to + 1;
    }
    return HD_OK;
}

// The subtable of format 12 in cmap.
static hd_status find_groups(const char *where, const hd_bytes *file, table *cmap, size_t *at, uint32_t *groups) {
    HD_CHECK(find_table(where, file, "cmap", cmap));
    uint32_t count = u16(cmap, 2);
    for (uint32_t i = 0; i < count && !cmap->broken; i++) {
        size_t sub = u32(cmap, 4 + 8 * (size_t)i + 4);
        if (u16(cmap, sub) != 12)
            continue;
        *groups = u32(cmap, sub + 12);
        *at = sub + 16;
        if (!cmap->broken && *groups <= (cmap->size - *at) / 12)
            return HD_OK;
    }
    return bad(where, "it has no character map of format 12");
}

// Walk the groups (first code, last code, first glyph) and list the code points with a picture. glyphs == NULL: count.
static hd_status walk_groups(const char *where, table *cmap, size_t at, uint32_t groups, const place *places,
                             uint32_t last_glyph, size_t data_start, hd_font_glyph *glyphs, int *count) {
    uint32_t next = 0;
    *count = 0;
    for (uint32_t i = 0; i < groups; i++, at += 12) {
        uint32_t first = u32(cmap, at), last = u32(cmap, at + 4), glyph = u32(cmap, at + 8);
        if (first < next || last < first || last > 0x10FFFF)
            return bad(where, "its character map is damaged");
        next = last + 1;
        for (uint32_t code = first; code <= last && glyph <= last_glyph; code++, glyph++) {
            if (places[glyph].length == 0)
                continue;
            if (glyphs)
                glyphs[*count] = (hd_font_glyph){code, glyph, data_start + places[glyph].offset, places[glyph].length};
            ++*count;
        }
    }
    return HD_OK;
}

static hd_status list_glyphs(const char *where, hd_font *f, place **places) {
    size_t data_start = 0, at = 0;
    uint32_t last = 0, groups = 0;
    table cmap = {0};
    int count;
    HD_CHECK(read_places(where, &f->file, places, &last, &data_start));
    HD_CHECK(find_groups(where, &f->file, &cmap, &at, &groups));
    HD_CHECK(walk_groups(where, &cmap, at, groups, *places, last, data_start, NULL, &count));
    if (count == 0)
        return bad(where, "it has no pictures");
    f->glyphs = hd_alloc((size_t)count * sizeof *f->glyphs);
    if (!f->glyphs)
        return hd_fail(HD_ENOMEM, "%s: no memory for its list of pictures", where);
    return walk_groups(where, &cmap, at, groups, *places, last, data_start, f->glyphs, &f->count);
}

hd_status hd_font_parse(const char *where, hd_font *f) {
    place *places = NULL;
    hd_status status = list_glyphs(where, f, &places);
    hd_free(places);
    return status;
}

hd_status hd_font_open(const char *path, hd_font *out) {
    *out = (hd_font){0};
    HD_CHECK(hd_file_read(path, (size_t)256 << 20, &out->file));
    hd_status status = hd_font_parse(path, out);
    if (status != HD_OK)
        hd_font_close(out);
    return status;
}

void hd_font_close(hd_font *f) {
    hd_bytes_free(&f->file);
    hd_free(f->glyphs);
    *f = (hd_font){0};
}

// Pictures -------------------------------------------------------------------

typedef struct {
    const hd_image *image;
    int side, left, top;
} framed;

// Row y of the white square with the picture in its middle.
static void framed_row(const void *from, int y, double *row) {
    const framed *f = from;
    const hd_image *image = f->image;
    for (int i = 0; i < 3 * f->side; i++)
        row[i] = 255;
    if (y < f->top || y >= f->top + image->height)
        return;
    const unsigned char *p = image->pixels + (size_t)(y - f->top) * (size_t)image->width * 4;
    for (int x = 0; x < image->width; x++, p += 4) {
        double a = p[3] / 255.0;
        for (int c = 0; c < 3; c++)
            row[3 * (f->left + x) + c] = p[c] * a + 255 * (1 - a);
    }
}

typedef struct {
    unsigned char *out;
    int size;
} planes;

static void planes_row(void *to, int y, const double *row) {
    const planes *p = to;
    for (int c = 0; c < 3; c++)
        for (int x = 0; x < p->size; x++)
            p->out[((size_t)c * (size_t)p->size + (size_t)y) * (size_t)p->size + (size_t)x] =
                hd_round_byte(row[3 * x + c]);
}

hd_status hd_font_picture(const hd_font *f, int i, int size, unsigned char *out) {
    const hd_font_glyph *g = &f->glyphs[i];
    char where[48];
    snprintf(where, sizeof where, "picture of U+%04X", g->code);
    hd_image image;
    HD_CHECK(hd_image_decode(where, f->file.data + g->offset, g->length, 4, &image));
    int side = image.width > image.height ? image.width : image.height;
    framed from = {&image, side, (side - image.width) / 2, (side - image.height) / 2};
    planes to = {out, size};
    hd_resample_args args = {.width = side,
                             .height = side,
                             .channels = 3,
                             .out_width = size,
                             .out_height = size,
                             .source = framed_row,
                             .from = &from,
                             .sink = planes_row,
                             .to = &to};
    hd_status status = hd_resample(&args);
    hd_image_free(&image);
    return status;
}
