// backend/cpu/resize.c: nearest and bilinear resizing of [n,c,h,w], and its gradient.
// Layer: backend. Positions as PyTorch has them: nearest floor(i in / out); bilinear by pixel centres or corners.
// Threads: one image and a block of channels per task. The gradient adds each task's output pixels in their order.
#include "backend/cpu/planes.h"
#include <string.h>

// One output position along h or w: where it reads, and with which weight (nearest: at[0] alone).
typedef struct {
    int64_t at[2];
    double weight[2];
} taps;

static taps taps_at(const hd_resize_args *a, int64_t i, int64_t in, int64_t out) {
    if (a->mode == HD_NEAREST)
        return (taps){{i * in / out, 0}, {1, 0}};
    double x = ((double)i + 0.5) * (double)in / (double)out - 0.5;
    if (a->align_corners)
        x = out > 1 ? (double)i * (double)(in - 1) / (double)(out - 1) : 0;
    x = x < 0 ? 0 : x;
    const int64_t low = (int64_t)x < in - 1 ? (int64_t)x : in - 1;
    const double part = low < in - 1 ? x - (double)low : 0;
    return (taps){{low, low < in - 1 ? low + 1 : low}, {1 - part, part}};
}

// For an output pixel: four input pixels and weights (nearest: the first), as offsets from the task's plane.
typedef struct {
    int64_t at[4];
    double weight[4];
} corners;

static corners corners_of(const hd_view *x, const taps *row, const taps *column) {
    corners c;
    for (int k = 0; k < 4; k++) {
        c.at[k] = row->at[k / 2] * x->strides[2] + column->at[k % 2] * x->strides[3];
        c.weight[k] = row->weight[k / 2] * column->weight[k % 2];
    }
    return c;
}

#define DEFINE_PIXELS(name, type)                                                                                      \
    static void blend_##name(type *restrict y, int64_t ys, const type *restrict x, int64_t xs, const corners *p,       \
                             int64_t c) {                                                                              \
        const type *x0 = x + p->at[0], *x1 = x + p->at[1], *x2 = x + p->at[2], *x3 = x + p->at[3];                     \
        const type w0 = (type)p->weight[0], w1 = (type)p->weight[1], w2 = (type)p->weight[2], w3 = (type)p->weight[3]; \
        if (xs == 1 && ys == 1)                                                                                        \
            for (int64_t i = 0; i < c; i++)                                                                            \
                y[i] = w0 * x0[i] + w1 * x1[i] + (w2 * x2[i] + w3 * x3[i]);                                            \
        else                                                                                                           \
            for (int64_t i = 0; i < c; i++)                                                                            \
                y[i * ys] = w0 * x0[i * xs] + w1 * x1[i * xs] + (w2 * x2[i * xs] + w3 * x3[i * xs]);                   \
    }                                                                                                                  \
    static void take_##name(type *restrict y, int64_t ys, const type *restrict x, int64_t xs, int64_t c) {             \
        if (xs == 1 && ys == 1)                                                                                        \
            for (int64_t i = 0; i < c; i++)                                                                            \
                y[i] = x[i];                                                                                           \
        else                                                                                                           \
            for (int64_t i = 0; i < c; i++)                                                                            \
                y[i * ys] = x[i * xs];                                                                                 \
    }                                                                                                                  \
    static void spread_##name(const type *restrict y, int64_t ys, type *restrict x, int64_t xs, type weight,           \
                              int64_t c) {                                                                             \
        if (xs == 1 && ys == 1)                                                                                        \
            for (int64_t i = 0; i < c; i++)                                                                            \
                x[i] += weight * y[i];                                                                                 \
        else                                                                                                           \
            for (int64_t i = 0; i < c; i++)                                                                            \
                x[i * xs] += weight * y[i * ys];                                                                       \
    }                                                                                                                  \
    static void resize_##name(const hd_resize_args *a, plane_task t, const taps *rows, const taps *columns) {          \
        const hd_view *x = &a->x, *y = &a->y;                                                                          \
        const type *from = (const type *)x->data + t.n * x->strides[0] + t.c0 * x->strides[1];                         \
        type *to = (type *)y->data + t.n * y->strides[0] + t.c0 * y->strides[1];                                       \
        for (int64_t i = 0; i < y->shape[2]; i++)                                                                      \
            for (int64_t j = 0; j < y->shape[3]; j++) {                                                                \
                type *pixel = to + i * y->strides[2] + j * y->strides[3];                                              \
                const corners p = corners_of(x, &rows[i], &columns[j]);                                                \
                if (a->mode == HD_NEAREST)                                                                             \
                    take_##name(pixel, y->strides[1], from + p.at[0], x->strides[1], t.c);                             \
                else                                                                                                   \
                    blend_##name(pixel, y->strides[1], from, x->strides[1], &p, t.c);                                  \
            }                                                                                                          \
    }                                                                                                                  \
    static void resize_back_##name(const hd_resize_args *a, plane_task t, const taps *rows, const taps *columns) {     \
        const hd_view *x = &a->x, *y = &a->y;                                                                          \
        type *to = (type *)x->data + t.n * x->strides[0] + t.c0 * x->strides[1];                                       \
        const type *from = (const type *)y->data + t.n * y->strides[0] + t.c0 * y->strides[1];                         \
        for (int64_t i = 0; i < x->shape[2]; i++)                                                                      \
            for (int64_t j = 0; j < x->shape[3]; j++)                                                                  \
                for (int64_t c = 0; c < t.c; c++)                                                                      \
                    to[i * x->strides[2] + j * x->strides[3] + c * x->strides[1]] = 0;                                 \
        for (int64_t i = 0; i < y->shape[2]; i++)                                                                      \
            for (int64_t j = 0; j < y->shape[3]; j++) {                                                                \
                const corners p = corners_of(x, &rows[i], &columns[j]);                                                \
                const type *pixel = from + i * y->strides[2] + j * y->strides[3];                                      \
                for (int k = 0; k < (a->mode == HD_NEAREST ? 1 : 4); k++)                                              \
                    spread_##name(pixel, y->strides[1], to + p.at[k], x->strides[1], (type)p.weight[k], t.c);          \
            }                                                                                                          \
    }
DEFINE_PIXELS(f32, float)
DEFINE_PIXELS(f64, double)

typedef void resize_task(const hd_resize_args *, plane_task, const taps *rows, const taps *columns);

static hd_status resize_with(const hd_resize_args *a, resize_task *task) {
    const int64_t oh = a->y.shape[2], ow = a->y.shape[3];
    taps *rows = hd_alloc((size_t)(oh + ow) * sizeof *rows);
    if (!rows)
        return hd_fail(HD_ENOMEM, "resize: no memory for a table of %lld positions", (long long)(oh + ow));
    taps *columns = rows + oh;
    for (int64_t i = 0; i < oh; i++)
        rows[i] = taps_at(a, i, a->x.shape[2], oh);
    for (int64_t j = 0; j < ow; j++)
        columns[j] = taps_at(a, j, a->x.shape[3], ow);
    const int64_t block = plane_block(&a->x, &a->y);
    CPU_PARALLEL_FOR(i, plane_tasks(&a->x, block)) task(a, plane_task_at(&a->x, block, i), rows, columns);
    hd_free(rows);
    return HD_OK;
}

hd_status cpu_resize(const hd_resize_args *a) { return resize_with(a, a->x.dtype == HD_F32 ? resize_f32 : resize_f64); }
hd_status cpu_resize_back(const hd_resize_args *a) {
    return resize_with(a, a->x.dtype == HD_F32 ? resize_back_f32 : resize_back_f64);
}
