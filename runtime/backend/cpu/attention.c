// backend/cpu/attention.c: scaled dot-product attention and its gradients, without a tq x tk matrix in memory.
// Layer: backend. Calls: gemm.h, simd.h, attention_f64.c. Called by: the table.
// Layout: q [n,h,tq,d], k [n,h,tk,d], v [n,h,tk,e], o [n,h,tq,e], lse [n,h,tq]; any strides.
//
// One head is done a block of queries at a time: scores, softmax and the product with v stay in the cache. Backward
// computes the weights again from the saved logarithm of the denominator (Dao et al. 2022).
// Threads: forward, heads and (where they are few) blocks of queries; backward, heads, since the gradients of k and v
// are sums over all queries of a head, taken in order.
#include "backend/cpu/attention.h"

#include "backend/cpu/gemm.h"
#include "backend/cpu/simd.h"

#include <math.h>

#define TASKS_WANTED 32
#define QUERY_BLOCK 96 // queries at a time

static hd_status no_memory(void) { return hd_fail(HD_ENOMEM, "attention: no memory for the workspace"); }

// Sizes of one head, and of its workspace.
typedef struct {
    int64_t tq, tk, d, e;
    int64_t queries; // of a block
    int64_t ld;      // floats from one row of scores to the next: whole vectors, and not a power of two
    float scale;
} head;

static head head_of(const hd_view *q, const hd_view *k, const hd_view *v, double scale) {
    const int64_t tq = q->shape[2], tk = k->shape[2], blocks = cpu_max(1, cpu_parts(tq, QUERY_BLOCK));
    return (head){.tq = tq,
                  .tk = tk,
                  .d = q->shape[3],
                  .e = v->shape[3],
                  .queries = cpu_max(1, cpu_parts(tq, blocks)),
                  .ld = cpu_parts(tk, VF_LANES) * VF_LANES + 16,
                  .scale = (float)scale};
}

// A workspace handed out piece by piece, each on a cache line. With data == NULL it only counts.
typedef struct {
    char *data;
    size_t used;
} arena;

static void *take(arena *room, size_t bytes) {
    void *piece = room->data ? room->data + room->used : NULL;
    room->used += (bytes + 63) / 64 * 64;
    return piece;
}

static float *take_panels(arena *room, int64_t k, int64_t n) { return take(room, cpu_panel_bytes(k, n)); }

// Row lists and segments for multiply().
typedef struct {
    int64_t *a_row, *c_row;
    cpu_segment *segments;
} lists;

static lists take_lists(arena *room, const head *h) {
    const size_t rows = sizeof(int64_t) * (size_t)cpu_max(h->tk, h->queries);
    const size_t deep = (size_t)cpu_parts(cpu_max(cpu_max(h->tk, h->queries), cpu_max(h->d, h->e)), CPU_DEPTH);
    lists l = {.a_row = take(room, rows), .c_row = take(room, rows)};
    l.segments = take(room, sizeof(cpu_segment) * (deep + 1));
    return l;
}

// A matrix in memory: element (i, j) at data + i * row + j * col.
typedef struct {
    float *data;
    int64_t row, col;
} matrix;

// Rows of head i of a view from `first` on.
static matrix rows_of(const hd_view *v, int64_t i, int64_t first) {
    return (matrix){(float *)v->data + attention_head(v, i) + first * v->strides[2], v->strides[2], v->strides[3]};
}

static matrix transposed(matrix a) { return (matrix){a.data, a.col, a.row}; }

static void pack(float *panels, matrix b, int64_t k, int64_t n) { cpu_pack(panels, b.data, k, n, b.row, b.col); }

// c[m,n] (+)= a[m,k] times the packed b[k,n].
static void multiply(matrix c, matrix a, const float *b, int64_t m, int64_t n, int64_t k, bool add, const lists *l) {
    const cpu_panels panels = {b, k, n, 0};
    cpu_product p = {.rows = m,
                     .a = a.data,
                     .a_row = l->a_row,
                     .a_step = a.col,
                     .segments = l->segments,
                     .b = &panels,
                     .c = c.data,
                     .c_row = l->c_row,
                     .c_step = c.col,
                     .add = add};
    for (int64_t i = 0; i < m; i++) {
        l->a_row[i] = i * a.row;
        l->c_row[i] = i * c.row;
    }
    for (int64_t k0 = 0; k0 < k; k0 += CPU_DEPTH)
        l->segments[p.segment_count++] = (cpu_segment){k0 * a.col, cpu_min(CPU_DEPTH, k - k0)};
    cpu_product_run(&p, 0, cpu_panel_count(n));
}

// Forward ------------------------------------------------------------------------------------------------------------

// z[0..tk) -> exp(scale * z - m), m the largest scale * z; returns m + log of their sum, *sum is the sum.
static float exp_row(float *z, const head *h, float *sum) {
    const int64_t whole = h->ld - 16;
    for (int64_t j = 0; j < h->tk && h->scale == 0; j++)
        z[j] *= 0;
    const float scale = h->scale == 0 ? 1 : h->scale; // 0 * INFINITY would be no weight of 0
    for (int64_t j = h->tk; j < whole; j++)
        z[j] = scale < 0 ? INFINITY : -INFINITY; // weight 0
    vf most = vf_set(-INFINITY), sums = {0};
    for (int64_t j = 0; j < whole; j += VF_LANES)
        most = vf_max(most, vf_load(z + j) * scale);
    float largest = -INFINITY;
    for (int l = 0; l < VF_LANES; l++)
        largest = most[l] > largest ? most[l] : largest;
    for (int64_t j = 0; j < whole; j += VF_LANES) {
        const vf x = vf_exp_mid(vf_load(z + j) * scale - largest);
        sums += x;
        vf_store(z + j, x);
    }
    *sum = vf_sum(sums);
    return largest + logf(*sum);
}

// Row i of m, n elements, divided by a number.
static void divide_row(matrix m, int64_t i, int64_t n, float by) {
    float *x = m.data + i * m.row;
    const float factor = 1 / by;
    for (int64_t j = 0; j < n; j++)
        x[j * m.col] *= factor;
}

typedef struct {
    float *keys, *values; // packed k^T [d,tk] and v [tk,e]
    float *scores;        // [queries, ld]
    float *sums;          // [queries], of the weights before division
    lists lists;
} forward_room;

static forward_room forward_take(arena *room, const head *h) {
    forward_room r = {.keys = take_panels(room, h->d, h->tk), .values = take_panels(room, h->tk, h->e)};
    r.scores = take(room, sizeof(float) * (size_t)(h->queries * h->ld));
    r.sums = take(room, sizeof(float) * (size_t)h->queries);
    r.lists = take_lists(room, h);
    return r;
}

// Queries first..last-1 of head i.
static void forward_head(const hd_attention_args *a, const head *h, int64_t i, int64_t first, int64_t last,
                         const forward_room *r) {
    float *lse = (float *)a->lse.data + attention_head(&a->lse, i);
    const matrix scores = {r->scores, h->ld, 1};
    pack(r->keys, transposed(rows_of(&a->k, i, 0)), h->d, h->tk);
    pack(r->values, rows_of(&a->v, i, 0), h->tk, h->e);
    for (int64_t q = first; q < last; q += h->queries) {
        const int64_t count = cpu_min(h->queries, last - q);
        multiply(scores, rows_of(&a->q, i, q), r->keys, count, h->tk, h->d, false, &r->lists);
        for (int64_t j = 0; j < count; j++)
            lse[(q + j) * a->lse.strides[2]] = exp_row(r->scores + j * h->ld, h, r->sums + j);
        multiply(rows_of(&a->o, i, q), scores, r->values, count, h->e, h->tk, false, &r->lists);
        for (int64_t j = 0; j < count; j++)
            divide_row(rows_of(&a->o, i, q), j, h->e, r->sums[j]);
    }
}

static hd_status attention_f32(const hd_attention_args *a) {
    const head h = head_of(&a->q, &a->k, &a->v, a->scale);
    const int64_t heads = a->q.shape[0] * a->q.shape[1], blocks = cpu_parts(h.tq, h.queries);
    const int64_t splits = cpu_max(1, cpu_min(blocks, cpu_parts(TASKS_WANTED, cpu_max(1, heads))));
    arena size = {0};
    bool failed = false;
    forward_take(&size, &h);
    CPU_PARALLEL_FOR(task, heads * splits) {
        arena room = {.data = hd_alloc(size.used)};
        const int64_t split = task % splits;
        if (room.data) {
            const forward_room r = forward_take(&room, &h);
            forward_head(a, &h, task / splits, blocks * split / splits * h.queries,
                         cpu_min(h.tq, blocks * (split + 1) / splits * h.queries), &r);
        } else {
            __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
        }
        hd_free(room.data);
    }
    return failed ? no_memory() : HD_OK;
}

hd_status cpu_attention(const hd_attention_args *a) {
    return a->q.dtype == HD_F64 ? attention_f64(a) : attention_f32(a);
}

// Backward -----------------------------------------------------------------------------------------------------------

typedef struct {
    float *keys_t, *keys, *values_t; // packed k^T [d,tk], k [tk,d], v^T [e,tk]
    float *queries, *grads;          // packed block of q [queries,d] and of do [queries,e]
    float *weights, *dscores;        // [queries, ld]
    lists lists;
} backward_room;

static backward_room backward_take(arena *room, const head *h) {
    backward_room r = {.keys_t = take_panels(room, h->d, h->tk),
                       .keys = take_panels(room, h->tk, h->d),
                       .values_t = take_panels(room, h->e, h->tk),
                       .queries = take_panels(room, h->queries, h->d),
                       .grads = take_panels(room, h->queries, h->e)};
    r.weights = take(room, sizeof(float) * (size_t)(h->queries * h->ld));
    r.dscores = take(room, sizeof(float) * (size_t)(h->queries * h->ld));
    r.lists = take_lists(room, h);
    return r;
}

// Scores z -> weights p = exp(scale z - lse); their gradient dp -> that of the scores, scale p (dp - sum p dp).
static void weights_row(float *z, float *dp, float lse, float sum_p_dp, const head *h) {
    for (int64_t j = 0; j < h->ld - 16; j += VF_LANES) {
        const vf p = vf_exp_mid(vf_load(z + j) * h->scale - lse);
        vf_store(z + j, p);
        vf_store(dp + j, p * (vf_load(dp + j) - sum_p_dp) * h->scale);
    }
}

// sum p dp = sum o do, over the e elements of one query.
static float row_dot(matrix a, matrix b, int64_t row, int64_t n) {
    double sum = 0;
    int64_t j = 0;
    if (a.col == 1 && b.col == 1) {
        vf sums = {0};
        for (; j <= n - VF_LANES; j += VF_LANES)
            sums += vf_load(a.data + row * a.row + j) * vf_load(b.data + row * b.row + j);
        sum = (double)vf_sum(sums);
    }
    for (; j < n; j++)
        sum += (double)a.data[row * a.row + j * a.col] * (double)b.data[row * b.row + j * b.col];
    return (float)sum;
}

// Queries q..q+count-1 of head i: writes dq, and writes or adds to dk and dv.
static void backward_block(const hd_attention_back_args *a, const head *h, int64_t i, int64_t q, int64_t count,
                           const backward_room *r) {
    const matrix weights = {r->weights, h->ld, 1}, dscores = {r->dscores, h->ld, 1};
    const matrix grad = rows_of(&a->do_, i, q), out = rows_of(&a->o, i, q);
    const float *lse = (const float *)a->lse.data + attention_head(&a->lse, i);
    multiply(weights, rows_of(&a->q, i, q), r->keys_t, count, h->tk, h->d, false, &r->lists);
    multiply(dscores, grad, r->values_t, count, h->tk, h->e, false, &r->lists);
    for (int64_t j = 0; j < count; j++)
        weights_row(r->weights + j * h->ld, r->dscores + j * h->ld, lse[(q + j) * a->lse.strides[2]],
                    row_dot(grad, out, j, h->e), h);
    pack(r->queries, rows_of(&a->q, i, q), count, h->d);
    pack(r->grads, grad, count, h->e);
    multiply(rows_of(&a->dq, i, q), dscores, r->keys, count, h->d, h->tk, false, &r->lists);
    multiply(rows_of(&a->dk, i, 0), transposed(dscores), r->queries, h->tk, h->d, count, q > 0, &r->lists);
    multiply(rows_of(&a->dv, i, 0), transposed(weights), r->grads, h->tk, h->e, count, q > 0, &r->lists);
}

static hd_status attention_back_f32(const hd_attention_back_args *a) {
    const head h = head_of(&a->q, &a->k, &a->v, a->scale);
    arena size = {0};
    bool failed = false;
    backward_take(&size, &h);
    CPU_PARALLEL_FOR(i, a->q.shape[0] * a->q.shape[1]) {
        arena room = {.data = hd_alloc(size.used)};
        if (room.data) {
            const backward_room r = backward_take(&room, &h);
            pack(r.keys_t, transposed(rows_of(&a->k, i, 0)), h.d, h.tk);
            pack(r.keys, rows_of(&a->k, i, 0), h.tk, h.d);
            pack(r.values_t, transposed(rows_of(&a->v, i, 0)), h.e, h.tk);
            for (int64_t q = 0; q == 0 || q < h.tq; q += h.queries) // once without queries: dk = dv = 0
                backward_block(a, &h, i, q, cpu_min(h.queries, h.tq - q), &r);
        } else {
            __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
        }
        hd_free(room.data);
    }
    return failed ? no_memory() : HD_OK;
}

hd_status cpu_attention_back(const hd_attention_back_args *a) {
    return a->q.dtype == HD_F64 ? attention_back_f64(a) : attention_back_f32(a);
}
