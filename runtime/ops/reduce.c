// ops/reduce.c: sums and other reductions over dimensions, cumulative sums, softmax.
// Layer: ops. Calls: backend reduce, cumsum, softmax*. Called by: autograd, bind.
// Dimensions: args->dims (ndims of them) or, where a single one is taken, args->dim; none means all.
#include "ops/families.h"
#include <math.h>
#include <string.h>

// Mark the dimensions that are reduced, and count the elements of each sum.
static hd_status reduced_dims(const hd_op_call *c, const char *where, const hd_tensor *x, bool *reduced,
                              int64_t *count) {
    const int n = c->args->ndims;
    *count = 1;
    for (int d = 0; d < x->ndim; d++)
        reduced[d] = n == 0;
    for (int i = 0; i < n; i++) {
        int d;
        HD_CHECK(hd_dim(where, c->args->dims[i], x->ndim, &d));
        if (reduced[d])
            return hd_fail(HD_ESHAPE, "%s: dimension %d is named twice, expected once", where, d + 1);
        reduced[d] = true;
    }
    for (int d = 0; d < x->ndim; d++)
        *count *= reduced[d] ? x->shape[d] : 1;
    return HD_OK;
}

static const char *const reduce_names[HD_REDUCE_COUNT] = {"sum",   "mean",   "prod",   "max", "min",
                                                          "sumsq", "argmax", "argmin", "all", "any"};

// Sums of integers are i64, means are floats, all and any want bool, positions are 1-based.
static hd_status reduce_type(hd_reduce op, hd_dtype in, hd_dtype *from, hd_dtype *to) {
    const bool is_float = hd_dtype_is_float(in);
    *from = *to = in;
    if (op == HD_ALL || op == HD_ANY) {
        if (in != HD_BOOL)
            return hd_fail(HD_EARG, "%s: wrong type: got %s, expected bool", reduce_names[op], hd_dtype_name(in));
    } else if (op == HD_ARGMAX || op == HD_ARGMIN) {
        *to = HD_I64;
    } else if (!is_float && (op == HD_SUM || op == HD_PROD)) {
        *from = *to = HD_I64;
    } else if (!is_float && (op == HD_MEAN || op == HD_SUMSQ)) {
        *from = *to = HD_F32;
    }
    return HD_OK;
}

hd_status hd_reduce_forward(hd_op_call *c) {
    const hd_reduce op = (hd_reduce)c->aux;
    const char *where = reduce_names[op];
    hd_tensor *x;
    hd_dtype from, to;
    bool reduced[HD_MAX_DIMS];
    int64_t count;
    c->saves = op == HD_PROD || op == HD_MAX || op == HD_MIN ? 1 | HD_SAVE_OUT : op == HD_SUMSQ ? 1 : 0;
    HD_CHECK(reduced_dims(c, where, c->in[0], reduced, &count));
    HD_CHECK(reduce_type(op, c->in[0]->dtype, &from, &to));
    const bool needs_one = op == HD_MAX || op == HD_MIN || op == HD_ARGMAX || op == HD_ARGMIN;
    if (count == 0 && needs_one)
        return hd_fail(HD_ESHAPE, "%s: no elements to choose from: got %s", where, hd_tensor_text(c->in[0]));
    HD_CHECK(hd_do_cast(c->in[0], from, &x));
    hd_status status = hd_do_sum_dims(x, op, reduced, c->args->keepdim, to, &c->out);
    hd_tensor_release(x);
    if (status == HD_OK && (op == HD_ARGMAX || op == HD_ARGMIN)) { // positions count from 1 for the user
        const int64_t one = 1;
        const hd_view v = hd_tensor_as_view(c->out);
        const hd_view ones = hd_view_broadcast((hd_view){.data = (void *)&one, .dtype = HD_I64}, v.ndim, v.shape);
        status = hd_be()->binary(&(hd_binary_args){HD_ADD, v, ones, v});
    }
    return status;
}

// dout [kept dims] as a view that repeats along the reduced ones.
static hd_status expand_reduced(const hd_tensor *t, int ndim, const int64_t *shape, const bool *reduced,
                                hd_tensor **out) {
    int64_t strides[HD_MAX_DIMS];
    const bool kept = t->ndim == ndim; // reduced dimensions may have been kept with extent 1
    for (int d = 0, at = 0; d < ndim; d++) {
        strides[d] = reduced[d] ? 0 : t->strides[kept ? d : at];
        at += !reduced[d];
    }
    return hd_tensor_view(t, ndim, shape, strides, t->offset, out);
}

// max and min: dout goes to the elements that equal the result, in equal shares.
static hd_status extremum_backward(hd_op_call *c, const bool *reduced, const hd_tensor *dy, const hd_tensor *y) {
    hd_tensor *mask, *hit, *ties, *share;
    HD_CHECK(hd_do_binary(HD_EQ, c->in[0], y, &mask));
    hd_status status = hd_do_cast(mask, dy->dtype, &hit);
    hd_tensor_release(mask);
    HD_CHECK(status);
    status = hd_do_sum_dims(hit, HD_SUM, reduced, true, hit->dtype, &ties);
    if (status == HD_OK) {
        status = hd_do_binary(HD_DIV, hit, ties, &share);
        if (status == HD_OK) {
            status = hd_do_binary(HD_MUL, share, dy, &c->din[0]);
            hd_tensor_release(share);
        }
        hd_tensor_release(ties);
    }
    hd_tensor_release(hit);
    return status;
}

static hd_status prod_backward(hd_op_call *c, const hd_tensor *dy, const hd_tensor *y) {
    hd_tensor *ratio;
    HD_CHECK(hd_do_binary(HD_DIV, y, c->in[0], &ratio));
    const hd_status status = hd_do_binary(HD_MUL, ratio, dy, &c->din[0]);
    hd_tensor_release(ratio);
    return status;
}

hd_status hd_reduce_backward(hd_op_call *c) {
    const hd_reduce op = (hd_reduce)c->aux;
    hd_tensor shape_only = {.ndim = c->in_ndim[0]};
    hd_tensor *dy = NULL, *y = NULL;
    bool reduced[HD_MAX_DIMS];
    int64_t count;
    memcpy(shape_only.shape, c->in_shape[0], sizeof shape_only.shape);
    HD_CHECK(reduced_dims(c, reduce_names[op], &shape_only, reduced, &count));
    hd_status status = expand_reduced(c->dout, shape_only.ndim, shape_only.shape, reduced, &dy);
    if (status == HD_OK && c->out)
        status = expand_reduced(c->out, shape_only.ndim, shape_only.shape, reduced, &y);
    if (status == HD_OK) {
        switch (op) {
        case HD_SUM:
            status = hd_do_clone(dy, HD_ROW_MAJOR, &c->din[0]);
            break;
        case HD_MEAN:
            status = hd_do_scale(dy, 1.0 / (double)count, &c->din[0]);
            break;
        case HD_SUMSQ: {
            hd_tensor *product;
            status = hd_do_binary(HD_MUL, c->in[0], dy, &product);
            if (status == HD_OK)
                status = hd_do_scale(product, 2, &c->din[0]);
            hd_tensor_release(product);
            break;
        }
        case HD_PROD:
            status = prod_backward(c, dy, y);
            break;
        default:
            status = extremum_backward(c, reduced, dy, y);
            break;
        }
    }
    hd_tensor_release(dy);
    hd_tensor_release(y);
    return status;
}

// var and its gradient: mean((x - mean(x))^2), unbiased by default (divides by n - 1) ------------------------------

static hd_status centred(const hd_tensor *x, const bool *reduced, hd_tensor **out) {
    hd_tensor *mean;
    HD_CHECK(hd_do_sum_dims(x, HD_MEAN, reduced, true, x->dtype, &mean));
    const hd_status status = hd_do_binary(HD_SUB, x, mean, out);
    hd_tensor_release(mean);
    return status;
}

hd_status hd_var_forward(hd_op_call *c) {
    hd_tensor *x = c->in[0], *d;
    bool reduced[HD_MAX_DIMS];
    int64_t count;
    HD_CHECK(hd_check_float("var", x));
    HD_CHECK(reduced_dims(c, "var", x, reduced, &count));
    HD_CHECK(centred(x, reduced, &d));
    const hd_status status = hd_do_sum_dims(d, HD_SUMSQ, reduced, c->args->keepdim, x->dtype, &c->out);
    hd_tensor_release(d);
    HD_CHECK(status);
    const hd_view v = hd_tensor_as_view(c->out);
    return hd_be()->unary(&(hd_unary_args){HD_SCALE, v, v, 1.0 / (double)(count - c->args->unbiased), 0});
}

hd_status hd_var_backward(hd_op_call *c) {
    hd_tensor *x = c->in[0], *d = NULL, *dy = NULL, *product = NULL;
    bool reduced[HD_MAX_DIMS];
    int64_t count;
    HD_CHECK(reduced_dims(c, "var", x, reduced, &count));
    hd_status status = expand_reduced(c->dout, x->ndim, x->shape, reduced, &dy);
    if (status == HD_OK)
        status = centred(x, reduced, &d);
    if (status == HD_OK)
        status = hd_do_binary(HD_MUL, d, dy, &product);
    if (status == HD_OK)
        status = hd_do_scale(product, 2.0 / (double)(count - c->args->unbiased), &c->din[0]);
    hd_tensor_release(product);
    hd_tensor_release(d);
    hd_tensor_release(dy);
    return status;
}

// norm: sqrt of the sum of squares ------------------------------------------------------------------------------------

hd_status hd_norm2_forward(hd_op_call *c) {
    bool reduced[HD_MAX_DIMS];
    int64_t count;
    HD_CHECK(hd_check_float("norm", c->in[0]));
    HD_CHECK(reduced_dims(c, "norm", c->in[0], reduced, &count));
    HD_CHECK(hd_do_sum_dims(c->in[0], HD_SUMSQ, reduced, c->args->keepdim, c->in[0]->dtype, &c->out));
    const hd_view v = hd_tensor_as_view(c->out);
    return hd_be()->unary(&(hd_unary_args){HD_SQRT, v, v, 0, 0});
}

hd_status hd_norm2_backward(hd_op_call *c) { // dx = dy * x / y
    hd_tensor *x = c->in[0], *dy = NULL, *y = NULL, *ratio = NULL;
    bool reduced[HD_MAX_DIMS];
    int64_t count;
    HD_CHECK(reduced_dims(c, "norm", x, reduced, &count));
    hd_status status = expand_reduced(c->dout, x->ndim, x->shape, reduced, &dy);
    if (status == HD_OK)
        status = expand_reduced(c->out, x->ndim, x->shape, reduced, &y);
    if (status == HD_OK)
        status = hd_do_binary(HD_DIV, x, y, &ratio);
    if (status == HD_OK)
        status = hd_do_binary(HD_MUL, ratio, dy, &c->din[0]);
    hd_tensor_release(ratio);
    hd_tensor_release(dy);
    hd_tensor_release(y);
    return status;
}

// logsumexp: max + log(sum(exp(x - max))) -----------------------------------------------------------------------------

hd_status hd_logsumexp_forward(hd_op_call *c) {
    hd_tensor *x = c->in[0], *max, *shifted = NULL, *sum = NULL, *flat = NULL;
    bool reduced[HD_MAX_DIMS];
    int64_t count;
    HD_CHECK(hd_check_float("logsumexp", x));
    HD_CHECK(reduced_dims(c, "logsumexp", x, reduced, &count));
    HD_CHECK(hd_do_sum_dims(x, HD_MAX, reduced, true, x->dtype, &max));
    hd_status status = hd_do_binary(HD_SUB, x, max, &shifted);
    if (status == HD_OK) {
        const hd_view v = hd_tensor_as_view(shifted);
        status = hd_be()->unary(&(hd_unary_args){HD_EXP, v, v, 0, 0});
    }
    if (status == HD_OK)
        status = hd_do_sum_dims(shifted, HD_SUM, reduced, true, x->dtype, &sum);
    if (status == HD_OK) {
        const hd_view v = hd_tensor_as_view(sum);
        status = hd_be()->unary(&(hd_unary_args){HD_LOG, v, v, 0, 0});
    }
    if (status == HD_OK)
        status = hd_do_add_into(sum, max);
    if (status == HD_OK) { // drop the reduced dimensions unless they are kept
        int64_t shape[HD_MAX_DIMS], strides[HD_MAX_DIMS];
        int n = 0;
        for (int d = 0; d < x->ndim; d++)
            if (!reduced[d] || c->args->keepdim)
                shape[n] = sum->shape[d], strides[n++] = sum->strides[d];
        status = hd_tensor_view(sum, n, shape, strides, 0, &flat);
    }
    c->out = flat;
    hd_tensor_release(shifted);
    hd_tensor_release(sum);
    hd_tensor_release(max);
    return status;
}

hd_status hd_logsumexp_backward(hd_op_call *c) { // dx = dy * exp(x - y)
    hd_tensor *x = c->in[0], *dy = NULL, *y = NULL, *p = NULL;
    bool reduced[HD_MAX_DIMS];
    int64_t count;
    HD_CHECK(reduced_dims(c, "logsumexp", x, reduced, &count));
    hd_status status = expand_reduced(c->dout, x->ndim, x->shape, reduced, &dy);
    if (status == HD_OK)
        status = expand_reduced(c->out, x->ndim, x->shape, reduced, &y);
    if (status == HD_OK)
        status = hd_do_binary(HD_SUB, x, y, &p);
    if (status == HD_OK) {
        const hd_view v = hd_tensor_as_view(p);
        status = hd_be()->unary(&(hd_unary_args){HD_EXP, v, v, 0, 0});
    }
    if (status == HD_OK)
        status = hd_do_binary(HD_MUL, p, dy, &c->din[0]);
    hd_tensor_release(p);
    hd_tensor_release(dy);
    hd_tensor_release(y);
    return status;
}

// cumsum and softmax along one dimension -----------------------------------------------------------------------------

hd_status hd_cumsum_forward(hd_op_call *c) {
    int dim;
    HD_CHECK(hd_dim("cumsum", c->args->dim, c->in[0]->ndim, &dim));
    hd_tensor *x;
    HD_CHECK(hd_do_cast(c->in[0], c->in[0]->dtype == HD_BOOL ? HD_I64 : c->in[0]->dtype, &x));
    hd_status status = hd_tensor_new_like(x, x->dtype, &c->out);
    if (status == HD_OK)
        status = hd_be()->cumsum(&(hd_cumsum_args){hd_tensor_as_view(x), hd_tensor_as_view(c->out), dim, false});
    hd_tensor_release(x);
    return status;
}

hd_status hd_cumsum_backward(hd_op_call *c) {
    int dim;
    HD_CHECK(hd_dim("cumsum", c->args->dim, c->dout->ndim, &dim));
    HD_CHECK(hd_tensor_new_like(c->dout, c->dout->dtype, &c->din[0]));
    return hd_be()->cumsum(&(hd_cumsum_args){hd_tensor_as_view(c->dout), hd_tensor_as_view(c->din[0]), dim, true});
}

hd_status hd_softmax_forward(hd_op_call *c) { // aux: 1 = log_softmax
    const char *where = c->aux ? "log_softmax" : "softmax";
    int dim;
    HD_CHECK(hd_check_float(where, c->in[0]));
    HD_CHECK(hd_dim(where, c->args->dim, c->in[0]->ndim, &dim));
    HD_CHECK(hd_tensor_new_like(c->in[0], c->in[0]->dtype, &c->out));
    return hd_be()->softmax(&(hd_softmax_args){hd_tensor_as_view(c->in[0]), hd_tensor_as_view(c->out), dim, c->aux});
}

hd_status hd_softmax_backward(hd_op_call *c) {
    int dim;
    HD_CHECK(hd_dim("softmax", c->args->dim, c->dout->ndim, &dim));
    HD_CHECK(hd_tensor_new_like(c->out, c->dout->dtype, &c->din[0]));
    return hd_be()->softmax_back(&(hd_softmax_back_args){hd_tensor_as_view(c->out), hd_tensor_as_view(c->dout),
                                                         hd_tensor_as_view(c->din[0]), dim, c->aux});
}
