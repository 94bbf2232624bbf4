// backend/cpu/conv_winograd.h: what the files of Winograd's method share: forms, tiles, planes.
// Layer: backend. Compiled once per instruction set. conv_winograd_forms.c has the transforms of every form,
// conv_winograd.c the convolution and its input gradient, conv_winograd_dw.c the weight gradient, for any form.
//
// F(m, r) of Winograd (1980; Lavin and Gray 2016): r taps on a tile of m outputs as m + r - 1 products in place of
// m * r. Two polynomials are multiplied through their values at m + r - 1 points, infinity being one:
//   y = AT [(G g) * (BT d)],   d: m + r - 1 inputs (the window), g: r taps, y: m outputs,
// and in two dimensions each transform runs along the columns and then along the rows. Over the channels each of the
// products becomes a matrix product: that of one "plane" [tiles, channels].
#ifndef HD_CONV_WINOGRAD_H
#define HD_CONV_WINOGRAD_H

#include "backend/cpu/conv.h"
#include "backend/cpu/simd.h"

#define WINO_MOST_TAPS 25   // of a kernel, both dimensions together
#define WINO_WEIGHT_ROWS 16 // input channels whose weights are transformed at a time
#define WINO_LINE 16        // floats of a cache line

// The tiles that cover `count` images of outputs, numbered image by image, row by row.
typedef struct {
    int64_t rows, cols; // in one image
    int64_t count;      // in all images
} wino_tiles;

// Planes [tiles, width]: plane i at data + i * pitch. The width is a multiple of VF_LANES; the pitch is one cache line
// more than a plane, else all planes would meet in the same sets of the cache.
typedef struct {
    float *data;
    int64_t width, pitch;
} wino_planes;

// Tiles first..first+count-1 of a view, channels channel..channel+channels-1. The tile at (y, x) of the output meets
// the view at (y - padding[0], x - padding[1]).
typedef struct {
    const hd_view *view;
    int64_t padding[2];
    const wino_tiles *tiles;
    int64_t first, count, channel, channels;
} wino_run;

// F(tile, taps) in one dimension, at the points 0, pairs +-p, and infinity.
#define WINO_PAIRS 3
typedef struct {
    int taps, tile, window, pairs; // window = taps + tile - 1 = 2 * pairs + 2; or all 1 and no pairs: nothing to do
    float point[WINO_PAIRS];
    float all[WINO_PAIRS]; // prod (x^2 - p^2) as a polynomial in x^2: all coefficients but the last, 1
    float others[WINO_PAIRS][WINO_PAIRS - 1]; // the same without the pair p
    float scale[WINO_PAIRS];                  // 1 / (2 p^2 prod (p^2 - q^2)), q the points of the other pairs
} wino_way;

// A form: how tiles are cut, and its transforms of many tiles at once.
typedef struct {
    const wino_way *rows, *cols;
    bool strict; // relative L2 error below 5e-7 (else 2e-6)
    // planes = BT d B of the windows. `zeros`: as many as channels, read where the view has no pixel.
    void (*input)(const wino_run *, const wino_planes *, const float *zeros);
    // The planes' y = AT m A, plus `bias` [channels] or NULL, plus `add` of the view's shape or NULL, to the tiles.
    void (*output)(const wino_run *, const wino_planes *, const float *bias, const hd_view *add);
    // planes = A dy AT of the tiles. sums[channels, whole vectors] += the tiles' dy, unless it is NULL.
    void (*gradient)(const wino_run *, const wino_planes *, const float *zeros, float *sums);
    // G g GT of `count` vectors of outputs: vector i of tap t at taps[t][i * VF_LANES], of plane p at
    // to + p * pitch + i * width.
    void (*weights)(float taps[][WINO_WEIGHT_ROWS * VF_LANES], int64_t count, float *to, int64_t width, int64_t pitch);
    // GT s G of the sums of one input channel, plane p at sums + p * pitch, to the taps [outs, rows, cols] that begin
    // at `to`; strides of outs, rows, columns.
    void (*finish)(const float *sums, int64_t pitch, float *to, const int64_t strides[3], int64_t outs);
} wino_form;

// Their names: outputs of a tile, taps of the kernel.
extern const wino_form CPU_NAME(wino_4x4_3x3), CPU_NAME(wino_2x2_3x3), CPU_NAME(wino_1x4_1x5), CPU_NAME(wino_1x4_1x3),
    CPU_NAME(wino_1x2_1x3);
#define wino_4x4_3x3 CPU_NAME(wino_4x4_3x3)
#define wino_2x2_3x3 CPU_NAME(wino_2x2_3x3)
#define wino_1x4_1x5 CPU_NAME(wino_1x4_1x5)
#define wino_1x4_1x3 CPU_NAME(wino_1x4_1x3)
#define wino_1x2_1x3 CPU_NAME(wino_1x2_1x3)

static inline int64_t wino_plane_count(const wino_form *form) { return form->rows->window * form->cols->window; }
static inline int64_t wino_width(int64_t channels) { return cpu_parts(channels, VF_LANES) * VF_LANES; }
static inline int64_t wino_pitch(int64_t tiles, int64_t width) { return tiles * width + WINO_LINE; }
static inline size_t wino_planes_bytes(const wino_form *form, int64_t tiles, int64_t width) {
    return sizeof(float) * (size_t)(wino_plane_count(form) * wino_pitch(tiles, width));
}

// y is a view [n,c,h,w] of outputs.
static inline wino_tiles wino_tiles_over(const wino_form *form, const hd_view *y) {
    const int64_t rows = cpu_parts(y->shape[2], form->rows->tile), cols = cpu_parts(y->shape[3], form->cols->tile);
    return (wino_tiles){rows, cols, y->shape[0] * rows * cols};
}

// The most pixels that the windows of a block of tiles span; 0 where the convolution does not normalise what it reads.
int64_t CPU_NAME(wino_span_most)(const wino_form *, const hd_conv_args *, const wino_tiles *, int64_t block);
// form->input of the run; where there is a norm, of its pixels normalised in `room` [pixels of the span, channels].
void CPU_NAME(wino_input)(const wino_form *, const conv_normed *, const wino_run *, const wino_planes *,
                          const float *zeros, float *room);
#define wino_span_most CPU_NAME(wino_span_most)
#define wino_input CPU_NAME(wino_input)

// Where x and y are channels-last, without groups, stride and dilation 1. bias is dense, or NULL.
hd_status CPU_NAME(conv_winograd)(const wino_form *, const hd_conv_args *, const float *bias);
hd_status CPU_NAME(conv_dx_winograd)(const wino_form *, const hd_conv_args *);
hd_status CPU_NAME(conv_dw_winograd)(const wino_form *, const hd_conv_args *);
#define conv_winograd CPU_NAME(conv_winograd)
#define conv_dx_winograd CPU_NAME(conv_dx_winograd)
#define conv_dw_winograd CPU_NAME(conv_dw_winograd)

#endif
