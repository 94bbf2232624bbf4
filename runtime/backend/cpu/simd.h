// backend/cpu/simd.h: mathematical functions on one vector of floats (vf, see cpu.h), for every instruction set.
// Accuracy: relative error below 2e-7 over the whole range; denormal results are right to the last bit of a normal one.
// NaN in gives NaN out; infinities and signed zeros are libm's. Needs no -ffast-math.
// Source: textbook range reduction (Cody and Waite 1980); the polynomials are our own minimax fits of the functions
// named beside them (relative error of each fit below 1e-8).
#ifndef HD_SIMD_H
#define HD_SIMD_H

#include "backend/cpu/cpu.h"
#include <math.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

typedef uint32_t vu __attribute__((vector_size(VF_LANES * 4)));
typedef int32_t vi_mem __attribute__((vector_size(VF_LANES * 4), aligned(4), may_alias));
typedef double vd __attribute__((vector_size(VF_LANES * 8))); // as many lanes as vf; only for local variables
typedef float vf_half __attribute__((vector_size(VF_LANES * 2)));
typedef float vf_half_mem __attribute__((vector_size(VF_LANES * 2), aligned(4), may_alias));
typedef double vd_half __attribute__((vector_size(VF_LANES * 4)));
typedef double vd_half_mem __attribute__((vector_size(VF_LANES * 4), aligned(8), may_alias));

// Whole vectors first, then the rest: `count` lanes are in use. for-loop header over i in steps of VF_LANES.
#define VF_LOOP(i, count, n)                                                                                           \
    for (int64_t i = 0, count; i < (n) && (count = (n)-i < VF_LANES ? (n)-i : VF_LANES, true); i += VF_LANES)

static inline vf vf_load(const float *p) { return *(const vf_mem *)p; }
static inline void vf_store(float *p, vf v) { *(vf_mem *)p = v; }
static inline vf vf_set(float a) { return a - (vf){0}; }
static inline vi vi_set(int32_t a) { return a - (vi){0}; }

// The first n < VF_LANES elements; the other lanes are 0.
static inline vf vf_load_part(const float *p, int64_t n) {
#ifdef __AVX512F__
    return (vf)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#else
    vf v = {0};
    memcpy(&v, p, (size_t)n * sizeof(float));
    return v;
#endif
}
static inline void vf_store_part(float *p, vf v, int64_t n) {
#ifdef __AVX512F__
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
#else
    memcpy(p, &v, (size_t)n * sizeof(float));
#endif
}
static inline vf vf_load_n(const float *p, int64_t n) { return n == VF_LANES ? vf_load(p) : vf_load_part(p, n); }
static inline void vf_store_n(float *p, vf v, int64_t n) {
    if (n == VF_LANES)
        vf_store(p, v);
    else
        vf_store_part(p, v, n);
}
// A vector of floats in double, in two halves: compilers take a single vector of that size apart into its lanes.
typedef struct {
    vd_half low, high;
} vf_wide;
// gcc makes several conversions and insertions of __builtin_convertvector here.
static inline vd_half vd_from(vf_half a) {
#if defined(__AVX512F__)
    return (vd_half)_mm512_cvtps_pd((__m256)a);
#elif defined(__AVX2__)
    return (vd_half)_mm256_cvtps_pd((__m128)a);
#else
    return __builtin_convertvector(a, vd_half);
#endif
}
static inline vf_half vd_narrow(vd_half a) {
#if defined(__AVX512F__)
    return (vf_half)_mm512_cvtpd_ps((__m512d)a);
#elif defined(__AVX2__)
    return (vf_half)_mm256_cvtpd_ps((__m256d)a);
#else
    return __builtin_convertvector(a, vf_half);
#endif
}
static inline vf_wide vf_widen(vf v) {
    vf_half half[2];
    memcpy(half, &v, sizeof v);
    return (vf_wide){vd_from(half[0]), vd_from(half[1])};
}
static inline vf_wide vf_widen_at(const float *p) { // without taking a vector apart
    return (vf_wide){vd_from(*(const vf_half_mem *)p), vd_from(*(const vf_half_mem *)(p + VF_LANES / 2))};
}
static inline vf vf_narrow(vf_wide a) {
    const vf_half half[2] = {vd_narrow(a.low), vd_narrow(a.high)};
    vf v;
    memcpy(&v, half, sizeof v);
    return v;
}
static inline void vf_wide_add(vf_wide *a, vf_wide b) {
    a->low += b.low;
    a->high += b.high;
}
// a += b c
static inline void vf_wide_add_product(vf_wide *a, vf_wide b, vf_wide c) {
    a->low += b.low * c.low;
    a->high += b.high * c.high;
}
// Sum of the lanes, by halves.
static inline double vf_wide_sum(vf_wide a) {
    vd_half s = a.low + a.high;
    for (int h = VF_LANES / 4; h > 0; h /= 2)
        for (int l = 0; l < h; l++)
            s[l] += s[l + h];
    return s[0];
}
// sums[l] += v[l]
static inline void vf_wide_store_sum(double *sums, vf_wide v) {
    *(vd_half_mem *)sums += v.low;
    *(vd_half_mem *)(sums + VF_LANES / 2) += v.high;
}
// sums[l] += v[l] for the first n lanes, in double.
static inline void vf_add_to_double(double *sums, vf v, int64_t n) {
    if (n == VF_LANES) {
        vf_wide_store_sum(sums, vf_widen(v));
    } else {
        for (int64_t l = 0; l < n; l++)
            sums[l] += (double)v[l];
    }
}

// Lane by lane: mask (all bits set, as comparisons give) ? a : b.
static inline vf vf_select(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }
static inline vf vf_abs(vf x) { return (vf)((vi)x & 0x7fffffff); }
static inline vf vf_copysign(vf x, vf sign) { return (vf)(((vi)x & 0x7fffffff) | ((vi)sign & (int32_t)0x80000000)); }
// NaN in b is kept, NaN in a is lost: put the constant first.
static inline vf vf_max(vf a, vf b) {
#if defined(__AVX512F__)
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (vf)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return vf_select(a > b, a, b);
#endif
}
static inline vf vf_min(vf a, vf b) {
#if defined(__AVX512F__)
    return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (vf)_mm256_min_ps((__m256)a, (__m256)b);
#else
    return vf_select(a < b, a, b);
#endif
}
static inline vf vf_sqrt(vf x) {
#if defined(__AVX512F__)
    return (vf)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
    return (vf)_mm256_sqrt_ps((__m256)x);
#elif defined(__aarch64__)
    return (vf)vsqrtq_f32((float32x4_t)x);
#else
    for (int l = 0; l < VF_LANES; l++)
        x[l] = sqrtf(x[l]);
    return x;
#endif
}

// a[0], b[0], a[1], b[1], ... of the lower halves; of the upper halves. VF_EVEN: a[0], a[2], ..., b[0], b[2], ...
#if VF_LANES == 16
#define VF_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define VF_EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define VF_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif VF_LANES == 8
#define VF_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define VF_EVEN 0, 2, 4, 6, 8, 10, 12, 14
#define VF_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#else
#define VF_LOW 0, 4, 1, 5
#define VF_EVEN 0, 2, 4, 6
#define VF_HIGH 2, 6, 3, 7
#endif
static inline vf vf_riffle_low(vf a, vf b) { return __builtin_shufflevector(a, b, VF_LOW); }
static inline vf vf_riffle_high(vf a, vf b) { return __builtin_shufflevector(a, b, VF_HIGH); }

// The largest lane.
static inline float vf_largest(vf x) {
    for (int lanes = VF_LANES; lanes > 1; lanes /= 2) // each time half as many values, each twice as often
        x = vf_max(vf_riffle_low(x, x), vf_riffle_high(x, x));
    return x[0];
}

static inline bool vi_any(vi mask) {
    int32_t any = 0;
    for (int l = 0; l < VF_LANES; l++)
        any |= mask[l];
    return any != 0;
}
// Sum of the lanes, by halves.
static inline float vf_sum(vf x) {
    for (int h = VF_LANES / 2; h > 0; h /= 2)
        for (int l = 0; l < h; l++)
            x[l] += x[l + h];
    return x[0];
}

// Whole numbers stay in float: adding 1.5 * 2^23 leaves one in the low bits of the mantissa.
#define VF_MAGIC 12582912.0f

// 2^k for whole -126 <= k <= 127.
static inline vf vf_pow2(vf k) { return (vf)((vi)(k + (VF_MAGIC + 127.0f)) << 23); }

// a 2^k for whole -126 <= k <= 127.
static inline vf vf_scale(vf a, vf k) {
#ifdef __AVX512F__
    return (vf)_mm512_scalef_ps((__m512)a, (__m512)k);
#else
    return a * vf_pow2(k);
#endif
}

// The same for -252 <= k <= 254: denormals and infinity come out right.
static inline vf vf_scale_far(vf a, vf k) {
#ifdef __AVX512F__
    return vf_scale(a, k);
#else
    const vf half = (k * 0.5f + VF_MAGIC) - VF_MAGIC;
    return vf_scale(vf_scale(a, half), k - half);
#endif
}

// x = k ln 2 + r, |r| <= ln 2 / 2; *k_out = k, returns r. |x| below 1e5.
static inline vf vf_exp_reduce(vf x, vf *k_out) {
    const vf k = (x * 1.44269504f + VF_MAGIC) - VF_MAGIC; // rounded to the nearest
    *k_out = k;
    return (x - k * 0.693145752f) - k * 1.42860677e-6f; // ln 2 in two parts, the first of 15 bits
}

// (e^r - 1 - r) / r^2 on [-ln 2 / 2, ln 2 / 2]
static inline vf vf_exp_poly(vf r) {
    vf p = r * 0.00138092041f + 0.0083687352f;
    p = p * r + 0.0416684859f;
    p = p * r + 0.166665211f;
    return p * r + 0.49999994f;
}

// e^r on [-ln 2 / 2, ln 2 / 2]
static inline vf vf_exp_near(vf r) { return (vf_exp_poly(r) * r + 1.0f) * r + 1.0f; }

// e^(x + low) for |low| below 0.06; low only matters where x is not clamped.
static inline vf vf_exp_sum(vf x, vf low) {
    x = vf_min(vf_set(89.0f), vf_max(vf_set(-104.0f), x)); // beyond: infinity, and 0
    vf k;
    const vf r = vf_exp_reduce(x, &k);
    return vf_scale_far(vf_exp_near(r + low), k);
}

static inline vf vf_exp(vf x) { return vf_exp_sum(x, (vf){0}); }

// e^(-t^2) for |t| <= 10.2: t^2 is taken in two parts, the first of them exact, since rounding it would show.
static inline vf vf_exp_square(vf t) {
    const vf head = (vf)((vi)t & (int32_t)0xfffff000);
    return vf_exp_sum(-head * head, (head - t) * (head + t));
}

static inline vf vf_expm1(vf x) {
    const vf big = vf_exp(x) - 1.0f;
    vf k;
    const vf small_x = vf_min(vf_set(20.0f), vf_max(vf_set(-20.0f), x));
    const vf r = vf_exp_reduce(small_x, &k);
    const vf scale = vf_pow2(k);
    const vf y = scale * (r + r * r * vf_exp_poly(r)) + (scale - 1.0f);
    return vf_select(x == 0.0f, x, vf_select(vf_abs(x) < 17.0f, y, big));
}

// log of a positive normal number
static inline vf vf_log_normal(vf x) {
    const vi bits = (vi)x;
    const vi up = (bits & 0x7fffff) > 0x3504f3; // mantissa above sqrt 2: use half of it
    const vi e = (bits >> 23) - 127 - up;
    const vf m = (vf)((bits & 0x7fffff) | ((127 << 23) + (up & (int32_t)0xff800000)));
    const vf f = m - 1.0f, ef = __builtin_convertvector(e, vf);
    // (log(1 + f) - f + f^2 / 2) / f^3 on [sqrt 1/2 - 1, sqrt 2 - 1]
    vf p = f * 0.0674557462f - 0.116714761f;
    p = p * f + 0.118864425f;
    p = p * f - 0.124063157f;
    p = p * f + 0.142199159f;
    p = p * f - 0.166679561f;
    p = p * f + 0.200020954f;
    p = p * f - 0.250000089f;
    p = p * f + 0.333333135f;
    const vf ff = f * f;
    return f + (ff * (f * p - 0.5f) + ef * -2.12194440e-4f) + ef * 0.693359375f; // ln 2 in two parts
}

static inline vf vf_log(vf x) {
    const vi tiny = x < 1.17549435e-38f; // denormals are scaled by 2^23
    vf y = vf_log_normal(vf_select(tiny, x * 8388608.0f, x)) - (vf)(tiny & (vi)vf_set(15.9423847f));
    y = vf_select(x == INFINITY, x, y);
    y = vf_select(x == 0.0f, vf_set(-INFINITY), y);
    return vf_select((x < 0.0f) | (x != x), vf_set(NAN), y);
}

static inline vf vf_log1p(vf x) {
    const vf u = x + 1.0f;
    const vf lost = (x - (u - 1.0f)) / u; // what rounding x + 1 dropped
    const vi plain = (u == 0.0f) | (u == INFINITY);
    return vf_select(x == 0.0f, x, vf_log(u) + (vf)(~plain & (vi)lost));
}

// e^x where results below 1e-38 do not matter (never smaller than e^-87) and those above 2e38 may be infinity.
static inline vf vf_exp_mid(vf x) {
    vf k;
    const vf r = vf_exp_reduce(vf_min(vf_set(89.0f), vf_max(vf_set(-87.0f), x)), &k);
    return vf_scale(vf_exp_near(r), k);
}

static inline vf vf_sigmoid(vf x) { return 1.0f / (1.0f + vf_exp_mid(-x)); }
static inline vf vf_silu(vf x) { return x / (1.0f + vf_exp_mid(-x)); }

static inline vf vf_tanh(vf x) {
    const vf a = vf_abs(x), z = x * x;
    const vf big = 1.0f - 2.0f / (vf_exp_mid(a + a) + 1.0f);
    // (tanh(s) - s) / s^3 in z = s^2, s on [0, 0.6]
    vf p = z * -0.00589906564f + 0.0207993574f;
    p = p * z - 0.0537848361f;
    p = p * z + 0.133319363f;
    p = p * z - 0.333332986f;
    return vf_select(a < 0.6f, x + x * (z * p), vf_copysign(big, x));
}

// erfc(t) e^(t^2) on [0, 10.2], a polynomial in (t - 3) / (t + 3).
static inline vf vf_erfc_scaled(vf t) {
    const vf u = (t - 3.0f) / (t + 3.0f);
    vf p = u * 5.59159453e-05f + 2.88803494e-05f;
    p = p * u - 0.000594569545f;
    p = p * u + 0.000715731061f;
    p = p * u + 0.00426887628f;
    p = p * u - 0.0243942309f;
    p = p * u + 0.0716658607f;
    p = p * u - 0.150115788f;
    p = p * u + 0.2456038f;
    p = p * u - 0.326233566f;
    return p * u + 0.179001153f;
}

// erf(x) / x - 1 in z = x^2 on [0, 1]
static inline vf vf_erf_poly(vf z) {
    vf p = z * 7.85495577e-05f - 0.000801048649f;
    p = p * z + 0.00518835569f;
    p = p * z - 0.0268538222f;
    p = p * z + 0.112835854f;
    p = p * z - 0.37612626f;
    return p * z + 0.128379166f;
}

static inline vf vf_erf(vf x) {
    const vf a = vf_abs(x), t = vf_min(vf_set(10.2f), a); // beyond: 1
    const vf big = vf_copysign(1.0f - vf_exp_square(t) * vf_erfc_scaled(t), x);
    const vf small = x + x * vf_erf_poly(x * x);
    return vf_select(a < 1.0f, small, big);
}

// The normal distribution function, 0.5 erfc(-x / sqrt 2), and e^(-x^2 / 2), which costs nothing more; in the lower
// tail their relative error is that of x^2.
static inline vf vf_phi(vf x, vf *bell) {
    const vf t = vf_min(vf_set(10.2f), vf_abs(x) * 0.707106781f); // beyond: 0, and 1
    *bell = vf_exp_square(t);
    const vf tail = 0.5f * *bell * vf_erfc_scaled(t);
    return vf_select(x < 0.0f, tail, 1.0f - tail);
}

// sin(r) and cos(r) for |r| <= pi / 4, z = r^2
static inline vf vf_sin_poly(vf r, vf z) {
    vf p = z * 2.71809631e-06f - 0.0001983931f;
    p = p * z + 0.00833332911f;
    p = p * z - 0.166666672f;
    return r + r * (z * p);
}
static inline vf vf_cos_poly(vf z) {
    vf p = z * 2.44325329e-05f - 0.00138873095f;
    p = p * z + 0.0416666456f;
    return 1.0f - (0.5f * z - z * z * p);
}

// sin (quadrant 0) or cos (quadrant 1): x is reduced by multiples of pi / 2 in double; huge x go to libm, one by one.
static inline vf vf_sin_from(vf x, int32_t quadrant) {
    const vi huge = ~(vf_abs(x) < 3e4f);
    const vf safe = (vf)(~huge & (vi)x);
    const vd xd = __builtin_convertvector(safe, vd);
    const vd kd = (xd * 0.63661977236758134 + 6755399441055744.0) - 6755399441055744.0; // nearest integer
    const vf r = __builtin_convertvector((xd - kd * 1.5707963267948966) - kd * 6.123233995736766e-17, vf);
    const vi k = __builtin_convertvector(kd, vi) + quadrant;
    const vf z = r * r;
    vf y = vf_select((k & 1) == 0, vf_sin_poly(r, z), vf_cos_poly(z));
    y = (vf)((vi)y ^ ((k & 2) << 30));
    if (vi_any(huge))
        for (int l = 0; l < VF_LANES; l++)
            if (huge[l])
                y[l] = quadrant ? cosf(x[l]) : sinf(x[l]);
    return y;
}
static inline vf vf_sin(vf x) {
    const vf y = vf_sin_from(x, 0);
    return vf_select(x == 0.0f, x, y);
}
static inline vf vf_cos(vf x) { return vf_sin_from(x, 1); }

#endif
