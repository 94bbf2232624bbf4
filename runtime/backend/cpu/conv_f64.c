// backend/cpu/conv_f64.c: the three convolution entries in double, as plain loops.
// Layer: backend. Called by: conv.c. For gradient checks and small exact work; one task per output plane.
#include "backend/cpu/conv.h"

#define AT(v, i, j, k, l)                                                                                              \
    (((double *)(v).data)[(i) * (v).strides[0] + (j) * (v).strides[1] + (k) * (v).strides[2] + (l) * (v).strides[3]])

// The source row or column that tap r of output o meets; -1 outside.
static int64_t source_of(const hd_conv_args *a, int d, int64_t o, int64_t r) {
    const int64_t i = o * a->stride[d] - a->padding[d] + r * a->dilation[d];
    return i < a->x.shape[2 + d] ? i : -1;
}

// The output row or column whose tap r meets source i; -1 where there is none.
static int64_t output_of(const hd_conv_args *a, int d, int64_t i, int64_t r) {
    const int64_t at = i + a->padding[d] - r * a->dilation[d];
    return at >= 0 && at % a->stride[d] == 0 && at / a->stride[d] < a->y.shape[2 + d] ? at / a->stride[d] : -1;
}

static double output_pixel(const hd_conv_args *a, int64_t n, int64_t k, int64_t oy, int64_t ox) {
    const int64_t in = a->w.shape[1], c0 = k / (a->w.shape[0] / a->groups) * in;
    double sum = a->b.data ? ((const double *)a->b.data)[k * a->b.strides[0]] : 0;
    sum += a->add.data ? AT(a->add, n, k, oy, ox) : 0;
    for (int64_t r = 0; r < a->w.shape[2]; r++)
        for (int64_t s = 0; s < a->w.shape[3]; s++) {
            const int64_t y = source_of(a, 0, oy, r), x = source_of(a, 1, ox, s);
            for (int64_t c = 0; y >= 0 && x >= 0 && c < in; c++)
                sum += AT(a->x, n, c0 + c, y, x) * AT(a->w, k, c, r, s);
        }
    return sum;
}

hd_status conv_f64(const hd_conv_args *a) {
    const int64_t outs = a->y.shape[1];
    CPU_PARALLEL_FOR(i, a->y.shape[0] * outs)
    for (int64_t oy = 0; oy < a->y.shape[2]; oy++)
        for (int64_t ox = 0; ox < a->y.shape[3]; ox++)
            AT(a->y, i / outs, i % outs, oy, ox) = output_pixel(a, i / outs, i % outs, oy, ox);
    return HD_OK;
}

static double input_pixel(const hd_conv_args *a, int64_t n, int64_t c, int64_t y, int64_t x) {
    const int64_t in = a->w.shape[1], outs = a->w.shape[0] / a->groups, k0 = c / in * outs;
    double sum = 0;
    for (int64_t r = 0; r < a->w.shape[2]; r++)
        for (int64_t s = 0; s < a->w.shape[3]; s++) {
            const int64_t oy = output_of(a, 0, y, r), ox = output_of(a, 1, x, s);
            for (int64_t k = 0; oy >= 0 && ox >= 0 && k < outs; k++)
                sum += AT(a->y, n, k0 + k, oy, ox) * AT(a->w, k0 + k, c % in, r, s);
        }
    return sum;
}

hd_status conv_dx_f64(const hd_conv_args *a) {
    const int64_t channels = a->x.shape[1];
    CPU_PARALLEL_FOR(i, a->x.shape[0] * channels)
    for (int64_t y = 0; y < a->x.shape[2]; y++)
        for (int64_t x = 0; x < a->x.shape[3]; x++)
            AT(a->x, i / channels, i % channels, y, x) = input_pixel(a, i / channels, i % channels, y, x);
    return HD_OK;
}

static double weight_sum(const hd_conv_args *a, int64_t k, int64_t c, int64_t r, int64_t s) {
    const int64_t c0 = k / (a->w.shape[0] / a->groups) * a->w.shape[1];
    double sum = 0;
    for (int64_t n = 0; n < a->y.shape[0]; n++)
        for (int64_t oy = 0; oy < a->y.shape[2]; oy++)
            for (int64_t ox = 0; ox < a->y.shape[3]; ox++) {
                const int64_t y = source_of(a, 0, oy, r), x = source_of(a, 1, ox, s);
                if (y >= 0 && x >= 0)
                    sum += AT(a->x, n, c0 + c, y, x) * AT(a->y, n, k, oy, ox);
            }
    return sum;
}

static double bias_sum(const hd_conv_args *a, int64_t k) {
    double sum = 0;
    for (int64_t n = 0; n < a->y.shape[0]; n++)
        for (int64_t oy = 0; oy < a->y.shape[2]; oy++)
            for (int64_t ox = 0; ox < a->y.shape[3]; ox++)
                sum += AT(a->y, n, k, oy, ox);
    return sum;
}

hd_status conv_dw_f64(const hd_conv_args *a) {
    CPU_PARALLEL_FOR(k, a->w.shape[0]) {
        for (int64_t c = 0; c < a->w.shape[1]; c++)
            for (int64_t r = 0; r < a->w.shape[2]; r++)
                for (int64_t s = 0; s < a->w.shape[3]; s++)
                    AT(a->w, k, c, r, s) = weight_sum(a, k, c, r, s);
        if (a->b.data)
            ((double *)a->b.data)[k * a->b.strides[0]] = bias_sum(a, k);
    }
    return HD_OK;
}
