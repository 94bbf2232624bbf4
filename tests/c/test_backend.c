// tests/c/test_backend.c: elementwise functions, reductions, indexing, random numbers and optimizer steps of `cpu`
// against `ref`. test_backend_layers.c has the products and layers.
#include "compare.h"

#include "backend/counted.h"
#include <stddef.h>

static const hd_dtype all_types[] = {HD_F32, HD_F64, HD_I64, HD_I32, HD_U8, HD_BOOL};
static const hd_dtype numeric_types[] = {HD_F32, HD_F64, HD_I64};

// One element, none, odd, prime, with a long last or first dimension, rank 0 to 5.
static const shape shapes[] = {
    {0},          {1, {1}},       {1, {0}},        {1, {1009}},        {2, {3, 7}},        {2, {1, 513}},
    {2, {67, 1}}, {3, {2, 0, 3}}, {3, {5, 3, 17}}, {4, {2, 16, 5, 4}}, {4, {2, 33, 1, 7}}, {5, {2, 1, 3, 2, 5}},
};
static const shape large = {4, {3, 40, 17, 23}}; // enough work to be cut for the threads

static void test_copy_converts_between_all_types(void **state) {
    (void)state;
    for (int from = 0; from < COUNT(all_types); from++)
        for (int to = 0; to < COUNT(all_types); to++)
            for (int s = 0; s < COUNT(shapes); s++) {
                begin("%s to %s", hd_dtype_name(all_types[from]), hd_dtype_name(all_types[to]));
                hd_copy_args a = {.x = make(all_types[from], ROW_MAJOR, POSITIVE, shapes[s]),
                                  .y = make(all_types[to], ROW_MAJOR, ANY, shapes[s])};
                CHECK(copy, a, EXACT, a.y);
            }
}

static void test_copy_moves_between_all_layouts(void **state) {
    (void)state;
    for (int type = 0; type < COUNT(all_types); type++)
        for (layout from = 0; from < INPUT_LAYOUTS; from++)
            for (layout to = 0; to < LAYOUTS; to++)
                for (int s = 3; s < COUNT(shapes) + 1; s++) {
                    begin("%s to %s", layout_names[from], layout_names[to]);
                    const shape sh = s < COUNT(shapes) ? shapes[s] : large;
                    hd_copy_args a = {.x = make(all_types[type], from, all_types[type] == HD_I64 ? HUGE_INT : ANY, sh),
                                      .y = make(all_types[type], to, ANY, sh)};
                    CHECK(copy, a, EXACT, a.y);
                }
}

static void test_copy_keeps_large_integers_and_special_floats(void **state) {
    (void)state;
    for (int type = 0; type < COUNT(all_types); type++) {
        begin("special");
        hd_copy_args ints = {.x = make(HD_I64, ROW_MAJOR, HUGE_INT, shapes[3]),
                             .y = make(all_types[type < 3 ? type : 0], ROW_MAJOR, ANY, shapes[3])};
        CHECK(copy, ints, EXACT, ints.y);
        hd_copy_args floats = {.x = make(HD_F64, ROW_MAJOR, SPECIAL, shapes[3]),
                               .y = make(type < 3 ? HD_F32 : HD_BOOL, ROW_MAJOR, ANY, shapes[3])};
        CHECK(copy, floats, EXACT, floats.y);
    }
}

// Every upper half with lower halves around the middle, among them all infinities, NaNs and denormals.
static void test_bf16_is_the_nearest_and_comes_back(void **state) {
    (void)state;
    static const uint32_t low[] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff};
    enum { UPPER = 1 << 16, N = UPPER * 6, SIZES = 4 };
    static const int64_t sizes[SIZES] = {0, 1, 37, N - 5};
    uint32_t *x = hd_alloc(N * sizeof *x), *back = hd_alloc(N * sizeof *back);
    uint16_t *got = hd_alloc(N * sizeof *got), *expected = hd_alloc(N * sizeof *expected);
    for (uint32_t i = 0; i < N; i++)
        x[i] = i / 6 << 16 | low[i % 6];
    for (int s = 0; s < SIZES; s++) {
        const int64_t first = s == 3 ? 5 : 0x3f81 * 6, n = sizes[s]; // off the borders of vectors
        if (n < N - 5)
            got[first + n] = 0x1234; // stays
        assert_int_equal(HD_OK, hd_be()->to_bf16(&(hd_bf16_args){(float *)(x + first), got + first, n}));
        assert_int_equal(HD_OK, hd_backend_ref.to_bf16(&(hd_bf16_args){(float *)(x + first), expected + first, n}));
        assert_int_equal(HD_OK, hd_be()->from_bf16(&(hd_bf16_args){(float *)(back + first), got + first, n}));
        for (int64_t i = first; i < first + n; i++) {
            if ((x[i] & 0x7fffffff) > 0x7f800000)
                assert_true((got[i] & 0x7fff) > 0x7f80 && (expected[i] & 0x7fff) > 0x7f80);
            else
                assert_int_equal(expected[i], got[i]);
            assert_int_equal((uint32_t)got[i] << 16, back[i]);
        }
        if (n < N - 5)
            assert_int_equal(0x1234, got[first + n]);
    }
    hd_free(x), hd_free(back), hd_free(got), hd_free(expected);
}

static void test_fill_sets_every_element(void **state) {
    (void)state;
    for (int type = 0; type < COUNT(all_types); type++)
        for (layout how = 0; how < LAYOUTS; how++)
            for (int s = 0; s < COUNT(shapes); s++) {
                begin("%s", layout_names[how]);
                hd_fill_args a = {.y = make(all_types[type], how, ANY, shapes[s]), .value = 3.25};
                CHECK(fill, a, EXACT, a.y);
            }
}

// Which numbers a function takes, and whether ints too.
typedef struct {
    hd_unary op;
    const char *name;
    bool ints;
    double a, b;
    numbers kinds[3];
} unary_case;

static const unary_case unaries[] = {
    {HD_NEG, "neg", true, 0, 0, {ANY, WIDE, SPECIAL}},
    {HD_ABS, "abs", true, 0, 0, {ANY, WIDE, SPECIAL}},
    {HD_SIGN, "sign", true, 0, 0, {ANY, TIES, ANY}},
    {HD_EXP, "exp", false, 0, 0, {ANY, WIDE, SPECIAL}},
    {HD_LOG, "log", false, 0, 0, {POSITIVE, POSITIVE, SPECIAL}},
    {HD_SQRT, "sqrt", false, 0, 0, {POSITIVE, POSITIVE, SPECIAL}},
    {HD_RSQRT, "rsqrt", false, 0, 0, {POSITIVE, POSITIVE, SPECIAL}},
    {HD_SIN, "sin", false, 0, 0, {ANY, WIDE, TINY}},
    {HD_COS, "cos", false, 0, 0, {ANY, WIDE, TINY}},
    {HD_TANH, "tanh", false, 0, 0, {ANY, TINY, SPECIAL}},
    {HD_SIGMOID, "sigmoid", false, 0, 0, {ANY, WIDE, SPECIAL}},
    {HD_RELU, "relu", false, 0, 0, {ANY, WIDE, SPECIAL}},
    {HD_SILU, "silu", false, 0, 0, {ANY, WIDE, TINY}},
    {HD_GELU, "gelu", false, 0, 0, {ANY, WIDE, TINY}},
    {HD_SQUARE, "square", true, 0, 0, {ANY, WIDE, SPECIAL}},
    {HD_RECIPROCAL, "reciprocal", false, 0, 0, {POSITIVE, WIDE, SPECIAL}},
    {HD_FLOOR, "floor", false, 0, 0, {ANY, WIDE, SPECIAL}},
    {HD_CEIL, "ceil", false, 0, 0, {ANY, WIDE, SPECIAL}},
    {HD_ROUND, "round", false, 0, 0, {ANY, WIDE, SPECIAL}},
    {HD_CLAMP, "clamp", true, -1, 1, {ANY, WIDE, SPECIAL}},
    {HD_SCALE, "scale", true, 3, -2, {ANY, WIDE, SPECIAL}},
    {HD_POW_S, "pow 2.5", false, 2.5, 0, {POSITIVE, POSITIVE, POSITIVE}},
    {HD_POW_S, "pow 3", false, 3, 0, {ANY, WIDE, SPECIAL}},
    {HD_POW_S, "pow -1", false, -1, 0, {POSITIVE, WIDE, SPECIAL}},
    {HD_ERF, "erf", false, 0, 0, {ANY, TINY, SPECIAL}},
    {HD_EXPM1, "expm1", false, 0, 0, {ANY, TINY, SPECIAL}},
    {HD_LOG1P, "log1p", false, 0, 0, {POSITIVE, TINY, POSITIVE}},
    {HD_SOFTPLUS, "softplus", false, 0, 0, {ANY, WIDE, SPECIAL}},
    {HD_LEAKY_RELU, "leaky_relu", false, 0.01, 0, {ANY, WIDE, SPECIAL}},
};

static void check_unary(const unary_case *u, hd_dtype type, layout x_how, layout y_how, numbers kind, shape s) {
    begin("%s, %s to %s, numbers %d", u->name, layout_names[x_how], layout_names[y_how], kind);
    hd_unary_args a = {u->op, make(type, x_how, kind, s), make(type, y_how, ANY, s), u->a, u->b};
    CHECK(unary, a, FORWARD, a.y);
    if (x_how < LAYOUTS) {
        a.y = a.x;
        CHECK(unary, a, FORWARD, a.y);
    }
}

static void test_unary_agrees_on_all_functions_and_numbers(void **state) {
    (void)state;
    for (int u = 0; u < COUNT(unaries); u++)
        for (int type = 0; type < COUNT(numeric_types); type++)
            for (int kind = 0; kind < 3 && (type < 2 || unaries[u].ints); kind++)
                for (int s = 3; s <= COUNT(shapes); s += 3)
                    check_unary(&unaries[u], numeric_types[type], ROW_MAJOR, ROW_MAJOR, unaries[u].kinds[kind],
                                s < COUNT(shapes) ? shapes[s] : large);
}

static void test_unary_takes_every_layout(void **state) {
    (void)state;
    for (int type = 0; type < COUNT(float_types); type++)
        for (layout x_how = 0; x_how < INPUT_LAYOUTS; x_how++)
            for (layout y_how = 0; y_how < LAYOUTS; y_how++)
                for (int s = 0; s < COUNT(shapes); s++)
                    check_unary(&unaries[3 + s], float_types[type], x_how, y_how, unaries[3 + s].kinds[0], shapes[s]);
}

static void test_not_and_isfinite_give_bools(void **state) {
    (void)state;
    for (layout how = 0; how < LAYOUTS; how++)
        for (int s = 0; s < COUNT(shapes); s++) {
            begin("%s", layout_names[how]);
            hd_unary_args not = {
                .op = HD_NOT, .x = make(HD_BOOL, how, ANY, shapes[s]), .y = make(HD_BOOL, ROW_MAJOR, ANY, shapes[s])};
            CHECK(unary, not, EXACT, not .y);
            hd_unary_args finite = {.op = HD_ISFINITE,
                                    .x = make(float_types[s % 2], how, SPECIAL, shapes[s]),
                                    .y = make(HD_BOOL, how, ANY, shapes[s])};
            CHECK(unary, finite, EXACT, finite.y);
        }
}

static void check_unary_back(const unary_case *u, hd_dtype type, layout how, numbers kind, shape s) {
    begin("%s, %s", u->name, layout_names[how]);
    const hd_view x = make(type, how, kind, s), y = make(type, ROW_MAJOR, ANY, s), none = {0};
    const hd_unary_args forward = {u->op, x, y, u->a, u->b};
    const int needs = hd_unary_needs(u->op);
    assert_int_equal(hd_backend_ref.unary(&forward), HD_OK);
    hd_unary_back_args a = {.op = u->op, .x = needs & 1 ? x : none, .y = needs & 2 ? y : none, .a = u->a, .b = u->b};
    a.dy = make(type, ROW_MAJOR, ANY, s);
    a.dx = make(type, how, ANY, s);
    CHECK(unary_back, a, GRADIENT, a.dx);
    a.dx = a.dy;
    CHECK(unary_back, a, GRADIENT, a.dx);
}

static void test_unary_back_needs_only_what_it_says(void **state) {
    (void)state;
    for (int u = 0; u < COUNT(unaries); u++)
        for (int type = 0; type < COUNT(float_types); type++)
            for (int s = 0; s < COUNT(shapes); s++) {
                check_unary_back(&unaries[u], float_types[type], s % LAYOUTS, unaries[u].kinds[0], shapes[s]);
                check_unary_back(&unaries[u], float_types[type], s % LAYOUTS, unaries[u].kinds[1], shapes[s]);
            }
}

static const struct {
    hd_binary op;
    const char *name;
    bool ints, compares;
    numbers a, b;
} binaries[] = {
    {HD_ADD, "add", true, false, ANY, ANY},
    {HD_SUB, "sub", true, false, ANY, SPECIAL},
    {HD_MUL, "mul", true, false, ANY, ANY},
    {HD_DIV, "div", false, false, ANY, SPECIAL},
    {HD_POW, "pow", false, false, POSITIVE, ANY},
    {HD_POW, "pow", true, false, ANY, TIES},
    {HD_MAXIMUM, "maximum", true, false, ANY, SPECIAL},
    {HD_MINIMUM, "minimum", true, false, SPECIAL, ANY},
    {HD_MOD, "mod", true, false, WIDE, ANY},
    {HD_FLOORDIV, "floordiv", true, false, WIDE, ANY},
    {HD_ADD, "add", true, false, HUGE_INT, HUGE_INT},
    {HD_MUL, "mul", true, false, HUGE_INT, HUGE_INT},
    {HD_LT, "lt", true, true, TIES, TIES},
    {HD_LE, "le", true, true, TIES, TIES},
    {HD_GT, "gt", true, true, SPECIAL, SPECIAL},
    {HD_GE, "ge", true, true, SPECIAL, SPECIAL},
    {HD_EQ, "eq", true, true, HUGE_INT, HUGE_INT},
    {HD_EQ, "eq", true, true, TIES, TIES},
    {HD_NE, "ne", true, true, SPECIAL, TIES},
};

static void check_binary(int op, hd_dtype type, layout a_how, layout b_how, layout y_how, shape s) {
    begin("%s, %s and %s to %s", binaries[op].name, layout_names[a_how], layout_names[b_how], layout_names[y_how]);
    hd_binary_args a = {.op = binaries[op].op,
                        .a = make(type, a_how, binaries[op].a, s),
                        .b = make(type, b_how, binaries[op].b, s),
                        .y = make(binaries[op].compares ? HD_BOOL : type, y_how, ANY, s)};
    CHECK(binary, a, FORWARD, a.y);
    if (a_how < LAYOUTS && !binaries[op].compares) {
        a.y = a.a;
        CHECK(binary, a, FORWARD, a.y);
    }
}

static void test_binary_agrees_on_all_functions(void **state) {
    (void)state;
    for (int op = 0; op < COUNT(binaries); op++)
        for (int type = 0; type < COUNT(numeric_types); type++)
            for (int s = 0; s <= COUNT(shapes) && (type < 2 || binaries[op].ints); s++)
                check_binary(op, numeric_types[type], ROW_MAJOR, ROW_MAJOR, ROW_MAJOR,
                             s < COUNT(shapes) ? shapes[s] : large);
}

static void test_binary_broadcasts_and_takes_every_layout(void **state) {
    (void)state;
    for (layout a_how = 0; a_how < INPUT_LAYOUTS; a_how++)
        for (layout b_how = 0; b_how < INPUT_LAYOUTS; b_how++)
            for (layout y_how = 0; y_how < LAYOUTS; y_how++)
                for (int s = 3; s <= COUNT(shapes); s++)
                    check_binary((int)(a_how + b_how) % 3, numeric_types[s % 3], a_how, b_how, y_how,
                                 s < COUNT(shapes) ? shapes[s] : large);
}

static void test_binary_adds_a_channel_vector(void **state) {
    (void)state;
    for (int type = 0; type < COUNT(float_types); type++)
        for (layout how = ROW_MAJOR; how <= CHANNELS_LAST; how++)
            for (int per_sample = 0; per_sample < 2; per_sample++) {
                begin("[n,c,h,w] + [%s,c,1,1], %s", per_sample ? "n" : "1", layout_names[how]);
                hd_binary_args a = {.op = HD_ADD,
                                    .a = make(float_types[type], how, ANY, large),
                                    .b = make(float_types[type], ROW_MAJOR, ANY, SHAPE(3, 40, 1, 1)),
                                    .y = make(float_types[type], how, ANY, large)};
                a.b.strides[0] = per_sample ? 40 : 0;
                a.b.strides[2] = a.b.strides[3] = 0;
                memcpy(a.b.shape, large.extent, sizeof a.b.shape);
                CHECK(binary, a, FORWARD, a.y);
            }
}

static void test_and_and_or_combine_bools(void **state) {
    (void)state;
    for (int s = 0; s < COUNT(shapes); s++)
        for (hd_binary op = HD_AND; op <= HD_OR; op++) {
            begin("op %d", op);
            hd_binary_args a = {.op = op,
                                .a = make(HD_BOOL, s % LAYOUTS, ANY, shapes[s]),
                                .b = make(HD_BOOL, s % INPUT_LAYOUTS, ANY, shapes[s]),
                                .y = make(HD_BOOL, ROW_MAJOR, ANY, shapes[s])};
            CHECK(binary, a, EXACT, a.y);
        }
}

static void test_where_chooses_bit_for_bit(void **state) {
    (void)state;
    for (int type = 0; type < COUNT(all_types); type++)
        for (int s = 0; s < COUNT(shapes); s++)
            for (layout how = 0; how < INPUT_LAYOUTS; how++) {
                begin("%s", layout_names[how]);
                hd_where_args a = {.cond = make(HD_BOOL, how, ANY, shapes[s]),
                                   .a = make(all_types[type], (how + 1) % INPUT_LAYOUTS, TIES, shapes[s]),
                                   .b = make(all_types[type], (how + 4) % INPUT_LAYOUTS, TIES, shapes[s]),
                                   .y = make(all_types[type], how % LAYOUTS, ANY, shapes[s])};
                CHECK(where, a, EXACT, a.y);
            }
}

static hd_dtype reduced_type(hd_reduce op, hd_dtype type) { return op == HD_ARGMAX || op == HD_ARGMIN ? HD_I64 : type; }

static void check_reduce(hd_reduce op, hd_dtype type, layout how, numbers kind, int nred, shape s) {
    int64_t reduced = 1;
    for (int d = s.ndim - nred; d < s.ndim; d++)
        reduced *= s.extent[d];
    if (reduced == 0 && op != HD_SUM && op != HD_PROD && op != HD_SUMSQ)
        return; // no value to give: ops/ refuses
    begin("op %d over %d dims, %s, numbers %d", op, nred, layout_names[how], kind);
    shape kept = s;
    kept.ndim -= nred;
    hd_reduce_args a = {op, nred, make(type, how, kind, s), make(reduced_type(op, type), ROW_MAJOR, ANY, kept)};
    CHECK(reduce, a, FORWARD, a.y);
}

static void test_reduce_agrees_over_any_last_dims(void **state) {
    (void)state;
    for (hd_reduce op = HD_SUM; op <= HD_ARGMIN; op++)
        for (int type = 0; type < COUNT(numeric_types); type++)
            for (int s = 0; s < COUNT(shapes); s++)
                for (int nred = 1; nred <= shapes[s].ndim && (type < 2 || op != HD_MEAN); nred++)
                    for (layout how = 0; how < INPUT_LAYOUTS; how++)
                        check_reduce(op, numeric_types[type], how, POSITIVE, nred, shapes[s]);
}

static void test_reduce_of_many_numbers_stays_accurate(void **state) {
    (void)state;
    for (hd_reduce op = HD_SUM; op <= HD_ARGMIN; op++)
        for (int type = 0; type < COUNT(numeric_types); type++) {
            const numbers kind = op == HD_PROD ? TIES : POSITIVE;
            if (op == HD_MEAN && type == 2)
                continue;
            check_reduce(op, numeric_types[type], ROW_MAJOR, kind, 1, SHAPE(200003));
            check_reduce(op, numeric_types[type], ROW_MAJOR, kind, 1, SHAPE(3, 50021));
            check_reduce(op, numeric_types[type], CHANNELS_LAST, kind, 2, SHAPE(2, 40, 61, 53));
            check_reduce(op, numeric_types[type], TRANSPOSED, kind, 1, SHAPE(301, 503));
        }
}

static void test_extremes_take_the_first_of_equals_and_nan(void **state) {
    (void)state;
    for (hd_reduce op = HD_MAX; op <= HD_ARGMIN; op++)
        for (int type = 0; type < COUNT(float_types); type++)
            for (layout how = 0; how < LAYOUTS; how++)
                for (int n = 1; op != HD_SUMSQ && n < 60; n += 7) {
                    check_reduce(op, float_types[type], how, TIES, 1, SHAPE(5, n));
                    check_reduce(op, float_types[type], how, SPECIAL, 1, SHAPE(19, n));
                    check_reduce(op, float_types[type], how, SPECIAL, 1, SHAPE(2, 8, n));
                }
}

static void test_all_and_any_reduce_bools(void **state) {
    (void)state;
    for (hd_reduce op = HD_ALL; op <= HD_ANY; op++)
        for (layout how = 0; how < LAYOUTS; how++)
            for (int n = 1; n < 70; n += 3)
                for (int value = -1; value < 2; value++) { // -1: as drawn
                    begin("op %d, n %d, filled with %d", op, n, value);
                    hd_reduce_args a = {op, 1, make(HD_BOOL, how, ANY, SHAPE(4, n)),
                                        make(HD_BOOL, ROW_MAJOR, ANY, SHAPE(4))};
                    const hd_fill_args fill = {a.x, value};
                    if (value >= 0)
                        assert_int_equal(hd_backend_ref.fill(&fill), HD_OK);
                    CHECK(reduce, a, EXACT, a.y);
                }
}

static void test_cumsum_runs_both_ways_along_any_dim(void **state) {
    (void)state;
    for (int type = 0; type < COUNT(numeric_types); type++)
        for (int s = 1; s <= COUNT(shapes); s++)
            for (int dim = 0; dim < (s < COUNT(shapes) ? shapes[s] : large).ndim; dim++)
                for (layout how = 0; how < LAYOUTS; how++) {
                    const shape sh = s < COUNT(shapes) ? shapes[s] : large;
                    begin("dim %d, %s", dim, layout_names[how]);
                    hd_cumsum_args a = {make(numeric_types[type], how, ANY, sh),
                                        make(numeric_types[type], (how + s) % LAYOUTS, ANY, sh), dim, how % 2};
                    CHECK(cumsum, a, FORWARD, a.y);
                }
}

static void check_softmax(hd_dtype type, layout how, numbers kind, int dim, bool log, shape s) {
    begin("dim %d, log %d, %s, numbers %d", dim, log, layout_names[how], kind);
    hd_softmax_args forward = {make(type, how, kind, s), make(type, how, ANY, s), dim, log};
    CHECK(softmax, forward, FORWARD, forward.y);
    assert_int_equal(hd_backend_ref.softmax(&forward), HD_OK);
    hd_softmax_back_args back = {forward.y, make(type, ROW_MAJOR, ANY, s), make(type, how, ANY, s), dim, log};
    const limits cancelling = {2e-6, 1e-13, 1}; // nearly one-hot weights leave a difference of equal numbers
    CHECK(softmax_back, back, kind == WIDE ? cancelling : GRADIENT, back.dx);
}

static void test_softmax_and_its_gradient_along_any_dim(void **state) {
    (void)state;
    for (int type = 0; type < COUNT(float_types); type++)
        for (int s = 3; s <= COUNT(shapes); s++)
            for (int dim = 0; dim < (s < COUNT(shapes) ? shapes[s] : large).ndim; dim++)
                for (layout how = 0; how < LAYOUTS; how++) {
                    const shape sh = s < COUNT(shapes) ? shapes[s] : large;
                    check_softmax(float_types[type], how, ANY, dim, how % 2, sh);
                    check_softmax(float_types[type], how, WIDE, dim, how % 2 == 0, sh);
                }
}

// x and y differ along dim alone: there y has idx's length.
static hd_index_args index_args(hd_dtype type, layout how, int dim, int64_t count, bool per_element, shape s) {
    shape picked = s;
    picked.extent[dim] = count;
    now.index_end = s.extent[dim];
    hd_index_args a = {.x = make(type, how, ANY, s),
                       .idx = make(HD_I64, per_element ? how : ROW_MAJOR, INDEX, per_element ? picked : SHAPE(count)),
                       .y = make(type, (how + 1) % LAYOUTS, ANY, picked),
                       .dim = dim};
    return a;
}

static const int64_t picks[] = {0, 1, 7, 130};

static void test_index_select_and_gather_pick_bit_for_bit(void **state) {
    (void)state;
    for (int type = 0; type < COUNT(all_types); type++)
        for (int s = 1; s < COUNT(shapes); s++)
            for (int count = 0; count < COUNT(picks); count++)
                for (int dim = 0; dim < shapes[s].ndim; dim++) {
                    if (shapes[s].extent[dim] == 0)
                        continue;
                    begin("%d picked along %d", (int)picks[count], dim);
                    const layout how = (layout)(s + count) % LAYOUTS;
                    hd_index_args a = index_args(all_types[type], how, dim, picks[count], false, shapes[s]);
                    CHECK(index_select, a, EXACT, a.y);
                    begin("%d gathered along %d", (int)picks[count], dim);
                    a = index_args(all_types[type], how, dim, picks[count], true, shapes[s]);
                    CHECK(gather, a, EXACT, a.y);
                }
}

static void test_index_add_and_scatter_add_sum_repeated_indices(void **state) {
    (void)state;
    for (int type = 0; type < COUNT(numeric_types); type++)
        for (int s = 1; s < COUNT(shapes); s++)
            for (int count = 0; count < COUNT(picks); count++)
                for (int dim = 0; dim < shapes[s].ndim; dim++) {
                    if (shapes[s].extent[dim] == 0)
                        continue;
                    begin("%d added along %d", (int)picks[count], dim);
                    const layout how = (layout)(s + count) % LAYOUTS;
                    hd_index_args a = index_args(numeric_types[type], how, dim, picks[count], false, shapes[s]);
                    CHECK(index_add, a, GRADIENT, a.x);
                    begin("%d scattered along %d", (int)picks[count], dim);
                    a = index_args(numeric_types[type], how, dim, picks[count], true, shapes[s]);
                    CHECK(scatter_add, a, GRADIENT, a.x);
                }
}

static void test_embedding_rows_are_picked_and_added(void **state) {
    (void)state;
    for (int type = 0; type < COUNT(float_types); type++) {
        begin("1000 rows of 64");
        hd_index_args a = index_args(float_types[type], ROW_MAJOR, 0, 5000, false, SHAPE(1000, 64));
        CHECK(index_select, a, EXACT, a.y);
        CHECK(index_add, a, GRADIENT, a.x);
    }
}

static const struct {
    hd_random kind;
    hd_dtype type;
    double lo, hi;
    limits most;
} draws[] = {
    {HD_RANDOM_UNIFORM, HD_F32, 0, 1, {.f32 = 0}},     {HD_RANDOM_UNIFORM, HD_F32, -3, 7.5, {.f32 = 2e-7, .least = 1}},
    {HD_RANDOM_UNIFORM, HD_F64, 0, 1, {.f32 = 0}},     {HD_RANDOM_UNIFORM, HD_F64, -3, 7.5, {.f64 = 1e-15}},
    {HD_RANDOM_NORMAL, HD_F32, 0, 1, {.f32 = 1e-6}},   {HD_RANDOM_NORMAL, HD_F32, 2, 0.5, {.f32 = 1e-6}},
    {HD_RANDOM_NORMAL, HD_F64, 0, 1, {.f64 = 1e-14}},  {HD_RANDOM_INT, HD_I64, 0, 9, {.f32 = 0}},
    {HD_RANDOM_INT, HD_I64, -5, 1000000, {.f32 = 0}},  {HD_RANDOM_INT, HD_I32, 1, 6, {.f32 = 0}},
    {HD_RANDOM_INT, HD_U8, 0, 255, {.f32 = 0}},        {HD_RANDOM_BERNOULLI, HD_BOOL, 0.3, 0, {.f32 = 0}},
    {HD_RANDOM_BERNOULLI, HD_F32, 0.9, 0, {.f32 = 0}}, {HD_RANDOM_BERNOULLI, HD_F64, 0.5, 0, {.f32 = 0}},
};

static void test_random_numbers_are_those_of_philox(void **state) {
    static const uint64_t first[] = {0, 4, 1000, UINT64_C(1) << 40};
    (void)state;
    for (int d = 0; d < COUNT(draws); d++)
        for (int i = 0; i < COUNT(first); i++)
            for (int s = 0; s <= COUNT(shapes); s++)
                for (layout how = 0; how < LAYOUTS; how++) {
                    begin("kind %d from %g to %g, %s", draws[d].kind, draws[d].lo, draws[d].hi, layout_names[how]);
                    hd_random_args a = {.kind = draws[d].kind,
                                        .y = make(draws[d].type, how, ANY, s < COUNT(shapes) ? shapes[s] : large),
                                        .seed = UINT64_C(0x123456789abcdef) + (uint64_t)i,
                                        .stream = UINT64_C(7) << (20 * i),
                                        .index = first[i],
                                        .lo = draws[d].lo,
                                        .hi = draws[d].hi};
                    CHECK(random, a, draws[d].most, a.y);
                }
}

// The second half of a fill equals a fill of its own that starts at its index: batch size does not matter.
static void test_random_numbers_depend_on_their_index_alone(void **state) {
    (void)state;
    for (int d = 0; d < COUNT(draws); d++) {
        const int64_t size = (int64_t)hd_dtype_size(draws[d].type);
        begin("kind %d", draws[d].kind);
        hd_random_args whole = {.kind = draws[d].kind,
                                .y = make(draws[d].type, ROW_MAJOR, ANY, SHAPE(240)),
                                .seed = 3,
                                .lo = draws[d].lo,
                                .hi = draws[d].hi};
        hd_random_args part = whole;
        part.y = make(draws[d].type, ROW_MAJOR, ANY, SHAPE(140));
        part.index = 100;
        assert_int_equal(hd_be()->random(&whole), HD_OK);
        assert_int_equal(hd_be()->random(&part), HD_OK);
        assert_memory_equal(part.y.data, (char *)whole.y.data + 100 * size, (size_t)(140 * size));
    }
}

static void test_random_moments_are_those_asked_for(void **state) {
    enum { N = 100000 };
    static const double want[][2] = {
        {0.5, 1 / 12.0}, {2.25, 10.5 * 10.5 / 12}, {0.5, 1 / 12.0}, {2.25, 10.5 * 10.5 / 12}, {0, 1}, {2, 0.25}, {0, 1},
        {4.5, 8.25}}; // mean and variance of the first draws
    (void)state;
    for (int d = 0; d < COUNT(want); d++) {
        double mean = 0, square = 0;
        begin("draw %d", d);
        hd_random_args a = {.kind = draws[d].kind,
                            .y = make(draws[d].type, ROW_MAJOR, ANY, SHAPE(N)),
                            .seed = 11,
                            .lo = draws[d].lo,
                            .hi = draws[d].hi};
        assert_int_equal(hd_be()->random(&a), HD_OK);
        for (int64_t i = 0; i < N; i++) {
            const double x = hd_load(a.y.data, a.y.dtype, i);
            mean += x / N;
            square += x * x / N;
        }
        assert_true(fabs(mean - want[d][0]) < 5 * sqrt(want[d][1] / N));
        assert_true(fabs(square - mean * mean - want[d][1]) < 0.02 * want[d][1]);
    }
}

static void test_adam_steps_agree_in_both_forms(void **state) {
    (void)state;
    for (int type = 0; type < COUNT(float_types); type++)
        for (int s = 0; s <= COUNT(shapes); s++)
            for (layout how = 0; how < LAYOUTS; how++)
                for (int form = 0; form < 4; form++) {
                    const shape sh = s < COUNT(shapes) ? shapes[s] : large;
                    begin("form %d, %s", form, layout_names[how]);
                    hd_adam_args a = {.p = make(float_types[type], how, ANY, sh),
                                      .g = make(float_types[type], form % 2 ? ROW_MAJOR : how, ANY, sh),
                                      .m = make(float_types[type], how, ANY, sh),
                                      .v = make(float_types[type], how, POSITIVE, sh),
                                      .lr = 1e-2,
                                      .beta1 = 0.9,
                                      .beta2 = 0.999,
                                      .eps = 1e-8,
                                      .weight_decay = form / 2 ? 0.1 : 0,
                                      .grad_scale = 0.5,
                                      .step = 1 + 10 * s,
                                      .decoupled = form == 3};
                    CHECK(adam, a, UPDATE, a.p, a.m, a.v);
                }
}

static void test_sgd_steps_agree_with_and_without_momentum(void **state) {
    (void)state;
    for (int type = 0; type < COUNT(float_types); type++)
        for (int s = 0; s <= COUNT(shapes); s++)
            for (layout how = 0; how < LAYOUTS; how++)
                for (int form = 0; form < 3; form++) {
                    const shape sh = s < COUNT(shapes) ? shapes[s] : large;
                    begin("form %d, %s", form, layout_names[how]);
                    hd_sgd_args a = {.p = make(float_types[type], how, ANY, sh),
                                     .g = make(float_types[type], ROW_MAJOR, ANY, sh),
                                     .lr = 0.1,
                                     .momentum = 0.9,
                                     .weight_decay = 0.01,
                                     .grad_scale = 2,
                                     .nesterov = form == 2};
                    if (form > 0)
                        a.m = make(float_types[type], how, ANY, sh);
                    CHECK(sgd, a, UPDATE, a.p, a.m);
                }
}

static void test_lerp_moves_towards_b(void **state) {
    (void)state;
    for (int type = 0; type < COUNT(float_types); type++)
        for (int s = 0; s <= COUNT(shapes); s++)
            for (layout how = 0; how < LAYOUTS; how++) {
                const shape sh = s < COUNT(shapes) ? shapes[s] : large;
                begin("%s", layout_names[how]);
                hd_lerp_args a = {make(float_types[type], how, ANY, sh),
                                  make(float_types[type], (how + 1) % INPUT_LAYOUTS, ANY, sh), 0.0003};
                CHECK(lerp, a, UPDATE, a.a);
            }
}

// A profile counts every kernel: a new entry of the table needs its line in backend/counted.c.
static void test_every_entry_is_counted(void **state) {
    (void)state;
    const hd_backend real = *hd_be(), counted = *hd_backend_counted(hd_be());
    const char *a = (const char *)&real, *b = (const char *)&counted;
    const size_t first = offsetof(hd_backend, copy), step = sizeof real.copy;
    for (size_t at = first; at < sizeof real; at += step)
        if (at != offsetof(hd_backend, peak) && memcmp(a + at, b + at, step) == 0)
            fail_msg("entry %zu behind copy is not counted", (at - first) / step);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_copy_converts_between_all_types),
        TEST(test_copy_moves_between_all_layouts),
        TEST(test_copy_keeps_large_integers_and_special_floats),
        TEST(test_bf16_is_the_nearest_and_comes_back),
        TEST(test_fill_sets_every_element),
        TEST(test_unary_agrees_on_all_functions_and_numbers),
        TEST(test_unary_takes_every_layout),
        TEST(test_not_and_isfinite_give_bools),
        TEST(test_unary_back_needs_only_what_it_says),
        TEST(test_binary_agrees_on_all_functions),
        TEST(test_binary_broadcasts_and_takes_every_layout),
        TEST(test_binary_adds_a_channel_vector),
        TEST(test_and_and_or_combine_bools),
        TEST(test_where_chooses_bit_for_bit),
        TEST(test_reduce_agrees_over_any_last_dims),
        TEST(test_reduce_of_many_numbers_stays_accurate),
        TEST(test_extremes_take_the_first_of_equals_and_nan),
        TEST(test_all_and_any_reduce_bools),
        TEST(test_cumsum_runs_both_ways_along_any_dim),
        TEST(test_softmax_and_its_gradient_along_any_dim),
        TEST(test_index_select_and_gather_pick_bit_for_bit),
        TEST(test_index_add_and_scatter_add_sum_repeated_indices),
        TEST(test_embedding_rows_are_picked_and_added),
        TEST(test_random_numbers_are_those_of_philox),
        TEST(test_random_numbers_depend_on_their_index_alone),
        TEST(test_random_moments_are_those_asked_for),
        TEST(test_adam_steps_agree_in_both_forms),
        TEST(test_sgd_steps_agree_with_and_without_momentum),
        TEST(test_lerp_moves_towards_b),
        TEST(test_every_entry_is_counted),
    };
    hd_threads_init();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
