// backend/ref/ref_elementwise.c: copies, functions of one and of two operands, choice.
#include "backend/ref/ref.h"
#include <math.h>
#include <string.h>

hd_status ref_copy(const hd_copy_args *a) {
    ref_scratch s = {0};
    if (hd_dtype_is_float(a->x.dtype)) {
        const double *x = ref_in(&s, &a->x);
        if (!s.failed)
            ref_out(&a->y, x);
    } else {
        const int64_t *x = ref_in_ints(&s, &a->x);
        if (!s.failed)
            ref_out_ints(&a->y, x);
    }
    return ref_end(&s);
}

hd_status ref_fill(const hd_fill_args *a) {
    const int64_t n = hd_view_numel(&a->y);
    ref_cursor at = {0};
    for (int64_t i = 0; i < n; i++, ref_step(&a->y, &at))
        hd_store(a->y.data, a->y.dtype, at.offset, a->value);
    return HD_OK;
}

// Of 8 significant bits; below 2^-126 they have a fixed place, as in f32.
hd_status ref_to_bf16(const hd_bf16_args *a) {
    for (int64_t i = 0; i < a->n; i++) {
        uint32_t bits;
        int exponent;
        frexp(a->f32[i], &exponent); // f32[i] in [2^(exponent - 1), 2^exponent)
        const int last = (exponent < -125 ? -125 : exponent) - 8;
        const float rounded = (float)ldexp(nearbyint(ldexp(a->f32[i], -last)), last);
        memcpy(&bits, &rounded, sizeof bits);
        a->bf16[i] = isnan(a->f32[i]) ? 0x7fc0 : (uint16_t)(bits >> 16);
    }
    return HD_OK;
}

hd_status ref_from_bf16(const hd_bf16_args *a) {
    for (int64_t i = 0; i < a->n; i++) {
        const uint32_t bits = (uint32_t)a->bf16[i] << 16;
        memcpy(&a->f32[i], &bits, sizeof bits);
    }
    return HD_OK;
}

static double normal_cdf(double x) { return 0.5 * erfc(-x * M_SQRT1_2); }
static double normal_density(double x) { return exp(-0.5 * x * x) * 0.5 * M_SQRT1_2 * M_2_SQRTPI; }

static double unary(hd_unary op, double x, double a, double b) {
    switch (op) {
    case HD_NEG:
        return -x;
    case HD_ABS:
        return fabs(x);
    case HD_SIGN:
        return x > 0 ? 1 : x < 0 ? -1 : x;
    case HD_EXP:
        return exp(x);
    case HD_LOG:
        return log(x);
    case HD_SQRT:
        return sqrt(x);
    case HD_RSQRT:
        return 1 / sqrt(x);
    case HD_SIN:
        return sin(x);
    case HD_COS:
        return cos(x);
    case HD_TANH:
        return tanh(x);
    case HD_SIGMOID:
        return ref_sigmoid(x);
    case HD_RELU:
        return x < 0 ? 0 : x;
    case HD_SILU:
        return x * ref_sigmoid(x);
    case HD_GELU:
        return x * normal_cdf(x);
    case HD_SQUARE:
        return x * x;
    case HD_RECIPROCAL:
        return 1 / x;
    case HD_FLOOR:
        return floor(x);
    case HD_CEIL:
        return ceil(x);
    case HD_ROUND:
        return nearbyint(x); // halves to even
    case HD_NOT:
        return x == 0;
    case HD_ISFINITE:
        return isfinite(x);
    case HD_CLAMP:
        x = x < a ? a : x;
        return x > b ? b : x; // b where a > b
    case HD_SCALE:
        return a * x + b;
    case HD_POW_S:
        return pow(x, a);
    case HD_ERF:
        return erf(x);
    case HD_EXPM1:
        return expm1(x);
    case HD_LOG1P:
        return log1p(x);
    case HD_SOFTPLUS:
        return log1p(exp(-fabs(x))) + (x < 0 ? 0 : x);
    case HD_LEAKY_RELU:
        return x > 0 ? x : a * x;
    case HD_UNARY_COUNT:
        break;
    }
    return NAN;
}

// Wraps on overflow, as Lua's integers do.
static int64_t unary_int(hd_unary op, int64_t x, double a, double b) {
    const uint64_t u = (uint64_t)x;
    switch (op) {
    case HD_NEG:
        return (int64_t)(0 - u);
    case HD_ABS:
        return x < 0 ? (int64_t)(0 - u) : x;
    case HD_SIGN:
        return (x > 0) - (x < 0);
    case HD_SQUARE:
        return (int64_t)(u * u);
    case HD_CLAMP:
        x = (double)x < a ? hd_cut(a) : x;
        return (double)x > b ? hd_cut(b) : x;
    case HD_SCALE:
        return (int64_t)((uint64_t)(int64_t)a * u + (uint64_t)(int64_t)b);
    case HD_NOT:
        return x == 0;
    default:
        return 0;
    }
}

hd_status ref_unary(const hd_unary_args *a) {
    const int64_t n = hd_view_numel(&a->x);
    ref_scratch s = {0};
    if (hd_dtype_is_float(a->x.dtype)) {
        double *x = ref_in(&s, &a->x);
        for (int64_t i = 0; x && i < n; i++)
            x[i] = unary(a->op, x[i], a->a, a->b);
        if (x)
            ref_out(&a->y, x);
    } else {
        int64_t *x = ref_in_ints(&s, &a->x);
        for (int64_t i = 0; x && i < n; i++)
            x[i] = unary_int(a->op, x[i], a->a, a->b);
        if (x)
            ref_out_ints(&a->y, x);
    }
    return ref_end(&s);
}

// f'(x), from x or from y = f(x) as hd_unary_needs says.
static double unary_slope(hd_unary op, double x, double y, double a, double b) {
    switch (op) {
    case HD_NEG:
        return -1;
    case HD_ABS:
        return (x > 0) - (x < 0);
    case HD_EXP:
        return y;
    case HD_LOG:
        return 1 / x;
    case HD_SQRT:
        return 0.5 / y;
    case HD_RSQRT:
        return -0.5 * y * y * y;
    case HD_SIN:
        return cos(x);
    case HD_COS:
        return -sin(x);
    case HD_TANH:
        return 1 - y * y;
    case HD_SIGMOID:
        return y * (1 - y);
    case HD_RELU:
        return y > 0;
    case HD_SILU:
        return ref_sigmoid(x) * (1 + x * (1 - ref_sigmoid(x)));
    case HD_GELU:
        return normal_cdf(x) + x * normal_density(x);
    case HD_SQUARE:
        return 2 * x;
    case HD_RECIPROCAL:
        return -y * y;
    case HD_CLAMP:
        return x >= a && x <= b;
    case HD_SCALE:
        return a;
    case HD_POW_S:
        return a == 0 ? 0 : a * pow(x, a - 1);
    case HD_ERF:
        return M_2_SQRTPI * exp(-x * x);
    case HD_EXPM1:
        return y + 1;
    case HD_LOG1P:
        return 1 / (1 + x);
    case HD_SOFTPLUS:
        return -expm1(-y); // sigmoid(x) = 1 - exp(-softplus(x))
    case HD_LEAKY_RELU:
        return x > 0 ? 1 : a;
    default:
        return 0; // steps: sign, floor, ceil, round
    }
}

hd_status ref_unary_back(const hd_unary_back_args *a) {
    const int64_t n = hd_view_numel(&a->dy);
    ref_scratch s = {0};
    const double *x = ref_in(&s, &a->x), *y = ref_in(&s, &a->y);
    double *d = ref_in(&s, &a->dy);
    if (!s.failed) {
        for (int64_t i = 0; i < n; i++)
            d[i] *= unary_slope(a->op, x ? x[i] : NAN, y ? y[i] : NAN, a->a, a->b);
        ref_out(&a->dx, d);
    }
    return ref_end(&s);
}

// The remainder has the sign of b, as in Lua.
static double floored_mod(double a, double b) {
    const double r = fmod(a, b);
    return r * b < 0 ? r + b : r;
}

static double binary(hd_binary op, double a, double b) {
    switch (op) {
    case HD_ADD:
        return a + b;
    case HD_SUB:
        return a - b;
    case HD_MUL:
        return a * b;
    case HD_DIV:
        return a / b;
    case HD_POW:
        return pow(a, b);
    case HD_MAXIMUM:
        return ref_beats(b, a, 1) ? b : a;
    case HD_MINIMUM:
        return ref_beats(b, a, -1) ? b : a;
    case HD_MOD:
        return floored_mod(a, b);
    case HD_FLOORDIV:
        return floor(a / b);
    case HD_LT:
        return a < b;
    case HD_LE:
        return a <= b;
    case HD_GT:
        return a > b;
    case HD_GE:
        return a >= b;
    case HD_EQ:
        return a == b;
    case HD_NE:
        return a != b;
    case HD_AND:
        return a != 0 && b != 0;
    case HD_OR:
        return a != 0 || b != 0;
    case HD_BINARY_COUNT:
        break;
    }
    return NAN;
}

// 0 for a division by 0; -1 apart, because INT64_MIN / -1 traps.
static int64_t truncated_div(int64_t a, int64_t b) { return b == 0 ? 0 : b == -1 ? (int64_t)(0 - (uint64_t)a) : a / b; }

static int64_t floored_div(int64_t a, int64_t b) {
    const int64_t q = truncated_div(a, b);
    return b > 0 || b < -1 ? q - (a % b != 0 && (a < 0) != (b < 0)) : q;
}

// a^b by repeated multiplication; a negative power is rounded towards 0.
static int64_t power_int(int64_t a, int64_t b) {
    if (b < 0)
        return a == 1 ? 1 : a == -1 ? (b % 2 ? -1 : 1) : 0;
    uint64_t result = 1, base = (uint64_t)a;
    for (; b > 0; b /= 2, base *= base)
        if (b % 2)
            result *= base;
    return (int64_t)result;
}

static int64_t binary_int(hd_binary op, int64_t a, int64_t b) {
    const uint64_t ua = (uint64_t)a, ub = (uint64_t)b;
    switch (op) {
    case HD_ADD:
        return (int64_t)(ua + ub);
    case HD_SUB:
        return (int64_t)(ua - ub);
    case HD_MUL:
        return (int64_t)(ua * ub);
    case HD_DIV:
        return truncated_div(a, b);
    case HD_POW:
        return power_int(a, b);
    case HD_MAXIMUM:
        return a > b ? a : b;
    case HD_MINIMUM:
        return a < b ? a : b;
    case HD_MOD:
        return b == 0 ? 0 : (int64_t)(ua - (uint64_t)floored_div(a, b) * ub);
    case HD_FLOORDIV:
        return floored_div(a, b);
    case HD_LT:
        return a < b;
    case HD_LE:
        return a <= b;
    case HD_GT:
        return a > b;
    case HD_GE:
        return a >= b;
    case HD_EQ:
        return a == b;
    case HD_NE:
        return a != b;
    case HD_AND:
        return a && b;
    case HD_OR:
        return a || b;
    case HD_BINARY_COUNT:
        break;
    }
    return 0;
}

hd_status ref_binary(const hd_binary_args *args) {
    const int64_t n = hd_view_numel(&args->y);
    ref_scratch s = {0};
    if (hd_dtype_is_float(args->a.dtype)) {
        double *a = ref_in(&s, &args->a);
        const double *b = ref_in(&s, &args->b);
        for (int64_t i = 0; !s.failed && i < n; i++)
            a[i] = binary(args->op, a[i], b[i]);
        if (!s.failed)
            ref_out(&args->y, a);
    } else {
        int64_t *a = ref_in_ints(&s, &args->a);
        const int64_t *b = ref_in_ints(&s, &args->b);
        for (int64_t i = 0; !s.failed && i < n; i++)
            a[i] = binary_int(args->op, a[i], b[i]);
        if (!s.failed)
            ref_out_ints(&args->y, a);
    }
    return ref_end(&s);
}

hd_status ref_where(const hd_where_args *a) {
    const int64_t n = hd_view_numel(&a->y);
    const uint8_t *cond = a->cond.data;
    ref_cursor at_cond = {0}, at_a = {0}, at_b = {0}, at_y = {0};
    for (int64_t i = 0; i < n; i++) {
        if (cond[at_cond.offset])
            ref_move(&a->y, at_y.offset, &a->a, at_a.offset);
        else
            ref_move(&a->y, at_y.offset, &a->b, at_b.offset);
        ref_step(&a->cond, &at_cond);
        ref_step(&a->a, &at_a);
        ref_step(&a->b, &at_b);
        ref_step(&a->y, &at_y);
    }
    return HD_OK;
}
