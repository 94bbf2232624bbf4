// preview/preview_draw.c: layout, pictures and text of the preview window on a canvas in memory.
// Layer: preview, inside preview_sdl.so. Calls: stb_easy_font. Called by: preview_sdl.c.
// Pictures are enlarged by whole factors (each pixel stays a square) or, where they do not fit, shrunk by whole factors
// (the mean of a square). Columns with equally many pictures share their cells, so picture 5 of every level lies at the
// same place.
#include "preview/preview_draw.h"
#include <stb/stb_easy_font.h>
#include <stdio.h>
#include <string.h>

enum {
    BACKGROUND = 0x1c1e22,
    BAR = 0x26292f,
    BRIGHT = 0xe4e6ea,
    PLAIN = 0xb4b9c2,
    DIM = 0x868d99,
    ACCENT = 0xe8a852,
    MARGIN = 20, // around everything, and between columns
    GAP = 4,     // between pictures
    LINE = 12,   // of text, at scale 1
    MAX_UP = 64,
};

typedef struct {
    int x, y, w, h;
} rect;

static void fill(const hd_canvas *c, rect r, uint32_t colour) {
    const int x0 = r.x < 0 ? 0 : r.x, x1 = r.x + r.w > c->width ? c->width : r.x + r.w;
    const int y0 = r.y < 0 ? 0 : r.y, y1 = r.y + r.h > c->height ? c->height : r.y + r.h;
    for (int y = y0; y < y1; y++)
        for (int x = x0; x < x1; x++)
            c->pixels[(size_t)y * c->width + x] = colour;
}

static int min(int a, int b) { return a < b ? a : b; }
static int max(int a, int b) { return a > b ? a : b; }
static int ceil_div(int a, int b) { return (a + b - 1) / b; }

// Text -----------------------------------------------------------------------

// The font knows printable ASCII alone: anything else becomes '?', a UTF-8 character one of them.
static void to_ascii(const char *text, char *out, size_t size) {
    size_t n = 0;
    for (const unsigned char *s = (const unsigned char *)text; *s && n + 1 < size; s++)
        if ((*s & 0xc0) != 0x80)
            out[n++] = (char)((*s >= 32 && *s < 127) || *s == '\n' ? *s : '?');
    out[n] = 0;
}

static int text_width(const char *text, int scale) {
    char ascii[HD_PREVIEW_TEXT];
    to_ascii(text, ascii, sizeof ascii);
    return stb_easy_font_width(ascii) * scale;
}

// Cut text at its end until it is at most `width` wide.
static void fit_text(char *text, int width, int scale) {
    for (size_t n = strlen(text); n > 0 && text_width(text, scale) > width; n--)
        text[n - 1] = 0;
}

// Returns the x behind the text.
static int draw_text(const hd_canvas *c, int x, int y, int scale, uint32_t colour, const char *text) {
    static struct {
        float x, y, z;
        unsigned char colour[4];
    } corners[HD_PREVIEW_TEXT * 4 * 16]; // a letter has at most 16 strokes of 4 corners
    char ascii[HD_PREVIEW_TEXT];
    to_ascii(text, ascii, sizeof ascii);
    const int strokes = stb_easy_font_print(0, 0, ascii, NULL, corners, sizeof corners);
    for (int i = 0; i < strokes; i++) {
        const int x0 = (int)corners[4 * i].x, y0 = (int)corners[4 * i].y;
        const int x1 = (int)corners[4 * i + 2].x, y1 = (int)corners[4 * i + 2].y;
        fill(c, (rect){x + x0 * scale, y + y0 * scale, (x1 - x0) * scale, (y1 - y0) * scale}, colour);
    }
    return x + stb_easy_font_width(ascii) * scale;
}

static int text_scale(const hd_canvas *c) { return c->width >= 560 ? 2 : 1; }

// The status bar ---------------------------------------------------------------

static int count_lines(const char *text) {
    int lines = 1;
    for (; *text; text++)
        lines += *text == '\n' && text[1] != 0;
    return min(lines, 4);
}

int hd_draw_status_height(const hd_canvas *canvas, const hd_preview_status *status) {
    return count_lines(status->text) * LINE * text_scale(canvas) + 20;
}

void hd_draw_status(const hd_canvas *canvas, const hd_preview_status *status) {
    static const char help[] = "space pause   s save   1-9 level   0 all   q close";
    const int height = hd_draw_status_height(canvas, status), top = canvas->height - height;
    fill(canvas, (rect){0, top, canvas->width, height}, BAR);
    int x = MARGIN, scale = text_scale(canvas);
    const int y = top + 12;
    if (status->note)
        x = draw_text(canvas, x, y, scale, ACCENT, status->note) + MARGIN;
    if (x + text_width(status->text, scale) > canvas->width - MARGIN)
        scale = 1;
    const int end = draw_text(canvas, x, y, scale, BRIGHT, status->text);
    const int help_x = canvas->width - MARGIN - text_width(help, 1);
    if (help_x > end + MARGIN)
        draw_text(canvas, help_x, canvas->height - 26, 1, DIM, help);
}

// Pictures -----------------------------------------------------------------------

// How a column's pictures are laid out: cells of cell_w x cell_h, `across` in a row.
typedef struct {
    int cell_w, cell_h, across, rows;
} layout;

static int scaled(int extent, int scale) { return scale > 0 ? extent * scale : ceil_div(extent, -scale); }

// The largest scale (k: times k, -k: divided by k) at which n pictures of w x h fit into the area, laid out about
// square.
static layout choose_layout(int n, int w, int h, int area_w, int area_h) {
    for (int scale = MAX_UP;; scale = scale == 1 ? -2 : scale - 1) {
        const int cell_w = scaled(w, scale), cell_h = scaled(h, scale);
        const int most_across = (area_w + GAP) / (cell_w + GAP), most_rows = (area_h + GAP) / (cell_h + GAP);
        if (scale > -MAX_UP && (most_across < 1 || most_rows < 1 || most_across < ceil_div(n, most_rows)))
            continue;
        int across = 1;
        while (across * across < n)
            across++;
        across = max(min(across, most_across), most_rows > 0 ? ceil_div(n, most_rows) : 1);
        return (layout){cell_w, cell_h, across, ceil_div(n, across)};
    }
}

// The mean of a size x size square of the picture (cut at its edges), or the one pixel where size is 1.
static uint32_t sample(const uint8_t *rgb, int w, int h, int x0, int y0, int size) {
    unsigned sum[3] = {0}, count = 0;
    for (int y = y0; y < min(y0 + size, h); y++)
        for (int x = x0; x < min(x0 + size, w); x++, count++)
            for (int c = 0; c < 3; c++)
                sum[c] += rgb[((size_t)y * w + x) * 3 + c];
    for (int c = 0; c < 3; c++)
        sum[c] = (sum[c] + count / 2) / count;
    return sum[0] << 16 | sum[1] << 8 | sum[2];
}

// One picture in the middle of its cell, at the largest whole factor that fits.
static void draw_picture(const hd_canvas *c, const uint8_t *rgb, int w, int h, rect cell) {
    const int up = min(cell.w / w, cell.h / h), down = up ? 1 : max(ceil_div(w, cell.w), ceil_div(h, cell.h));
    const int side = max(up, 1), across = ceil_div(w, down), rows = ceil_div(h, down);
    const int left = cell.x + (cell.w - across * side) / 2, top = cell.y + (cell.h - rows * side) / 2;
    for (int y = 0; y < rows; y++)
        for (int x = 0; x < across; x++)
            fill(c, (rect){left + x * side, top + y * side, side, side}, sample(rgb, w, h, x * down, y * down, down));
}

static void draw_grid(const hd_canvas *c, const hd_preview_frame *f, const hd_preview_grid *g, const layout *l,
                      int left, int top) {
    const size_t bytes = (size_t)3 * g->width * g->height;
    for (int i = 0; i < g->count; i++) {
        const rect cell = {left + i % l->across * (l->cell_w + GAP), top + i / l->across * (l->cell_h + GAP), l->cell_w,
                           l->cell_h};
        draw_picture(c, f->pixels + g->offset + i * bytes, g->width, g->height, cell);
    }
}

// "2 colours": the number is the key that shows this column large.
static void draw_label(const hd_canvas *c, int number, const char *name, int x, int y, int width) {
    const int scale = text_scale(c);
    char text[HD_PREVIEW_NAME + 8];
    snprintf(text, sizeof text, "%d", number);
    const int after = draw_text(c, x, y, scale, DIM, text) + 4 * scale;
    snprintf(text, sizeof text, "%s", name);
    fit_text(text, x + width - after, scale);
    draw_text(c, after, y, scale, PLAIN, text);
}

// The layout of column `index` in an area; columns with as many pictures share the largest cell among them. A column
// without pictures is one empty cell.
static layout column_layout(const hd_preview_frame *f, int index, int area_w, int area_h) {
    const int n = f->grids[index].count, side = min(area_w, area_h);
    int w = 1, h = 1;
    for (int i = 0; i < f->columns; i++)
        if (f->grids[i].count == n) {
            w = max(w, f->grids[i].width);
            h = max(h, f->grids[i].height);
        }
    return n ? choose_layout(n, w, h, area_w, area_h) : (layout){side, side, 1, 1};
}

void hd_draw_frame(const hd_canvas *canvas, const hd_preview_frame *frame, int only, int status_height) {
    fill(canvas, (rect){0, 0, canvas->width, canvas->height - status_height}, BACKGROUND);
    const int first = only ? only - 1 : 0, last = only ? only - 1 : frame->columns - 1, shown = last - first + 1;
    const int label_h = LINE * text_scale(canvas) + 4;
    const int area_w = max((canvas->width - MARGIN * (shown + 1)) / max(shown, 1), 8);
    const int area_h = max(canvas->height - status_height - 2 * MARGIN - label_h, 8);
    // Columns are as wide as their pictures; what is left goes to both sides, and above and below.
    layout layouts[HD_PREVIEW_COLUMNS];
    int widths[HD_PREVIEW_COLUMNS], total = MARGIN * (shown - 1), tallest = 0;
    for (int i = first; i <= last; i++) {
        const layout l = layouts[i] = column_layout(frame, i, area_w, area_h);
        const int label = text_width(frame->grids[i].name, text_scale(canvas)) + 12 * text_scale(canvas);
        widths[i] = max(l.across * (l.cell_w + GAP) - GAP, min(label, area_w));
        total += widths[i];
        tallest = max(tallest, l.rows * (l.cell_h + GAP) - GAP);
    }
    const int top = MARGIN + (area_h - tallest) / 3;
    for (int i = first, x = (canvas->width - total) / 2; i <= last; x += widths[i] + MARGIN, i++) {
        const hd_preview_grid *g = &frame->grids[i];
        draw_label(canvas, i + 1, g->name, x, top, widths[i]);
        if (g->count)
            draw_grid(canvas, frame, g, &layouts[i], x, top + label_h);
        else
            fill(canvas, (rect){x, top + label_h, layouts[i].cell_w, layouts[i].cell_h}, BAR);
    }
}
