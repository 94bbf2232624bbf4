// backend/backend.h: THE table. Everything above speaks to hardware only through it.
// Two back ends exist: `cpu` (fast) and `ref` (slow, scalar, sums in double; the oracle of every test).
//
// Rules for every compute entry:
//  - one const args struct; all shapes have been checked by ops/; outputs are allocated; views never overlap outputs
//    unless said. Float entries take f32 and f64 (all float operands of one call have one type) unless said.
//  - any strides are legal in any view. The cpu back end has fast paths for dense and channels-last operands and a
//    correct general path for the rest.
//  - results depend on the arguments alone: never on the number of threads.
//  - may be asynchronous by contract: callers `sync` before a host reads. cpu and ref are synchronous.
//  - HD_ENOMEM when a workspace cannot be had; nothing else fails on valid arguments.
#ifndef HD_BACKEND_H
#define HD_BACKEND_H

#include "core/dtype.h"
#include "core/status.h"

#define HD_BACKEND_API 1

// clang-format off
// y = f(x). For `_S` the scalar is a (and b).
typedef enum {
    HD_NEG, HD_ABS, HD_SIGN, HD_EXP, HD_LOG, HD_SQRT, HD_RSQRT, HD_SIN, HD_COS, HD_TANH, HD_SIGMOID, HD_RELU,
    HD_SILU,
    HD_GELU,       // exact: x * Phi(x), by erf
    HD_SQUARE, HD_RECIPROCAL, HD_FLOOR, HD_CEIL, HD_ROUND,
    HD_NOT,        // bool in, bool out
    HD_ISFINITE,   // float in, bool out
    HD_CLAMP,      // min(max(x, a), b)
    HD_SCALE,      // a * x + b
    HD_POW_S,      // x ^ a
    HD_ERF, HD_EXPM1, HD_LOG1P, HD_SOFTPLUS, HD_LEAKY_RELU, // slope a
    HD_UNARY_COUNT
} hd_unary;

typedef enum {
    HD_ADD, HD_SUB, HD_MUL, HD_DIV, HD_POW, HD_MAXIMUM, HD_MINIMUM,
    HD_MOD, HD_FLOORDIV,                     // Lua's: floored
    HD_LT, HD_LE, HD_GT, HD_GE, HD_EQ, HD_NE, // bool out
    HD_AND, HD_OR,                           // bool in and out
    HD_BINARY_COUNT
} hd_binary;

typedef enum {
    HD_SUM, HD_MEAN, HD_PROD, HD_MAX, HD_MIN, HD_SUMSQ, // SUMSQ: sum of squares
    HD_ARGMAX, HD_ARGMIN,                     // y is i64, 0-based position along the reduced dims; first of equals; NaN wins
    HD_ALL, HD_ANY,                           // bool in and out
    HD_REDUCE_COUNT
} hd_reduce;

typedef enum { HD_RANDOM_UNIFORM, HD_RANDOM_NORMAL, HD_RANDOM_INT, HD_RANDOM_BERNOULLI } hd_random;
typedef enum { HD_NEAREST, HD_BILINEAR } hd_resize_mode;
typedef enum { HD_POOL_AVG, HD_POOL_MAX } hd_pool_mode;
typedef enum { HD_ACT_NONE, HD_ACT_SILU } hd_activation;

typedef struct { hd_view x, y; } hd_copy_args;                    // y = x, same shape; types may differ (C conversion; x != 0 for bool)
typedef struct { hd_view y; double value; } hd_fill_args;
typedef struct { float *f32; uint16_t *bf16; int64_t n; } hd_bf16_args; // to_bf16: bf16[i] = f32[i], rounded to nearest, halves to even; NaN stays NaN. from_bf16: f32[i] = bf16[i]
typedef struct { hd_unary op; hd_view x, y; double a, b; } hd_unary_args;      // floats; NEG ABS SIGN SQUARE SCALE CLAMP also ints. x and y may be the same memory
typedef struct { hd_unary op; hd_view x, y, dy, dx; double a, b; } hd_unary_back_args; // dx = dy * f'(x); y = f(x) is given too. Either of x and y may be absent where f' needs only the other (see hd_unary_needs). dx may alias dy
typedef struct { hd_binary op; hd_view a, b, y; } hd_binary_args; // a, b, y of one shape (broadcast = stride 0); a and b of one type. y may be the same memory as a
typedef struct { hd_view cond, a, b, y; } hd_where_args;          // cond is bool; one shape
typedef struct { hd_reduce op; int nred; hd_view x, y; } hd_reduce_args; // the last nred dims of x are reduced; y has the first x.ndim - nred dims. Sums of f32 keep relative error near 1e-7 (blocked or double accumulators)
typedef struct { hd_view x, y; int dim; bool reverse; } hd_cumsum_args;
typedef struct { hd_view x, y; int dim; bool log; } hd_softmax_args;          // y = softmax or log_softmax along dim
typedef struct { hd_view y, dy, dx; int dim; bool log; } hd_softmax_back_args;
// c[..,m,n] = a[..,m,k] b[..,k,n] + bias[n]; equal leading dims (stride 0 broadcasts). sums[m] = sum of each row of a over k. bias and
// sums are for 2-D products; either may be absent.
typedef struct { hd_view a, b, c, bias, sums; } hd_matmul_args;

// y[n,k,oh,ow] = sum_c,r,s x[n,c,oh*stride-pad+r*dil, ...] w[k,c,r,s] + b[k]. w is [k, c/groups, r, s]. 1-D data comes as h = 1.
// conv: writes y. conv_dx: reads w, y (= dy), writes x (= dx, all of it). conv_dw: reads x, y (= dy), writes w (= dw) and, where b.data
// is set, b (= db). x and y are normally channels-last; w normally lies in memory as r,s,c,k (k fastest).
// conv adds `add`, of y's shape (stride 0 where it is repeated), where it is set; with groups 1 it may be y itself.
// conv and conv_dw may be told to normalise what they read, with groups 1: x, and behind its channels those of `more` (which may be absent), by
// the mean and rstd that norm gave for them. x and more are then dense and channels-last.
typedef struct {
    hd_view more, w, b, mean, rstd; // [n, c', h, w]; [c + c'] each, may be absent; [n, groups] each
    int64_t groups;
    hd_activation act;
} hd_conv_norm;
typedef struct {
    hd_view x, w, b, y, add;
    int64_t stride[2], padding[2], dilation[2], groups;
    const hd_conv_norm *norm; // NULL: x as it is
} hd_conv_args;

// Group norm on x viewed as [n, c, p] (p = positions). Layer norm over D: n = rows, c = D, p = 1, groups = 1.
// mean, rstd [n, groups] are written by norm and read by norm_back. w, b [c] may be absent. y = act(norm(x) * w + b).
// rms: no mean is subtracted (mean is written as 0). y may be absent: mean and rstd alone.
typedef struct {
    hd_view x, w, b, y, mean, rstd;
    int64_t groups;
    double eps;
    hd_activation act;
    bool rms;
} hd_norm_args;
typedef struct {
    hd_view x, w, b, mean, rstd, dy;
    hd_view dx, dw, db; // each may be absent
    hd_view add;        // of dx's shape, added to it: a gradient from elsewhere; may be absent
    int64_t groups;
    hd_activation act;
    bool rms;
} hd_norm_back_args;

// o = softmax(scale * q k^T) v. q [n,h,tq,d], k [n,h,tk,d], v [n,h,tk,e], o [n,h,tq,e]; lse [n,h,tq] = log of the softmax's denominator.
typedef struct { hd_view q, k, v, o, lse; double scale; } hd_attention_args;
typedef struct { hd_view q, k, v, o, lse, do_, dq, dk, dv; double scale; } hd_attention_back_args;

typedef struct { hd_view x, y; hd_resize_mode mode; bool align_corners; } hd_resize_args; // [n,c,h,w] both; resize_back: reads y (= dy), writes x (= dx)
typedef struct { // [n,c,h,w]; idx (i64, max only) holds the flat h*w position of the winner
    hd_view x, y, idx;
    hd_pool_mode mode;
    int64_t kernel[2], stride[2], padding[2]; // average counts padding in (PyTorch's default)
} hd_pool_args; // pool_back: reads y (= dy) and idx, writes x (= dx)

typedef struct { hd_view x, idx, y; int dim; } hd_index_args;
// index_select: y[.., j, ..] = x[.., idx[j], ..], idx [n] i64 0-based; any type.   index_add: x[.., idx[j], ..] += y[.., j, ..], in order of j.
// gather: y[i,j,..] = x[i, idx[i,j,..], ..] (at dim), idx has y's shape.            scatter_add: x[i, idx[i,j,..], ..] += y[i,j,..], in logical order.

// a [n,n] symmetric, f64, row-major; its lower triangle is read. Writes the eigenvalues w [n], rising, and over a their
// eigenvectors, of length 1, in rows.
typedef struct { hd_view a, w; } hd_eigh_args;

typedef struct { // element i in logical row-major order gets the number (seed, stream, index + i) of core/rng.h
    hd_random kind;
    hd_view y;
    uint64_t seed, stream, index;
    double lo, hi; // uniform [lo, hi); normal: mean lo, std hi; int: lo..hi inclusive; bernoulli: 1 with chance lo
} hd_random_args;

// One optimizer step on one tensor, in place. p, g, m, v: same shape, one float type. g is multiplied by grad_scale first.
// decoupled: AdamW (Loshchilov and Hutter 2019), else weight_decay is added to g. step counts from 1.
typedef struct {
    hd_view p, g, m, v;
    double lr, beta1, beta2, eps, weight_decay, grad_scale;
    int64_t step;
    bool decoupled;
} hd_adam_args;
typedef struct { hd_view p, g, m; double lr, momentum, weight_decay, grad_scale; bool nesterov; } hd_sgd_args; // m may be absent
typedef struct { hd_view a, b; double weight; } hd_lerp_args; // a += weight * (b - a), in place

typedef struct { int64_t rounds; double *flops, *sum; } hd_peak_args; // flops: done by all threads in so many rounds; sum: what came of them, or they could be left out

// clang-format on

typedef struct hd_backend {
    int api_version;
    const char *name;
    const char *isa;   // "avx512", "avx2", "base": which build of the kernels runs
    bool host_visible; // buffers may be read by the host

    void *(*alloc)(size_t bytes);
    void (*free)(void *block);
    hd_status (*sync)(void);

    hd_status (*copy)(const hd_copy_args *);
    hd_status (*fill)(const hd_fill_args *);
    hd_status (*to_bf16)(const hd_bf16_args *);
    hd_status (*from_bf16)(const hd_bf16_args *);
    hd_status (*unary)(const hd_unary_args *);
    hd_status (*unary_back)(const hd_unary_back_args *);
    hd_status (*binary)(const hd_binary_args *);
    hd_status (*where)(const hd_where_args *);
    hd_status (*reduce)(const hd_reduce_args *);
    hd_status (*cumsum)(const hd_cumsum_args *);
    hd_status (*softmax)(const hd_softmax_args *);
    hd_status (*softmax_back)(const hd_softmax_back_args *);
    hd_status (*matmul)(const hd_matmul_args *);
    hd_status (*conv)(const hd_conv_args *);
    hd_status (*conv_dx)(const hd_conv_args *);
    hd_status (*conv_dw)(const hd_conv_args *);
    hd_status (*norm)(const hd_norm_args *);
    hd_status (*norm_back)(const hd_norm_back_args *);
    hd_status (*attention)(const hd_attention_args *);
    hd_status (*attention_back)(const hd_attention_back_args *);
    hd_status (*resize)(const hd_resize_args *);
    hd_status (*resize_back)(const hd_resize_args *);
    hd_status (*pool)(const hd_pool_args *);
    hd_status (*pool_back)(const hd_pool_args *);
    hd_status (*index_select)(const hd_index_args *);
    hd_status (*index_add)(const hd_index_args *);
    hd_status (*gather)(const hd_index_args *);
    hd_status (*scatter_add)(const hd_index_args *);
    hd_status (*eigh)(const hd_eigh_args *);
    hd_status (*random)(const hd_random_args *);
    hd_status (*adam)(const hd_adam_args *);
    hd_status (*sgd)(const hd_sgd_args *);
    hd_status (*lerp)(const hd_lerp_args *);
    hd_status (*peak)(const hd_peak_args *); // (optional) multiply-adds on numbers in registers, to be timed
} hd_backend;

// What unary_back needs: bit 0 = x, bit 1 = y.
int hd_unary_needs(hd_unary op);

extern const hd_backend hd_backend_ref;

const hd_backend *hd_be(void);                 // the one in use
hd_status hd_backend_select(const char *name); // "cpu" or "ref"

// Relative L2 error of float32 convolutions: below 2e-6 (fast, the default), or below 5e-7 as of all other operations
// (strict), which leaves out the quickest methods. One setting for the whole process.
extern bool hd_accuracy_strict;
hd_status hd_accuracy_select(const char *name); // "fast" (the default) or "strict"
void hd_backend_count(bool on);                 // work goes into the profile (backend/counted.c), or no longer

#endif
