// backend/cpu/copy.c: copy between any two layouts and types, fill, and f32 to bf16 and back.
// Layer: backend. Source of the speed: flat runs are converted or copied in one go; a copy that only changes which
// dimension is innermost (N,C,H,W to N,H,W,C and back) goes through 16 x 16 tiles, so that every cache line is used
// whole. Threads: pieces whose size depends on the shape alone; each writes its own elements.
#include "backend/cpu/strided.h"
#include "backend/cpu/transpose.h"

#include <string.h>

#define DEFINE_CONVERT(from, to, from_type, to_type, value)                                                            \
    static void from##_to_##to(const void *context, int64_t first, int64_t n, void *const p[]) {                       \
        (void)context, (void)first;                                                                                    \
        to_type *y = p[0];                                                                                             \
        const from_type *x = p[1];                                                                                     \
        for (int64_t i = 0; i < n; i++)                                                                                \
            y[i] = (to_type)(value);                                                                                   \
    }
#define DEFINE_CONVERTS(from, from_type, whole)                                                                        \
    DEFINE_CONVERT(from, f32, from_type, float, x[i])                                                                  \
    DEFINE_CONVERT(from, f64, from_type, double, x[i])                                                                 \
    DEFINE_CONVERT(from, i64, from_type, int64_t, whole(x[i]))                                                         \
    DEFINE_CONVERT(from, i32, from_type, int32_t, whole(x[i]))                                                         \
    DEFINE_CONVERT(from, u8, from_type, uint8_t, whole(x[i]))                                                          \
    DEFINE_CONVERT(from, bool, from_type, uint8_t, x[i] != 0)
DEFINE_CONVERTS(f32, float, hd_cut)
DEFINE_CONVERTS(f64, double, hd_cut)
DEFINE_CONVERTS(i64, int64_t, )
DEFINE_CONVERTS(i32, int32_t, )
DEFINE_CONVERTS(u8, uint8_t, )

#define CONVERTS(from)                                                                                                 \
    {                                                                                                                  \
        [HD_F32] = from##_to_f32, [HD_F64] = from##_to_f64, [HD_I64] = from##_to_i64, [HD_I32] = from##_to_i32,        \
        [HD_U8] = from##_to_u8, [HD_BOOL] = from##_to_bool                                                             \
    }
static cpu_kernel *const converts[HD_DTYPE_COUNT][HD_DTYPE_COUNT] = {
    [HD_F32] = CONVERTS(f32), [HD_F64] = CONVERTS(f64), [HD_I64] = CONVERTS(i64),
    [HD_I32] = CONVERTS(i32), [HD_U8] = CONVERTS(u8),   [HD_BOOL] = CONVERTS(u8),
};

#define DEFINE_SAME(bytes)                                                                                             \
    static void same_##bytes(const void *context, int64_t first, int64_t n, void *const p[]) {                         \
        (void)context, (void)first;                                                                                    \
        memcpy(p[0], p[1], (size_t)n *bytes);                                                                          \
    }
DEFINE_SAME(1)
DEFINE_SAME(4)
DEFINE_SAME(8)

static cpu_kernel *copy_kernel(hd_dtype from, hd_dtype to) {
    if (from != to && !(from == HD_BOOL && to == HD_U8))
        return converts[from][to];
    const size_t size = hd_dtype_size(to);
    return size == 8 ? same_8 : size == 4 ? same_4 : same_1;
}

// Transposition ---------------------------------------------------------------------------------------------------

#define DEFINE_TRANSPOSE(bytes, type)                                                                                  \
    static void transpose_##bytes(type *y, int64_t ys, const type *x, int64_t xs, int64_t rows, int64_t columns) {     \
        for (int64_t r = 0; r < rows; r += CPU_TILE)                                                                   \
            for (int64_t c = 0; c < columns; c += CPU_TILE)                                                            \
                for (int64_t i = r; i < rows && i < r + CPU_TILE; i++)                                                 \
                    for (int64_t j = c; j < columns && j < c + CPU_TILE; j++)                                          \
                        y[i * ys + j] = x[j * xs + i];                                                                 \
    }
DEFINE_TRANSPOSE(1, uint8_t)
DEFINE_TRANSPOSE(8, uint64_t)

// The dimension that is innermost for x, where y has another one; -1 where this copy is no transposition.
static int transposed_dim(const cpu_loop *loop) {
    const int inner = loop->ndim - 1;
    if (loop->strides[0][inner] != 1 || loop->strides[1][inner] <= 1)
        return -1;
    for (int d = 0; d < inner; d++)
        if (loop->strides[1][d] == 1)
            return d;
    return -1;
}

static void copy_transposed(const cpu_loop *loop, int d) {
    const int inner = loop->ndim - 1;
    const int64_t rows = loop->shape[d], columns = loop->shape[inner];
    const int64_t ys = loop->strides[0][d], xs = loop->strides[1][inner];
    const size_t size = loop->size[0];
    cpu_loop outer = *loop; // without the two dimensions
    outer.shape[d] = outer.shape[inner] = 1;
    int64_t block = (CPU_PIECE / columns + CPU_TILE - 1) / CPU_TILE * CPU_TILE;
    block = block < CPU_TILE ? CPU_TILE : block;
    const int64_t blocks = (rows + block - 1) / block, tasks = loop->numel / (rows * columns) * blocks;
    CPU_PARALLEL_FOR(i, tasks) {
        int64_t offsets[CPU_OPERANDS];
        cpu_loop_offsets(&outer, i / blocks, offsets);
        const int64_t r = i % blocks * block, m = rows - r < block ? rows - r : block;
        char *y = loop->data[0] + (offsets[0] + r * ys) * (int64_t)size;
        const char *x = loop->data[1] + (offsets[1] + r) * (int64_t)size;
        if (size == 4)
            cpu_transpose((float *)y, ys, (const float *)x, xs, m, columns);
        else if (size == 8)
            transpose_8((uint64_t *)y, ys, (const uint64_t *)x, xs, m, columns);
        else
            transpose_1((uint8_t *)y, ys, (const uint8_t *)x, xs, m, columns);
    }
}

hd_status cpu_copy(const hd_copy_args *a) {
    cpu_loop loop;
    cpu_loop_start(&loop, &a->y, a->y.ndim, CPU_WRITE);
    cpu_loop_add(&loop, &a->x, CPU_READ);
    if (loop.numel == 0)
        return HD_OK;
    cpu_loop_collapse(&loop, false);
    const int d = a->x.dtype == a->y.dtype ? transposed_dim(&loop) : -1;
    if (d >= 0)
        copy_transposed(&loop, d);
    else
        cpu_loop_run(&loop, copy_kernel(a->x.dtype, a->y.dtype), NULL);
    return HD_OK;
}

// Fill ------------------------------------------------------------------------------------------------------------

#define DEFINE_FILL(name, type, value)                                                                                 \
    static void fill_##name(const void *context, int64_t first, int64_t n, void *const p[]) {                          \
        (void)first;                                                                                                   \
        const double number = *(const double *)context;                                                                \
        const type v = (type)(value);                                                                                  \
        type *y = p[0];                                                                                                \
        for (int64_t i = 0; i < n; i++)                                                                                \
            y[i] = v;                                                                                                  \
    }
DEFINE_FILL(f32, float, number)
DEFINE_FILL(f64, double, number)
DEFINE_FILL(i64, int64_t, hd_cut(number))
DEFINE_FILL(i32, int32_t, hd_cut(number))
DEFINE_FILL(u8, uint8_t, hd_cut(number))
DEFINE_FILL(bool, uint8_t, number != 0)

static cpu_kernel *const fills[HD_DTYPE_COUNT] = {
    [HD_F32] = fill_f32, [HD_F64] = fill_f64, [HD_I64] = fill_i64,
    [HD_I32] = fill_i32, [HD_U8] = fill_u8,   [HD_BOOL] = fill_bool,
};

hd_status cpu_fill(const hd_fill_args *a) {
    cpu_loop loop;
    cpu_loop_start(&loop, &a->y, a->y.ndim, CPU_WRITE);
    cpu_loop_collapse(&loop, false);
    cpu_loop_run(&loop, fills[a->y.dtype], &a->value);
    return HD_OK;
}

// bf16 ------------------------------------------------------------------------------------------------------------
// The upper half of an f32. Source of the rounding: adding just under half of the last place, or half where that is
// odd, carries where it must, also from the largest number to infinity. Compilers make vectors of both loops.

typedef uint32_t f32_bits __attribute__((may_alias));

static void round_to_bf16(uint16_t *y, const f32_bits *x, int64_t n) {
    CPU_KERNEL_LOOP
    for (int64_t i = 0; i < n; i++) {
        const uint32_t rounded = x[i] + 0x7fff + (x[i] >> 16 & 1), quiet = x[i] | 0x400000;
        y[i] = (uint16_t)(((x[i] & 0x7fffffff) > 0x7f800000 ? quiet : rounded) >> 16);
    }
}

static void widen_bf16(f32_bits *y, const uint16_t *x, int64_t n) {
    CPU_KERNEL_LOOP
    for (int64_t i = 0; i < n; i++)
        y[i] = (uint32_t)x[i] << 16;
}

hd_status cpu_to_bf16(const hd_bf16_args *a) {
    const int64_t pieces = (a->n + CPU_PIECE - 1) / CPU_PIECE;
    CPU_PARALLEL_FOR(p, pieces) {
        const int64_t first = p * CPU_PIECE, left = a->n - first;
        round_to_bf16(a->bf16 + first, (const f32_bits *)(a->f32 + first), left < CPU_PIECE ? left : CPU_PIECE);
    }
    return HD_OK;
}

hd_status cpu_from_bf16(const hd_bf16_args *a) {
    const int64_t pieces = (a->n + CPU_PIECE - 1) / CPU_PIECE;
    CPU_PARALLEL_FOR(p, pieces) {
        const int64_t first = p * CPU_PIECE, left = a->n - first;
        widen_bf16((f32_bits *)(a->f32 + first), a->bf16 + first, left < CPU_PIECE ? left : CPU_PIECE);
    }
    return HD_OK;
}
