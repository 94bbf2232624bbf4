// backend/cpu/binary.c: y = f(a, b) with broadcasting, and where.
// Layer: backend. One kernel per function and type over dense runs; strided.h brings any layout to that.
#include "backend/cpu/strided.h"
#include <math.h>

#define DEFINE_BINARY(name, type, result, value)                                                                       \
    static void name(const void *context, int64_t first, int64_t n, void *const p[]) {                                 \
        (void)context, (void)first;                                                                                    \
        result *y = p[0];                                                                                              \
        const type *as = p[1], *bs = p[2];                                                                             \
        CPU_KERNEL_LOOP                                                                                                \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            const type a = as[i], b = bs[i];                                                                           \
            y[i] = (result)(value);                                                                                    \
        }                                                                                                              \
    }

// Lua's % and //: the quotient is rounded down.
#define DEFINE_FLOAT_MOD(name, type, fmod_)                                                                            \
    static type name##_mod(type a, type b) {                                                                           \
        const type m = fmod_(a, b);                                                                                    \
        return m != 0 && (m < 0) != (b < 0) ? m + b : m;                                                               \
    }
DEFINE_FLOAT_MOD(f32, float, fmodf)
DEFINE_FLOAT_MOD(f64, double, fmod)

// Integers: division by zero gives 0, and the one quotient that overflows wraps: a kernel cannot raise.
static int64_t int_div(int64_t a, int64_t b) { return b == 0 ? 0 : b == -1 ? (int64_t)(0 - (uint64_t)a) : a / b; }

static int64_t int_floordiv(int64_t a, int64_t b) {
    const int64_t q = int_div(a, b);
    return b != 0 && b != -1 && a % b != 0 && (a < 0) != (b < 0) ? q - 1 : q;
}

static int64_t int_mod(int64_t a, int64_t b) {
    const int64_t m = b == 0 || b == -1 ? 0 : a % b;
    return m != 0 && (m < 0) != (b < 0) ? m + b : m;
}

static int64_t int_pow(int64_t a, int64_t b) {
    uint64_t y = 1, base = (uint64_t)a;
    if (b < 0)
        return a == 1 ? 1 : a == -1 ? (b % 2 ? -1 : 1) : 0;
    for (uint64_t e = (uint64_t)b; e > 0; e >>= 1, base *= base)
        y *= e & 1 ? base : 1;
    return (int64_t)y;
}

// Sums and products of integers wrap, as Lua's do: unsigned.
#define DEFINE_COMMON(name, type, wrapping)                                                                            \
    DEFINE_BINARY(name##_add_k, wrapping, wrapping, a + b)                                                             \
    DEFINE_BINARY(name##_sub_k, wrapping, wrapping, a - b)                                                             \
    DEFINE_BINARY(name##_mul_k, wrapping, wrapping, a *b)                                                              \
    DEFINE_BINARY(name##_maximum_k, type, type, a > b || a != a ? a : b)                                               \
    DEFINE_BINARY(name##_minimum_k, type, type, a < b || a != a ? a : b)                                               \
    DEFINE_BINARY(name##_lt_k, type, uint8_t, a < b)                                                                   \
    DEFINE_BINARY(name##_le_k, type, uint8_t, a <= b)                                                                  \
    DEFINE_BINARY(name##_gt_k, type, uint8_t, a > b)                                                                   \
    DEFINE_BINARY(name##_ge_k, type, uint8_t, a >= b)                                                                  \
    DEFINE_BINARY(name##_eq_k, type, uint8_t, a == b)                                                                  \
    DEFINE_BINARY(name##_ne_k, type, uint8_t, a != b)
#define DEFINE_FLOAT(name, type, pow_, floor_)                                                                         \
    DEFINE_COMMON(name, type, type)                                                                                    \
    DEFINE_BINARY(name##_div_k, type, type, a / b)                                                                     \
    DEFINE_BINARY(name##_pow_k, type, type, pow_(a, b))                                                                \
    DEFINE_BINARY(name##_floordiv_k, type, type, floor_(a / b))                                                        \
    DEFINE_BINARY(name##_mod_k, type, type, name##_mod(a, b))
#define DEFINE_INTEGER(name, type, wrapping)                                                                           \
    DEFINE_COMMON(name, type, wrapping)                                                                                \
    DEFINE_BINARY(name##_div_k, type, type, int_div(a, b))                                                             \
    DEFINE_BINARY(name##_pow_k, type, type, int_pow(a, b))                                                             \
    DEFINE_BINARY(name##_floordiv_k, type, type, int_floordiv(a, b))                                                   \
    DEFINE_BINARY(name##_mod_k, type, type, int_mod(a, b))
DEFINE_FLOAT(f32, float, powf, floorf)
DEFINE_FLOAT(f64, double, pow, floor)
DEFINE_INTEGER(i64, int64_t, uint64_t)
DEFINE_INTEGER(i32, int32_t, uint32_t)
DEFINE_INTEGER(u8, uint8_t, uint8_t)
DEFINE_BINARY(bool_and_k, uint8_t, uint8_t, (a & b) != 0)
DEFINE_BINARY(bool_or_k, uint8_t, uint8_t, (a | b) != 0)

#define TYPES(name)                                                                                                    \
    {                                                                                                                  \
        [HD_F32] = f32_##name##_k, [HD_F64] = f64_##name##_k, [HD_I64] = i64_##name##_k, [HD_I32] = i32_##name##_k,    \
        [HD_U8] = u8_##name##_k, [HD_BOOL] = u8_##name##_k                                                             \
    }
static cpu_kernel *const kernels[HD_BINARY_COUNT][HD_DTYPE_COUNT] = {
    [HD_ADD] = TYPES(add),
    [HD_SUB] = TYPES(sub),
    [HD_MUL] = TYPES(mul),
    [HD_DIV] = TYPES(div),
    [HD_POW] = TYPES(pow),
    [HD_MAXIMUM] = TYPES(maximum),
    [HD_MINIMUM] = TYPES(minimum),
    [HD_MOD] = TYPES(mod),
    [HD_FLOORDIV] = TYPES(floordiv),
    [HD_LT] = TYPES(lt),
    [HD_LE] = TYPES(le),
    [HD_GT] = TYPES(gt),
    [HD_GE] = TYPES(ge),
    [HD_EQ] = TYPES(eq),
    [HD_NE] = TYPES(ne),
    [HD_AND] = {[HD_BOOL] = bool_and_k},
    [HD_OR] = {[HD_BOOL] = bool_or_k},
};

hd_status cpu_binary(const hd_binary_args *b) {
    cpu_loop loop;
    cpu_loop_start(&loop, &b->y, b->y.ndim, CPU_WRITE);
    cpu_loop_add(&loop, &b->a, CPU_READ);
    cpu_loop_add(&loop, &b->b, CPU_READ);
    cpu_loop_collapse(&loop, false);
    cpu_loop_run(&loop, kernels[b->op][b->a.dtype], NULL);
    return HD_OK;
}

#define DEFINE_WHERE(bytes, type)                                                                                      \
    static void where_##bytes(const void *context, int64_t first, int64_t n, void *const p[]) {                        \
        (void)context, (void)first;                                                                                    \
        type *y = p[0];                                                                                                \
        const uint8_t *cond = p[1];                                                                                    \
        const type *a = p[2], *b = p[3];                                                                               \
        CPU_KERNEL_LOOP                                                                                                \
        for (int64_t i = 0; i < n; i++)                                                                                \
            y[i] = cond[i] ? a[i] : b[i];                                                                              \
    }
DEFINE_WHERE(1, uint8_t)
DEFINE_WHERE(4, uint32_t)
DEFINE_WHERE(8, uint64_t)

hd_status cpu_where(const hd_where_args *w) {
    const size_t size = hd_dtype_size(w->y.dtype);
    cpu_loop loop;
    cpu_loop_start(&loop, &w->y, w->y.ndim, CPU_WRITE);
    cpu_loop_add(&loop, &w->cond, CPU_READ);
    cpu_loop_add(&loop, &w->a, CPU_READ);
    cpu_loop_add(&loop, &w->b, CPU_READ);
    cpu_loop_collapse(&loop, false);
    cpu_loop_run(&loop, size == 8 ? where_8 : size == 4 ? where_4 : where_1, NULL);
    return HD_OK;
}
