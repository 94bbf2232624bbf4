// backend/cpu/conv_winograd.h: what conv_winograd.c and conv_winograd_dw.c share: tiles, planes and one-dimensional
// transforms.
// Layer: backend. Compiled once per instruction set.
//
// F(4x4, 3x3) of Winograd (1980; Lavin and Gray 2016): a 3x3 convolution on a tile of 4x4 outputs as 36 products in
// place of 144. Per dimension two polynomials are multiplied through their values at 0, +-A, +-B and infinity:
//   y = AT [(G g) * (BT d)],   d: 6 inputs, g: 3 taps, y: 4 outputs,
// and in two dimensions each transform runs along the columns and then along the rows. Over the channels every one of
// the 36 products becomes a matrix product: that of one "plane" [tiles, channels].
// A = 5/8 and B = 3/2 lose half as much to rounding as the usual 1 and 2 do (measured, relative L2 error below 2e-6).
#ifndef HD_CONV_WINOGRAD_H
#define HD_CONV_WINOGRAD_H

#include "backend/cpu/conv.h"
#include "backend/cpu/simd.h"

#define WINO_TILE 4    // outputs of a tile in one dimension
#define WINO_WINDOW 6  // inputs
#define WINO_PLANES 36 // WINO_WINDOW squared
#define WINO_LINE 16   // floats of a cache line
#define WINO_INLINE static inline __attribute__((always_inline))

// The tiles that cover `count` images of outputs, numbered image by image, row by row.
typedef struct {
    int64_t rows, cols; // in one image
    int64_t count;      // in all images
} wino_tiles;

// 36 planes [tiles, width]: plane i at data + i * pitch. The width is a multiple of VF_LANES; the pitch is one cache
// line more than a plane, else all planes would meet in the same sets of the cache.
typedef struct {
    float *data;
    int64_t width, pitch;
} wino_planes;

static inline int64_t wino_width(int64_t channels) { return cpu_parts(channels, VF_LANES) * VF_LANES; }
static inline int64_t wino_pitch(int64_t tiles, int64_t width) { return tiles * width + WINO_LINE; }
static inline size_t wino_planes_bytes(int64_t tiles, int64_t width) {
    return sizeof(float) * (size_t)(WINO_PLANES * wino_pitch(tiles, width));
}

// y is a view [n,c,h,w] of outputs.
static inline wino_tiles wino_tiles_over(const hd_view *y) {
    const int64_t rows = cpu_parts(y->shape[2], WINO_TILE), cols = cpu_parts(y->shape[3], WINO_TILE);
    return (wino_tiles){rows, cols, y->shape[0] * rows * cols};
}

// Where tile t lies: its image and its first output pixel.
typedef struct {
    int64_t image, y, x;
} wino_place;
static inline wino_place wino_place_of(const wino_tiles *tiles, int64_t t) {
    return (wino_place){t / (tiles->rows * tiles->cols), t / tiles->cols % tiles->rows * WINO_TILE,
                        t % tiles->cols * WINO_TILE};
}

// at[i * size + j] = channel `channel` of pixel (y + i, x + j), or `zeros` where there is none.
static inline void wino_pixels(const float **at, int size, const hd_view *s, const float *zeros, int64_t image,
                               int64_t y, int64_t x, int64_t channel) {
    const float *base = (const float *)s->data + image * s->strides[0] + channel;
    if (y >= 0 && x >= 0 && y + size <= s->shape[2] && x + size <= s->shape[3]) {
        for (int i = 0; i < size; i++)
            for (int j = 0; j < size; j++)
                at[i * size + j] = base + (y + i) * s->strides[2] + (x + j) * s->strides[3];
        return;
    }
    for (int i = 0; i < size; i++) {
        const bool inside = y + i >= 0 && y + i < s->shape[2];
        for (int j = 0; j < size; j++)
            at[i * size + j] = inside && x + j >= 0 && x + j < s->shape[3]
                                   ? base + (y + i) * s->strides[2] + (x + j) * s->strides[3]
                                   : zeros;
    }
}

// Transforms -------------------------------------------------------------------------------------------------------

#define WINO_A 0.625f
#define WINO_B 1.5f
#define WINO_A2 (WINO_A * WINO_A)
#define WINO_B2 (WINO_B * WINO_B)
#define WINO_NA (1.0f / (2.0f * WINO_A2 * (WINO_A2 - WINO_B2)))
#define WINO_NB (1.0f / (2.0f * WINO_B2 * (WINO_B2 - WINO_A2)))

// BT: 6 inputs to 6 values.
WINO_INLINE void wino_bt(const vf *d, vf *o) {
    const vf a = d[4] - d[2] * WINO_B2, a_odd = (d[3] - d[1] * WINO_B2) * WINO_A;
    const vf b = d[4] - d[2] * WINO_A2, b_odd = (d[3] - d[1] * WINO_A2) * WINO_B;
    o[0] = d[0] * (WINO_A2 * WINO_B2) - d[2] * (WINO_A2 + WINO_B2) + d[4];
    o[1] = a + a_odd;
    o[2] = a - a_odd;
    o[3] = b + b_odd;
    o[4] = b - b_odd;
    o[5] = d[1] * (WINO_A2 * WINO_B2) - d[3] * (WINO_A2 + WINO_B2) + d[5];
}

// AT: 6 products to 4 outputs.
WINO_INLINE void wino_at(const vf *m, vf *o) {
    const vf a = m[1] + m[2], a_odd = m[1] - m[2], b = m[3] + m[4], b_odd = m[3] - m[4];
    o[0] = m[0] + a + b;
    o[1] = a_odd * WINO_A + b_odd * WINO_B;
    o[2] = a * WINO_A2 + b * WINO_B2;
    o[3] = a_odd * (WINO_A2 * WINO_A) + b_odd * (WINO_B2 * WINO_B) + m[5];
}

// A: 4 gradients of outputs to 6 values.
WINO_INLINE void wino_a(const vf *y, vf *o) {
    const vf a = y[0] + y[2] * WINO_A2, a_odd = y[1] * WINO_A + y[3] * (WINO_A2 * WINO_A);
    const vf b = y[0] + y[2] * WINO_B2, b_odd = y[1] * WINO_B + y[3] * (WINO_B2 * WINO_B);
    o[0] = y[0];
    o[1] = a + a_odd;
    o[2] = a - a_odd;
    o[3] = b + b_odd;
    o[4] = b - b_odd;
    o[5] = y[3];
}

// G: 3 taps to 6 values.
WINO_INLINE void wino_g(const vf *g, vf *o) {
    const vf a = g[0] * WINO_NA + g[2] * (WINO_A2 * WINO_NA), a_odd = g[1] * (WINO_A * WINO_NA);
    const vf b = g[0] * WINO_NB + g[2] * (WINO_B2 * WINO_NB), b_odd = g[1] * (WINO_B * WINO_NB);
    o[0] = g[0] * (1.0f / (WINO_A2 * WINO_B2));
    o[1] = a + a_odd;
    o[2] = a - a_odd;
    o[3] = b + b_odd;
    o[4] = b - b_odd;
    o[5] = g[2];
}

// GT: 6 sums of products to the gradients of 3 taps.
WINO_INLINE void wino_gt(const vf *s, vf *o) {
    const vf a = s[1] + s[2], a_odd = s[1] - s[2], b = s[3] + s[4], b_odd = s[3] - s[4];
    o[0] = s[0] * (1.0f / (WINO_A2 * WINO_B2)) + a * WINO_NA + b * WINO_NB;
    o[1] = a_odd * (WINO_A * WINO_NA) + b_odd * (WINO_B * WINO_NB);
    o[2] = a * (WINO_A2 * WINO_NA) + b * (WINO_B2 * WINO_NB) + s[5];
}

// out[columns of v] = transform of in[i][j] along i and then along j; `in` is size x size, out is to x to. Both
// dimensions are unrolled, so that everything stays in registers.
#define WINO_BOTH_WAYS(transform, from, to, in, out)                                                                   \
    do {                                                                                                               \
        vf half_[to][from];                                                                                            \
        CPU_UNROLL for (int j_ = 0; j_ < (from); j_++) {                                                               \
            vf column_[from], result_[to];                                                                             \
            CPU_UNROLL for (int i_ = 0; i_ < (from); i_++) column_[i_] = in(i_, j_);                                   \
            transform(column_, result_);                                                                               \
            CPU_UNROLL for (int i_ = 0; i_ < (to); i_++) half_[i_][j_] = result_[i_];                                  \
        }                                                                                                              \
        CPU_UNROLL for (int i_ = 0; i_ < (to); i_++) {                                                                 \
            vf result_[to];                                                                                            \
            transform(half_[i_], result_);                                                                             \
            CPU_UNROLL for (int j_ = 0; j_ < (to); j_++) out(i_, j_, result_[j_]);                                     \
        }                                                                                                              \
    } while (0)

// planes[.., t, ..] = BT d B of the windows of tiles first..first+count-1, channels channel..channel+channels-1 of the
// source; tile (y, x) meets the source at (y - padding[0], x - padding[1]). `zeros`: as many zeros as channels.
void CPU_NAME(wino_transform_input)(const wino_planes *planes, const hd_view *source, const int64_t padding[2],
                                    const wino_tiles *tiles, int64_t first, int64_t count, int64_t channel,
                                    int64_t channels, const float *zeros);
#define wino_transform_input CPU_NAME(wino_transform_input)

#endif
