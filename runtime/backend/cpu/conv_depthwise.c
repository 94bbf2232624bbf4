// backend/cpu/conv_depthwise.c: convolutions whose every channel is a group of its own.
// Layer: backend. Called by: conv.c (output, input gradient), conv_dw.c (weight gradient), which cut the work, fill the
// windows and list pixels and taps as for any shifted product.
//
// Nothing is summed over channels, so vectors run along them: a product of matrices becomes one of their elements.
// Tiles of pixels (or of taps) and channels stay in registers, so that each weight (or output gradient) is loaded once
// a tile.
#include "backend/cpu/conv.h"
#include "backend/cpu/simd.h"

#define TILE_PIXELS 4
#define TILE_TAPS 3
#define TILE_VECTORS CPU_PANEL_VECTORS
#define TILE static inline __attribute__((always_inline)) void

// Pixels row..row+pixels-1 of C, channels c.. in `vectors` vectors of `lanes` channels each.
TILE sum_tile(const cpu_product *p, int64_t row, int pixels, int64_t c, int vectors, int64_t lanes) {
    vf sum[TILE_PIXELS][TILE_VECTORS], weight[TILE_VECTORS];
    const float *a[TILE_PIXELS], *b = p->b->data + c;
    CPU_UNROLL for (int i = 0; i < pixels; i++) {
        a[i] = p->a + p->a_row[row + i] + c;
        CPU_UNROLL for (int j = 0; j < vectors; j++) sum[i][j] = (vf){0};
    }
    for (int64_t t = 0; t < p->segment_count; t++, b += p->b->ld) {
        CPU_UNROLL for (int j = 0; j < vectors; j++) weight[j] = vf_load_n(b + j * VF_LANES, lanes);
        CPU_UNROLL for (int i = 0; i < pixels; i++) CPU_UNROLL for (int j = 0; j < vectors; j++) sum[i][j] +=
            vf_load_n(a[i] + p->segments[t].offset + j * VF_LANES, lanes) * weight[j];
    }
    CPU_UNROLL for (int i = 0; i < pixels; i++) CPU_UNROLL for (int j = 0; j < vectors; j++) {
        if (p->bias)
            sum[i][j] += vf_load_n(p->bias + c + j * VF_LANES, lanes);
        vf_store_n(p->c + p->c_row[row + i] + c + j * VF_LANES, sum[i][j], lanes);
    }
}

// All channels of a few pixels.
TILE sum_pixels(const cpu_product *p, int64_t row, int pixels) {
    const int64_t n = p->b->n;
    int64_t c = 0;
    for (; c + TILE_VECTORS * VF_LANES <= n; c += TILE_VECTORS * VF_LANES)
        sum_tile(p, row, pixels, c, TILE_VECTORS, VF_LANES);
    for (; c + VF_LANES <= n; c += VF_LANES)
        sum_tile(p, row, pixels, c, 1, VF_LANES);
    if (c < n)
        sum_tile(p, row, pixels, c, 1, n - c);
}

void conv_depthwise_run(const cpu_product *p) {
    int64_t row = 0;
    for (; row + TILE_PIXELS <= p->rows; row += TILE_PIXELS)
        sum_pixels(p, row, TILE_PIXELS);
    for (; row < p->rows; row++)
        sum_pixels(p, row, 1);
}

// Taps row..row+taps-1 of the gradient: sums over all pixels, from zero over each segment.
TILE dw_tile(const cpu_product *p, int64_t row, int taps, int64_t c, int vectors, int64_t lanes) {
    vf total[TILE_TAPS][TILE_VECTORS] = {0}, sum[TILE_TAPS][TILE_VECTORS], dy[TILE_VECTORS];
    const float *b = p->b->data + c;
    for (int64_t s = 0; s < p->segment_count; s++) {
        const float *a[TILE_TAPS];
        CPU_UNROLL for (int i = 0; i < taps; i++) {
            a[i] = p->a + p->a_row[row + i] + p->segments[s].offset + c;
            CPU_UNROLL for (int j = 0; j < vectors; j++) sum[i][j] = (vf){0};
        }
        for (int64_t q = 0; q < p->segments[s].length; q++, b += p->b->ld) {
            CPU_UNROLL for (int j = 0; j < vectors; j++) dy[j] = vf_load_n(b + j * VF_LANES, lanes);
            CPU_UNROLL for (int i = 0; i < taps; i++) CPU_UNROLL for (int j = 0; j < vectors; j++) sum[i][j] +=
                vf_load_n(a[i] + q * p->a_step + j * VF_LANES, lanes) * dy[j];
        }
        CPU_UNROLL for (int i = 0; i < taps; i++) CPU_UNROLL for (int j = 0; j < vectors; j++) total[i][j] += sum[i][j];
    }
    CPU_UNROLL for (int i = 0; i < taps; i++)
        CPU_UNROLL for (int j = 0; j < vectors; j++) for (int64_t l = 0; l < lanes; l++) {
        float *to = p->c + p->c_row[row + i] + (c + j * VF_LANES + l) * p->c_step;
        *to = (p->add ? *to : 0.0f) + total[i][j][l];
    }
}

// All channels of a few taps.
TILE dw_taps(const cpu_product *p, int64_t row, int taps) {
    const int64_t n = p->b->n;
    int64_t c = 0;
    for (; c + TILE_VECTORS * VF_LANES <= n; c += TILE_VECTORS * VF_LANES)
        dw_tile(p, row, taps, c, TILE_VECTORS, VF_LANES);
    for (; c + VF_LANES <= n; c += VF_LANES)
        dw_tile(p, row, taps, c, 1, VF_LANES);
    if (c < n)
        dw_tile(p, row, taps, c, 1, n - c);
}

void conv_depthwise_dw(const cpu_product *p) {
    int64_t row = 0;
    for (; row + TILE_TAPS <= p->rows; row += TILE_TAPS)
        dw_taps(p, row, TILE_TAPS);
    for (; row < p->rows; row++)
        dw_taps(p, row, 1);
}
