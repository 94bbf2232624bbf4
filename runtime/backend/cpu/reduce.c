// backend/cpu/reduce.c: sums, means, products, extremes and their positions over the last dimensions; running sums.
// Layer: backend. Sums of floats are kept in double, so the result hardly depends on the order; integers are exact.
// Two ways: rows (one output at a time, over runs of its elements) and columns (f32 sums where neighbouring outputs are
// neighbours in memory: a tile of outputs at a time, row by row).
// Threads: outputs are grouped, and long reductions cut, by shape alone; the parts of a cut are combined in order.
#include "backend/cpu/simd.h"
#include "backend/cpu/strided.h"

enum { CUT = 65536, TILE = 4 * VF_LANES }; // elements of one part of a long reduction; columns taken together

typedef struct {
    double v; // of floats
    union {
        int64_t i;  // of integers and bools
        uint64_t u; // the same where it may wrap: sums and products
    };
    int64_t at; // position of the extreme; -1: none yet
} total;

typedef struct {
    hd_reduce op;
    total *t;
} run_context;

static total empty_total(hd_reduce op) {
    switch (op) {
    case HD_PROD:
    case HD_ALL:
        return (total){1, {1}, -1};
    case HD_MAX:
    case HD_ARGMAX:
        return (total){-INFINITY, {INT64_MIN}, -1};
    case HD_MIN:
    case HD_ARGMIN:
        return (total){INFINITY, {INT64_MAX}, -1};
    default:
        return (total){0, {0}, -1};
    }
}

// Add a run of elements to the total `t`; `field` holds totals of this type, `sum` those that may wrap. The first NaN
// wins for good.
#define DEFINE_RUN(name, type, field, wide, sum, wrapping)                                                             \
    static void run_##name(const void *context, int64_t first, int64_t n, void *const p[]) {                           \
        const run_context *c = context;                                                                                \
        const type *x = p[0];                                                                                          \
        total t = *c->t;                                                                                               \
        switch (c->op) {                                                                                               \
        case HD_SUM:                                                                                                   \
        case HD_MEAN:                                                                                                  \
            for (int64_t k = 0; k < n; k++)                                                                            \
                t.sum += (wrapping)x[k];                                                                               \
            break;                                                                                                     \
        case HD_SUMSQ:                                                                                                 \
            for (int64_t k = 0; k < n; k++)                                                                            \
                t.sum += (wrapping)x[k] * (wrapping)x[k];                                                              \
            break;                                                                                                     \
        case HD_PROD:                                                                                                  \
            for (int64_t k = 0; k < n; k++)                                                                            \
                t.sum *= (wrapping)x[k];                                                                               \
            break;                                                                                                     \
        case HD_MAX:                                                                                                   \
        case HD_ARGMAX:                                                                                                \
            for (int64_t k = 0; k < n; k++)                                                                            \
                if (t.at < 0 || (!((wide)x[k] <= t.field) && t.field == t.field)) {                                    \
                    t.field = (wide)x[k];                                                                              \
                    t.at = first + k;                                                                                  \
                }                                                                                                      \
            break;                                                                                                     \
        case HD_MIN:                                                                                                   \
        case HD_ARGMIN:                                                                                                \
            for (int64_t k = 0; k < n; k++)                                                                            \
                if (t.at < 0 || (!((wide)x[k] >= t.field) && t.field == t.field)) {                                    \
                    t.field = (wide)x[k];                                                                              \
                    t.at = first + k;                                                                                  \
                }                                                                                                      \
            break;                                                                                                     \
        case HD_ALL:                                                                                                   \
            for (int64_t k = 0; k < n; k++)                                                                            \
                t.i &= x[k] != 0;                                                                                      \
            break;                                                                                                     \
        default: /* HD_ANY */                                                                                          \
            for (int64_t k = 0; k < n; k++)                                                                            \
                t.i |= x[k] != 0;                                                                                      \
        }                                                                                                              \
        *c->t = t;                                                                                                     \
    }
DEFINE_RUN(f32, float, v, double, v, double)
DEFINE_RUN(f64, double, v, double, v, double)
DEFINE_RUN(i64, int64_t, i, int64_t, u, uint64_t)
DEFINE_RUN(i32, int32_t, i, int64_t, u, uint64_t)
DEFINE_RUN(u8, uint8_t, i, int64_t, u, uint64_t)

// a += v or v^2 for the floats from x on
static inline void add_floats(vf_wide *a, const float *x, bool square) {
    const vf_wide v = vf_widen_at(x);
    if (square)
        vf_wide_add_product(a, v, v);
    else
        vf_wide_add(a, v);
}

static void run_f32_sum(const void *context, int64_t first, int64_t n, void *const p[]) {
    (void)first;
    const run_context *c = context;
    const float *x = p[0];
    const bool square = c->op == HD_SUMSQ;
    vf_wide a = {{0}, {0}}, b = {{0}, {0}};
    int64_t k = 0;
    for (; k + 2 * VF_LANES <= n; k += 2 * VF_LANES) {
        add_floats(&a, x + k, square);
        add_floats(&b, x + k + VF_LANES, square);
    }
    vf_wide_add(&a, b);
    double s = vf_wide_sum(a);
    for (; k < n; k++)
        s += square ? (double)x[k] * (double)x[k] : (double)x[k];
    c->t->v += s;
}

static void run_f32_extreme(const void *context, int64_t first, int64_t n, void *const p[]) {
    const run_context *c = context;
    const float *x = p[0];
    const bool max = c->op == HD_MAX;
    vf m = vf_set(max ? -INFINITY : INFINITY);
    vi nan = {0};
    int64_t k = 0;
    for (; k + VF_LANES <= n; k += VF_LANES) {
        const vf v = vf_load(x + k);
        m = max ? vf_max(m, v) : vf_min(m, v);
        nan |= v != v;
    }
    void *const lanes[] = {&m}, *const rest[] = {(void *)(x + k)};
    if (vi_any(nan))
        m = vf_set(NAN);
    if (k > 0)
        run_f32(context, first, VF_LANES, lanes);
    run_f32(context, first + k, n - k, rest);
}

static cpu_kernel *run_kernel(hd_reduce op, hd_dtype type) {
    static cpu_kernel *const runs[HD_DTYPE_COUNT] = {
        [HD_F32] = run_f32, [HD_F64] = run_f64, [HD_I64] = run_i64,
        [HD_I32] = run_i32, [HD_U8] = run_u8,   [HD_BOOL] = run_u8,
    };
    if (type == HD_F32 && (op == HD_SUM || op == HD_MEAN || op == HD_SUMSQ))
        return run_f32_sum;
    if (type == HD_F32 && (op == HD_MAX || op == HD_MIN))
        return run_f32_extreme;
    return runs[type];
}

// t = t, then part, which lies behind it.
static void combine(hd_reduce op, bool is_float, total *t, const total *part) {
    const bool none = t->at < 0;
    switch (op) {
    case HD_PROD:
        t->v *= part->v;
        t->u *= part->u;
        break;
    case HD_MAX:
    case HD_ARGMAX:
        if (none || (is_float ? !(part->v <= t->v) && t->v == t->v : part->i > t->i))
            *t = *part;
        break;
    case HD_MIN:
    case HD_ARGMIN:
        if (none || (is_float ? !(part->v >= t->v) && t->v == t->v : part->i < t->i))
            *t = *part;
        break;
    case HD_ALL:
        t->i &= part->i;
        break;
    case HD_ANY:
        t->i |= part->i;
        break;
    default:
        t->v += part->v;
        t->u += part->u;
    }
}

// What one call works on: outputs in the order of `kept` (x, y), elements of each in the order of `reduced` (x).
typedef struct {
    const hd_reduce_args *args;
    cpu_loop kept, reduced;
    int64_t start; // bytes from an output's element 0 to the first one in the order of `reduced`
    bool is_float;
    cpu_kernel *run;
} reduction;

static void store_total(const reduction *r, int64_t offset, const total *t) {
    const hd_dtype type = r->args->y.dtype;
    const hd_reduce op = r->args->op;
    const double count = (double)r->reduced.numel;
    void *y = r->kept.data[1];
    if (op == HD_ARGMAX || op == HD_ARGMIN)
        ((int64_t *)y)[offset] = t->at;
    else if (!hd_dtype_is_float(type) && !r->is_float)
        switch (type) {
        case HD_I64:
            ((int64_t *)y)[offset] = t->i;
            break;
        case HD_I32:
            ((int32_t *)y)[offset] = (int32_t)t->i;
            break;
        default:
            ((uint8_t *)y)[offset] = (uint8_t)t->i;
        }
    else
        hd_store(y, type, offset, (r->is_float ? t->v : (double)t->i) / (op == HD_MEAN ? count : 1));
}

// Elements [first, last) of output o.
static total reduce_row(const reduction *r, const char *x, int64_t first, int64_t last) {
    total t = empty_total(r->args->op);
    const run_context context = {r->args->op, &t};
    const size_t size = r->reduced.size[0];
    if (r->reduced.flat[0]) {
        void *const p[] = {(void *)(x + (size_t)first * size)};
        r->run(&context, first, last - first, p);
    } else {
        cpu_loop loop = r->reduced;
        loop.data[0] = (char *)x;
        cpu_loop_run_range(&loop, r->run, &context, first, last);
    }
    return t;
}

// Add `rows` rows, `stride` apart, of n <= TILE neighbouring floats or their squares to sums.
static void add_rows(const float *x, int64_t stride, int64_t rows, int64_t n, bool square, double *sums) {
    if (n == TILE) {
        vf_wide s[TILE / VF_LANES] = {{{0}, {0}}};
        for (int64_t k = 0; k < rows; k++) {
            CPU_UNROLL for (int v = 0; v < TILE / VF_LANES; v++)
                add_floats(&s[v], x + k * stride + v * VF_LANES, square);
        }
        for (int v = 0; v < TILE / VF_LANES; v++)
            vf_wide_store_sum(sums + v * VF_LANES, s[v]);
        return;
    }
    for (int64_t k = 0; k < rows; k++)
        for (int64_t i = 0; i < n; i++) {
            const double v = (double)x[k * stride + i];
            sums[i] += square ? v * v : v;
        }
}

// Elements [first, last) of the n outputs whose first elements lie side by side from x on: sums of f32 or their
// squares.
static void reduce_columns(const reduction *r, const float *x, int64_t n, int64_t first, int64_t last, double *sums) {
    const cpu_loop *loop = &r->reduced;
    const int64_t inner = loop->shape[loop->ndim - 1], stride = loop->strides[0][loop->ndim - 1];
    memset(sums, 0, (size_t)n * sizeof *sums);
    while (first < last) {
        int64_t offsets[CPU_OPERANDS];
        cpu_loop_offsets(loop, first, offsets);
        const int64_t left = inner - first % inner, rows = left < last - first ? left : last - first;
        add_rows(x + offsets[0], stride, rows, n, r->args->op == HD_SUMSQ, sums);
        first += rows;
    }
}

// Outputs [o0, o1), elements [first, last) of each: totals to `parts` where the reduction was cut, else into y.
static void reduce_task(const reduction *r, bool columns, int64_t o0, int64_t o1, int64_t first, int64_t last,
                        total *parts) {
    const int64_t inner = r->kept.shape[r->kept.ndim - 1];
    while (o0 < o1) {
        int64_t offsets[CPU_OPERANDS], n = 1;
        double sums[TILE];
        cpu_loop_offsets(&r->kept, o0, offsets);
        const char *x = r->kept.data[0] + r->start + offsets[0] * (int64_t)r->kept.size[0];
        if (columns) {
            n = inner - o0 % inner;
            n = n < o1 - o0 ? n : o1 - o0;
            n = n < TILE ? n : TILE;
            reduce_columns(r, (const float *)x, n, first, last, sums);
        }
        for (int64_t k = 0; k < n; k++) {
            const total t = columns ? (total){sums[k], {0}, 0} : reduce_row(r, x, first, last);
            if (parts)
                parts[o0 + k] = t;
            else
                store_total(r, offsets[1] + k * r->kept.strides[1][r->kept.ndim - 1], &t);
        }
        o0 += n;
    }
}

static void add_parts(const reduction *r, const total *parts, int64_t cuts) {
    const int64_t outputs = r->kept.numel;
    for (int64_t o = 0; o < outputs; o++) {
        total t = empty_total(r->args->op);
        for (int64_t k = 0; k < cuts; k++)
            combine(r->args->op, r->is_float, &t, &parts[k * outputs + o]);
        int64_t offsets[CPU_OPERANDS];
        cpu_loop_offsets(&r->kept, o, offsets);
        store_total(r, offsets[1], &t);
    }
}

static hd_status reduce_all(const reduction *r, bool columns) {
    const int64_t outputs = r->kept.numel, elements = r->reduced.numel;
    int64_t cut = CUT, group = elements > 0 ? CPU_PIECE / elements : CPU_PIECE;
    group = group < 1 ? 1 : group;
    if (columns) { // whole tiles, cut earlier: an output's elements lie far apart
        group = (group + TILE - 1) / TILE * TILE;
        cut = CUT / (outputs < group ? outputs : group);
        cut = cut < 1 ? 1 : cut;
    }
    const int64_t groups = (outputs + group - 1) / group, cuts = elements > cut ? (elements + cut - 1) / cut : 1;
    total *parts = NULL;
    if (cuts > 1 && !(parts = hd_alloc((size_t)(cuts * outputs) * sizeof *parts)))
        return hd_fail(HD_ENOMEM, "reduce: no memory for %lld partial results", (long long)(cuts * outputs));
    CPU_PARALLEL_FOR(t, groups * cuts) {
        const int64_t o = t % groups * group, k = t / groups, first = k * cut;
        reduce_task(r, columns, o, o + group < outputs ? o + group : outputs, first,
                    k + 1 < cuts ? first + cut : elements, parts ? parts + k * outputs : NULL);
    }
    if (parts)
        add_parts(r, parts, cuts);
    hd_free(parts);
    return HD_OK;
}

hd_status cpu_reduce(const hd_reduce_args *a) {
    const int kept = a->x.ndim - a->nred;
    const bool positions = a->op == HD_ARGMAX || a->op == HD_ARGMIN;
    reduction r = {.args = a, .is_float = hd_dtype_is_float(a->x.dtype), .run = run_kernel(a->op, a->x.dtype)};
    hd_view inside = a->x; // one output's elements
    inside.ndim = a->nred;
    for (int d = 0; d < a->nred; d++) {
        inside.shape[d] = a->x.shape[kept + d];
        inside.strides[d] = a->x.strides[kept + d];
    }
    cpu_loop_start(&r.kept, &a->x, kept, CPU_READ);
    cpu_loop_add(&r.kept, &a->y, CPU_WRITE);
    cpu_loop_start(&r.reduced, &inside, a->nred, CPU_READ);
    cpu_loop_collapse(&r.kept, false);
    cpu_loop_collapse(&r.reduced, positions);
    if (r.kept.numel == 0)
        return HD_OK;
    r.start = r.reduced.data[0] - (char *)a->x.data;
    const bool sums = a->op == HD_SUM || a->op == HD_MEAN || a->op == HD_SUMSQ;
    const bool columns = a->x.dtype == HD_F32 && sums && r.kept.strides[0][r.kept.ndim - 1] == 1 && r.kept.numel > 1 &&
                         r.reduced.strides[0][r.reduced.ndim - 1] != 1;
    return reduce_all(&r, columns);
}

// Running sums ------------------------------------------------------------------------------------------------------

#define DEFINE_CUMSUM(name, type, wide)                                                                                \
    static void cumsum_##name(void *to, int64_t ys, const void *from, int64_t xs, int64_t n) {                         \
        type *y = to;                                                                                                  \
        const type *x = from;                                                                                          \
        wide sum = 0;                                                                                                  \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            sum += (wide)x[i * xs];                                                                                    \
            y[i * ys] = (type)sum;                                                                                     \
        }                                                                                                              \
    }
DEFINE_CUMSUM(f32, float, double)
DEFINE_CUMSUM(f64, double, double)
DEFINE_CUMSUM(i64, int64_t, uint64_t)
DEFINE_CUMSUM(i32, int32_t, int64_t)
DEFINE_CUMSUM(u8, uint8_t, int64_t)

hd_status cpu_cumsum(const hd_cumsum_args *a) {
    static void (*const lines[HD_DTYPE_COUNT])(void *, int64_t, const void *, int64_t, int64_t) = {
        [HD_F32] = cumsum_f32, [HD_F64] = cumsum_f64, [HD_I64] = cumsum_i64,
        [HD_I32] = cumsum_i32, [HD_U8] = cumsum_u8,   [HD_BOOL] = cumsum_u8,
    };
    const int64_t n = a->x.shape[a->dim], xs = a->x.strides[a->dim], ys = a->y.strides[a->dim];
    if (hd_view_numel(&a->x) == 0)
        return HD_OK;
    hd_view x = a->x, y = a->y; // one element of each line
    x.shape[a->dim] = y.shape[a->dim] = 1;
    cpu_loop loop;
    cpu_loop_start(&loop, &y, y.ndim, CPU_WRITE);
    cpu_loop_add(&loop, &x, CPU_READ);
    cpu_loop_collapse(&loop, false);
    const int64_t start = a->reverse ? n - 1 : 0, sign = a->reverse ? -1 : 1;
    const int64_t group = n < CPU_PIECE ? CPU_PIECE / n : 1, tasks = (loop.numel + group - 1) / group;
    CPU_PARALLEL_FOR(t, tasks) {
        const int64_t end = (t + 1) * group < loop.numel ? (t + 1) * group : loop.numel;
        for (int64_t i = t * group; i < end; i++) {
            int64_t at[CPU_OPERANDS];
            cpu_loop_offsets(&loop, i, at);
            lines[x.dtype](loop.data[0] + (at[0] + start * ys) * (int64_t)loop.size[0], ys * sign,
                           loop.data[1] + (at[1] + start * xs) * (int64_t)loop.size[1], xs * sign, n);
        }
    }
    return HD_OK;
}
