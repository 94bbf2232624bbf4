// backend/counted.c: a back end that counts the work of another one, for profiles.
// Each entry adds the multiply-adds of products (2 FLOPs each, by the direct formula: nothing is deducted for a method
// that saves some) and the bytes of its operands, each once, to the current row of core/profile.h.
#include "backend/counted.h"
#include "core/profile.h"

static const hd_backend *real;

// Bytes of a view's elements; what is broadcast counts once.
static double bytes(const hd_view *v) {
    double n = v->data ? (double)hd_dtype_size(v->dtype) : 0;
    for (int d = 0; d < v->ndim; d++)
        n *= v->strides[d] == 0 ? (v->shape[d] > 0) : (double)v->shape[d];
    return n;
}

// Convolution and both of its gradients: outputs * inputs that each one sees.
static double conv_flops(const hd_conv_args *a) {
    return 2.0 * (double)hd_view_numel(&a->y) * (double)(a->w.shape[1] * a->w.shape[2] * a->w.shape[3]);
}

static double more_bytes(const hd_conv_args *a) { return a->norm ? bytes(&a->norm->more) : 0; }

static double matmul_flops(const hd_matmul_args *a) {
    return 2.0 * (double)hd_view_numel(&a->c) * (double)a->a.shape[a->a.ndim - 1];
}

// q k^T and p v; their gradients are twice as many.
static double attention_flops(const hd_view *q, const hd_view *k, const hd_view *v) {
    return 2.0 * (double)hd_view_numel(q) / (double)(q->shape[3] ? q->shape[3] : 1) * (double)k->shape[2] *
           (double)(q->shape[3] + v->shape[3]);
}

#define ENTRY(name, type, flops, traffic)                                                                              \
    static hd_status counted_##name(const type *a) {                                                                   \
        const int before = hd_profile_enter_kernel(#name);                                                             \
        hd_profile_count(flops, traffic);                                                                              \
        const hd_status status = real->name(a);                                                                        \
        hd_profile_leave(before);                                                                                      \
        return status;                                                                                                 \
    }
#define B(view) bytes(&a->view)

ENTRY(copy, hd_copy_args, 0, B(x) + B(y))
ENTRY(fill, hd_fill_args, 0, B(y))
ENTRY(to_bf16, hd_bf16_args, 0, 6.0 * (double)a->n)
ENTRY(from_bf16, hd_bf16_args, 0, 6.0 * (double)a->n)
ENTRY(unary, hd_unary_args, 0, B(x) + B(y))
ENTRY(unary_back, hd_unary_back_args, 0, B(x) + B(y) + B(dy) + B(dx))
ENTRY(binary, hd_binary_args, 0, B(a) + B(b) + B(y))
ENTRY(where, hd_where_args, 0, B(cond) + B(a) + B(b) + B(y))
ENTRY(reduce, hd_reduce_args, 0, B(x) + B(y))
ENTRY(cumsum, hd_cumsum_args, 0, B(x) + B(y))
ENTRY(softmax, hd_softmax_args, 0, B(x) + B(y))
ENTRY(softmax_back, hd_softmax_back_args, 0, B(y) + B(dy) + B(dx))
ENTRY(matmul, hd_matmul_args, matmul_flops(a), B(a) + B(b) + B(c))
ENTRY(conv, hd_conv_args, conv_flops(a), B(x) + more_bytes(a) + B(w) + B(b) + B(add) + B(y))
ENTRY(conv_dx, hd_conv_args, conv_flops(a), B(x) + B(w) + B(y))
ENTRY(conv_dw, hd_conv_args, conv_flops(a), B(x) + more_bytes(a) + B(w) + B(b) + B(y))
ENTRY(norm, hd_norm_args, 0, B(x) + B(w) + B(b) + B(y))
ENTRY(norm_back, hd_norm_back_args, 0, B(x) + B(dy) + B(dx) + B(add) + B(w) + B(b) + B(dw) + B(db))
ENTRY(attention, hd_attention_args, attention_flops(&a->q, &a->k, &a->v), B(q) + B(k) + B(v) + B(o) + B(lse))
ENTRY(attention_back, hd_attention_back_args, 2 * attention_flops(&a->q, &a->k, &a->v),
      B(q) + B(k) + B(v) + B(o) + B(lse) + B(do_) + B(dq) + B(dk) + B(dv))
ENTRY(resize, hd_resize_args, 0, B(x) + B(y))
ENTRY(resize_back, hd_resize_args, 0, B(x) + B(y))
ENTRY(pool, hd_pool_args, 0, B(x) + B(y) + B(idx))
ENTRY(pool_back, hd_pool_args, 0, B(x) + B(y) + B(idx))
ENTRY(index_select, hd_index_args, 0, 2 * B(y) + B(idx))
ENTRY(index_add, hd_index_args, 0, 3 * B(y) + B(idx))
ENTRY(gather, hd_index_args, 0, 2 * B(y) + B(idx))
ENTRY(scatter_add, hd_index_args, 0, 3 * B(y) + B(idx))
ENTRY(eigh, hd_eigh_args, 0, 2 * B(a) + B(w))
ENTRY(random, hd_random_args, 0, B(y))
ENTRY(adam, hd_adam_args, 0, 2 * B(p) + B(g) + 2 * B(m) + 2 * B(v))
ENTRY(sgd, hd_sgd_args, 0, 2 * B(p) + B(g) + 2 * B(m))
ENTRY(lerp, hd_lerp_args, 0, 2 * B(a) + B(b))

const hd_backend *hd_backend_counted(const hd_backend *other) {
    static hd_backend table;
    real = other;
    table = *other;
#define USE(name) table.name = counted_##name
    USE(copy), USE(fill), USE(to_bf16), USE(from_bf16), USE(unary), USE(unary_back), USE(binary), USE(where),
        USE(reduce), USE(cumsum);
    USE(softmax), USE(softmax_back), USE(matmul), USE(conv), USE(conv_dx), USE(conv_dw), USE(norm), USE(norm_back);
    USE(attention), USE(attention_back), USE(resize), USE(resize_back), USE(pool), USE(pool_back);
    USE(index_select), USE(index_add), USE(gather), USE(scatter_add), USE(eigh), USE(random), USE(adam), USE(sgd),
        USE(lerp);
    return &table;
}
