// tests/c/compare.h: run one entry of the back-end table on `cpu` and on `ref`, and compare.
// A case: begin("name"), make views with make(), fill an args struct, CHECK(entry, args, limit, outputs...).
// CHECK demands that
//  - every element of every output agrees with ref (relative L2 norm; NaN and infinity in the same places; limit 0: all
//    values equal; integers and bools: always equal),
//  - nothing else changes: inputs, and what lies around or between the elements of an output,
//  - 1, 2, 3, 8 and 16 threads and a repeated call give the same bits.
// A mismatch is printed and counted, and the test that it belongs to fails at its end.
#ifndef HD_TEST_COMPARE_H
#define HD_TEST_COMPARE_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "backend/backend.h"
#include "core/alloc.h"
#include "core/rng.h"
#include "core/threads.h"

// Extents of a view. SHAPE(2, 3) is [2,3]; SCALAR is 0-d.
typedef struct {
    int ndim;
    int64_t extent[HD_MAX_DIMS];
} shape;
#define SHAPE(...) ((shape){(int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), {__VA_ARGS__}})
#define SCALAR ((shape){0})
#define COUNT(array) ((int)(sizeof(array) / sizeof(array)[0]))

// How a view lies in memory.
typedef enum {
    ROW_MAJOR,
    CHANNELS_LAST, // dimension 1 fastest
    TRANSPOSED,    // first dimension fastest
    TAPS_FIRST,    // of a conv weight [k,c,r,s]: r,s,c,k
    GAPS,          // row-major with unused elements between all
    FLIPPED,       // row-major with negative strides
    LAYOUTS,
    SPREAD_ROWS = LAYOUTS, // stride 0 in every even dimension: inputs only
    SPREAD_COLS,           // stride 0 in every odd dimension
    SPREAD_ALL,
    INPUT_LAYOUTS,
} layout;

// What the numbers are. Integers get the range of the name; bools are 0 or 1 for all.
typedef enum {
    ANY,      // floats in [-2, 2), integers in [-50, 50)
    POSITIVE, // floats in [0.1, 2.1), integers in [1, 100)
    TINY,     // floats within 1e-3
    WIDE,     // floats in [-80, 80)
    TIES,     // 0, 1, 2
    SPECIAL,  // zeros, infinities, NaN and numbers of many sizes
    HUGE_INT, // any 62-bit integer; floats in [-2, 2)
    INDEX,    // 0 .. index_end - 1
} numbers;

// Largest relative L2 error for f32 and f64. An output whose root mean square is below `least` is held to the error of
// one of that size: for sums that may cancel and leave rounding alone.
typedef struct {
    double f32, f64, least;
} limits;
// WINOGRAD: of convolutions by F(4x4), F(4,3) and F(4,5), whose transforms round more than sums of products do.
static const limits EXACT = {0, 0, 0}, FORWARD = {5e-7, 1e-13, 0}, GRADIENT = {5e-7, 1e-13, 0},
                    WINOGRAD = {2e-6, 1e-13, 0}, UPDATE = {5e-7, 1e-13, 1};

enum { MAX_BLOCKS = 16, GUARD = 16 };

static struct {
    char *block[MAX_BLOCKS]; // the buffers of this case's views
    char *before[MAX_BLOCKS], *first[MAX_BLOCKS],
        *expected[MAX_BLOCKS]; // copies: before the call, after cpu's first, ref's
    size_t bytes[MAX_BLOCKS];
    int blocks, failures, calls;
    uint64_t drawn;    // random words so far
    int64_t index_end; // of INDEX
    char name[200];
} now;

static void forget(void) {
    for (int i = 0; i < now.blocks; i++) {
        hd_free(now.block[i]);
        hd_free(now.before[i]);
        hd_free(now.first[i]);
        hd_free(now.expected[i]);
    }
    now.blocks = 0;
}

static void __attribute__((format(printf, 1, 2))) begin(const char *name, ...) {
    va_list args;
    forget();
    va_start(args, name);
    vsnprintf(now.name, sizeof now.name, name, args);
    va_end(args);
}

static double draw_unit(void) {
    uint32_t word[4];
    hd_philox(1, 2, now.drawn++, word);
    return hd_unit_f64(word[0], word[1]);
}

static double draw_float(numbers kind) {
    static const double special[] = {0,    -0.0,  1,  -1,  0.5, -2.5, INFINITY, -INFINITY, NAN,
                                     1e-9, -1e-9, 30, -30, 88,  -88,  104,      -104,      1e-30};
    const double u = draw_unit();
    switch (kind) {
    case POSITIVE:
        return 0.1 + 2 * u;
    case TINY:
        return 2e-3 * u - 1e-3;
    case WIDE:
        return 160 * u - 80;
    case TIES:
        return floor(3 * u);
    case SPECIAL:
        return special[(int)(u * COUNT(special))];
    default:
        return 4 * u - 2;
    }
}

static int64_t draw_int(numbers kind) {
    const double u = draw_unit();
    switch (kind) {
    case POSITIVE:
        return 1 + (int64_t)(99 * u);
    case TIES:
        return (int64_t)(3 * u);
    case HUGE_INT:
        return ((int64_t)(u * 0x1p53) << 9) - INT64_C(0x2000000000000001);
    case INDEX:
        return (int64_t)(u * (double)now.index_end);
    default:
        return (int64_t)(100 * u) - 50;
    }
}

static void draw_into(void *data, hd_dtype dtype, int64_t i, numbers kind) {
    if (hd_dtype_is_float(dtype))
        hd_store(data, dtype, i, draw_float(kind));
    else if (dtype == HD_I64)
        ((int64_t *)data)[i] = draw_int(kind);
    else if (dtype == HD_BOOL)
        ((uint8_t *)data)[i] = draw_unit() < 0.5;
    else
        hd_store(data, dtype, i, (double)(dtype == HD_U8 ? llabs(draw_int(kind)) : draw_int(kind)));
}

// Dimensions of v from the slowest to the fastest in memory.
static void memory_order(layout how, int ndim, int *order) {
    static const int taps_first[4] = {2, 3, 1, 0};
    for (int i = 0; i < ndim; i++) {
        order[i] = how == TRANSPOSED ? ndim - 1 - i : i;
        if (how == TAPS_FIRST && ndim == 4)
            order[i] = taps_first[i];
        if (how == CHANNELS_LAST && ndim >= 3)
            order[i] = i == 0 ? 0 : i == ndim - 1 ? 1 : i + 1;
    }
}

// Strides for `how`; returns the number of elements from the lowest address to the highest, *lowest its offset (<= 0).
static int64_t lay_out(hd_view *v, layout how, int64_t *lowest) {
    int order[HD_MAX_DIMS];
    int64_t step = how == GAPS ? 2 : 1, span = 1;
    memory_order(how, v->ndim, order);
    *lowest = 0;
    for (int i = v->ndim - 1; i >= 0; i--) {
        const int d = order[i];
        const int64_t extent = v->shape[d] > 0 ? v->shape[d] : 1;
        const bool spread =
            how == SPREAD_ALL || (how == SPREAD_ROWS && d % 2 == 0) || (how == SPREAD_COLS && d % 2 == 1);
        v->strides[d] = spread ? 0 : how == FLIPPED ? -step : step;
        span += spread ? 0 : step * (extent - 1);
        *lowest += how == FLIPPED ? -step * (extent - 1) : 0;
        step *= spread ? 1 : extent + (how == GAPS);
    }
    return span;
}

// A view of random numbers, in a block of its own with random numbers before, behind and between.
static hd_view make(hd_dtype dtype, layout how, numbers kind, shape s) {
    hd_view v = {.dtype = dtype, .ndim = s.ndim};
    int64_t lowest = 0;
    memcpy(v.shape, s.extent, sizeof v.shape);
    const int64_t n = lay_out(&v, how, &lowest) + 2 * GUARD;
    const size_t bytes = (size_t)n * hd_dtype_size(dtype);
    const int at = now.blocks++;
    assert_true(at < MAX_BLOCKS);
    now.block[at] = hd_alloc(bytes);
    now.before[at] = hd_alloc(bytes);
    now.first[at] = hd_alloc(bytes);
    now.expected[at] = hd_alloc(bytes);
    now.bytes[at] = bytes;
    assert_true(now.block[at] && now.before[at] && now.first[at] && now.expected[at]);
    for (int64_t i = 0; i < n; i++)
        draw_into(now.block[at], dtype, i, kind);
    v.data = now.block[at] + (GUARD - lowest) * (int64_t)hd_dtype_size(dtype);
    return v;
}

static int block_of(const hd_view *v) {
    for (int i = 0; i < now.blocks; i++)
        if ((char *)v->data >= now.block[i] && (char *)v->data < now.block[i] + now.bytes[i])
            return i;
    fail_msg("%s: an output that make() did not make", now.name);
    return 0;
}

static void keep(char *const *to) {
    for (int i = 0; i < now.blocks; i++)
        memcpy(to[i], now.block[i], now.bytes[i]);
}

static void put_back(void) {
    for (int i = 0; i < now.blocks; i++)
        memcpy(now.block[i], now.before[i], now.bytes[i]);
}

static void __attribute__((format(printf, 3, 4)))
complain(const char *entry, const hd_view *v, const char *format, ...) {
    char text[200];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (++now.failures > 12)
        return;
    print_error("%s, %s: %s [", entry, now.name, hd_dtype_name(v->dtype));
    for (int d = 0; d < v->ndim; d++)
        print_error(d ? ",%lld" : "%lld", (long long)v->shape[d]);
    print_error("] strides [");
    for (int d = 0; d < v->ndim; d++)
        print_error(d ? ",%lld" : "%lld", (long long)v->strides[d]);
    print_error("]: %s\n", text);
}

// Integers in full, floats by value: NaN equals NaN, 0 equals -0.
static bool same_element(const void *a, const void *b, hd_dtype dtype, int64_t offset) {
    const size_t size = hd_dtype_size(dtype);
    const double x = hd_load(a, dtype, offset), y = hd_load(b, dtype, offset);
    if (!hd_dtype_is_float(dtype))
        return memcmp((const char *)a + offset * (int64_t)size, (const char *)b + offset * (int64_t)size, size) == 0;
    return x == y || (isnan(x) && isnan(y));
}

// Compares one output of cpu (in its block) with ref's and with the bytes around it from before.
static void compare_output(const char *entry, const hd_view *v, limits most) {
    const int64_t n = hd_view_numel(v), size = (int64_t)hd_dtype_size(v->dtype);
    const int at = block_of(v);
    char *expected = now.expected[at] + ((char *)v->data - now.block[at]);
    const double limit = v->dtype == HD_F32 ? most.f32 : v->dtype == HD_F64 ? most.f64 : 0;
    double error = 0, norm = 0;
    for (int64_t i = 0; i < n; i++) {
        const int64_t offset = hd_view_offset(v, i);
        const double y = hd_load(v->data, v->dtype, offset), want = hd_load(expected, v->dtype, offset);
        if (!same_element(v->data, expected, v->dtype, offset)) {
            if (limit == 0 || !isfinite(y) || !isfinite(want)) {
                complain(entry, v, "element %lld is %.17g, ref says %.17g", (long long)i, y, want);
                return;
            }
            error += (y - want) * (y - want);
        }
        norm += isfinite(want) ? want * want : 0;
        memcpy(expected + offset * size, (char *)v->data + offset * size, (size_t)size);
    }
    norm = fmax(norm, most.least * most.least * (double)n);
    if (sqrt(error) > limit * sqrt(norm))
        complain(entry, v, "relative L2 error %.3g, limit %.3g", sqrt(error / norm), limit);
    if (memcmp(now.expected[at], now.block[at], now.bytes[at]) != 0)
        complain(entry, v, "wrote outside of the view");
}

static void compare_inputs(const char *entry, const hd_view *outputs, int noutputs) {
    for (int at = 0; at < now.blocks; at++) {
        bool written = false;
        for (int i = 0; i < noutputs; i++)
            written = written || (outputs[i].data && block_of(&outputs[i]) == at);
        if (!written && memcmp(now.before[at], now.block[at], now.bytes[at]) != 0)
            complain(entry, &outputs[0], "wrote to an input");
    }
}

static const int thread_counts[] = {1, 2, 3, 8, 16, 1};

// After call number `run` of cpu: the first is compared with ref, the others with the first.
static void compare_run(const char *entry, int run, const hd_view *outputs, int noutputs, limits most) {
    if (run == 0) {
        keep(now.first);
        compare_inputs(entry, outputs, noutputs);
    }
    for (int i = 0; i < noutputs; i++) {
        if (!outputs[i].data)
            continue;
        const int at = block_of(&outputs[i]);
        if (run == 0)
            compare_output(entry, &outputs[i], most);
        else if (memcmp(now.first[at], now.block[at], now.bytes[at]) != 0)
            complain(entry, &outputs[i], "other bits with %d threads in call %d", thread_counts[run], run + 1);
    }
}

// Many threads on few cores are slow: 16 in every fourth call, at most 3 in the brief form.
static int most_threads(void) { return getenv("HDLUA_BRIEF") ? 3 : ++now.calls % 4 == 0 ? 16 : 8; }

#define CHECK(entry, args, most, ...)                                                                                  \
    do {                                                                                                               \
        const hd_view outputs_[] = {__VA_ARGS__};                                                                      \
        keep(now.before);                                                                                              \
        assert_int_equal(hd_backend_ref.entry(&(args)), HD_OK);                                                        \
        keep(now.expected);                                                                                            \
        const int threads_ = most_threads();                                                                           \
        for (int run_ = 0; run_ < COUNT(thread_counts); run_++) {                                                      \
            if (thread_counts[run_] > threads_)                                                                        \
                continue;                                                                                              \
            put_back();                                                                                                \
            hd_set_threads(thread_counts[run_]);                                                                       \
            assert_int_equal(hd_be()->entry(&(args)), HD_OK);                                                          \
            compare_run(#entry, run_, outputs_, COUNT(outputs_), most);                                                \
        }                                                                                                              \
    } while (0)

static int start(void **state) {
    (void)state;
    now.failures = 0;
    now.drawn = 0;
    return 0;
}

static int finish(void **state) {
    (void)state;
    forget();
    if (now.failures > 12)
        print_error("... and %d more\n", now.failures - 12);
    return now.failures ? -1 : 0;
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, start, finish)

static const hd_dtype float_types[] = {HD_F32, HD_F64};
static const char *const layout_names[] = {"row-major", "channels-last", "transposed",     "taps-first", "gaps",
                                           "flipped",   "spread rows",   "spread columns", "spread all"};

#endif
