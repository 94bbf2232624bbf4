// tests/c/test_backend_layers.c: products, convolution, norms, attention, resizing and pooling of `cpu` against `ref`.
#include "compare.h"

static void check_matmul(hd_dtype type, layout a_how, layout b_how, layout c_how, shape a_shape, int64_t n) {
    shape b_shape = a_shape, c_shape = a_shape;
    const int last = a_shape.ndim - 1;
    b_shape.extent[last - 1] = a_shape.extent[last];
    b_shape.extent[last] = c_shape.extent[last] = n;
    begin("[.., %d, %d] x %d, %s and %s to %s", (int)a_shape.extent[last - 1], (int)a_shape.extent[last], (int)n,
          layout_names[a_how], layout_names[b_how], layout_names[c_how]);
    hd_matmul_args args = {.a = make(type, a_how, ANY, a_shape),
                           .b = make(type, b_how, ANY, b_shape),
                           .c = make(type, c_how, ANY, c_shape)};
    // operands that repeat a number give one sum of k again and again: it may be near 0, and its errors do not average
    const int64_t k = a_shape.extent[last];
    const bool repeats = a_how >= LAYOUTS || b_how >= LAYOUTS;
    const limits most = {repeats ? 1e-5 : k > 1000 ? 1e-6 : 5e-7, 1e-13, repeats ? sqrt((double)k) : 0};
    CHECK(matmul, args, most, args.c);
    if (last == 1) { // a linear layer's product, and its gradient's
        args.bias = make(type, c_how == GAPS ? GAPS : ROW_MAJOR, ANY, SHAPE(n));
        args.sums = make(type, c_how == GAPS ? GAPS : ROW_MAJOR, ANY, SHAPE(a_shape.extent[0]));
        CHECK(matmul, args, ((limits){most.f32, most.f64, fmax(1, most.least)}), args.c, args.sums);
    }
}

static const struct {
    shape a;
    int64_t n;
} products[] = {
    {{2, {1, 1}}, 1},       {{2, {7, 5}}, 3},     {{2, {1, 64}}, 100},      {{2, {64, 1}}, 33},
    {{2, {67, 129}}, 1},    {{2, {0, 5}}, 3},     {{2, {4, 0}}, 6},         {{2, {31, 37}}, 41},
    {{3, {5, 17, 19}}, 23}, {{3, {0, 4, 4}}, 4},  {{3, {2, 64, 48}}, 80},   {{4, {2, 3, 9, 16}}, 9},
    {{2, {3, 1500}}, 5},    {{2, {1000, 3}}, 70}, {{4, {2, 1, 33, 8}}, 65},
};

static void test_matmul_agrees_on_odd_batched_and_empty_shapes(void **state) {
    (void)state;
    for (int type = 0; type < COUNT(float_types); type++)
        for (int p = 0; p < COUNT(products); p++)
            check_matmul(float_types[type], ROW_MAJOR, ROW_MAJOR, ROW_MAJOR, products[p].a, products[p].n);
}

static void test_matmul_takes_transposed_strided_and_broadcast_operands(void **state) {
    (void)state;
    for (int type = 0; type < COUNT(float_types); type++)
        for (int p = 0; p < COUNT(products); p++)
            for (layout a_how = 0; a_how < INPUT_LAYOUTS; a_how++)
                for (layout b_how = 0; b_how < INPUT_LAYOUTS; b_how++)
                    check_matmul(float_types[type], a_how, b_how, (a_how + b_how) % LAYOUTS, products[p].a,
                                 products[p].n);
}

static void test_matmul_agrees_on_large_products(void **state) {
    (void)state;
    for (int type = 0; type < COUNT(float_types); type++) {
        check_matmul(float_types[type], ROW_MAJOR, ROW_MAJOR, ROW_MAJOR, SHAPE(300, 517), 201);
        check_matmul(float_types[type], TRANSPOSED, ROW_MAJOR, ROW_MAJOR, SHAPE(129, 1030), 66);
        check_matmul(float_types[type], ROW_MAJOR, TRANSPOSED, ROW_MAJOR, SHAPE(512, 64), 256);
        check_matmul(float_types[type], TRANSPOSED, TRANSPOSED, TRANSPOSED, SHAPE(100, 200), 300);
        check_matmul(float_types[type], ROW_MAJOR, SPREAD_ROWS, ROW_MAJOR, SHAPE(12, 64, 32), 48);
    }
}

// A convolution by its sizes; the output's follow.
typedef struct {
    int n, c, h, w, k, r, s;
    int stride[2], padding[2], dilation[2], groups;
} conv_case;

static const conv_case convs[] = {
    // n   c   h   w   k  r  s  stride  padding dilation groups
    {1, 1, 1, 1, 1, 1, 1, {1, 1}, {0, 0}, {1, 1}, 1},     // one number
    {2, 3, 5, 7, 4, 1, 1, {1, 1}, {0, 0}, {1, 1}, 1},     // 1x1
    {2, 64, 8, 8, 33, 1, 1, {1, 1}, {0, 0}, {1, 1}, 1},   // 1x1, many channels
    {2, 16, 9, 9, 8, 1, 1, {2, 2}, {0, 0}, {1, 1}, 1},    // 1x1, strided
    {2, 3, 16, 16, 32, 3, 3, {1, 1}, {1, 1}, {1, 1}, 1},  // first layer
    {2, 32, 16, 16, 3, 3, 3, {1, 1}, {1, 1}, {1, 1}, 1},  // last layer
    {2, 32, 16, 16, 48, 3, 3, {1, 1}, {1, 1}, {1, 1}, 1}, // 3x3
    {1, 17, 13, 11, 19, 3, 3, {1, 1}, {1, 1}, {1, 1}, 1}, // 3x3, odd
    {2, 5, 6, 5, 7, 3, 3, {1, 1}, {0, 0}, {1, 1}, 1},     // 3x3 without padding
    {2, 5, 3, 3, 7, 3, 3, {1, 1}, {0, 0}, {1, 1}, 1},     // window = input
    {2, 4, 4, 4, 5, 3, 3, {1, 1}, {2, 2}, {1, 1}, 1},     // more padding than "same"
    {1, 4, 2, 2, 5, 3, 3, {1, 1}, {1, 1}, {1, 1}, 1},     // image smaller than the window
    {2, 16, 16, 16, 24, 3, 3, {2, 2}, {1, 1}, {1, 1}, 1}, // 3x3, stride 2
    {2, 16, 15, 17, 24, 3, 3, {2, 2}, {1, 1}, {1, 1}, 1}, // the same, odd
    {2, 6, 12, 12, 8, 3, 3, {2, 1}, {1, 0}, {1, 1}, 1},   // stride and padding differ
    {2, 6, 13, 13, 8, 3, 3, {3, 3}, {0, 0}, {1, 1}, 1},   // stride 3
    {2, 8, 10, 10, 8, 5, 5, {1, 1}, {2, 2}, {1, 1}, 1},   // 5x5
    {1, 3, 16, 16, 24, 4, 4, {4, 4}, {0, 0}, {1, 1}, 1},  // patches
    {1, 3, 10, 10, 24, 4, 4, {2, 2}, {1, 1}, {1, 1}, 1},  // 4x4, stride 2
    {1, 4, 9, 9, 4, 2, 2, {3, 3}, {0, 0}, {1, 1}, 1},     // stride beyond the window
    {2, 4, 12, 12, 6, 3, 3, {1, 1}, {2, 2}, {2, 2}, 1},   // dilated
    {1, 4, 12, 14, 6, 3, 2, {2, 1}, {1, 2}, {1, 3}, 1},   // everything differs
    {2, 12, 9, 9, 8, 3, 3, {1, 1}, {1, 1}, {1, 1}, 4},    // groups
    {2, 16, 9, 9, 16, 3, 3, {1, 1}, {1, 1}, {1, 1}, 16},  // depthwise
    {2, 8, 9, 9, 16, 3, 3, {2, 2}, {1, 1}, {1, 1}, 8},    // depthwise, two outputs each, stride 2
    {2, 85, 9, 7, 85, 5, 5, {2, 1}, {2, 4}, {1, 2}, 85},  // depthwise, everything differs
    {2, 67, 1, 40, 67, 1, 4, {1, 2}, {0, 1}, {1, 1}, 67}, // depthwise, 1-D
    {1, 6, 8, 8, 6, 1, 1, {1, 1}, {0, 0}, {1, 1}, 2},     // 1x1, groups
    {2, 8, 1, 50, 16, 1, 3, {1, 1}, {0, 1}, {1, 1}, 1},   // 1-D
    {2, 8, 1, 51, 16, 1, 4, {1, 2}, {0, 1}, {1, 1}, 1},   // 1-D, stride 2
    {1, 4, 1, 64, 4, 1, 7, {1, 1}, {0, 6}, {1, 2}, 1},    // 1-D, dilated
    {0, 3, 8, 8, 4, 3, 3, {1, 1}, {1, 1}, {1, 1}, 1},     // empty batch
    {9, 8, 8, 8, 8, 3, 3, {1, 1}, {1, 1}, {1, 1}, 1},     // many small images
    {1, 128, 8, 8, 130, 3, 3, {1, 1}, {1, 1}, {1, 1}, 1}, // deep
    {1, 8, 40, 40, 16, 3, 3, {1, 1}, {1, 1}, {1, 1}, 1},  // wide
};

static int64_t conv_extent(const conv_case *c, int axis) {
    const int in = axis ? c->w : c->h, window = axis ? c->s : c->r;
    return (in + 2 * c->padding[axis] - c->dilation[axis] * (window - 1) - 1) / c->stride[axis] + 1;
}

static hd_conv_args conv_args(const conv_case *c, hd_dtype type, layout x_how, layout w_how, layout y_how, bool bias) {
    begin("%dx%d window, %d to %d channels, stride %d %d, padding %d %d, dilation %d %d, groups %d, x %s, w %s, y %s",
          c->r, c->s, c->c, c->k, c->stride[0], c->stride[1], c->padding[0], c->padding[1], c->dilation[0],
          c->dilation[1], c->groups, layout_names[x_how], layout_names[w_how], layout_names[y_how]);
    hd_conv_args a = {.x = make(type, x_how, ANY, SHAPE(c->n, c->c, c->h, c->w)),
                      .w = make(type, w_how, ANY, SHAPE(c->k, c->c / c->groups, c->r, c->s)),
                      .y = make(type, y_how, ANY, SHAPE(c->n, c->k, conv_extent(c, 0), conv_extent(c, 1))),
                      .groups = c->groups};
    if (bias)
        a.b = make(type, ROW_MAJOR, ANY, SHAPE(c->k));
    for (int i = 0; i < 2; i++) {
        a.stride[i] = c->stride[i];
        a.padding[i] = c->padding[i];
        a.dilation[i] = c->dilation[i];
    }
    return a;
}

// 3x3, 1x3 and 1x5 convolutions of enough channels go by Winograd's method where data is channels-last; with strict
// accuracy by its smaller tiles, which keep to the limit of everything else.
static limits conv_limits(const conv_case *c, const hd_conv_args *a) {
    const bool tiled = c->c >= 16 && c->k >= 16 && c->stride[0] == 1 && c->stride[1] == 1 &&
                       (c->r == 3 ? c->s == 3 : c->r == 1 && (c->s == 3 || c->s == 5));
    return tiled && !hd_accuracy_strict && c->groups == 1 && a->x.strides[1] == 1 && a->y.strides[1] == 1 ? WINOGRAD
                                                                                                          : FORWARD;
}

static void check_conv(const conv_case *c, hd_dtype type, layout x_how, layout w_how, layout y_how, bool bias) {
    hd_conv_args a = conv_args(c, type, x_how, w_how, y_how, bias);
    CHECK(conv, a, conv_limits(c, &a), a.y);
    CHECK(conv_dx, a, conv_limits(c, &a), a.x);
    CHECK(conv_dw, a, conv_limits(c, &a), a.w, a.b);
}

static void test_conv_and_gradients_agree_in_channels_last(void **state) {
    (void)state;
    for (int type = 0; type < COUNT(float_types); type++)
        for (int c = 0; c < COUNT(convs); c++) {
            check_conv(&convs[c], float_types[type], CHANNELS_LAST, TAPS_FIRST, CHANNELS_LAST, true);
            check_conv(&convs[c], float_types[type], CHANNELS_LAST, ROW_MAJOR, CHANNELS_LAST, false);
        }
}

// Convolutions with enough channels for tiles of 4x4, 2x2, 1x4 or 1x2 outputs: tiles cut off at the edges, channels
// that do not fill vectors or panels, one block of tiles and several, padding that differs; images smaller than a tile.
static const conv_case tiled_convs[] = {
    {1, 16, 7, 7, 16, 3, 3, {1, 1}, {1, 1}, {1, 1}, 1},   {2, 17, 9, 13, 20, 3, 3, {1, 1}, {0, 0}, {1, 1}, 1},
    {1, 20, 13, 9, 17, 3, 3, {1, 1}, {2, 2}, {1, 1}, 1},  {1, 48, 33, 33, 64, 3, 3, {1, 1}, {1, 1}, {1, 1}, 1},
    {1, 64, 13, 33, 48, 3, 3, {1, 1}, {0, 2}, {1, 1}, 1}, {3, 64, 9, 7, 64, 3, 3, {1, 1}, {2, 1}, {1, 1}, 1},
    {5, 16, 33, 33, 20, 3, 3, {1, 1}, {1, 1}, {1, 1}, 1}, {2, 130, 8, 8, 200, 3, 3, {1, 1}, {1, 1}, {1, 1}, 1},
    {2, 16, 8, 8, 16, 3, 3, {1, 1}, {0, 0}, {1, 1}, 1},   {2, 16, 6, 9, 16, 3, 3, {1, 1}, {1, 1}, {1, 1}, 1},
    {3, 32, 1, 64, 32, 1, 5, {1, 1}, {0, 2}, {1, 1}, 1},  {2, 17, 1, 131, 20, 1, 5, {1, 1}, {0, 4}, {1, 1}, 1},
    {1, 130, 1, 9, 70, 1, 5, {1, 1}, {0, 0}, {1, 1}, 1},  {2, 16, 3, 30, 16, 1, 5, {1, 1}, {0, 1}, {1, 1}, 1},
    {3, 32, 1, 65, 48, 1, 3, {1, 1}, {0, 1}, {1, 1}, 1},  {2, 19, 2, 7, 16, 1, 3, {1, 1}, {0, 2}, {1, 1}, 1},
    {7, 48, 4, 4, 64, 3, 3, {1, 1}, {1, 1}, {1, 1}, 1},   {9, 64, 5, 5, 32, 3, 3, {1, 1}, {1, 1}, {1, 1}, 1},
    {3, 18, 6, 5, 40, 3, 3, {1, 1}, {2, 0}, {1, 1}, 1},   {5, 16, 2, 2, 16, 3, 3, {1, 1}, {1, 1}, {1, 1}, 1},
    {4, 33, 1, 2, 16, 1, 5, {1, 1}, {0, 2}, {1, 1}, 1},   {2, 16, 1, 1, 16, 3, 3, {1, 1}, {1, 1}, {1, 1}, 1},
};

static void test_conv_in_tiles_agrees(void **state) {
    (void)state;
    for (int c = 0; c < COUNT(tiled_convs); c++) {
        check_conv(&tiled_convs[c], HD_F32, CHANNELS_LAST, TAPS_FIRST, CHANNELS_LAST, true);
        check_conv(&tiled_convs[c], HD_F32, CHANNELS_LAST, c % 2 ? FLIPPED : GAPS, CHANNELS_LAST, false);
    }
}

static void test_conv_is_more_exact_if_strict(void **state) {
    (void)state;
    hd_accuracy_select("strict");
    for (int c = 0; c < COUNT(tiled_convs); c++)
        check_conv(&tiled_convs[c], HD_F32, CHANNELS_LAST, TAPS_FIRST, CHANNELS_LAST, true);
    hd_accuracy_select("fast");
}

static void test_conv_and_gradients_agree_in_row_major(void **state) {
    (void)state;
    for (int type = 0; type < COUNT(float_types); type++)
        for (int c = 0; c < COUNT(convs); c++)
            check_conv(&convs[c], float_types[type], ROW_MAJOR, ROW_MAJOR, ROW_MAJOR, true);
}

static void test_conv_and_gradients_take_every_layout(void **state) {
    (void)state;
    for (int type = 0; type < COUNT(float_types); type++)
        for (int c = 0; c < COUNT(convs); c++)
            for (layout how = 0; how < LAYOUTS; how++)
                check_conv(&convs[c], float_types[type], how, (how + 1) % LAYOUTS, (how + c) % LAYOUTS, how % 2);
}

static void test_conv_reads_broadcast_gradients(void **state) {
    (void)state;
    for (int type = 0; type < COUNT(float_types); type++)
        for (int c = 0; c < COUNT(convs); c++) {
            hd_conv_args a = conv_args(&convs[c], float_types[type], CHANNELS_LAST, TAPS_FIRST, SPREAD_ALL, true);
            const limits dx_most = {2e-6, 1e-13, sqrt((double)convs[c].k * convs[c].r * convs[c].s)};
            const limits dw_most = {5e-6, 1e-13, sqrt((double)convs[c].n * convs[c].h * convs[c].w)};
            CHECK(conv_dx, a, dx_most, a.x);
            CHECK(conv_dw, a, dw_most, a.w, a.b);
        }
}

typedef struct {
    int n, c, p, groups;
} norm_case;

static const norm_case norms[] = {
    {1, 1, 1, 1},   {2, 4, 9, 2},     {3, 32, 64, 8},  {2, 64, 1, 1},    {7, 13, 1, 1},  {2, 6, 5, 6},
    {1, 128, 1, 1}, {2, 40, 289, 10}, {0, 8, 4, 2},    {2, 30, 7, 3},    {5, 512, 1, 1}, {1, 32, 1024, 32},
    {2, 96, 33, 8}, {64, 64, 1, 1},   {4, 33, 100, 1}, {2, 128, 64, 32},
};

static void check_norm(const norm_case *c, hd_dtype type, layout how, int form) {
    const bool affine = form % 2, rms = form & 4;
    const hd_activation act = form & 2 ? HD_ACT_SILU : HD_ACT_NONE;
    const shape data = SHAPE(c->n, c->c, c->p), per_group = SHAPE(c->n, c->groups);
    begin("n %d, c %d, p %d, groups %d, %s, affine %d, act %d, rms %d", c->n, c->c, c->p, c->groups, layout_names[how],
          affine, act, rms);
    hd_norm_args a = {.x = make(type, how, POSITIVE, data), // a mean far from 0
                      .y = make(type, how, ANY, data),
                      .mean = make(type, ROW_MAJOR, ANY, per_group),
                      .rstd = make(type, ROW_MAJOR, ANY, per_group),
                      .groups = c->groups,
                      .eps = 1e-5,
                      .act = act,
                      .rms = rms};
    if (affine) {
        a.w = make(type, ROW_MAJOR, ANY, SHAPE(c->c));
        a.b = make(type, ROW_MAJOR, ANY, SHAPE(c->c));
    }
    CHECK(norm, a, FORWARD, a.y, a.mean, a.rstd);

    assert_int_equal(hd_backend_ref.norm(&a), HD_OK);
    hd_norm_back_args b = {.x = a.x, .w = a.w, .b = a.b, .mean = a.mean, .rstd = a.rstd, .groups = c->groups};
    b.act = act;
    b.rms = rms;
    b.dy = make(type, how, ANY, data);
    b.dx = make(type, how, ANY, data);
    if (affine) {
        b.dw = make(type, ROW_MAJOR, ANY, SHAPE(c->c));
        b.db = make(type, ROW_MAJOR, ANY, SHAPE(c->c));
    }
    // a run of one number has no gradient but rounding, times rstd = 1 / sqrt(eps)
    const limits gradient = {5e-7, 1e-13, data.extent[1] * data.extent[2] > c->groups ? 0 : 1 / sqrt(a.eps)};
    CHECK(norm_back, b, gradient, b.dx, b.dw, b.db);
    b.add = make(type, how, ANY, data);
    CHECK(norm_back, b, gradient, b.dx, b.dw, b.db);
    b.dx.data = NULL;
    if (affine)
        CHECK(norm_back, b, gradient, b.dx, b.dw, b.db);
}

static void test_norm_and_gradients_agree_in_every_form(void **state) {
    (void)state;
    for (int type = 0; type < COUNT(float_types); type++)
        for (int c = 0; c < COUNT(norms); c++)
            for (int form = 0; form < 8; form++)
                for (layout how = ROW_MAJOR; how <= CHANNELS_LAST; how++)
                    check_norm(&norms[c], float_types[type], how, form);
}

static void test_norm_takes_every_layout(void **state) {
    (void)state;
    for (int type = 0; type < COUNT(float_types); type++)
        for (int c = 0; c < COUNT(norms); c++)
            for (layout how = TRANSPOSED; how < LAYOUTS; how++)
                check_norm(&norms[c], float_types[type], how, (int)how % 4);
}

static const struct {
    int n, h, tq, tk, d, e;
} attentions[] = {
    {1, 1, 1, 1, 1, 1}, {2, 2, 5, 7, 4, 3},    {1, 4, 64, 64, 32, 32}, {2, 1, 1, 100, 16, 16},   {1, 2, 33, 1, 8, 8},
    {0, 2, 4, 4, 8, 8}, {1, 3, 65, 130, 5, 9}, {2, 8, 16, 77, 40, 40}, {1, 1, 257, 257, 64, 64},
};

static void check_attention(int i, hd_dtype type, layout how, double scale) {
    const int n = attentions[i].n, h = attentions[i].h, tq = attentions[i].tq, tk = attentions[i].tk;
    const int d = attentions[i].d, e = attentions[i].e;
    const layout inner = how == CHANNELS_LAST ? ROW_MAJOR : how;
    // An error of a logit is a relative error of its weight, so large logits (root mean square 4/3 scale sqrt(d))
    // count. With one key the weights are constant: dq and dk are rounding alone. Backward, logits' gradients are
    // differences: at the usual scale 6.1e-7 is measured over 257 keys, more where weights are nearly one or zero.
    const double sharpness = fmax(1, scale * sqrt(d));
    const limits forward = {5e-7 * sharpness, 1e-13 * sharpness, 0};
    const limits gradient = {(sharpness > 1 || tk == 1 ? 2e-6 : 8e-7) * sharpness, 1e-13 * sharpness, tk > 1 ? 0 : 1};
    begin("tq %d, tk %d, d %d, e %d, scale %g, %s", tq, tk, d, e, scale, layout_names[how]);
    hd_attention_args a = {.q = make(type, how, ANY, SHAPE(n, h, tq, d)),
                           .k = make(type, how, ANY, SHAPE(n, h, tk, d)),
                           .v = make(type, inner, ANY, SHAPE(n, h, tk, e)),
                           .o = make(type, inner, ANY, SHAPE(n, h, tq, e)),
                           .lse = make(type, ROW_MAJOR, ANY, SHAPE(n, h, tq)),
                           .scale = scale};
    CHECK(attention, a, forward, a.o, a.lse);

    assert_int_equal(hd_backend_ref.attention(&a), HD_OK);
    hd_attention_back_args b = {.q = a.q, .k = a.k, .v = a.v, .o = a.o, .lse = a.lse, .scale = scale};
    b.do_ = make(type, inner, ANY, SHAPE(n, h, tq, e));
    b.dq = make(type, how, ANY, SHAPE(n, h, tq, d));
    b.dk = make(type, how, ANY, SHAPE(n, h, tk, d));
    b.dv = make(type, inner, ANY, SHAPE(n, h, tk, e));
    CHECK(attention_back, b, gradient, b.dq, b.dk, b.dv);
}

static void test_attention_and_gradients_agree(void **state) {
    (void)state;
    for (int type = 0; type < COUNT(float_types); type++)
        for (int i = 0; i < COUNT(attentions); i++)
            for (layout how = 0; how < LAYOUTS; how++) {
                check_attention(i, float_types[type], how, 1 / sqrt(attentions[i].d));
                check_attention(i, float_types[type], how, 1.5);
            }
}

static const struct {
    int h, w, oh, ow;
} sizes[] = {{1, 1, 1, 1}, {4, 4, 8, 8},  {8, 8, 4, 4},   {5, 7, 13, 3}, {1, 1, 6, 5},
             {6, 5, 1, 1}, {1, 9, 1, 18}, {16, 16, 7, 9}, {3, 4, 3, 4},  {10, 10, 32, 32}};

static void test_resize_and_its_gradient_agree(void **state) {
    (void)state;
    for (int type = 0; type < COUNT(float_types); type++)
        for (int i = 0; i < COUNT(sizes); i++)
            for (int form = 0; form < 3; form++)
                for (layout how = 0; how < LAYOUTS; how++)
                    for (int channels = 1; channels <= 37; channels += 36) {
                        begin("%dx%d to %dx%d, form %d, x %s", sizes[i].h, sizes[i].w, sizes[i].oh, sizes[i].ow, form,
                              layout_names[how]);
                        hd_resize_args a = {
                            .x = make(float_types[type], how, ANY, SHAPE(2, channels, sizes[i].h, sizes[i].w)),
                            .y = make(float_types[type], form ? how : ROW_MAJOR, ANY,
                                      SHAPE(2, channels, sizes[i].oh, sizes[i].ow)),
                            .mode = form ? HD_BILINEAR : HD_NEAREST,
                            .align_corners = form == 2};
                        CHECK(resize, a, FORWARD, a.y);
                        CHECK(resize_back, a, GRADIENT, a.x);
                    }
}

static const struct {
    int h, w, kernel[2], stride[2], padding[2];
} pools[] = {
    {1, 1, {1, 1}, {1, 1}, {0, 0}},  {8, 8, {2, 2}, {2, 2}, {0, 0}}, {9, 7, {2, 2}, {2, 2}, {0, 0}},
    {9, 7, {3, 3}, {2, 2}, {1, 1}},  {6, 6, {3, 3}, {1, 1}, {1, 1}}, {5, 12, {2, 3}, {1, 2}, {1, 0}},
    {1, 16, {1, 4}, {1, 4}, {0, 0}}, {4, 4, {4, 4}, {4, 4}, {0, 0}}, {7, 7, {1, 1}, {3, 3}, {0, 0}},
};

static void check_pool(int i, hd_dtype type, hd_pool_mode mode, layout how, numbers kind, int channels) {
    int64_t out[2];
    for (int axis = 0; axis < 2; axis++) {
        const int in = axis ? pools[i].w : pools[i].h;
        out[axis] = (in + 2 * pools[i].padding[axis] - pools[i].kernel[axis]) / pools[i].stride[axis] + 1;
    }
    const shape pooled = SHAPE(2, channels, out[0], out[1]);
    begin("pool %d, mode %d, %s, numbers %d", i, mode, layout_names[how], kind);
    hd_pool_args a = {.x = make(type, how, kind, SHAPE(2, channels, pools[i].h, pools[i].w)),
                      .y = make(type, how, ANY, pooled),
                      .mode = mode,
                      .kernel = {pools[i].kernel[0], pools[i].kernel[1]},
                      .stride = {pools[i].stride[0], pools[i].stride[1]},
                      .padding = {pools[i].padding[0], pools[i].padding[1]}};
    if (mode == HD_POOL_MAX)
        a.idx = make(HD_I64, how, TIES, pooled);
    CHECK(pool, a, FORWARD, a.y, a.idx);
    assert_int_equal(hd_backend_ref.pool(&a), HD_OK);
    a.y = make(type, how, ANY, pooled);
    a.x = make(type, how, ANY, SHAPE(2, channels, pools[i].h, pools[i].w));
    CHECK(pool_back, a, GRADIENT, a.x);
}

static void test_pools_and_gradients_agree(void **state) {
    (void)state;
    for (int type = 0; type < COUNT(float_types); type++)
        for (int i = 0; i < COUNT(pools); i++)
            for (layout how = 0; how < LAYOUTS; how++)
                for (int channels = 1; channels <= 37; channels += 36) {
                    check_pool(i, float_types[type], HD_POOL_AVG, how, ANY, channels);
                    check_pool(i, float_types[type], HD_POOL_MAX, how, ANY, channels);
                }
}

static void test_max_pool_takes_the_first_of_equals_and_nan(void **state) {
    (void)state;
    for (int type = 0; type < COUNT(float_types); type++)
        for (int i = 0; i < COUNT(pools); i++)
            for (layout how = ROW_MAJOR; how <= CHANNELS_LAST; how++) {
                check_pool(i, float_types[type], HD_POOL_MAX, how, TIES, 17);
                check_pool(i, float_types[type], HD_POOL_MAX, how, SPECIAL, 17);
            }
}

// The oracle itself: hand-made numbers, so that cpu and ref cannot be wrong together.
static void test_conv_gives_the_worked_example(void **state) {
    static float x[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9}, w[4] = {1, 0, 0, -1}, b[1] = {10}, y[4], dx[9], dw[4], db[1];
    static const float want_y[4] = {6, 6, 6, 6}, want_dx[9] = {6, 6, 0, 6, 0, -6, 0, -6, -6};
    static const float want_dw[4] = {72, 96, 144, 168};
    const hd_backend *both[] = {hd_be(), &hd_backend_ref};
    (void)state;
    for (int i = 0; i < COUNT(both); i++) {
        hd_conv_args a = {.x = {x, HD_F32, 4, {1, 1, 3, 3}, {9, 9, 3, 1}},
                          .w = {w, HD_F32, 4, {1, 1, 2, 2}, {4, 4, 2, 1}},
                          .b = {b, HD_F32, 1, {1}, {1}},
                          .y = {y, HD_F32, 4, {1, 1, 2, 2}, {4, 4, 2, 1}},
                          .stride = {1, 1},
                          .dilation = {1, 1},
                          .groups = 1};
        assert_int_equal(both[i]->conv(&a), HD_OK);
        assert_memory_equal(y, want_y, sizeof y);
        a.x.data = dx;
        assert_int_equal(both[i]->conv_dx(&a), HD_OK);
        assert_memory_equal(dx, want_dx, sizeof dx);
        a.x.data = x;
        a.w.data = dw;
        a.b.data = db;
        assert_int_equal(both[i]->conv_dw(&a), HD_OK);
        assert_memory_equal(dw, want_dw, sizeof dw);
        assert_float_equal(db[0], 24, 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_matmul_agrees_on_odd_batched_and_empty_shapes),
        TEST(test_matmul_takes_transposed_strided_and_broadcast_operands),
        TEST(test_matmul_agrees_on_large_products),
        TEST(test_conv_gives_the_worked_example),
        TEST(test_conv_and_gradients_agree_in_channels_last),
        TEST(test_conv_in_tiles_agrees),
        TEST(test_conv_is_more_exact_if_strict),
        TEST(test_conv_and_gradients_agree_in_row_major),
        TEST(test_conv_and_gradients_take_every_layout),
        TEST(test_conv_reads_broadcast_gradients),
        TEST(test_norm_and_gradients_agree_in_every_form),
        TEST(test_norm_takes_every_layout),
        TEST(test_attention_and_gradients_agree),
        TEST(test_resize_and_its_gradient_agree),
        TEST(test_pools_and_gradients_agree),
        TEST(test_max_pool_takes_the_first_of_equals_and_nan),
    };
    hd_threads_init();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
