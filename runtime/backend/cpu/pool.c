// backend/cpu/pool.c: average and max pooling of [n,c,h,w], and their gradients.
// Layer: backend. Padding counts as zeros in averages and never wins a maximum; a NaN wins.
// Threads: one image and a block of channels per task. The gradient adds each task's windows in their order.
#include "backend/cpu/planes.h"
#include <math.h>

// The part of a window that lies inside the input: rows [top, bottom), columns [left, right).
typedef struct {
    int64_t top, bottom, left, right;
} window;

static window window_at(const hd_pool_args *a, int64_t i, int64_t j) {
    const int64_t top = i * a->stride[0] - a->padding[0], left = j * a->stride[1] - a->padding[1];
    const int64_t bottom = top + a->kernel[0], right = left + a->kernel[1];
    return (window){top < 0 ? 0 : top, bottom > a->x.shape[2] ? a->x.shape[2] : bottom, left < 0 ? 0 : left,
                    right > a->x.shape[3] ? a->x.shape[3] : right};
}

#define DEFINE_POOL(name, type)                                                                                        \
    static void average_##name(const hd_pool_args *a, window w, const type *x, type *y, int64_t c) {                   \
        const int64_t xs = a->x.strides[1], ys = a->y.strides[1];                                                      \
        const type scale = (type)(1.0 / (double)(a->kernel[0] * a->kernel[1]));                                        \
        for (int64_t k = 0; k < c; k++)                                                                                \
            y[k * ys] = 0;                                                                                             \
        for (int64_t i = w.top; i < w.bottom; i++)                                                                     \
            for (int64_t j = w.left; j < w.right; j++) {                                                               \
                const type *pixel = x + i * a->x.strides[2] + j * a->x.strides[3];                                     \
                if (xs == 1 && ys == 1)                                                                                \
                    for (int64_t k = 0; k < c; k++)                                                                    \
                        y[k] += scale * pixel[k];                                                                      \
                else                                                                                                   \
                    for (int64_t k = 0; k < c; k++)                                                                    \
                        y[k * ys] += scale * pixel[k * xs];                                                            \
            }                                                                                                          \
    }                                                                                                                  \
    static void maximum_##name(const hd_pool_args *a, window w, const type *x, type *y, int64_t *idx, int64_t c) {     \
        for (int64_t k = 0; k < c; k++) {                                                                              \
            const type *plane = x + k * a->x.strides[1];                                                               \
            type best = -INFINITY;                                                                                     \
            int64_t winner = w.top * a->x.shape[3] + w.left;                                                           \
            for (int64_t i = w.top; i < w.bottom; i++)                                                                 \
                for (int64_t j = w.left; j < w.right; j++) {                                                           \
                    const type value = plane[i * a->x.strides[2] + j * a->x.strides[3]];                               \
                    if (!(value <= best) && best == best) {                                                            \
                        best = value;                                                                                  \
                        winner = i * a->x.shape[3] + j;                                                                \
                    }                                                                                                  \
                }                                                                                                      \
            y[k * a->y.strides[1]] = best;                                                                             \
            idx[k * a->idx.strides[1]] = winner;                                                                       \
        }                                                                                                              \
    }                                                                                                                  \
    static void pool_##name(const hd_pool_args *a, plane_task t) {                                                     \
        const hd_view *x = &a->x, *y = &a->y, *idx = &a->idx;                                                          \
        const type *from = (const type *)x->data + t.n * x->strides[0] + t.c0 * x->strides[1];                         \
        for (int64_t i = 0; i < y->shape[2]; i++)                                                                      \
            for (int64_t j = 0; j < y->shape[3]; j++) {                                                                \
                type *to = (type *)y->data + t.n * y->strides[0] + t.c0 * y->strides[1] + i * y->strides[2] +          \
                           j * y->strides[3];                                                                          \
                if (a->mode == HD_POOL_AVG)                                                                            \
                    average_##name(a, window_at(a, i, j), from, to, t.c);                                              \
                else                                                                                                   \
                    maximum_##name(a, window_at(a, i, j), from, to,                                                    \
                                   (int64_t *)idx->data + t.n * idx->strides[0] + t.c0 * idx->strides[1] +             \
                                       i * idx->strides[2] + j * idx->strides[3],                                      \
                                   t.c);                                                                               \
            }                                                                                                          \
    }                                                                                                                  \
    static void average_back_##name(const hd_pool_args *a, window w, const type *dy, type *dx, int64_t c) {            \
        const type scale = (type)(1.0 / (double)(a->kernel[0] * a->kernel[1]));                                        \
        const int64_t xs = a->x.strides[1], ys = a->y.strides[1];                                                      \
        for (int64_t i = w.top; i < w.bottom; i++)                                                                     \
            for (int64_t j = w.left; j < w.right; j++) {                                                               \
                type *pixel = dx + i * a->x.strides[2] + j * a->x.strides[3];                                          \
                for (int64_t k = 0; k < c; k++)                                                                        \
                    pixel[k * xs] += scale * dy[k * ys];                                                               \
            }                                                                                                          \
    }                                                                                                                  \
    static void maximum_back_##name(const hd_pool_args *a, const type *dy, const int64_t *idx, type *dx, int64_t c) {  \
        for (int64_t k = 0; k < c; k++) {                                                                              \
            const int64_t winner = idx[k * a->idx.strides[1]], i = winner / a->x.shape[3], j = winner % a->x.shape[3]; \
            dx[i * a->x.strides[2] + j * a->x.strides[3] + k * a->x.strides[1]] += dy[k * a->y.strides[1]];            \
        }                                                                                                              \
    }                                                                                                                  \
    static void pool_back_##name(const hd_pool_args *a, plane_task t) {                                                \
        const hd_view *x = &a->x, *y = &a->y, *idx = &a->idx;                                                          \
        type *to = (type *)x->data + t.n * x->strides[0] + t.c0 * x->strides[1];                                       \
        for (int64_t i = 0; i < x->shape[2]; i++)                                                                      \
            for (int64_t j = 0; j < x->shape[3]; j++)                                                                  \
                for (int64_t k = 0; k < t.c; k++)                                                                      \
                    to[i * x->strides[2] + j * x->strides[3] + k * x->strides[1]] = 0;                                 \
        for (int64_t i = 0; i < y->shape[2]; i++)                                                                      \
            for (int64_t j = 0; j < y->shape[3]; j++) {                                                                \
                const type *from = (const type *)y->data + t.n * y->strides[0] + t.c0 * y->strides[1] +                \
                                   i * y->strides[2] + j * y->strides[3];                                              \
                if (a->mode == HD_POOL_AVG)                                                                            \
                    average_back_##name(a, window_at(a, i, j), from, to, t.c);                                         \
                else                                                                                                   \
                    maximum_back_##name(a, from,                                                                       \
                                        (const int64_t *)idx->data + t.n * idx->strides[0] + t.c0 * idx->strides[1] +  \
                                            i * idx->strides[2] + j * idx->strides[3],                                 \
                                        to, t.c);                                                                      \
            }                                                                                                          \
    }
DEFINE_POOL(f32, float)
DEFINE_POOL(f64, double)

static hd_status pool_with(const hd_pool_args *a, void (*task)(const hd_pool_args *, plane_task)) {
    const int64_t block = plane_block(&a->x, &a->y);
    CPU_PARALLEL_FOR(i, plane_tasks(&a->x, block)) task(a, plane_task_at(&a->x, block, i));
    return HD_OK;
}

hd_status cpu_pool(const hd_pool_args *a) { return pool_with(a, a->x.dtype == HD_F32 ? pool_f32 : pool_f64); }
hd_status cpu_pool_back(const hd_pool_args *a) {
    return pool_with(a, a->x.dtype == HD_F32 ? pool_back_f32 : pool_back_f64);
}
