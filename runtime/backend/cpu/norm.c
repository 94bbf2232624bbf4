// backend/cpu/norm.c: group norm on [n, c, p], and its row case p = 1 (layer norm, RMS norm), with an optional SiLU.
// Layer: backend. Three ways, chosen by layout:
//   channels  f32, channels fastest in memory: a task is one image and a block of whole groups; sums per channel
//   rows      f32, p = 1, channels fastest: a task is a block of rows
//   any       any strides, f32 and f64: scalar, sums in double
// With xhat = (x - mean) rstd, z = xhat w + b, y = act(z), dz = dy act'(z) and m = elements of a group:
//   db = sum dz, dw = sum dz xhat, dx = rstd (w dz - sum(w dz) / m - xhat sum(w dz xhat) / m).
// Threads: tasks depend on shapes alone; dw and db are partial sums of each task, added in the order of the tasks.
#include "backend/cpu/simd.h"

enum { ROWS = 16 }; // positions whose sums stay in float before they go to double; their successors are fetched ahead

// Columns of vectors across c channels: `call` gets i and `count`, which is the constant VF_LANES in all but the last,
// so that what it inlines has no branches for the rest.
#define NORM_INLINE static inline __attribute__((always_inline))
#define FOR_COLUMNS(i, count, c, call)                                                                                 \
    for (int64_t i = 0; i < (c); i += VF_LANES) {                                                                      \
        if ((c)-i >= VF_LANES) {                                                                                       \
            enum { count = VF_LANES };                                                                                 \
            call;                                                                                                      \
        } else {                                                                                                       \
            const int64_t count = (c)-i;                                                                               \
            call;                                                                                                      \
        }                                                                                                              \
    }

static inline vf silu_slope(vf z) {
    const vf s = vf_sigmoid(z);
    return s + z * (s - s * s);
}

static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

// How a tensor is cut into tasks: blocks of channels, image after image.
typedef struct {
    int64_t block, blocks, tasks; // channels of a block (of the last: what is left); blocks of an image; of all images
} cutting;

// A block is whole groups and whole vectors, 64 channels or more.
static cutting cut_channels(const hd_view *x, int64_t groups) {
    const int64_t c = x->shape[1];
    int64_t step = c / groups;
    while (step % VF_LANES != 0)
        step += c / groups;
    const int64_t block = min64((64 + step - 1) / step * step, c), blocks = (c + block - 1) / block;
    return (cutting){block, blocks, x->shape[0] * blocks};
}

static float channel_weight(const hd_view *v, int64_t c, float absent) {
    return v->data ? ((const float *)v->data)[c * v->strides[0]] : absent;
}

static float *image(const hd_view *v, int64_t n) { return v->data ? (float *)v->data + n * v->strides[0] : NULL; }

// Where task t begins in v. NULL: v is absent.
static float *block_at(const hd_view *v, const cutting *cut, int64_t t) {
    return v->data ? image(v, t / cut->blocks) + t % cut->blocks * cut->block : NULL;
}

// Where the task begins that this thread most likely runs after t, to be fetched meanwhile. NULL: there is none.
static const float *block_after(const hd_view *v, const cutting *cut, int64_t t) {
    t += hd_threads();
    return t < cut->tasks ? block_at(v, cut, t) : NULL;
}

// Into the second-level cache.
static inline void fetch(const float *p) { __builtin_prefetch(p, 0, 2); }

// Channels: forward -------------------------------------------------------------------------------------------------

// Add the sums of x - shift and of its square over `rows` positions to sum and squares: a column of `count` channels.
NORM_INLINE void sum_column(const float *x, int64_t xs, vf shift, int64_t rows, int64_t count, double *sum,
                            double *squares) {
    vf s = {0}, q = {0};
    for (int64_t r = 0; r < rows; r++) {
        __builtin_prefetch(x + (r + ROWS) * xs);
        const vf v = vf_load_n(x + r * xs, count) - shift;
        s += v;
        q += v * v;
    }
    vf_add_to_double(sum, s, count);
    vf_add_to_double(squares, q, count);
}

// sum[c] and squares[c] of x - x[first position], over all positions, for the channels [0, c) of one image.
static void channel_sums(const float *x, int64_t xs, int64_t c, int64_t positions, double *sum, double *squares) {
    memset(sum, 0, (size_t)c * sizeof *sum);
    memset(squares, 0, (size_t)c * sizeof *squares);
    for (int64_t p = 0; p < positions; p += ROWS) {
        const int64_t rows = min64(ROWS, positions - p);
        FOR_COLUMNS(i, count, c,
                    sum_column(x + p * xs + i, xs, vf_load_n(x + i, count), rows, count, sum + i, squares + i));
    }
}

// Mean and variance of one group from its channels' shifted sums.
static void group_moments(const float *shift, const double *sum, const double *squares, int64_t width,
                          int64_t positions, bool rms, double *mean, double *variance) {
    const double m = (double)width * (double)positions;
    double total = 0, spread = 0;
    for (int64_t c = 0; c < width; c++)
        total += sum[c] + (double)positions * (double)shift[c];
    *mean = rms ? 0 : total / m;
    for (int64_t c = 0; c < width; c++) {
        const double d = (double)shift[c] - *mean;
        spread += squares[c] + d * (2 * sum[c] + d * (double)positions);
    }
    *variance = spread > 0 ? spread / m : 0;
    if (spread != spread)
        *variance = spread;
}

NORM_INLINE void apply_column(const float *x, int64_t xs, float *y, int64_t ys, vf scale, vf shift, int64_t rows,
                              int64_t count, hd_activation act, const float *next) {
    for (int64_t r = 0; r < rows; r++) {
        if (next)
            fetch(next + r * xs);
        __builtin_prefetch(y + (r + ROWS) * ys, 1);
        const vf z = vf_load_n(x + r * xs, count) * scale + shift;
        vf_store_n(y + r * ys, act == HD_ACT_SILU ? vf_silu(z) : z, count);
    }
}

void cpu_norm_apply(const float *x, int64_t xs, float *y, int64_t ys, const float *scale, const float *shift, int64_t c,
                    int64_t positions, hd_activation act, const float *next) {
    for (int64_t p = 0; p < positions; p += ROWS) {
        const int64_t rows = min64(ROWS, positions - p);
        FOR_COLUMNS(i, count, c,
                    apply_column(x + p * xs + i, xs, y + p * ys + i, ys, vf_load_n(scale + i, count),
                                 vf_load_n(shift + i, count), rows, count, act, next ? next + p * xs + i : NULL));
    }
}

// Workspace of one task: two rows of doubles and four of floats, `block` channels each, padded to whole vectors.
typedef struct {
    double *sum, *squares;
    float *f[4];
} scratch;

static size_t scratch_bytes(int64_t block) {
    return (size_t)((block + 15) / 16 * 16) * (2 * sizeof(double) + 4 * sizeof(float));
}

static scratch scratch_at(char *space, int64_t task, int64_t block) {
    const int64_t padded = (block + 15) / 16 * 16;
    scratch s;
    s.sum = (double *)(space + (size_t)task * scratch_bytes(block));
    s.squares = s.sum + padded;
    for (int k = 0; k < 4; k++)
        s.f[k] = (float *)(s.squares + padded) + k * padded;
    return s;
}

// The statistics of the groups in the channels [c0, c0 + c) of image n: mean and rstd of `a` are written, and what
// normalises them, y = x scale + shift with the weight and bias in it, goes to s.f[0] and s.f[1].
static void group_statistics(const hd_norm_args *a, int64_t n, int64_t c0, int64_t c, scratch s) {
    const int64_t positions = a->x.shape[2], width = a->x.shape[1] / a->groups;
    const float *x = image(&a->x, n) + c0;
    channel_sums(x, a->x.strides[2], c, positions, s.sum, s.squares);
    for (int64_t k = 0; k < c; k += width) {
        const int64_t g = (c0 + k) / width;
        double mean, variance;
        group_moments(x + k, s.sum + k, s.squares + k, width, positions, a->rms, &mean, &variance);
        const double rstd = 1 / sqrt(variance + a->eps);
        ((float *)a->mean.data)[n * a->mean.strides[0] + g * a->mean.strides[1]] = (float)mean;
        ((float *)a->rstd.data)[n * a->rstd.strides[0] + g * a->rstd.strides[1]] = (float)rstd;
        for (int64_t i = k; i < k + width; i++) {
            const double scale = rstd * (double)channel_weight(&a->w, c0 + i, 1);
            s.f[0][i] = (float)scale;
            s.f[1][i] = (float)((double)channel_weight(&a->b, c0 + i, 0) - mean * scale);
        }
    }
}

static hd_status norm_channels(const hd_norm_args *a) {
    const cutting cut = cut_channels(&a->x, a->groups);
    const size_t bytes = (size_t)cut.tasks * scratch_bytes(cut.block);
    char *space = hd_alloc(bytes);
    if (!space)
        return hd_fail(HD_ENOMEM, "norm: no memory for a workspace of %zu bytes", bytes);
    CPU_PARALLEL_FOR(t, cut.tasks) {
        const int64_t c0 = t % cut.blocks * cut.block, c = min64(cut.block, a->x.shape[1] - c0);
        const scratch s = scratch_at(space, t, cut.block);
        group_statistics(a, t / cut.blocks, c0, c, s);
        if (a->y.data)
            cpu_norm_apply(block_at(&a->x, &cut, t), a->x.strides[2], block_at(&a->y, &cut, t), a->y.strides[2], s.f[0],
                           s.f[1], c, a->x.shape[2], a->act, block_after(&a->x, &cut, t));
    }
    hd_free(space);
    return HD_OK;
}

// Channels: backward ------------------------------------------------------------------------------------------------

typedef struct {
    const float *x, *dy, *add;     // add: NULL if there is none
    const float *next_x, *next_dy; // of the task after, fetched on the way; NULL: there is none
    float *dx;                     // NULL: not wanted
    int64_t xs, dys, adds, dxs, c, positions;
    hd_activation act;
} planes; // one task's part of an image: c channels at each position

// What a backward pass needs of each channel. k1 and k2 come after the sums and take the places of shift and offset.
typedef struct {
    const float *scale, *shift; // z = x scale + shift
    const float *rstd, *offset; // xhat = x rstd + offset
    const float *k0, *k1, *k2;  // dx = dz k0 + x k1 + k2
} coefficients;

// Sums of dz and dz xhat over `rows` positions from p on, added to db and dw; dz is left in dx.
NORM_INLINE void back_sums_column(const planes *t, const coefficients *k, int64_t p, int64_t i, int64_t rows,
                                  int64_t count, bool silu_too, bool keep, double *db, double *dw) {
    const vf a = vf_load_n(k->scale + i, count), b = vf_load_n(k->shift + i, count);
    const vf e = vf_load_n(k->rstd + i, count), f = vf_load_n(k->offset + i, count);
    const float *px = t->x + p * t->xs + i, *pdy = t->dy + p * t->dys + i;
    float *pdx = keep ? t->dx + p * t->dxs + i : NULL;
    vf s = {0}, q = {0};
    for (int64_t r = 0; r < rows; r++) {
        __builtin_prefetch(px + (r + ROWS) * t->xs);
        __builtin_prefetch(pdy + (r + ROWS) * t->dys);
        if (keep)
            __builtin_prefetch(pdx + (r + ROWS) * t->dxs, 1);
        const vf x = vf_load_n(px + r * t->xs, count);
        vf dz = vf_load_n(pdy + r * t->dys, count);
        if (silu_too)
            dz *= silu_slope(x * a + b);
        if (keep)
            vf_store_n(pdx + r * t->dxs, dz, count);
        s += dz;
        q += dz * (x * e + f);
    }
    vf_add_to_double(db + i, s, count);
    vf_add_to_double(dw + i, q, count);
}

// db[c] = sum dz and dw[c] = sum dz xhat; where there is an activation, dz is left in dx.
static void channel_back_sums(const planes *task, const coefficients *k, double *db, double *dw) {
    const planes here = *task, *t = &here; // copies of our own: stores cannot change them
    const coefficients own = *k;
    memset(db, 0, (size_t)t->c * sizeof *db);
    memset(dw, 0, (size_t)t->c * sizeof *dw);
    const bool silu_too = t->act == HD_ACT_SILU, keep = silu_too && t->dx;
    for (int64_t p = 0; p < t->positions; p += ROWS) {
        const int64_t rows = min64(ROWS, t->positions - p);
        FOR_COLUMNS(i, count, t->c, back_sums_column(t, &own, p, i, rows, count, silu_too, keep, db, dw));
    }
}

NORM_INLINE void apply_back_column(const planes *t, const float *dz, int64_t dzs, const coefficients *k, int64_t p,
                                   int64_t i, int64_t rows, int64_t count) {
    const vf k0 = vf_load_n(k->k0 + i, count), k1 = vf_load_n(k->k1 + i, count), k2 = vf_load_n(k->k2 + i, count);
    const float *px = t->x + p * t->xs + i, *pdz = dz + p * dzs + i;
    const float *add = t->add ? t->add + p * t->adds + i : NULL;
    float *pdx = t->dx + p * t->dxs + i;
    for (int64_t r = 0; r < rows; r++) {
        if (t->next_x) {
            fetch(t->next_x + (p + r) * t->xs + i);
            fetch(t->next_dy + (p + r) * t->dys + i);
        }
        const vf g = vf_load_n(pdz + r * dzs, count), x = vf_load_n(px + r * t->xs, count);
        const vf v = g * k0 + (x * k1 + k2);
        vf_store_n(pdx + r * t->dxs, add ? v + vf_load_n(add + r * t->adds, count) : v, count);
    }
}

// dx = dz k0[c] + x k1[c] + k2[c] (+ add), dz taken from dx or, without activation, from dy.
static void apply_back(const planes *task, const coefficients *k) {
    const planes here = *task, *t = &here; // copies of our own: stores cannot change them
    const coefficients own = *k;
    const bool kept = t->act == HD_ACT_SILU;
    const float *dz = kept ? t->dx : t->dy;
    const int64_t dzs = kept ? t->dxs : t->dys;
    for (int64_t p = 0; p < t->positions; p += ROWS) {
        const int64_t rows = min64(ROWS, t->positions - p);
        FOR_COLUMNS(i, count, t->c, apply_back_column(t, dz, dzs, &own, p, i, rows, count));
    }
}

static void norm_back_channels_task(const hd_norm_back_args *a, const cutting *cut, int64_t task, scratch s) {
    const int64_t width = a->x.shape[1] / a->groups, positions = a->x.shape[2];
    const int64_t n = task / cut->blocks, c0 = task % cut->blocks * cut->block;
    const int64_t c = min64(cut->block, a->x.shape[1] - c0);
    const planes t = {.x = block_at(&a->x, cut, task),
                      .dy = block_at(&a->dy, cut, task),
                      .add = block_at(&a->add, cut, task),
                      .next_x = block_after(&a->x, cut, task),
                      .next_dy = block_after(&a->dy, cut, task),
                      .dx = block_at(&a->dx, cut, task),
                      .xs = a->x.strides[2],
                      .dys = a->dy.strides[2],
                      .adds = a->add.strides[2],
                      .dxs = a->dx.strides[2],
                      .c = c,
                      .positions = positions,
                      .act = a->act};
    for (int64_t i = 0; i < c; i++) {
        const int64_t g = (c0 + i) / width;
        const double mean = (double)((const float *)a->mean.data)[n * a->mean.strides[0] + g * a->mean.strides[1]];
        const double rstd = (double)((const float *)a->rstd.data)[n * a->rstd.strides[0] + g * a->rstd.strides[1]];
        const double scale = rstd * (double)channel_weight(&a->w, c0 + i, 1);
        s.f[0][i] = (float)scale;
        s.f[1][i] = (float)((double)channel_weight(&a->b, c0 + i, 0) - mean * scale);
        s.f[2][i] = (float)rstd;
        s.f[3][i] = (float)(-mean * rstd);
    }
    const coefficients k = {s.f[0], s.f[1], s.f[2], s.f[3], s.f[0], s.f[1], s.f[3]};
    channel_back_sums(&t, &k, s.sum, s.squares);
    if (!t.dx)
        return;
    const double m = (double)width * (double)positions;
    for (int64_t g = 0; g < c; g += width) {
        double sum = 0, dot = 0; // of w dz, and of w dz xhat
        for (int64_t i = g; i < g + width; i++) {
            const double w = (double)channel_weight(&a->w, c0 + i, 1);
            sum += w * s.sum[i];
            dot += w * s.squares[i];
        }
        sum = a->rms ? 0 : sum;
        for (int64_t i = g; i < g + width; i++) {
            const double rstd = (double)s.f[2][i], offset = (double)s.f[3][i];
            s.f[1][i] = (float)(-rstd * rstd * dot / m);
            s.f[3][i] = (float)(-rstd * (sum + offset * dot) / m);
        }
    }
    apply_back(&t, &k);
}

// to[c] = the sum of one kind of partial over the images, in their order. The partials are the tasks' sum or squares
// rows.
static void add_partials(const hd_view *to, int64_t c, double (*partial)(const void *, int64_t, int64_t),
                         const void *context, int64_t parts) {
    for (int64_t i = 0; i < c; i++) {
        double total = 0;
        for (int64_t k = 0; k < parts; k++)
            total += partial(context, k, i);
        hd_store(to->data, to->dtype, i * to->strides[0], total);
    }
}

typedef struct {
    char *space;
    const cutting *cut;
} channel_partials;

static scratch partials_at(const channel_partials *p, int64_t n, int64_t c) {
    return scratch_at(p->space, n * p->cut->blocks + c / p->cut->block, p->cut->block);
}

static double partial_sum(const void *context, int64_t n, int64_t c) {
    const channel_partials *p = context;
    return partials_at(p, n, c).sum[c % p->cut->block];
}

static double partial_square(const void *context, int64_t n, int64_t c) {
    const channel_partials *p = context;
    return partials_at(p, n, c).squares[c % p->cut->block];
}

static hd_status norm_back_channels(const hd_norm_back_args *a) {
    const cutting cut = cut_channels(&a->x, a->groups);
    const size_t bytes = (size_t)cut.tasks * scratch_bytes(cut.block);
    char *space = hd_alloc(bytes);
    if (!space)
        return hd_fail(HD_ENOMEM, "norm: no memory for a workspace of %zu bytes", bytes);
    CPU_PARALLEL_FOR(t, cut.tasks)
    norm_back_channels_task(a, &cut, t, scratch_at(space, t, cut.block));
    const channel_partials partials = {space, &cut};
    if (a->db.data)
        add_partials(&a->db, a->x.shape[1], partial_sum, &partials, a->x.shape[0]);
    if (a->dw.data)
        add_partials(&a->dw, a->x.shape[1], partial_square, &partials, a->x.shape[0]);
    hd_free(space);
    return HD_OK;
}

// Rows ----------------------------------------------------------------------------------------------------------------

// sum of x - shift, or of its square, over n floats: short float sums gathered in double.
static double run_sum(const float *x, float shift, int64_t n, bool square) {
    double total = 0;
    for (int64_t i = 0; i < n; i += ROWS * VF_LANES) {
        const int64_t m = min64(n - i, ROWS * VF_LANES);
        vf s = {0};
        VF_LOOP(k, count, m) {
            vf v = vf_load_n(x + i + k, count) - shift;
            if (count < VF_LANES) // the unused lanes
                v = vf_load_part((const float *)&v, count);
            s += square ? v * v : v;
        }
        total += (double)vf_sum(s);
    }
    return total;
}

static void norm_row(const hd_norm_args *a, int64_t n) {
    const int64_t width = a->x.shape[1] / a->groups;
    for (int64_t g = 0; g < a->groups; g++) {
        const float *x = image(&a->x, n) + g * width;
        float *y = a->y.data ? image(&a->y, n) + g * width : NULL;
        const float *w = a->w.data ? (const float *)a->w.data + g * width : NULL;
        const float *b = a->b.data ? (const float *)a->b.data + g * width : NULL;
        const float mean = a->rms ? 0 : (float)(run_sum(x, 0, width, false) / (double)width);
        const float rstd = (float)(1 / sqrt(run_sum(x, mean, width, true) / (double)width + a->eps));
        ((float *)a->mean.data)[n * a->mean.strides[0] + g * a->mean.strides[1]] = mean;
        ((float *)a->rstd.data)[n * a->rstd.strides[0] + g * a->rstd.strides[1]] = rstd;
        VF_LOOP(i, count, y ? width : 0) {
            vf z = (vf_load_n(x + i, count) - mean) * rstd;
            z = w ? z * vf_load_n(w + i, count) : z;
            z = b ? z + vf_load_n(b + i, count) : z;
            vf_store_n(y + i, a->act == HD_ACT_SILU ? vf_silu(z) : z, count);
        }
    }
}

static int64_t rows_per_task(int64_t c) { return c > 16384 ? 1 : c < 512 ? 64 : 32768 / c; }

static hd_status norm_rows(const hd_norm_args *a) {
    const int64_t rows = a->x.shape[0], step = rows_per_task(a->x.shape[1]), tasks = (rows + step - 1) / step;
    CPU_PARALLEL_FOR(t, tasks)
    for (int64_t n = t * step; n < min64((t + 1) * step, rows); n++)
        norm_row(a, n);
    return HD_OK;
}

// One row; db and dw [c] collect this task's sums.
static void norm_back_row(const hd_norm_back_args *a, int64_t n, float *db, float *dw) {
    const int64_t width = a->x.shape[1] / a->groups;
    for (int64_t g = 0; g < a->groups; g++) {
        const int64_t c0 = g * width;
        const float *x = image(&a->x, n) + c0, *dy = image(&a->dy, n) + c0;
        const float *add = a->add.data ? image(&a->add, n) + c0 : NULL;
        float *dx = a->dx.data ? image(&a->dx, n) + c0 : NULL;
        const float *w = a->w.data ? (const float *)a->w.data + c0 : NULL;
        const float *b = a->b.data ? (const float *)a->b.data + c0 : NULL;
        const float mean = ((const float *)a->mean.data)[n * a->mean.strides[0] + g * a->mean.strides[1]];
        const float rstd = ((const float *)a->rstd.data)[n * a->rstd.strides[0] + g * a->rstd.strides[1]];
        const bool silu_too = a->act == HD_ACT_SILU;
        vf sum = {0}, dot = {0};
        VF_LOOP(i, count, width) {
            vf xhat = (vf_load_n(x + i, count) - mean) * rstd;
            vf dz = vf_load_n(dy + i, count);
            const vf wi = w ? vf_load_n(w + i, count) : vf_set(1);
            if (silu_too)
                dz *= silu_slope(xhat * wi + (b ? vf_load_n(b + i, count) : vf_set(0)));
            if (silu_too && dx)
                vf_store_n(dx + i, dz, count);
            sum += dz * wi; // lanes beyond the row hold dy = 0
            dot += dz * wi * xhat;
            vf_store_n(db + c0 + i, vf_load_n(db + c0 + i, count) + dz, count);
            vf_store_n(dw + c0 + i, vf_load_n(dw + c0 + i, count) + dz * xhat, count);
        }
        if (!dx)
            continue;
        const float m1 = a->rms ? 0 : vf_sum(sum) / (float)width, m2 = vf_sum(dot) / (float)width;
        VF_LOOP(i, count, width) {
            const vf xhat = (vf_load_n(x + i, count) - mean) * rstd;
            const vf dz = vf_load_n((silu_too ? dx : dy) + i, count);
            const vf wi = w ? vf_load_n(w + i, count) : vf_set(1);
            const vf v = (dz * wi - m1 - xhat * m2) * rstd;
            vf_store_n(dx + i, add ? v + vf_load_n(add + i, count) : v, count);
        }
    }
}

typedef struct {
    const float *sums; // [task][db, dw][c]
    int64_t c;
} row_partials;

static double partial_row_db(const void *context, int64_t task, int64_t c) {
    const row_partials *p = context;
    return (double)p->sums[task * 2 * p->c + c];
}

static double partial_row_dw(const void *context, int64_t task, int64_t c) {
    const row_partials *p = context;
    return (double)p->sums[(task * 2 + 1) * p->c + c];
}

static hd_status norm_back_rows(const hd_norm_back_args *a) {
    const int64_t rows = a->x.shape[0], c = a->x.shape[1], step = rows_per_task(c), tasks = (rows + step - 1) / step;
    const size_t bytes = (size_t)(tasks * 2 * c) * sizeof(float);
    float *sums = hd_alloc(bytes);
    if (!sums)
        return hd_fail(HD_ENOMEM, "norm: no memory for a workspace of %zu bytes", bytes);
    CPU_PARALLEL_FOR(t, tasks) {
        float *db = sums + t * 2 * c;
        memset(db, 0, 2 * (size_t)c * sizeof *db);
        for (int64_t n = t * step; n < min64((t + 1) * step, rows); n++)
            norm_back_row(a, n, db, db + c);
    }
    const row_partials partials = {sums, c};
    if (a->db.data)
        add_partials(&a->db, c, partial_row_db, &partials, tasks);
    if (a->dw.data)
        add_partials(&a->dw, c, partial_row_dw, &partials, tasks);
    hd_free(sums);
    return HD_OK;
}

// Any strides, f32 and f64 -------------------------------------------------------------------------------------------

static double silu_any(double z) { return z / (1 + exp(-z)); }
static double silu_slope_any(double z) {
    const double s = 1 / (1 + exp(-z));
    return s * (1 + z * (1 - s));
}

#define AT3(type, v, n, c, p) ((type *)(v).data)[(n) * (v).strides[0] + (c) * (v).strides[1] + (p) * (v).strides[2]]
#define AT2(type, v, n, g) ((type *)(v).data)[(n) * (v).strides[0] + (g) * (v).strides[1]]
#define AT1(type, v, c, absent) ((v).data ? (double)((type *)(v).data)[(c) * (v).strides[0]] : (absent))

// sums: [n, c, 2], partial db and dw.
#define DEFINE_ANY(name, type)                                                                                         \
    static void norm_group_##name(const hd_norm_args *a, int64_t n, int64_t g) {                                       \
        const int64_t width = a->x.shape[1] / a->groups, c0 = g * width, positions = a->x.shape[2];                    \
        const double m = (double)(width * positions);                                                                  \
        double mean = 0, variance = 0;                                                                                 \
        for (int64_t c = c0; c < c0 + width && !a->rms; c++)                                                           \
            for (int64_t p = 0; p < positions; p++)                                                                    \
                mean += (double)AT3(type, a->x, n, c, p);                                                              \
        mean /= m;                                                                                                     \
        for (int64_t c = c0; c < c0 + width; c++)                                                                      \
            for (int64_t p = 0; p < positions; p++) {                                                                  \
                const double d = (double)AT3(type, a->x, n, c, p) - mean;                                              \
                variance += d * d;                                                                                     \
            }                                                                                                          \
        const double rstd = 1 / sqrt(variance / m + a->eps);                                                           \
        AT2(type, a->mean, n, g) = (type)mean;                                                                         \
        AT2(type, a->rstd, n, g) = (type)rstd;                                                                         \
        for (int64_t c = c0; c < c0 + width && a->y.data; c++) {                                                       \
            const double w = AT1(type, a->w, c, 1), b = AT1(type, a->b, c, 0);                                         \
            for (int64_t p = 0; p < positions; p++) {                                                                  \
                const double z = ((double)AT3(type, a->x, n, c, p) - mean) * rstd * w + b;                             \
                AT3(type, a->y, n, c, p) = (type)(a->act == HD_ACT_SILU ? silu_any(z) : z);                            \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    static void norm_back_group_##name(const hd_norm_back_args *a, int64_t n, int64_t g, double *sums) {               \
        const int64_t width = a->x.shape[1] / a->groups, c0 = g * width, positions = a->x.shape[2];                    \
        const double m = (double)(width * positions), mean = (double)AT2(type, a->mean, n, g);                         \
        const double rstd = (double)AT2(type, a->rstd, n, g);                                                          \
        double sum = 0, dot = 0;                                                                                       \
        for (int pass = 0; pass < (a->dx.data ? 2 : 1); pass++)                                                        \
            for (int64_t c = c0; c < c0 + width; c++) {                                                                \
                const double w = AT1(type, a->w, c, 1), b = AT1(type, a->b, c, 0);                                     \
                double db = 0, dw = 0;                                                                                 \
                for (int64_t p = 0; p < positions; p++) {                                                              \
                    const double xhat = ((double)AT3(type, a->x, n, c, p) - mean) * rstd;                              \
                    double dz = (double)AT3(type, a->dy, n, c, p);                                                     \
                    if (a->act == HD_ACT_SILU)                                                                         \
                        dz *= silu_slope_any(xhat * w + b);                                                            \
                    db += dz;                                                                                          \
                    dw += dz * xhat;                                                                                   \
                    if (pass == 1) {                                                                                   \
                        const double v = rstd * (dz * w - (a->rms ? 0 : sum / m) - xhat * dot / m);                    \
                        AT3(type, a->dx, n, c, p) =                                                                    \
                            (type)(v + (a->add.data ? (double)AT3(type, a->add, n, c, p) : 0));                        \
                    }                                                                                                  \
                }                                                                                                      \
                if (pass == 0) {                                                                                       \
                    sum += w * db;                                                                                     \
                    dot += w * dw;                                                                                     \
                    sums[2 * c] = db;                                                                                  \
                    sums[2 * c + 1] = dw;                                                                              \
                }                                                                                                      \
            }                                                                                                          \
    }
DEFINE_ANY(f32, float)
DEFINE_ANY(f64, double)

static hd_status norm_any(const hd_norm_args *a) {
    CPU_PARALLEL_FOR(t, a->x.shape[0] * a->groups) {
        if (a->x.dtype == HD_F32)
            norm_group_f32(a, t / a->groups, t % a->groups);
        else
            norm_group_f64(a, t / a->groups, t % a->groups);
    }
    return HD_OK;
}

typedef struct {
    const double *sums;
    int64_t c;
} any_partials;

static double partial_any_db(const void *context, int64_t n, int64_t c) {
    const any_partials *p = context;
    return p->sums[(n * p->c + c) * 2];
}

static double partial_any_dw(const void *context, int64_t n, int64_t c) {
    const any_partials *p = context;
    return p->sums[(n * p->c + c) * 2 + 1];
}

static hd_status norm_back_any(const hd_norm_back_args *a) {
    const int64_t c = a->x.shape[1];
    const size_t bytes = (size_t)(a->x.shape[0] * c * 2) * sizeof(double);
    double *sums = hd_alloc(bytes);
    if (!sums)
        return hd_fail(HD_ENOMEM, "norm: no memory for a workspace of %zu bytes", bytes);
    CPU_PARALLEL_FOR(t, a->x.shape[0] * a->groups) {
        const int64_t n = t / a->groups;
        if (a->x.dtype == HD_F32)
            norm_back_group_f32(a, n, t % a->groups, sums + n * c * 2);
        else
            norm_back_group_f64(a, n, t % a->groups, sums + n * c * 2);
    }
    const any_partials partials = {sums, c};
    if (a->db.data)
        add_partials(&a->db, c, partial_any_db, &partials, a->x.shape[0]);
    if (a->dw.data)
        add_partials(&a->dw, c, partial_any_dw, &partials, a->x.shape[0]);
    hd_free(sums);
    return HD_OK;
}

// Choice -------------------------------------------------------------------------------------------------------------

enum { SMALLEST = 16 }; // elements of a group: below, the terms of a gradient may cancel, so doubles are used

static bool channels_fastest(const hd_view *v) { return !v->data || v->shape[1] == 1 || v->strides[1] == 1; }
static bool dense_vector(const hd_view *v) { return !v->data || v->shape[0] == 1 || v->strides[0] == 1; }
static bool vectors_pay(const hd_view *x, int64_t groups) {
    const int64_t c = x->shape[1], p = x->shape[2];
    return x->dtype == HD_F32 && c / groups * p >= SMALLEST && (p == 1 || c > 1);
}

hd_status cpu_norm(const hd_norm_args *a) {
    if (hd_view_numel(&a->x) == 0)
        return HD_OK;
    if (!vectors_pay(&a->x, a->groups) || !channels_fastest(&a->x) || !channels_fastest(&a->y))
        return norm_any(a);
    return a->x.shape[2] == 1 && dense_vector(&a->w) && dense_vector(&a->b) ? norm_rows(a) : norm_channels(a);
}

hd_status cpu_norm_back(const hd_norm_back_args *a) {
    if (!vectors_pay(&a->x, a->groups) || !channels_fastest(&a->x) || !channels_fastest(&a->dy) ||
        !channels_fastest(&a->dx) || !channels_fastest(&a->add))
        return norm_back_any(a);
    return a->x.shape[2] == 1 && dense_vector(&a->w) && dense_vector(&a->b) ? norm_back_rows(a) : norm_back_channels(a);
}
