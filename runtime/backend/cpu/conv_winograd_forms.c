// backend/cpu/conv_winograd_forms.c: the transforms of Winograd's method, for every form (see conv_winograd.h).
// Layer: backend. Called by: conv_winograd.c, conv_winograd_dw.c. Used where x and y are channels-last.
//
// Along one dimension the points are 0, pairs +-p and infinity. What a pair shares is computed once: the values at p
// and at -p are even part + odd part and even part - odd part. All transforms below are written for any points; a form
// passes its own as constants, and the compiler unrolls every loop over them.
#include "backend/cpu/conv_winograd.h"

#define INLINE static inline __attribute__((always_inline))
#define MOST 8 // longest window in one dimension

#define SQ(a) ((a) * (a))
#define POINTS_1(A) .pairs = 1, .point = {A}, .all = {-SQ(A)}, .scale = {1 / (2 * SQ(A))}
#define POINTS_2(A, B)                                                                                                 \
    .pairs = 2, .point = {A, B}, .all = {SQ(A) * SQ(B), -SQ(A) - SQ(B)}, .others = {{-SQ(B)}, {-SQ(A)}},               \
    .scale = {1 / (2 * SQ(A) * (SQ(A) - SQ(B))), 1 / (2 * SQ(B) * (SQ(B) - SQ(A)))}
#define POINTS_3(A, B, C)                                                                                              \
    .pairs = 3, .point = {A, B, C},                                                                                    \
    .all = {-SQ(A) * SQ(B) * SQ(C), SQ(A) * SQ(B) + SQ(A) * SQ(C) + SQ(B) * SQ(C), -SQ(A) - SQ(B) - SQ(C)},            \
    .others = {{SQ(B) * SQ(C), -SQ(B) - SQ(C)}, {SQ(A) * SQ(C), -SQ(A) - SQ(C)}, {SQ(A) * SQ(B), -SQ(A) - SQ(B)}},     \
    .scale = {1 / (2 * SQ(A) * (SQ(A) - SQ(B)) * (SQ(A) - SQ(C))),                                                     \
              1 / (2 * SQ(B) * (SQ(B) - SQ(A)) * (SQ(B) - SQ(C))),                                                     \
              1 / (2 * SQ(C) * (SQ(C) - SQ(A)) * (SQ(C) - SQ(B)))}

// The points were chosen by their error (measured, relative L2): with 5/8 and 3/2 the two-dimensional form loses half
// as much to rounding as with the usual 1 and 2.
static const wino_way one = {.taps = 1, .tile = 1, .window = 1};
static const wino_way f23 = {.taps = 3, .tile = 2, .window = 4, POINTS_1(1.0f)};
static const wino_way f43 = {.taps = 3, .tile = 4, .window = 6, POINTS_2(0.625f, 1.5f)};
static const wino_way f45 = {.taps = 5, .tile = 4, .window = 8, POINTS_3(0.5f, 1.0f, 2.0f)};

// One dimension ----------------------------------------------------------------------------------------------------

// x^n, n at most 4.
INLINE float power(float x, int n) {
    return n == 0 ? 1.0f : n == 1 ? x : n == 2 ? x * x : n == 3 ? x * x * x : x * x * x * x;
}

// Points come in twos: number 0 are 0 and infinity, number k the pair k - 1. Where the values at point `side` (0 or 1)
// of two k lie; a way without pairs has but the value 0.
INLINE int place_of(const wino_way *f, int k, int side) {
    return k > 0 ? 2 * k - 1 + side : side == 0 ? 0 : f->window - 1;
}
INLINE int sides(const wino_way *f) { return f->pairs > 0 ? 2 : 1; }

// BT: the window's inputs to the values at two points.
INLINE void bt(const wino_way *f, int k, const vf *d, vf o[2]) {
    const int n = f->pairs;
    if (k == 0) {
        o[0] = d[2 * n];
        o[1] = d[f->window - 1];
        CPU_UNROLL for (int i = n - 1; i >= 0; i--) {
            o[0] += d[2 * i] * f->all[i];
            o[1] += d[2 * i + 1] * f->all[i];
        }
        return;
    }
    const float point = f->point[k - 1], *others = f->others[k - 1];
    vf even = d[2 * n], odd = d[2 * n - 1] * point;
    CPU_UNROLL for (int i = n - 2; i >= 0; i--) {
        even += d[2 * i + 2] * others[i];
        odd += d[2 * i + 1] * (others[i] * point);
    }
    o[0] = even + odd;
    o[1] = even - odd;
}

// The polynomial with the coefficients y[0] to y[n - 1] at two points, scaled at the pairs by `scale`, at 0 by `zero`.
INLINE void values_at(const wino_way *f, int k, int n, const float *scale, float zero, const vf *y, vf o[2]) {
    if (k == 0) {
        o[0] = f->pairs > 0 ? y[0] * zero : y[0];
        o[1] = y[n - 1];
        return;
    }
    const float by = scale[k - 1], point = f->point[k - 1];
    vf even = y[0] * by, odd = y[1] * (by * point);
    CPU_UNROLL for (int i = 2; i < n; i += 2) {
        even += y[i] * (by * power(point, i));
        if (i + 1 < n)
            odd += y[i + 1] * (by * power(point, i + 1));
    }
    o[0] = even + odd;
    o[1] = even - odd;
}

// o[i] = sum over the points of value * point^i, i < n, scaled as above; two after two, 0 and infinity last.
INLINE void add_powers(const wino_way *f, int k, int n, const float *scale, float zero, const vf m[2], vf *o) {
    if (k == 0) {
        o[0] = f->pairs > 0 ? o[0] + m[0] * zero : m[0];
        if (f->pairs > 0)
            o[n - 1] += m[1];
        return;
    }
    const vf even = m[0] + m[1], odd = m[0] - m[1];
    CPU_UNROLL for (int i = 0; i < n; i++) {
        const vf term = (i % 2 ? odd : even) * (scale[k - 1] * power(f->point[k - 1], i));
        o[i] = k > 1 ? o[i] + term : term;
    }
}

static const float ones[WINO_PAIRS] = {1, 1, 1};

// A: gradients of the tile's outputs to values. G: taps to values.
INLINE void a(const wino_way *f, int k, const vf *y, vf o[2]) { values_at(f, k, f->tile, ones, 1, y, o); }
INLINE void g(const wino_way *f, int k, const vf *t, vf o[2]) {
    values_at(f, k, f->taps, f->scale, 1 / f->all[0], t, o);
}
// AT: products to the tile's outputs. GT: sums of products to the gradients of the taps.
INLINE void at(const wino_way *f, int k, const vf m[2], vf *o) { add_powers(f, k, f->tile, ones, 1, m, o); }
INLINE void gt(const wino_way *f, int k, const vf s[2], vf *o) {
    add_powers(f, k, f->taps, f->scale, 1 / f->all[0], s, o);
}

// Two dimensions ---------------------------------------------------------------------------------------------------

// Each transform runs along i, then along j; all loops are unrolled. Two points at a time, so that what is between the
// two steps stays in registers.

// out(i, j, v): v = transform (bt, a, g) of in(i, j); `from` names a member of way.
#define TO_POINTS(transform, from, rows, cols, in, out)                                                                \
    CPU_UNROLL for (int k_ = 0; k_ <= (rows)->pairs; k_++) {                                                           \
        vf half_[2][MOST];                                                                                             \
        CPU_UNROLL for (int j_ = 0; j_ < (cols)->from; j_++) {                                                         \
            vf column_[MOST], two_[2];                                                                                 \
            CPU_UNROLL for (int i_ = 0; i_ < (rows)->from; i_++) column_[i_] = in(i_, j_);                             \
            transform(rows, k_, column_, two_);                                                                        \
            half_[0][j_] = two_[0];                                                                                    \
            half_[1][j_] = two_[1];                                                                                    \
        }                                                                                                              \
        CPU_UNROLL for (int s_ = 0; s_ < sides(rows); s_++) CPU_UNROLL for (int l_ = 0; l_ <= (cols)->pairs; l_++) {   \
            vf two_[2];                                                                                                \
            transform(cols, l_, half_[s_], two_);                                                                      \
            CPU_UNROLL for (int t_ = 0; t_ < sides(cols); t_++)                                                        \
                out(place_of(rows, k_, s_), place_of(cols, l_, t_), two_[t_]);                                         \
        }                                                                                                              \
    }

// The two k after those before it: 0 comes last.
INLINE int next_two(const wino_way *f, int round) { return round < f->pairs ? round + 1 : 0; }

// out(i, j, v): v = transform (at, gt) of in(i, j); `to` names a member of way.
#define FROM_POINTS(transform, to, rows, cols, in, out)                                                                \
    do {                                                                                                               \
        vf sum_[MOST][MOST];                                                                                           \
        CPU_UNROLL for (int r_ = 0; r_ <= (cols)->pairs; r_++) {                                                       \
            vf half_[2][MOST], pair_[2];                                                                               \
            const int l_ = next_two(cols, r_);                                                                         \
            CPU_UNROLL for (int t_ = 0; t_ < sides(cols); t_++)                                                        \
                CPU_UNROLL for (int q_ = 0; q_ <= (rows)->pairs; q_++) {                                               \
                const int k_ = next_two(rows, q_), j_ = place_of(cols, l_, t_);                                        \
                CPU_UNROLL for (int s_ = 0; s_ < sides(rows); s_++) pair_[s_] = in(place_of(rows, k_, s_), j_);        \
                transform(rows, k_, pair_, half_[t_]);                                                                 \
            }                                                                                                          \
            CPU_UNROLL for (int i_ = 0; i_ < (rows)->to; i_++) {                                                       \
                CPU_UNROLL for (int t_ = 0; t_ < sides(cols); t_++) pair_[t_] = half_[t_][i_];                         \
                transform(cols, l_, pair_, sum_[i_]);                                                                  \
            }                                                                                                          \
        }                                                                                                              \
        CPU_UNROLL for (int i_ = 0; i_ < (rows)->to; i_++) CPU_UNROLL for (int j_ = 0; j_ < (cols)->to; j_++)          \
            out(i_, j_, sum_[i_][j_]);                                                                                 \
    } while (0)

// Where a tile lies: its image and its first output pixel.
typedef struct {
    int64_t image, y, x;
} place;

INLINE place first_place(const wino_run *r, const wino_way *rows, const wino_way *cols) {
    const wino_tiles *t = r->tiles;
    return (place){r->first / (t->rows * t->cols), r->first / t->cols % t->rows * rows->tile,
                   r->first % t->cols * cols->tile};
}

INLINE void next_place(const wino_run *r, const wino_way *rows, const wino_way *cols, place *p) {
    p->x += cols->tile;
    if (p->x < r->tiles->cols * cols->tile)
        return;
    p->x = 0;
    p->y += rows->tile;
    if (p->y < r->tiles->rows * rows->tile)
        return;
    p->y = 0;
    p->image++;
}

// At the first tile of a run and of each row: reads the pixels of the tiles from t on to the row's end, in the order of
// their memory, and as far `below` and `right` of them as windows reach. The transforms go from row to row of pixels
// and would wait for the memory at each; of many prefetches at once the processor forgets most.
INLINE void read_row(const wino_run *r, const hd_view *v, const wino_way *rows, const wino_way *cols, const place *p,
                     int64_t t, int64_t below, int64_t right) {
    if (t > 0 && p->x > 0)
        return;
    const int64_t tiles = cpu_min(r->count - t, r->tiles->cols - p->x / cols->tile);
    const int64_t y = t > 0 && p->y > 0 ? p->y + below : p->y, x = p->x;
    const int64_t bottom = cpu_min(v->shape[2], p->y + below + rows->tile);
    const int64_t last = cpu_min(v->shape[3], x + right + tiles * cols->tile);
    const float *image = (const float *)v->data + p->image * v->strides[0] + r->channel;
    for (int64_t i = y; i < bottom; i++)
        for (int64_t j = x; j < last; j++)
            for (int64_t c = 0; c < r->channels; c += WINO_LINE)
                (void)*(const volatile float *)(image + i * v->strides[2] + j * v->strides[3] + c);
}

// pixel[i * cols + j] = the run's first channel of pixel (y + i, x + j), or `zeros` where there is none.
INLINE void find_pixels(const float **pixel, int rows, int cols, const wino_run *r, const float *zeros, int64_t image,
                        int64_t y, int64_t x) {
    const hd_view *s = r->view;
    const float *base = (const float *)s->data + image * s->strides[0] + r->channel;
    if (y >= 0 && x >= 0 && y + rows <= s->shape[2] && x + cols <= s->shape[3]) {
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < cols; j++)
                pixel[i * cols + j] = base + (y + i) * s->strides[2] + (x + j) * s->strides[3];
        return;
    }
    for (int i = 0; i < rows; i++) {
        const bool inside = y + i >= 0 && y + i < s->shape[2];
        for (int j = 0; j < cols; j++)
            pixel[i * cols + j] = inside && x + j >= 0 && x + j < s->shape[3]
                                      ? base + (y + i) * s->strides[2] + (x + j) * s->strides[3]
                                      : zeros;
    }
}

// n channels of one window.
INLINE void input_vector(const wino_way *rows, const wino_way *cols, const float *const *pixel, int64_t channel,
                         int64_t n, float *to, int64_t pitch){
#define PIXEL(i, j) vf_load_n(pixel[(i)*cols->window + (j)] + channel, n)
#define STORE(i, j, v) vf_store(to + ((i)*cols->window + (j)) * pitch + channel, v)
    TO_POINTS(bt, window, rows, cols, PIXEL, STORE)
#undef PIXEL
#undef STORE
}

INLINE void input(const wino_way *rows, const wino_way *cols, const wino_run *r, const wino_planes *planes,
                  const float *zeros) {
    const float *pixel[MOST * MOST];
    const int64_t pitch = planes->pitch;
    place p = first_place(r, rows, cols);
    for (int64_t t = 0; t < r->count; t++, next_place(r, rows, cols, &p)) {
        float *to = planes->data + t * planes->width;
        read_row(r, r->view, rows, cols, &p, t, rows->taps - 1 - r->padding[0], cols->taps - 1 - r->padding[1]);
        find_pixels(pixel, rows->window, cols->window, r, zeros, p.image, p.y - r->padding[0], p.x - r->padding[1]);
        VF_LOOP(c, n, r->channels) {
            if (n == VF_LANES)
                input_vector(rows, cols, pixel, c, VF_LANES, to, pitch);
            else
                input_vector(rows, cols, pixel, c, n, to, pitch);
        }
    }
}

// n channels of one tile of gradients.
INLINE void gradient_vector(const wino_way *rows, const wino_way *cols, const float *const *pixel, int64_t channel,
                            int64_t n, float *to, int64_t pitch){
#define PIXEL(i, j) vf_load_n(pixel[(i)*cols->tile + (j)] + channel, n)
#define STORE(i, j, v) vf_store(to + ((i)*cols->window + (j)) * pitch + channel, v)
    TO_POINTS(a, tile, rows, cols, PIXEL, STORE)
#undef PIXEL
#undef STORE
}

// The sum of n channels over `count` pixels.
INLINE vf sum_vector(const float *const *pixel, int count, int64_t channel, int64_t n) {
    vf sum = vf_load_n(pixel[0] + channel, n);
    CPU_UNROLL for (int i = 1; i < count; i++) sum += vf_load_n(pixel[i] + channel, n);
    return sum;
}

INLINE void gradient(const wino_way *rows, const wino_way *cols, const wino_run *r, const wino_planes *planes,
                     const float *zeros, float *sums) {
    const float *pixel[MOST * MOST];
    const int64_t pitch = planes->pitch;
    place p = first_place(r, rows, cols);
    for (int64_t t = 0; t < r->count; t++, next_place(r, rows, cols, &p)) {
        float *to = planes->data + t * planes->width;
        read_row(r, r->view, rows, cols, &p, t, 0, 0);
        find_pixels(pixel, rows->tile, cols->tile, r, zeros, p.image, p.y, p.x);
        VF_LOOP(c, n, r->channels) {
            if (sums)
                vf_store(sums + c, vf_load(sums + c) + sum_vector(pixel, rows->tile * cols->tile, c, n));
            if (n == VF_LANES)
                gradient_vector(rows, cols, pixel, c, VF_LANES, to, pitch);
            else
                gradient_vector(rows, cols, pixel, c, n, to, pitch);
        }
    }
}

// Pixels of one tile in memory: the first, and the distances of rows and columns.
typedef struct {
    float *first;
    int64_t row, col;
} pixels;

INLINE pixels pixels_at(const hd_view *v, const place *p, int64_t channel) {
    return (pixels){(float *)v->data + p->image * v->strides[0] + channel + p->y * v->strides[2] + p->x * v->strides[3],
                    v->strides[2], v->strides[3]};
}

// n channels from c on of one tile from the products to height x width pixels; add: NULL, or what is added to them.
INLINE void output_vector(const wino_way *rows, const wino_way *cols, const float *from, int64_t pitch, vf bias,
                          const pixels *add, const pixels *to, int64_t c, int64_t height, int64_t width, int64_t n) {
#define PRODUCT(i, j) vf_load(from + c + ((i)*cols->window + (j)) * pitch)
#define AT(p, i, j) ((p)->first + c + (i) * (p)->row + (j) * (p)->col)
#define STORE(i, j, v)                                                                                                 \
    if ((i) < height && (j) < width)                                                                                   \
    vf_store_n(AT(to, i, j), add ? (v) + bias + vf_load_n(AT(add, i, j), n) : (v) + bias, n)
    FROM_POINTS(at, tile, rows, cols, PRODUCT, STORE);
#undef PRODUCT
#undef AT
#undef STORE
}

INLINE void output(const wino_way *rows, const wino_way *cols, const wino_run *r, const wino_planes *planes,
                   const float *bias, const hd_view *add) {
    const hd_view *out = r->view;
    const int64_t pitch = planes->pitch;
    place p = first_place(r, rows, cols);
    for (int64_t t = 0; t < r->count; t++, next_place(r, rows, cols, &p)) {
        read_row(r, out, rows, cols, &p, t, 0, 0);
        if (add)
            read_row(r, add, rows, cols, &p, t, 0, 0);
        const int64_t height = cpu_min(rows->tile, out->shape[2] - p.y);
        const int64_t width = cpu_min(cols->tile, out->shape[3] - p.x);
        const bool whole = height == rows->tile && width == cols->tile;
        const float *from = planes->data + t * planes->width;
        const pixels to = pixels_at(out, &p, r->channel), other = add ? pixels_at(add, &p, r->channel) : to;
        VF_LOOP(c, n, r->channels) {
            const vf b = bias ? vf_load_n(bias + c, n) : (vf){0};
            if (whole && n == VF_LANES) // most tiles, with nothing to ask in them
                output_vector(rows, cols, from, pitch, b, add ? &other : NULL, &to, c, rows->tile, cols->tile,
                              VF_LANES);
            else
                output_vector(rows, cols, from, pitch, b, add ? &other : NULL, &to, c, height, width, n);
        }
    }
}

INLINE void weights(const wino_way *rows, const wino_way *cols, float taps[][WINO_WEIGHT_ROWS * VF_LANES],
                    int64_t count, float *to, int64_t width, int64_t pitch) {
    for (int64_t i = 0; i < count; i++) {
#define TAP(y, x) vf_load(&taps[(y)*cols->taps + (x)][i * VF_LANES])
#define STORE(y, x, v) vf_store(to + ((y)*cols->window + (x)) * pitch + i * width, v)
        TO_POINTS(g, taps, rows, cols, TAP, STORE)
#undef TAP
#undef STORE
    }
}

// n outputs of one tap, to channels that lie `stride` apart.
INLINE void store_taps(float *to, int64_t stride, vf v, int64_t n) {
    if (stride == 1)
        vf_store_n(to, v, n);
    else
        for (int64_t l = 0; l < n; l++)
            to[l * stride] = v[l];
}

INLINE void finish(const wino_way *rows, const wino_way *cols, const float *sums, int64_t pitch, float *to,
                   const int64_t strides[3], int64_t outs) {
    VF_LOOP(k, n, outs) {
#define SUM(i, j) vf_load(sums + k + ((i)*cols->window + (j)) * pitch)
#define STORE(i, j, v) store_taps(to + k * strides[0] + (i)*strides[1] + (j)*strides[2], strides[0], v, n)
        FROM_POINTS(gt, taps, rows, cols, SUM, STORE);
#undef SUM
#undef STORE
    }
}

// Forms ------------------------------------------------------------------------------------------------------------

#define FORM(NAME, ROWS, COLS, STRICT)                                                                                 \
    static void NAME##_input(const wino_run *r, const wino_planes *planes, const float *zeros) {                       \
        input(&ROWS, &COLS, r, planes, zeros);                                                                         \
    }                                                                                                                  \
    static void NAME##_output(const wino_run *r, const wino_planes *planes, const float *bias, const hd_view *add) {   \
        if (add)                                                                                                       \
            output(&ROWS, &COLS, r, planes, bias, add);                                                                \
        else                                                                                                           \
            output(&ROWS, &COLS, r, planes, bias, NULL);                                                               \
    }                                                                                                                  \
    static void NAME##_gradient(const wino_run *r, const wino_planes *planes, const float *zeros, float *sums) {       \
        gradient(&ROWS, &COLS, r, planes, zeros, sums);                                                                \
    }                                                                                                                  \
    static void NAME##_weights(float taps[][WINO_WEIGHT_ROWS * VF_LANES], int64_t count, float *to, int64_t width,     \
                               int64_t pitch) {                                                                        \
        weights(&ROWS, &COLS, taps, count, to, width, pitch);                                                          \
    }                                                                                                                  \
    static void NAME##_finish(const float *sums, int64_t pitch, float *to, const int64_t strides[3], int64_t outs) {   \
        finish(&ROWS, &COLS, sums, pitch, to, strides, outs);                                                          \
    }                                                                                                                  \
    const wino_form NAME = {&ROWS,         &COLS,           STRICT,         NAME##_input,                              \
                            NAME##_output, NAME##_gradient, NAME##_weights, NAME##_finish};

FORM(wino_4x4_3x3, f43, f43, false)
FORM(wino_2x2_3x3, f23, f23, true)
FORM(wino_1x4_1x5, one, f45, false)
FORM(wino_1x4_1x3, one, f43, false)
FORM(wino_1x2_1x3, one, f23, true)
