// backend/cpu/conv.h: what the files of the convolution share: blocks of pixels and their padded windows.
// Layer: backend. Called by: conv.c (forward, input gradient, dispatch), conv_dw.c (weight gradient),
// conv_winograd*.c, conv_norm.c and conv_depthwise.c (both).
#ifndef HD_CONV_H
#define HD_CONV_H

#include "backend/cpu/gemm.h"

// A grid of output pixels [images, rows, cols] cut into equal blocks (the last ones are smaller): the tasks.
typedef struct {
    int64_t count[3]; // of the grid: images, rows, columns
    int64_t size[3];  // of a block
    int64_t parts[3]; // blocks along each dimension
} conv_blocks;

// One block: its first pixel and its extent.
typedef struct {
    int64_t first[3], count[3];
} conv_block;

// Blocks of about `pixels` pixels: whole images where they are small, else rows of one image, else parts of a row.
conv_blocks CPU_NAME(conv_blocks_cut)(int64_t images, int64_t rows, int64_t cols, int64_t pixels);
conv_block CPU_NAME(conv_block_at)(const conv_blocks *blocks, int64_t i);
#define conv_blocks_cut CPU_NAME(conv_blocks_cut)
#define conv_block_at CPU_NAME(conv_block_at)

static inline int64_t conv_blocks_count(const conv_blocks *b) { return b->parts[0] * b->parts[1] * b->parts[2]; }

// The pixels of a source [n,c,h,w] that a block needs: for output pixel g and tap t the source pixel is
// g * step + t, where first <= t <= last in each of the two dimensions (rows, columns).
typedef struct {
    const hd_view *source;
    int64_t step[2], first[2], last[2];
    bool in_place;    // every pixel needed lies in the source, channels contiguous: no copy
    int64_t pitch[3]; // distance of images, rows, columns in the window, in elements
} conv_window;

// Sets in_place and pitch for blocks of the given cut.
void CPU_NAME(conv_window_set)(conv_window *w, const conv_blocks *blocks);
// Elements of the largest block's window; 0 in place.
int64_t CPU_NAME(conv_window_size)(const conv_window *w, const conv_blocks *blocks);
// The address of the source pixel (first[0], first[1]) relative to the block's first output pixel: in `room`, filled
// here with zeros outside of the source, or in the source itself.
const float *CPU_NAME(conv_window_load)(const conv_window *w, const conv_block *block, float *room);
#define conv_window_set CPU_NAME(conv_window_set)
#define conv_window_size CPU_NAME(conv_window_size)
#define conv_window_load CPU_NAME(conv_window_load)

// The input of a convolution that normalises what it reads: act(x * scale + shift), of x and `more`, channels of both.
typedef struct {
    const hd_conv_args *args;
    int64_t channels;
    float *scale, *shift; // [images, channels]; NULL: the convolution reads x as it is
} conv_normed;
hd_status CPU_NAME(conv_normed_begin)(const hd_conv_args *, conv_normed *);
void CPU_NAME(conv_normed_end)(conv_normed *);
// Pixels first..last-1, counted through all images, of some of the channels: to `to`, [last - first, channels].
void CPU_NAME(conv_normed_pixels)(const conv_normed *, int64_t first, int64_t last, int64_t channel, int64_t channels,
                                  float *to);
// `conv` without a norm, of the normalised input; for the methods that do not normalise it in parts.
hd_status CPU_NAME(conv_after_norm)(const hd_conv_args *, hd_status (*conv)(const hd_conv_args *));
#define conv_normed_begin CPU_NAME(conv_normed_begin)
#define conv_normed_end CPU_NAME(conv_normed_end)
#define conv_normed_pixels CPU_NAME(conv_normed_pixels)
#define conv_after_norm CPU_NAME(conv_after_norm)

// Products of a depthwise convolution. `a` has the channels that b has columns, contiguous; b lies with its ld > 0.
// run: c[i, k] = sum over segments t, each of length 1, of a[a_row[i] + offset[t] + k] * b[t, k], plus bias[k]; needs
//      c_step = 1 and `add` unset.
// dw:  c[i, k] (+)= sum over all elements q of the segments of a[a_row[i] + q + k] * b[q, k].
void CPU_NAME(conv_depthwise_run)(const cpu_product *p);
void CPU_NAME(conv_depthwise_dw)(const cpu_product *p);
#define conv_depthwise_run CPU_NAME(conv_depthwise_run)
#define conv_depthwise_dw CPU_NAME(conv_depthwise_dw)

// The gradients of weights and bias by shifted products, and the three entries in double.
hd_status CPU_NAME(conv_dw_shift)(const hd_conv_args *a);
hd_status CPU_NAME(conv_f64)(const hd_conv_args *a);
hd_status CPU_NAME(conv_dx_f64)(const hd_conv_args *a);
hd_status CPU_NAME(conv_dw_f64)(const hd_conv_args *a);
#define conv_dw_shift CPU_NAME(conv_dw_shift)
#define conv_f64 CPU_NAME(conv_f64)
#define conv_dx_f64 CPU_NAME(conv_dx_f64)
#define conv_dw_f64 CPU_NAME(conv_dw_f64)

#endif
