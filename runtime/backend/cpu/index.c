// backend/cpu/index.c: choosing and adding by index along one dimension.
// Layer: backend. index_* moves whole slices, gather and scatter_add single elements.
// Threads: adding is cut across the other dimensions, so that equal indices meet in one task and keep their order.
#include "backend/cpu/strided.h"
#include <string.h>

static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t index_at(const hd_view *idx, int64_t j) { return ((const int64_t *)idx->data)[j * idx->strides[0]]; }

#define DEFINE_MOVE(bytes)                                                                                             \
    static void move_##bytes(const void *context, int64_t first, int64_t n, void *const p[]) {                         \
        (void)context, (void)first;                                                                                    \
        memcpy(p[0], p[1], (size_t)n *bytes);                                                                          \
    }
DEFINE_MOVE(1)
DEFINE_MOVE(4)
DEFINE_MOVE(8)

#define DEFINE_ADD(name, type)                                                                                         \
    static void add_##name(const void *context, int64_t first, int64_t n, void *const p[]) {                           \
        (void)context, (void)first;                                                                                    \
        type *x = p[0];                                                                                                \
        const type *y = p[1];                                                                                          \
        CPU_KERNEL_LOOP                                                                                                \
        for (int64_t i = 0; i < n; i++)                                                                                \
            x[i] = (type)(x[i] + y[i]);                                                                                \
    }
DEFINE_ADD(f32, float)
DEFINE_ADD(f64, double)
DEFINE_ADD(i64, uint64_t)
DEFINE_ADD(i32, uint32_t)
DEFINE_ADD(u8, uint8_t)

static cpu_kernel *const adds[HD_DTYPE_COUNT] = {
    [HD_F32] = add_f32, [HD_F64] = add_f64, [HD_I64] = add_i64,
    [HD_I32] = add_i32, [HD_U8] = add_u8,   [HD_BOOL] = add_u8,
};

// One slice of `to` and `from`: all dimensions but dim. Both have y's extents there.
static cpu_loop slice_loop(const hd_view *to, const hd_view *from, int dim, cpu_access access) {
    hd_view a = *to, b = *from;
    a.shape[dim] = b.shape[dim] = 1;
    cpu_loop loop;
    cpu_loop_start(&loop, &a, a.ndim, access);
    cpu_loop_add(&loop, &b, CPU_READ);
    cpu_loop_collapse(&loop, false);
    return loop;
}

// Elements [first, last) of the slices at position i of operand 0 and j of operand 1.
static void run_slice(const cpu_loop *slice, cpu_kernel *kernel, int64_t i, int64_t j, int64_t first, int64_t last) {
    char *const to = slice->data[0] + i * (int64_t)slice->size[0], *const from =
                                                                       slice->data[1] + j * (int64_t)slice->size[1];
    if (slice->flat[0] && slice->flat[1]) {
        void *const p[] = {to + first * (int64_t)slice->size[0], from + first * (int64_t)slice->size[1]};
        kernel(NULL, first, last - first, p);
        return;
    }
    cpu_loop loop = *slice;
    loop.data[0] = to;
    loop.data[1] = from;
    cpu_loop_run_range(&loop, kernel, NULL, first, last);
}

hd_status cpu_index_select(const hd_index_args *a) {
    const cpu_loop slice = slice_loop(&a->y, &a->x, a->dim, CPU_WRITE);
    const int64_t n = a->y.shape[a->dim], ys = a->y.strides[a->dim], xs = a->x.strides[a->dim];
    if (slice.numel == 0)
        return HD_OK;
    cpu_kernel *kernel = slice.size[0] == 8 ? move_8 : slice.size[0] == 4 ? move_4 : move_1;
    // a task is some slices, or a part of a long one
    const int64_t part = min64(slice.numel, CPU_PIECE), parts = (slice.numel + part - 1) / part;
    const int64_t group = CPU_PIECE / part, groups = (n + group - 1) / group;
    CPU_PARALLEL_FOR(t, groups * parts) {
        const int64_t first = t % parts * part, j0 = t / parts * group;
        for (int64_t j = j0; j < min64(j0 + group, n); j++)
            run_slice(&slice, kernel, j * ys, index_at(&a->idx, j) * xs, first, min64(first + part, slice.numel));
    }
    return HD_OK;
}

hd_status cpu_index_add(const hd_index_args *a) {
    enum { NARROWEST = 64 };
    const cpu_loop slice = slice_loop(&a->x, &a->y, a->dim, CPU_UPDATE);
    const int64_t n = a->y.shape[a->dim], ys = a->y.strides[a->dim], xs = a->x.strides[a->dim];
    if (slice.numel == 0 || n == 0)
        return HD_OK;
    const int64_t part = CPU_PIECE / n < NARROWEST ? NARROWEST : CPU_PIECE / n;
    const bool narrow = part == NARROWEST && slice.flat[1]; // short runs far apart: the processor foresees none
    CPU_PARALLEL_FOR(t, (slice.numel + part - 1) / part) {
        const int64_t first = t * part, last = min64(first + part, slice.numel);
        for (int64_t j = 0; j < n; j++) {
            const char *ahead = slice.data[1] + (min64(j + 8, n - 1) * ys + first) * (int64_t)slice.size[1];
            for (int64_t b = 0; narrow && b < NARROWEST * (int64_t)slice.size[1]; b += 64)
                __builtin_prefetch(ahead + b);
            run_slice(&slice, adds[a->x.dtype], index_at(&a->idx, j) * xs, j * ys, first, last);
        }
    }
    return HD_OK;
}

// A line of y, with its indices and its line of x.
typedef struct {
    char *x, *y;
    const int64_t *idx;
    int64_t xs, ys, idxs, n;
} line;

#define DEFINE_GATHER(bytes, type)                                                                                     \
    static void gather_##bytes(const line *l) {                                                                        \
        for (int64_t j = 0; j < l->n; j++)                                                                             \
            ((type *)l->y)[j * l->ys] = ((const type *)l->x)[l->idx[j * l->idxs] * l->xs];                             \
    }
DEFINE_GATHER(1, uint8_t)
DEFINE_GATHER(4, uint32_t)
DEFINE_GATHER(8, uint64_t)

#define DEFINE_SCATTER(name, type)                                                                                     \
    static void scatter_##name(const line *l) {                                                                        \
        for (int64_t j = 0; j < l->n; j++) {                                                                           \
            type *x = (type *)l->x + l->idx[j * l->idxs] * l->xs;                                                      \
            *x = (type)(*x + ((const type *)l->y)[j * l->ys]);                                                         \
        }                                                                                                              \
    }
DEFINE_SCATTER(f32, float)
DEFINE_SCATTER(f64, double)
DEFINE_SCATTER(i64, uint64_t)
DEFINE_SCATTER(i32, uint32_t)
DEFINE_SCATTER(u8, uint8_t)

static void for_lines(const hd_index_args *a, void (*run)(const line *)) {
    const int dim = a->dim;
    const int64_t n = a->y.shape[dim];
    if (hd_view_numel(&a->y) == 0)
        return;
    hd_view y = a->y, idx = a->idx, x = a->x;
    y.shape[dim] = 1;
    cpu_loop loop;
    cpu_loop_start(&loop, &y, y.ndim, CPU_WRITE);
    cpu_loop_add(&loop, &idx, CPU_READ);
    cpu_loop_add(&loop, &x, CPU_UPDATE);
    cpu_loop_collapse(&loop, false);
    const int64_t group = n < CPU_PIECE ? CPU_PIECE / n : 1, tasks = (loop.numel + group - 1) / group;
    CPU_PARALLEL_FOR(t, tasks)
    for (int64_t i = t * group; i < min64((t + 1) * group, loop.numel); i++) {
        int64_t at[CPU_OPERANDS];
        cpu_loop_offsets(&loop, i, at);
        const line l = {.y = loop.data[0] + at[0] * (int64_t)loop.size[0],
                        .idx = (const int64_t *)loop.data[1] + at[1],
                        .x = loop.data[2] + at[2] * (int64_t)loop.size[2],
                        .ys = a->y.strides[dim],
                        .idxs = a->idx.strides[dim],
                        .xs = a->x.strides[dim],
                        .n = n};
        run(&l);
    }
}

hd_status cpu_gather(const hd_index_args *a) {
    const size_t size = hd_dtype_size(a->y.dtype);
    for_lines(a, size == 8 ? gather_8 : size == 4 ? gather_4 : gather_1);
    return HD_OK;
}

hd_status cpu_scatter_add(const hd_index_args *a) {
    static void (*const scatters[HD_DTYPE_COUNT])(const line *) = {
        [HD_F32] = scatter_f32, [HD_F64] = scatter_f64, [HD_I64] = scatter_i64,
        [HD_I32] = scatter_i32, [HD_U8] = scatter_u8,   [HD_BOOL] = scatter_u8,
    };
    for_lines(a, scatters[a->x.dtype]);
    return HD_OK;
}
