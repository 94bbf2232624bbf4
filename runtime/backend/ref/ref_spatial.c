// backend/ref/ref_spatial.c: resizing and pooling of [n,c,h,w] and their gradients.
#include "backend/ref/ref.h"
#include <math.h>

// Output position i of `out` reads input positions at[0] and at[1] of `in` with weights weight[0] + weight[1] = 1.
typedef struct {
    int64_t at[2];
    double weight[2];
} taps;

static taps resize_taps(const hd_resize_args *a, int64_t i, int64_t in, int64_t out) {
    if (a->mode == HD_NEAREST)
        return (taps){{i * in / out, 0}, {1, 0}};
    double x = ((double)i + 0.5) * (double)in / (double)out - 0.5; // pixel centres
    if (a->align_corners)
        x = out > 1 ? (double)i * (double)(in - 1) / (double)(out - 1) : 0;
    x = fmax(x, 0);
    const int64_t low = (int64_t)x < in - 1 ? (int64_t)x : in - 1;
    const double part = x - (double)low;
    return low == in - 1 ? (taps){{low, low}, {1, 0}} : (taps){{low, low + 1}, {1 - part, part}};
}

// Both directions of the same sum: y += weight * x, or with `back` x += weight * y.
static hd_status resize(const hd_resize_args *a, bool back) {
    const int64_t planes = a->x.shape[0] * a->x.shape[1];
    const int64_t h = a->x.shape[2], w = a->x.shape[3], oh = a->y.shape[2], ow = a->y.shape[3];
    ref_scratch s = {0};
    double *x = back ? ref_doubles(&s, planes * h * w) : ref_in(&s, &a->x);
    double *y = back ? ref_in(&s, &a->y) : ref_doubles(&s, planes * oh * ow);
    for (int64_t i = 0; !s.failed && i < planes * oh * ow; i++) {
        const taps rows = resize_taps(a, i / ow % oh, h, oh), cols = resize_taps(a, i % ow, w, ow);
        for (int t = 0; t < 4; t++) {
            double *px = x + (i / (oh * ow) * h + rows.at[t / 2]) * w + cols.at[t % 2];
            const double weight = rows.weight[t / 2] * cols.weight[t % 2];
            if (weight == 0) // so that an infinite neighbour that is not read leaves no NaN
                continue;
            if (back)
                *px += weight * y[i];
            else
                y[i] += weight * *px;
        }
    }
    if (!s.failed)
        ref_out(back ? &a->x : &a->y, back ? x : y);
    return ref_end(&s);
}

hd_status ref_resize(const hd_resize_args *a) { return resize(a, false); }
hd_status ref_resize_back(const hd_resize_args *a) { return resize(a, true); }

// The part of a pooling window that lies inside the input: rows [top, bottom), columns [left, right).
typedef struct {
    int64_t top, bottom, left, right;
} window;

static window pool_window(const hd_pool_args *a, int64_t oh, int64_t ow) {
    const int64_t top = oh * a->stride[0] - a->padding[0], left = ow * a->stride[1] - a->padding[1];
    const int64_t bottom = top + a->kernel[0], right = left + a->kernel[1];
    return (window){top < 0 ? 0 : top, bottom > a->x.shape[2] ? a->x.shape[2] : bottom, left < 0 ? 0 : left,
                    right > a->x.shape[3] ? a->x.shape[3] : right};
}

// Average (padding counts as zeros) or maximum of one window of the plane x; *winner is set for the maximum.
static double pool_one(const hd_pool_args *a, const double *x, window in, int64_t *winner) {
    double sum = 0, best = -INFINITY;
    *winner = in.top * a->x.shape[3] + in.left;
    for (int64_t i = in.top; i < in.bottom; i++)
        for (int64_t j = in.left; j < in.right; j++) {
            const double value = x[i * a->x.shape[3] + j];
            sum += value;
            if (ref_beats(value, best, 1)) {
                best = value;
                *winner = i * a->x.shape[3] + j;
            }
        }
    return a->mode == HD_POOL_MAX ? best : sum / (double)(a->kernel[0] * a->kernel[1]);
}

hd_status ref_pool(const hd_pool_args *a) {
    const int64_t size = hd_view_numel(&a->y), oh = a->y.shape[2], ow = a->y.shape[3];
    ref_scratch s = {0};
    const double *x = ref_in(&s, &a->x);
    double *y = ref_doubles(&s, size);
    int64_t *winner = ref_ints(&s, size);
    if (s.failed)
        return ref_end(&s);
    for (int64_t i = 0; i < size; i++)
        y[i] = pool_one(a, x + i / (oh * ow) * a->x.shape[2] * a->x.shape[3], pool_window(a, i / ow % oh, i % ow),
                        winner + i);
    ref_out(&a->y, y);
    if (a->mode == HD_POOL_MAX)
        ref_out_ints(&a->idx, winner);
    return ref_end(&s);
}

hd_status ref_pool_back(const hd_pool_args *a) {
    const int64_t size = hd_view_numel(&a->y), oh = a->y.shape[2], ow = a->y.shape[3];
    const int64_t plane = a->x.shape[2] * a->x.shape[3];
    ref_scratch s = {0};
    const double *dy = ref_in(&s, &a->y);
    const int64_t *winner = a->mode == HD_POOL_MAX ? ref_in_ints(&s, &a->idx) : NULL;
    double *dx = ref_doubles(&s, hd_view_numel(&a->x));
    for (int64_t i = 0; !s.failed && i < size; i++) {
        double *to = dx + i / (oh * ow) * plane;
        const window in = pool_window(a, i / ow % oh, i % ow);
        if (winner)
            to[winner[i]] += dy[i];
        for (int64_t r = in.top; !winner && r < in.bottom; r++)
            for (int64_t c = in.left; c < in.right; c++)
                to[r * a->x.shape[3] + c] += dy[i] / (double)(a->kernel[0] * a->kernel[1]);
    }
    if (!s.failed)
        ref_out(&a->x, dx);
    return ref_end(&s);
}
