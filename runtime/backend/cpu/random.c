// backend/cpu/random.c: fills with the numbers of core/rng.h (Philox 4x32-10), many blocks at a time.
// Layer: backend. f32 uniform and normal numbers run on vectors: one block in each lane; everything else is scalar.
// Normal numbers: Box and Muller 1958. Elements are counted in logical order, whatever the strides.
#include "backend/cpu/simd.h"
#include "backend/cpu/strided.h"
#include "core/rng.h"
#ifdef __SSE2__
#include <immintrin.h>
#endif

enum { BATCH = 4 * VF_LANES };                                  // numbers of VF_LANES blocks
typedef uint64_t vw __attribute__((vector_size(VF_LANES * 4))); // half as many 64-bit lanes, each with a 32-bit word

// The 64-bit products of the low halves of the lanes.
static inline vw multiply(vw a, uint32_t b) {
    const vw factor = (uint64_t)b - (vw){0};
#if defined(__AVX512F__)
    return (vw)_mm512_mul_epu32((__m512i)a, (__m512i)factor);
#elif defined(__AVX2__)
    return (vw)_mm256_mul_epu32((__m256i)a, (__m256i)factor);
#elif defined(__SSE2__)
    return (vw)_mm_mul_epu32((__m128i)a, (__m128i)factor);
#else
    return (a & 0xffffffffu) * factor;
#endif
}

// One round of Philox on the words 0 to 3 of VF_LANES / 2 blocks; the upper halves of the lanes hold rubbish.
static inline void philox_round(vw c[4], uint32_t k0, uint32_t k1) {
    const vw p0 = multiply(c[0], 0xD2511F53u), p1 = multiply(c[2], 0xCD9E8D57u);
    c[0] = (p1 >> 32) ^ c[1] ^ k0;
    c[2] = (p0 >> 32) ^ c[3] ^ k1;
    c[1] = p1;
    c[3] = p0;
}

static inline void philox_start(const hd_random_args *a, uint64_t block, vw c[4]) {
    vw lane = {0};
    for (int l = 0; l < VF_LANES / 2; l++)
        lane[l] = (uint64_t)l;
    c[0] = block + lane;
    c[1] = c[0] >> 32;
    c[2] = a->stream - (vw){0};
    c[3] = c[2] >> 32;
}

// Numbers in [0, 1) from words 0 to 3 of VF_LANES blocks. Both halves go side by side: a round waits for its products.
static inline void units(const hd_random_args *a, uint64_t block, vf u[4]) {
    uint32_t k0 = (uint32_t)a->seed, k1 = (uint32_t)(a->seed >> 32);
    vw low[4], high[4];
    philox_start(a, block, low);
    philox_start(a, block + VF_LANES / 2, high);
    for (int round = 0; round < 10; round++) {
        philox_round(low, k0, k1);
        philox_round(high, k0, k1);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    for (int w = 0; w < 4; w++) {
        const vu words = __builtin_shufflevector((vu)low[w], (vu)high[w], VF_EVEN);
        u[w] = __builtin_convertvector((vi)(words >> 8), vf) * 0x1p-24f;
    }
}

// Store u[0][l], u[1][l], u[2][l], u[3][l] for l = 0, 1, ...
static inline void store_blocks(float *y, const vf u[4]) {
    const vf a = vf_riffle_low(u[0], u[2]), b = vf_riffle_low(u[1], u[3]);
    const vf c = vf_riffle_high(u[0], u[2]), d = vf_riffle_high(u[1], u[3]);
    vf_store(y, vf_riffle_low(a, b));
    vf_store(y + VF_LANES, vf_riffle_high(a, b));
    vf_store(y + 2 * VF_LANES, vf_riffle_low(c, d));
    vf_store(y + 3 * VF_LANES, vf_riffle_high(c, d));
}

// cos and sin of 2 pi u for u in [0, 1): exact reduction to an eighth of a turn, then the polynomials of simd.h.
static inline void turn(vf u, vf *cosine, vf *sine) {
    const vf magic = vf_set(12582912.0f); // rounds to the nearest integer, as in vf_exp
    const vf shifted = u * 4.0f + magic;
    const vi k = (vi)shifted - (vi)magic;
    const vf r = (u - (shifted - magic) * 0.25f) * 6.28318531f, z = r * r;
    const vf s = vf_sin_poly(r, z), c = vf_cos_poly(z);
    const vi swap = (k & 1) != 0;
    *sine = (vf)((vi)vf_select(swap, c, s) ^ ((k & 2) << 30));
    *cosine = (vf)((vi)vf_select(swap, s, c) ^ (((k + 1) & 2) << 30));
}

// top: the largest number; rounding must not reach the open end.
static void uniform_batch(const hd_random_args *a, uint64_t block, float top, float *y) {
    vf u[4];
    units(a, block, u);
    for (int w = 0; w < 4; w++) { // in double, so that one rounding is all, with and without fused products
        vf_wide wide = vf_widen(u[w]);
        wide.low = wide.low * (a->hi - a->lo) + a->lo;
        wide.high = wide.high * (a->hi - a->lo) + a->lo;
        u[w] = vf_min(vf_set(top), vf_narrow(wide));
    }
    store_blocks(y, u);
}

static void normal_batch(const hd_random_args *a, uint64_t block, float *y) {
    const float mean = (float)a->lo, deviation = (float)a->hi;
    vf u[4];
    units(a, block, u);
    for (int w = 0; w < 4; w += 2) {
        vf c, s;
        const vf r = vf_sqrt(-2.0f * vf_log_normal(1.0f - u[w])) * deviation;
        turn(u[w + 1], &c, &s);
        u[w] = mean + r * c;
        u[w + 1] = mean + r * s;
    }
    store_blocks(y, u);
}

// Elements first .. first + n of a dense run, from batches of whole blocks.
static void fill_f32(const void *context, int64_t first, int64_t n, void *const p[]) {
    const hd_random_args *a = context;
    const float lo = (float)a->lo, hi = (float)a->hi, top = a->lo < a->hi ? nextafterf(hi, lo) : hi;
    float *y = p[0], batch[BATCH];
    uint64_t e = a->index + (uint64_t)first;
    while (n > 0) {
        const int64_t skip = (int64_t)(e % 4), m = n < BATCH - skip ? n : BATCH - skip;
        float *to = m == BATCH ? y : batch;
        if (a->kind == HD_RANDOM_NORMAL)
            normal_batch(a, e / 4, to);
        else
            uniform_batch(a, e / 4, top, to);
        if (to != y)
            memcpy(y, batch + skip, (size_t)m * sizeof *y);
        y += m;
        e += (uint64_t)m;
        n -= m;
    }
}

// One element as a double, for every other kind and type.
static double draw(const hd_random_args *a, uint64_t e) {
    uint32_t w[4];
    const bool two_words = a->y.dtype == HD_F64 && (a->kind == HD_RANDOM_UNIFORM || a->kind == HD_RANDOM_NORMAL);
    hd_philox(a->seed, a->stream, e / (two_words ? 2 : 4), w);
    const double unit = two_words ? hd_unit_f64(w[e % 2 * 2], w[e % 2 * 2 + 1]) : (double)hd_unit_f32(w[e % 4]);
    switch (a->kind) {
    case HD_RANDOM_UNIFORM:
        return a->lo + (a->hi - a->lo) * unit;
    case HD_RANDOM_NORMAL: {
        const double r = sqrt(-2 * log(1 - hd_unit_f64(w[0], w[1]))), angle = 2 * M_PI * hd_unit_f64(w[2], w[3]);
        return a->lo + a->hi * (r * (e % 2 ? sin(angle) : cos(angle)));
    }
    case HD_RANDOM_INT:
        return fmin(a->lo + floor((double)w[e % 4] * 0x1p-32 * (a->hi - a->lo + 1)), a->hi);
    default:
        return unit < a->lo;
    }
}

static void fill_any(const void *context, int64_t first, int64_t n, void *const p[]) {
    const hd_random_args *a = context;
    for (int64_t i = 0; i < n; i++)
        hd_store(p[0], a->y.dtype, i, draw(a, a->index + (uint64_t)(first + i)));
}

hd_status cpu_random(const hd_random_args *a) {
    const bool fast = a->y.dtype == HD_F32 && (a->kind == HD_RANDOM_UNIFORM || a->kind == HD_RANDOM_NORMAL);
    cpu_loop loop;
    cpu_loop_start(&loop, &a->y, a->y.ndim, CPU_WRITE);
    cpu_loop_collapse(&loop, true);
    cpu_loop_run(&loop, fast ? fill_f32 : fill_any, a);
    return HD_OK;
}
