// backend/ref/ref_random.c: the numbers of core/rng.h, one element at a time.
// Box-Muller (Box and Muller 1958) with u1 in (0, 1], in the precision of the result's type.
#include "backend/ref/ref.h"
#include "core/rng.h"
#include <math.h>

// Element e of the stream as a number in [0, 1): one word of block e/4, or two words of block e/2.
static double unit(const hd_random_args *a, uint64_t e, bool two_words) {
    uint32_t w[4];
    hd_philox(a->seed, a->stream, e / (two_words ? 2 : 4), w);
    return two_words ? hd_unit_f64(w[e % 2 * 2], w[e % 2 * 2 + 1]) : hd_unit_f32(w[e % 4]);
}

// Word e % 4 of block e / 4.
static double word(const hd_random_args *a, uint64_t e) {
    uint32_t w[4];
    hd_philox(a->seed, a->stream, e / 4, w);
    return w[e % 4];
}

static float normal_f32(const hd_random_args *a, uint64_t e) {
    uint32_t w[4];
    hd_philox(a->seed, a->stream, e / 4, w);
    const uint32_t *pair = w + e % 4 / 2 * 2;
    const float r = sqrtf(-2 * logf(1 - hd_unit_f32(pair[0]))), angle = 2 * (float)M_PI * hd_unit_f32(pair[1]);
    return r * (e % 2 ? sinf(angle) : cosf(angle));
}

static double normal_f64(const hd_random_args *a, uint64_t e) {
    uint32_t w[4];
    hd_philox(a->seed, a->stream, e / 2, w);
    const double r = sqrt(-2 * log(1 - hd_unit_f64(w[0], w[1]))), angle = 2 * M_PI * hd_unit_f64(w[2], w[3]);
    return r * (e % 2 ? sin(angle) : cos(angle));
}

static double draw(const hd_random_args *a, uint64_t e) {
    const bool is_f64 = a->y.dtype == HD_F64;
    switch (a->kind) {
    case HD_RANDOM_UNIFORM:
        return a->lo + (a->hi - a->lo) * unit(a, e, is_f64);
    case HD_RANDOM_NORMAL:
        return a->lo + a->hi * (is_f64 ? normal_f64(a, e) : normal_f32(a, e));
    case HD_RANDOM_INT:
        return fmin(a->lo + floor(word(a, e) * 0x1p-32 * (a->hi - a->lo + 1)), a->hi);
    case HD_RANDOM_BERNOULLI:
        return unit(a, e, false) < a->lo;
    }
    return NAN;
}

// Rounding to f32 may reach the open end of a uniform's interval; the number below stands then.
static double below_end(const hd_random_args *a, double value) {
    const bool over = a->kind == HD_RANDOM_UNIFORM && a->y.dtype == HD_F32 && a->lo < a->hi && (float)value >= a->hi;
    return over ? nextafterf((float)a->hi, (float)a->lo) : value;
}

hd_status ref_random(const hd_random_args *a) {
    const int64_t n = hd_view_numel(&a->y);
    ref_cursor at = {0};
    for (int64_t i = 0; i < n; i++, ref_step(&a->y, &at))
        hd_store(a->y.data, a->y.dtype, at.offset, below_end(a, draw(a, a->index + (uint64_t)i)));
    return HD_OK;
}
