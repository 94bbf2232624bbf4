// ops/index.c: picking elements by number: index_select, embedding, gather.
// Layer: ops. Calls: backend index_select, index_add, gather, scatter_add. Called by: autograd, bind.
// Indices count from 1, as everywhere in hdlua; the back end gets 0-based i64 ones that have been range-checked.
#include "ops/families.h"
#include <string.h>

// A 0-based row-major i64 copy of 1-based (or negative, from the end) indices into `extent` elements.
static hd_status zero_based(const char *where, const hd_tensor *index, int64_t extent, hd_tensor **out) {
    if (hd_dtype_is_float(index->dtype) || index->dtype == HD_BOOL)
        return hd_fail(HD_EARG, "%s: index has the wrong type: got %s, expected i64, i32 or u8", where,
                       hd_dtype_name(index->dtype));
    HD_CHECK(hd_tensor_new(HD_I64, index->ndim, index->shape, HD_ROW_MAJOR, out));
    hd_status status = hd_do_copy(index, *out);
    int64_t *i = (*out)->storage->data;
    const int64_t n = hd_tensor_numel(index);
    for (int64_t k = 0; status == HD_OK && k < n; k++) {
        const int64_t given = i[k];
        i[k] = given < 0 ? given + extent : given - 1;
        if (given == 0 || i[k] < 0 || i[k] >= extent)
            status = hd_fail(HD_EARG, "%s: index out of range: got %lld, expected 1 to %lld", where, (long long)given,
                             (long long)extent);
    }
    if (status != HD_OK) {
        hd_tensor_release(*out);
        *out = NULL;
    }
    return status;
}

// index_select(x, dim, index [n]) --------------------------------------------------------

hd_status hd_index_select_forward(hd_op_call *c) {
    const hd_tensor *x = c->in[0];
    int64_t shape[HD_MAX_DIMS];
    int dim;
    HD_CHECK(hd_dim("index_select", c->args->dim, x->ndim, &dim));
    HD_CHECK(hd_check_ndim("index_select", "index", c->in[1], 1));
    HD_CHECK(zero_based("index_select", c->in[1], x->shape[dim], &c->saved[0]));
    memcpy(shape, x->shape, sizeof shape);
    shape[dim] = c->in[1]->shape[0];
    const bool channels_last = hd_tensor_is_channels_last(x) && !hd_tensor_is_contiguous(x);
    HD_CHECK(hd_tensor_new(x->dtype, x->ndim, shape, channels_last ? HD_CHANNELS_LAST : HD_ROW_MAJOR, &c->out));
    return hd_be()->index_select(
        &(hd_index_args){hd_tensor_as_view(x), hd_tensor_as_view(c->saved[0]), hd_tensor_as_view(c->out), dim});
}

// Zeros of the shape of input i.
static hd_status zeros_like_input(hd_op_call *c, int i) {
    HD_CHECK(hd_tensor_new(c->dout->dtype, c->in_ndim[i], c->in_shape[i], HD_ROW_MAJOR, &c->din[i]));
    return hd_do_fill(c->din[i], 0);
}

hd_status hd_index_select_backward(hd_op_call *c) {
    int dim;
    HD_CHECK(hd_dim("index_select", c->args->dim, c->in_ndim[0], &dim));
    HD_CHECK(zeros_like_input(c, 0));
    return hd_be()->index_add(&(hd_index_args){hd_tensor_as_view(c->din[0]), hd_tensor_as_view(c->saved[0]),
                                               hd_tensor_as_view(c->dout), dim});
}

// embedding(index [..], weight [v, d]) -> [.., d] -------------------------------------------

// The result [.., d] as rows [n, d]; it is row-major.
static hd_view rows_of(const hd_tensor *y) {
    hd_view v = hd_tensor_as_view(y);
    const int64_t d = y->shape[y->ndim - 1];
    v.ndim = 2;
    v.shape[0] = d > 0 ? hd_tensor_numel(y) / d : 0, v.shape[1] = d;
    v.strides[0] = d, v.strides[1] = 1;
    return v;
}

static hd_view flat_index(const hd_tensor *index) {
    hd_view v = hd_tensor_as_view(index);
    v.ndim = 1;
    v.shape[0] = hd_tensor_numel(index), v.strides[0] = 1;
    return v;
}

hd_status hd_embedding_forward(hd_op_call *c) {
    const hd_tensor *index = c->in[0], *w = c->in[1];
    int64_t shape[HD_MAX_DIMS];
    HD_CHECK(hd_check_ndim("embedding", "weight", w, 2));
    if (index->ndim == HD_MAX_DIMS)
        return hd_fail(HD_ESHAPE, "embedding: index has too many dimensions: got %s, expected at most %d",
                       hd_tensor_text(index), HD_MAX_DIMS - 1);
    HD_CHECK(zero_based("embedding", index, w->shape[0], &c->saved[0]));
    memcpy(shape, index->shape, sizeof shape);
    shape[index->ndim] = w->shape[1];
    HD_CHECK(hd_tensor_new(w->dtype, index->ndim + 1, shape, HD_ROW_MAJOR, &c->out));
    return hd_be()->index_select(&(hd_index_args){hd_tensor_as_view(w), flat_index(c->saved[0]), rows_of(c->out), 0});
}

hd_status hd_embedding_backward(hd_op_call *c) {
    hd_tensor *dy;
    HD_CHECK(zeros_like_input(c, 1));
    HD_CHECK(hd_do_contiguous(c->dout, &dy));
    const hd_status status =
        hd_be()->index_add(&(hd_index_args){hd_tensor_as_view(c->din[1]), flat_index(c->saved[0]), rows_of(dy), 0});
    hd_tensor_release(dy);
    return status;
}

// gather(x, dim, index) ----------------------------------------------------------------------

hd_status hd_gather_forward(hd_op_call *c) {
    const hd_tensor *x = c->in[0], *index = c->in[1];
    int dim;
    HD_CHECK(hd_dim("gather", c->args->dim, x->ndim, &dim));
    bool fits = index->ndim == x->ndim;
    for (int d = 0; fits && d < x->ndim; d++)
        fits = d == dim || index->shape[d] <= x->shape[d];
    if (!fits)
        return hd_fail(HD_ESHAPE, "gather: index does not fit: got %s for input %s and dimension %d",
                       hd_tensor_text(index), hd_tensor_text(x), dim + 1);
    HD_CHECK(zero_based("gather", index, x->shape[dim], &c->saved[0]));
    HD_CHECK(hd_tensor_new(x->dtype, index->ndim, index->shape, HD_ROW_MAJOR, &c->out));
    return hd_be()->gather(
        &(hd_index_args){hd_tensor_as_view(x), hd_tensor_as_view(c->saved[0]), hd_tensor_as_view(c->out), dim});
}

hd_status hd_gather_backward(hd_op_call *c) {
    int dim;
    HD_CHECK(hd_dim("gather", c->args->dim, c->in_ndim[0], &dim));
    HD_CHECK(zeros_like_input(c, 0));
    return hd_be()->scatter_add(&(hd_index_args){hd_tensor_as_view(c->din[0]), hd_tensor_as_view(c->saved[0]),
                                                 hd_tensor_as_view(c->dout), dim});
}
