// backend/cpu/attention_f64.c: attention and its gradients in double, one query after the other.
// Layer: backend. Called by: attention.c. For gradient checks and small exact work; one task per head.
#include "backend/cpu/attention.h"

#include <math.h>

#define AT(m, i, j) ((m).data[(i) * (m).row + (j) * (m).col])

// One head of a view: element (i, j) at data + i * row + j * col.
typedef struct {
    double *data;
    int64_t row, col;
} matrix;

static matrix head_of(const hd_view *v, int64_t i) {
    return (matrix){(double *)v->data + attention_head(v, i), v->strides[2], v->strides[3]};
}

static double row_dot(matrix a, int64_t i, matrix b, int64_t j, int64_t n) {
    double sum = 0;
    for (int64_t c = 0; c < n; c++)
        sum += AT(a, i, c) * AT(b, j, c);
    return sum;
}

// Row i of `to` += factor * row j of `from`.
static void add_row(matrix to, int64_t i, double factor, matrix from, int64_t j, int64_t n) {
    for (int64_t c = 0; c < n; c++)
        AT(to, i, c) += factor * AT(from, j, c);
}

static void clear(matrix m, int64_t rows, int64_t cols) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++)
            AT(m, i, j) = 0;
}

static void forward_head(const hd_attention_args *a, int64_t i) {
    const matrix q = head_of(&a->q, i), k = head_of(&a->k, i), v = head_of(&a->v, i), o = head_of(&a->o, i);
    const int64_t tq = a->q.shape[2], tk = a->k.shape[2], d = a->q.shape[3], e = a->v.shape[3];
    double *lse = (double *)a->lse.data + attention_head(&a->lse, i);
    clear(o, tq, e);
    for (int64_t t = 0; t < tq; t++) {
        double largest = -INFINITY, sum = 0;
        for (int64_t j = 0; j < tk; j++)
            largest = fmax(largest, a->scale * row_dot(q, t, k, j, d));
        for (int64_t j = 0; j < tk; j++) {
            const double weight = exp(a->scale * row_dot(q, t, k, j, d) - largest);
            sum += weight;
            add_row(o, t, weight, v, j, e);
        }
        for (int64_t c = 0; c < e; c++)
            AT(o, t, c) /= sum;
        lse[t * a->lse.strides[2]] = largest + log(sum);
    }
}

hd_status attention_f64(const hd_attention_args *a) {
    CPU_PARALLEL_FOR(i, a->q.shape[0] * a->q.shape[1])
    forward_head(a, i);
    return HD_OK;
}

static void backward_head(const hd_attention_back_args *a, int64_t i) {
    const matrix q = head_of(&a->q, i), k = head_of(&a->k, i), v = head_of(&a->v, i), o = head_of(&a->o, i);
    const matrix grad = head_of(&a->do_, i), dq = head_of(&a->dq, i), dk = head_of(&a->dk, i), dv = head_of(&a->dv, i);
    const int64_t tq = a->q.shape[2], tk = a->k.shape[2], d = a->q.shape[3], e = a->v.shape[3];
    const double *lse = (const double *)a->lse.data + attention_head(&a->lse, i);
    clear(dq, tq, d);
    clear(dk, tk, d);
    clear(dv, tk, e);
    for (int64_t t = 0; t < tq; t++) {
        const double sum_p_dp = row_dot(grad, t, o, t, e);
        for (int64_t j = 0; j < tk; j++) {
            const double weight = exp(a->scale * row_dot(q, t, k, j, d) - lse[t * a->lse.strides[2]]);
            const double dscore = a->scale * weight * (row_dot(grad, t, v, j, e) - sum_p_dp);
            add_row(dv, j, weight, grad, t, e);
            add_row(dq, t, dscore, k, j, d);
            add_row(dk, j, dscore, q, t, d);
        }
    }
}

hd_status attention_back_f64(const hd_attention_back_args *a) {
    CPU_PARALLEL_FOR(i, a->q.shape[0] * a->q.shape[1])
    backward_head(a, i);
    return HD_OK;
}
