// ops/attention.c: scaled dot-product attention, o = softmax(scale * q k^T) v.
// Layer: ops. Calls: backend attention*. Called by: autograd, bind.
// q [..,tq,d], k [..,tk,d], v [..,tk,e] -> [..,tq,e]; leading dimensions (at most two: batch, heads) are equal.
// The packed form takes q, k and v as one tensor [n,t,3*h*d], as one projection makes them, and gives [n,t,h*d]: no
// views to select, one gradient in the same memory order. Saved for backward: the logarithm of each row's softmax
// denominator, [n,h,tq]. Source: Vaswani et al. 2017; the rows' probabilities are computed again in backward as in Dao
// et al. 2022, so no tq x tk matrix is kept.
#include "ops/families.h"
#include <math.h>

static hd_view as_nhtd(const hd_tensor *x) {
    hd_view v = hd_tensor_as_view(x);
    const int lead = 4 - x->ndim;
    v.ndim = 4;
    for (int d = 3; d >= 0; d--) {
        v.shape[d] = d < lead ? 1 : x->shape[d - lead];
        v.strides[d] = d < lead ? 0 : x->strides[d - lead];
    }
    return v;
}

static hd_status check_qkv(const hd_tensor *q, const hd_tensor *k, const hd_tensor *v) {
    const char *where = "scaled_dot_product_attention";
    HD_CHECK(hd_check_float(where, q));
    HD_CHECK(hd_check_same_dtype(where, q, "key", k));
    HD_CHECK(hd_check_same_dtype(where, q, "value", v));
    const int n = q->ndim;
    bool fits = n >= 2 && n <= 4 && k->ndim == n && v->ndim == n;
    for (int d = 0; fits && d < n - 2; d++)
        fits = q->shape[d] == k->shape[d] && q->shape[d] == v->shape[d];
    fits = fits && q->shape[n - 1] == k->shape[n - 1] && k->shape[n - 2] == v->shape[n - 2];
    return fits ? HD_OK
                : hd_fail(
                      HD_ESHAPE,
                      "%s: shapes do not fit: got query %s, key %s, value %s, expected [..,tq,d], [..,tk,d], [..,tk,e]",
                      where, hd_tensor_text(q), hd_tensor_text(k), hd_tensor_text(v));
}

// Scores of no channels are 0 whatever the scale: a finite one keeps them so.
static double scale_of(const hd_op_call *c, int64_t d) {
    return !isnan(c->args->scale) ? c->args->scale : d > 0 ? 1.0 / sqrt((double)d) : 1.0;
}

// Without queries, or in backward without keys, too, nothing is to be done, however many heads there are.
static bool empty(hd_view v) { return v.shape[0] == 0 || v.shape[1] == 0 || v.shape[2] == 0; }

static hd_status attend(const hd_attention_args *a) { return empty(a->q) ? HD_OK : hd_be()->attention(a); }

static hd_status attend_back(const hd_attention_back_args *a) {
    return empty(a->q) && empty(a->k) ? HD_OK : hd_be()->attention_back(a);
}

// Heads come from and go back to channels-last activations, so results keep q's memory order with e for d.
hd_status hd_attention_forward(hd_op_call *c) {
    hd_tensor *q = c->in[0], *k = c->in[1], *v = c->in[2];
    int64_t shape[HD_MAX_DIMS];
    HD_CHECK(check_qkv(q, k, v));
    const int n = q->ndim;
    for (int d = 0; d < n; d++)
        shape[d] = d == n - 1 ? v->shape[d] : q->shape[d];
    if (n == 4) { // in memory n, t, h, e: joining the heads again is then a view
        hd_tensor *o;
        const int64_t joined[4] = {shape[0], shape[2], shape[1], shape[3]};
        HD_CHECK(hd_tensor_new(q->dtype, 4, joined, HD_ROW_MAJOR, &o));
        const hd_status status = hd_do_transposed(o, 1, 2, &c->out);
        hd_tensor_release(o);
        HD_CHECK(status);
    } else {
        HD_CHECK(hd_tensor_new(q->dtype, n, shape, HD_ROW_MAJOR, &c->out));
    }
    const hd_view vq = as_nhtd(q);
    HD_CHECK(hd_tensor_new(q->dtype, 3, vq.shape, HD_ROW_MAJOR, &c->saved[0]));
    return attend(&(hd_attention_args){vq, as_nhtd(k), as_nhtd(v), as_nhtd(c->out), hd_tensor_as_view(c->saved[0]),
                                       scale_of(c, q->shape[n - 1])});
}

// In memory n, t, h, d, as the projection that made q, k and v wants them.
static hd_status new_gradients(hd_op_call *c) {
    for (int i = 0; i < 3; i++) {
        hd_tensor *g;
        const int n = c->in_ndim[i];
        if (n != 4) {
            HD_CHECK(hd_tensor_new(c->dout->dtype, n, c->in_shape[i], HD_ROW_MAJOR, &c->din[i]));
            continue;
        }
        const int64_t *s = c->in_shape[i];
        HD_CHECK(hd_tensor_new(c->dout->dtype, 4, (int64_t[]){s[0], s[2], s[1], s[3]}, HD_ROW_MAJOR, &g));
        const hd_status status = hd_do_transposed(g, 1, 2, &c->din[i]);
        hd_tensor_release(g);
        HD_CHECK(status);
    }
    return HD_OK;
}

hd_status hd_attention_backward(hd_op_call *c) {
    HD_CHECK(new_gradients(c));
    return attend_back(&(hd_attention_back_args){as_nhtd(c->in[0]), as_nhtd(c->in[1]), as_nhtd(c->in[2]),
                                                 as_nhtd(c->out), hd_tensor_as_view(c->saved[0]), as_nhtd(c->dout),
                                                 as_nhtd(c->din[0]), as_nhtd(c->din[1]), as_nhtd(c->din[2]),
                                                 scale_of(c, c->in_shape[0][c->in_ndim[0] - 1])});
}

// Packed -------------------------------------------------------------------------------------------------------------

// Part i of a packed tensor [n,t,parts*h*d] as [n,h,t,d].
static hd_view part_of(const hd_tensor *x, int parts, int i, int64_t heads) {
    hd_view v = hd_tensor_as_view(x);
    const int64_t joined = x->shape[2] / parts, d = joined / heads, step = v.strides[2];
    v.data = (char *)v.data + i * joined * step * (int64_t)hd_dtype_size(x->dtype);
    v.ndim = 4;
    v.shape[1] = heads, v.shape[2] = x->shape[1], v.shape[3] = d;
    v.strides[3] = step, v.strides[2] = v.strides[1], v.strides[1] = d * step;
    return v;
}

static hd_status check_packed(const hd_tensor *qkv, int64_t heads) {
    const char *where = "scaled_dot_product_attention_qkvpacked";
    HD_CHECK(hd_check_float(where, qkv));
    HD_CHECK(hd_check_ndim(where, "qkv", qkv, 3));
    if (heads < 1 || qkv->shape[2] % 3 != 0 || qkv->shape[2] / 3 % heads != 0)
        return hd_fail(HD_ESHAPE, "%s: channels do not divide: got %s and %lld heads, expected [n,t,3*heads*d]", where,
                       hd_tensor_text(qkv), (long long)heads);
    return HD_OK;
}

hd_status hd_attention_packed_forward(hd_op_call *c) {
    const hd_tensor *qkv = c->in[0];
    const int64_t heads = c->args->groups;
    HD_CHECK(check_packed(qkv, heads));
    const int64_t n = qkv->shape[0], t = qkv->shape[1], joined = qkv->shape[2] / 3;
    HD_CHECK(hd_tensor_new(qkv->dtype, 3, (int64_t[]){n, t, joined}, HD_ROW_MAJOR, &c->out));
    HD_CHECK(hd_tensor_new(qkv->dtype, 3, (int64_t[]){n, heads, t}, HD_ROW_MAJOR, &c->saved[0]));
    return attend(&(hd_attention_args){.q = part_of(qkv, 3, 0, heads),
                                       .k = part_of(qkv, 3, 1, heads),
                                       .v = part_of(qkv, 3, 2, heads),
                                       .o = part_of(c->out, 1, 0, heads),
                                       .lse = hd_tensor_as_view(c->saved[0]),
                                       .scale = scale_of(c, joined / heads)});
}

hd_status hd_attention_packed_backward(hd_op_call *c) {
    const hd_tensor *qkv = c->in[0];
    const int64_t heads = c->args->groups;
    HD_CHECK(hd_tensor_new(qkv->dtype, 3, qkv->shape, HD_ROW_MAJOR, &c->din[0]));
    return attend_back(&(hd_attention_back_args){.q = part_of(qkv, 3, 0, heads),
                                                 .k = part_of(qkv, 3, 1, heads),
                                                 .v = part_of(qkv, 3, 2, heads),
                                                 .o = part_of(c->out, 1, 0, heads),
                                                 .lse = hd_tensor_as_view(c->saved[0]),
                                                 .do_ = part_of(c->dout, 1, 0, heads),
                                                 .dq = part_of(c->din[0], 3, 0, heads),
                                                 .dk = part_of(c->din[0], 3, 1, heads),
                                                 .dv = part_of(c->din[0], 3, 2, heads),
                                                 .scale = scale_of(c, qkv->shape[2] / 3 / heads)});
}
