// backend/cpu/unary.c: y = f(x) and dx = dy f'(x), element by element.
// Layer: backend. One kernel per function and type; strided.h brings any layout to dense runs.
// f32 runs on vectors (simd.h); f64 and the integers are scalar loops, which the compiler vectorises where it can.
#include "backend/cpu/simd.h"
#include "backend/cpu/strided.h"

typedef struct {
    double a, b;
} scalars;

// A scalar in the kernel's type: integers take the nearest value that they hold, so that an open bound stays open.
#define DEFINE_NEAREST(type, low, high)                                                                                \
    static type nearest_##type(double x) { return !(x > (double)(low)) ? low : x >= (double)(high) ? high : (type)x; }
static float nearest_float(double x) { return (float)x; }
static double nearest_double(double x) { return x; }
DEFINE_NEAREST(int64_t, INT64_MIN, INT64_MAX)
DEFINE_NEAREST(int32_t, INT32_MIN, INT32_MAX)
DEFINE_NEAREST(uint8_t, 0, UINT8_MAX)

// A kernel of plain C arithmetic: `value` in x (one element), a and b.
#define DEFINE_SCALAR(name, type, result, value)                                                                       \
    static void name(const void *context, int64_t first, int64_t n, void *const p[]) {                                 \
        (void)first;                                                                                                   \
        const scalars *s = context;                                                                                    \
        const type a = nearest_##type(s->a), b = nearest_##type(s->b);                                                 \
        (void)a, (void)b;                                                                                              \
        result *y = p[0];                                                                                              \
        const type *xs = p[1];                                                                                         \
        CPU_KERNEL_LOOP                                                                                                \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            const type x = xs[i];                                                                                      \
            y[i] = (result)(value);                                                                                    \
        }                                                                                                              \
    }

// A kernel on vectors of floats: `value` in x (a vector).
#define DEFINE_VECTOR(name, value)                                                                                     \
    static void name(const void *context, int64_t first, int64_t n, void *const p[]) {                                 \
        (void)context, (void)first;                                                                                    \
        float *y = p[0];                                                                                               \
        const float *xs = p[1];                                                                                        \
        int64_t i = 0;                                                                                                 \
        for (; i + VF_LANES <= n; i += VF_LANES) {                                                                     \
            const vf x = vf_load(xs + i);                                                                              \
            vf_store(y + i, value);                                                                                    \
        }                                                                                                              \
        if (i < n) {                                                                                                   \
            const vf x = vf_load_part(xs + i, n - i);                                                                  \
            vf_store_part(y + i, value, n - i);                                                                        \
        }                                                                                                              \
    }

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double phi(double x) { return 0.5 * erfc(-x * 0.70710678118654752440); } // the normal distribution function
static double density(double x) { return 0.39894228040143267794 * exp(-0.5 * x * x); }

static inline vf gelu(vf x) {
    vf bell;
    return x * vf_phi(x, &bell);
}

// Both float types, the same words; then the functions whose f32 form is a vector one.
#define DEFINE_BOTH(name, f32_value, f64_value)                                                                        \
    DEFINE_SCALAR(f32_##name, float, float, f32_value)                                                                 \
    DEFINE_SCALAR(f64_##name, double, double, f64_value)
#define DEFINE_MATH(name, f32_value, f64_value)                                                                        \
    DEFINE_VECTOR(f32_##name, f32_value)                                                                               \
    DEFINE_SCALAR(f64_##name, double, double, f64_value)

#define CLAMP ((x < a ? a : x) > b ? b : (x < a ? a : x)) // b where a > b
DEFINE_BOTH(neg, -x, -x)
DEFINE_BOTH(abs, fabsf(x), fabs(x))
DEFINE_BOTH(sign, x != x ? x : (float)((x > 0) - (x < 0)), x != x ? x : (x > 0) - (x < 0))
DEFINE_BOTH(relu, x < 0 ? 0 : x, x < 0 ? 0 : x)
DEFINE_BOTH(square, x *x, x *x)
DEFINE_BOTH(reciprocal, 1 / x, 1 / x)
DEFINE_BOTH(sqrt, sqrtf(x), sqrt(x))
DEFINE_BOTH(rsqrt, 1 / sqrtf(x), 1 / sqrt(x))
DEFINE_BOTH(floor, floorf(x), floor(x))
DEFINE_BOTH(ceil, ceilf(x), ceil(x))
DEFINE_BOTH(round, rintf(x), rint(x)) // half to even
DEFINE_BOTH(clamp, CLAMP, CLAMP)
DEFINE_BOTH(scale, a *x + b, a *x + b)
DEFINE_BOTH(pow, powf(x, a), pow(x, a))
DEFINE_BOTH(leaky_relu, x < 0 ? a * x : x, x < 0 ? a * x : x)
DEFINE_MATH(exp, vf_exp(x), exp(x))
DEFINE_MATH(log, vf_log(x), log(x))
DEFINE_MATH(sin, vf_sin(x), sin(x))
DEFINE_MATH(cos, vf_cos(x), cos(x))
DEFINE_MATH(tanh, vf_tanh(x), tanh(x))
DEFINE_MATH(sigmoid, vf_sigmoid(x), sigmoid(x))
DEFINE_MATH(silu, vf_silu(x), x *sigmoid(x))
DEFINE_MATH(gelu, gelu(x), x *phi(x))
DEFINE_MATH(erf, vf_erf(x), erf(x))
DEFINE_MATH(expm1, vf_expm1(x), expm1(x))
DEFINE_MATH(log1p, vf_log1p(x), log1p(x))
DEFINE_MATH(softplus, vf_max(vf_set(0), x) + vf_log1p(vf_exp(-vf_abs(x))), (x > 0 ? x : 0) + log1p(exp(-fabs(x))))
DEFINE_SCALAR(f32_isfinite, float, uint8_t, fabsf(x) < INFINITY)
DEFINE_SCALAR(f64_isfinite, double, uint8_t, fabs(x) < INFINITY)
DEFINE_SCALAR(bool_not, uint8_t, uint8_t, !x)

// Integers wrap, as Lua's do: computed unsigned.
#define DEFINE_INTEGER(name, type, wrapping)                                                                           \
    DEFINE_SCALAR(name##_neg, type, type, 0 - (wrapping)x)                                                             \
    DEFINE_SCALAR(name##_abs, type, type, x < 0 ? 0 - (wrapping)x : (wrapping)x)                                       \
    DEFINE_SCALAR(name##_sign, type, type, (x > 0) - (x < 0))                                                          \
    DEFINE_SCALAR(name##_square, type, type, (wrapping)x *(wrapping)x)                                                 \
    DEFINE_SCALAR(name##_scale, type, type, (wrapping)a *(wrapping)x + (wrapping)b)                                    \
    DEFINE_SCALAR(name##_clamp, type, type, CLAMP)
DEFINE_INTEGER(i64, int64_t, uint64_t)
DEFINE_INTEGER(i32, int32_t, uint32_t)
DEFINE_SCALAR(u8_neg, uint8_t, uint8_t, -x)
DEFINE_SCALAR(u8_same, uint8_t, uint8_t, x)
DEFINE_SCALAR(u8_sign, uint8_t, uint8_t, x > 0)
DEFINE_SCALAR(u8_square, uint8_t, uint8_t, x *x)
DEFINE_SCALAR(u8_scale, uint8_t, uint8_t, a *x + b)
DEFINE_SCALAR(u8_clamp, uint8_t, uint8_t, CLAMP)

#define FLOATS(name)                                                                                                   \
    { [HD_F32] = f32_##name, [HD_F64] = f64_##name }
#define NUMBERS(name)                                                                                                  \
    { [HD_F32] = f32_##name, [HD_F64] = f64_##name, [HD_I64] = i64_##name, [HD_I32] = i32_##name, [HD_U8] = u8_##name }
static cpu_kernel *const kernels[HD_UNARY_COUNT][HD_DTYPE_COUNT] = {
    [HD_NEG] = NUMBERS(neg),
    [HD_ABS] = {f32_abs, f64_abs, i64_abs, i32_abs, u8_same, u8_same},
    [HD_SIGN] = NUMBERS(sign),
    [HD_EXP] = FLOATS(exp),
    [HD_LOG] = FLOATS(log),
    [HD_SQRT] = FLOATS(sqrt),
    [HD_RSQRT] = FLOATS(rsqrt),
    [HD_SIN] = FLOATS(sin),
    [HD_COS] = FLOATS(cos),
    [HD_TANH] = FLOATS(tanh),
    [HD_SIGMOID] = FLOATS(sigmoid),
    [HD_RELU] = FLOATS(relu),
    [HD_SILU] = FLOATS(silu),
    [HD_GELU] = FLOATS(gelu),
    [HD_SQUARE] = NUMBERS(square),
    [HD_RECIPROCAL] = FLOATS(reciprocal),
    [HD_FLOOR] = FLOATS(floor),
    [HD_CEIL] = FLOATS(ceil),
    [HD_ROUND] = FLOATS(round),
    [HD_NOT] = {[HD_BOOL] = bool_not},
    [HD_ISFINITE] = FLOATS(isfinite),
    [HD_CLAMP] = NUMBERS(clamp),
    [HD_SCALE] = NUMBERS(scale),
    [HD_POW_S] = FLOATS(pow),
    [HD_ERF] = FLOATS(erf),
    [HD_EXPM1] = FLOATS(expm1),
    [HD_LOG1P] = FLOATS(log1p),
    [HD_SOFTPLUS] = FLOATS(softplus),
    [HD_LEAKY_RELU] = FLOATS(leaky_relu),
};

// x^a for the exponents that have a shorter way; the general power is slow.
static cpu_kernel *power_kernel(double exponent, hd_dtype type) {
    hd_unary op = HD_POW_S;
    if (exponent == 2)
        op = HD_SQUARE;
    else if (exponent == 0.5)
        op = HD_SQRT;
    else if (exponent == -1)
        op = HD_RECIPROCAL;
    else if (exponent == -0.5)
        op = HD_RSQRT;
    return kernels[op][type];
}

hd_status cpu_unary(const hd_unary_args *u) {
    const scalars s = {u->a, u->b};
    cpu_loop loop;
    cpu_loop_start(&loop, &u->y, u->y.ndim, CPU_WRITE);
    cpu_loop_add(&loop, &u->x, CPU_READ);
    cpu_loop_collapse(&loop, false);
    cpu_loop_run(&loop, u->op == HD_POW_S ? power_kernel(u->a, u->x.dtype) : kernels[u->op][u->x.dtype], &s);
    return HD_OK;
}

// Backward --------------------------------------------------------------------------------------------------------
// Operands: dx, dy, and s, which is x or y, whichever hd_unary_needs names.

#define DEFINE_BACK_SCALAR(name, type, value)                                                                          \
    static void name(const void *context, int64_t first, int64_t n, void *const p[]) {                                 \
        (void)first;                                                                                                   \
        const type a = (type)((const scalars *)context)->a, b = (type)((const scalars *)context)->b;                   \
        (void)a, (void)b;                                                                                              \
        type *dx = p[0];                                                                                               \
        const type *dy = p[1], *ss = p[2];                                                                             \
        CPU_KERNEL_LOOP                                                                                                \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            const type g = dy[i], s = ss[i];                                                                           \
            (void)g, (void)s;                                                                                          \
            dx[i] = value;                                                                                             \
        }                                                                                                              \
    }
#define DEFINE_BACK_VECTOR(name, value)                                                                                \
    static void name(const void *context, int64_t first, int64_t n, void *const p[]) {                                 \
        (void)context, (void)first;                                                                                    \
        float *dx = p[0];                                                                                              \
        const float *dy = p[1], *ss = p[2];                                                                            \
        int64_t i = 0;                                                                                                 \
        for (; i + VF_LANES <= n; i += VF_LANES) {                                                                     \
            const vf g = vf_load(dy + i), s = vf_load(ss + i);                                                         \
            vf_store(dx + i, value);                                                                                   \
        }                                                                                                              \
        if (i < n) {                                                                                                   \
            const vf g = vf_load_part(dy + i, n - i), s = vf_load_part(ss + i, n - i);                                 \
            vf_store_part(dx + i, value, n - i);                                                                       \
        }                                                                                                              \
    }
#define DEFINE_BACK_BOTH(name, value)                                                                                  \
    DEFINE_BACK_SCALAR(f32_##name##_back, float, value)                                                                \
    DEFINE_BACK_SCALAR(f64_##name##_back, double, value)
#define DEFINE_BACK_MATH(name, f32_value, f64_value)                                                                   \
    DEFINE_BACK_VECTOR(f32_##name##_back, f32_value)                                                                   \
    DEFINE_BACK_SCALAR(f64_##name##_back, double, f64_value)

static inline vf silu_slope(vf x) {
    const vf s = vf_sigmoid(x);
    return s + x * (s * (1.0f - s));
}
static double silu_slope_f64(double x) {
    const double s = sigmoid(x);
    return s + x * (s * (1 - s));
}
static inline vf gelu_slope(vf x) {
    vf bell;
    const vf p = vf_phi(x, &bell);
    return p + x * (0.398942280f * bell);
}

DEFINE_BACK_BOTH(neg, -g)
DEFINE_BACK_BOTH(zero, 0)
DEFINE_BACK_BOTH(abs, (s > 0) ? g : (s < 0) ? -g : 0)
DEFINE_BACK_BOTH(exp, g *s)
DEFINE_BACK_BOTH(log, g / s)
DEFINE_BACK_BOTH(sqrt, g / (2 * s))
DEFINE_BACK_BOTH(rsqrt, -g *s *s *s / 2)
DEFINE_BACK_BOTH(tanh, g *(1 - s * s))
DEFINE_BACK_BOTH(sigmoid, g *(s *(1 - s)))
DEFINE_BACK_BOTH(relu, s > 0 ? g : 0)
DEFINE_BACK_BOTH(square, 2 * g * s)
DEFINE_BACK_BOTH(reciprocal, -g *s *s)
DEFINE_BACK_BOTH(clamp, s >= a && s <= b ? g : 0)
DEFINE_BACK_BOTH(scale, a *g)
DEFINE_BACK_BOTH(expm1, g *(s + 1))
DEFINE_BACK_BOTH(log1p, g / (1 + s))
DEFINE_BACK_BOTH(leaky_relu, s > 0 ? g : a * g)
DEFINE_BACK_SCALAR(f32_pow_back, float, a == 0 ? 0 : g * a * powf(s, a - 1))
DEFINE_BACK_SCALAR(f64_pow_back, double, a == 0 ? 0 : g * a * pow(s, a - 1))
DEFINE_BACK_MATH(sin, g *vf_cos(s), g *cos(s))
DEFINE_BACK_MATH(cos, -g *vf_sin(s), -g *sin(s))
DEFINE_BACK_MATH(silu, g *silu_slope(s), g *silu_slope_f64(s))
DEFINE_BACK_MATH(gelu, g *gelu_slope(s), g *(phi(s) + s * density(s)))
DEFINE_BACK_MATH(erf, g *(1.12837917f * vf_exp(-s * s)), g *(1.12837916709551257390 * exp(-s * s)))
DEFINE_BACK_MATH(softplus, -g *vf_expm1(-s), -g *expm1(-s)) // sigmoid(x) = 1 - e^-y

static cpu_kernel *const backs[HD_UNARY_COUNT][2] = {
#define BACK(name)                                                                                                     \
    { [HD_F32] = f32_##name##_back, [HD_F64] = f64_##name##_back }
    [HD_NEG] = BACK(neg),
    [HD_ABS] = BACK(abs),
    [HD_SIGN] = BACK(zero),
    [HD_EXP] = BACK(exp),
    [HD_LOG] = BACK(log),
    [HD_SQRT] = BACK(sqrt),
    [HD_RSQRT] = BACK(rsqrt),
    [HD_SIN] = BACK(sin),
    [HD_COS] = BACK(cos),
    [HD_TANH] = BACK(tanh),
    [HD_SIGMOID] = BACK(sigmoid),
    [HD_RELU] = BACK(relu),
    [HD_SILU] = BACK(silu),
    [HD_GELU] = BACK(gelu),
    [HD_SQUARE] = BACK(square),
    [HD_RECIPROCAL] = BACK(reciprocal),
    [HD_FLOOR] = BACK(zero),
    [HD_CEIL] = BACK(zero),
    [HD_ROUND] = BACK(zero),
    [HD_NOT] = BACK(zero),
    [HD_ISFINITE] = BACK(zero),
    [HD_CLAMP] = BACK(clamp),
    [HD_SCALE] = BACK(scale),
    [HD_POW_S] = BACK(pow),
    [HD_ERF] = BACK(erf),
    [HD_EXPM1] = BACK(expm1),
    [HD_LOG1P] = BACK(log1p),
    [HD_SOFTPLUS] = BACK(softplus),
    [HD_LEAKY_RELU] = BACK(leaky_relu),
};

hd_status cpu_unary_back(const hd_unary_back_args *u) {
    enum { NEEDS_X = 1, NEEDS_Y = 2 };
    const int needs = hd_unary_needs(u->op);
    const scalars s = {u->a, u->b};
    cpu_loop loop;
    cpu_loop_start(&loop, &u->dx, u->dx.ndim, CPU_WRITE);
    cpu_loop_add(&loop, &u->dy, CPU_READ);
    cpu_loop_add(&loop, needs == NEEDS_X ? &u->x : needs == NEEDS_Y ? &u->y : &u->dy, CPU_READ);
    cpu_loop_collapse(&loop, false);
    cpu_loop_run(&loop, backs[u->op][u->dx.dtype], &s);
    return HD_OK;
}
