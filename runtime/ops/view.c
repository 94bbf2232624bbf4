// ops/view.c: other looks at the same storage, and copies that change only the memory order.
// Layer: ops. Calls: backend copy. Called by: autograd, bind.
// A view op's gradient is the inverse view of dout, or dout copied into zeros where the view left elements out.
#include "ops/families.h"
#include <string.h>

// Fill in a size of -1 and compare the counts.
static hd_status resolve_sizes(const char *where, const hd_tensor *x, const hd_op_args *args, int64_t *shape) {
    int64_t known = 1;
    int unknown = -1;
    for (int d = 0; d < args->nsizes; d++) {
        shape[d] = args->sizes[d];
        if (shape[d] == -1 && unknown < 0)
            unknown = d;
        else if (shape[d] < 0)
            return hd_fail(HD_ESHAPE, "%s: bad sizes: got %s, expected extents >= 0 and at most one -1", where,
                           hd_shape_text(args->nsizes, args->sizes));
        else if (__builtin_mul_overflow(known, shape[d], &known))
            return hd_fail(HD_ESHAPE, "%s: too many elements: got %s, expected those of %s", where,
                           hd_shape_text(args->nsizes, args->sizes), hd_tensor_text(x));
    }
    const int64_t numel = hd_tensor_numel(x);
    if (unknown >= 0)
        shape[unknown] = known > 0 ? numel / known : 0;
    if (unknown >= 0 ? known <= 0 || numel % known != 0 : known != numel)
        return hd_fail(HD_ESHAPE, "%s: element counts differ: got %s (%lld elements), expected %s", where,
                       hd_tensor_text(x), (long long)numel, hd_shape_text(args->nsizes, args->sizes));
    return HD_OK;
}

// Strides of x under another shape, where one exists without copying: each run of old dimensions that is contiguous
// among itself may be cut anew.
static bool view_strides(const hd_tensor *x, int ndim, const int64_t *shape, int64_t *strides) {
    int64_t old_shape[HD_MAX_DIMS], old_strides[HD_MAX_DIMS];
    int n = 0;
    for (int d = 0; d < x->ndim; d++)
        if (x->shape[d] != 1)
            old_shape[n] = x->shape[d], old_strides[n++] = x->strides[d];
    int d = ndim - 1, o = n - 1;
    while (d >= 0) {
        if (shape[d] == 1) {
            strides[d] = d + 1 < ndim ? strides[d + 1] * shape[d + 1] : 1;
            d--;
            continue;
        }
        if (o < 0)
            return false;
        int64_t run = old_shape[o], base = old_strides[o]; // the longest contiguous run that ends at o
        while (o > 0 && old_strides[o - 1] == old_strides[o] * old_shape[o])
            run *= old_shape[--o];
        while (d >= 0 && (run > 1 || shape[d] == 1)) {
            if (run % shape[d] != 0)
                return false;
            strides[d] = base;
            base *= shape[d];
            run /= shape[d--];
        }
        if (run != 1)
            return false;
        o--;
    }
    return true;
}

static hd_status reshaped(const char *where, hd_tensor *x, int ndim, const int64_t *shape, bool may_copy,
                          hd_tensor **out) {
    int64_t strides[HD_MAX_DIMS];
    hd_tensor *row_major;
    if (hd_tensor_numel(x) == 0)
        return hd_tensor_new(x->dtype, ndim, shape, HD_ROW_MAJOR, out);
    if (view_strides(x, ndim, shape, strides))
        return hd_tensor_view(x, ndim, shape, strides, x->offset, out);
    if (!may_copy)
        return hd_fail(HD_ESHAPE,
                       "%s: %s cannot be seen as %s without a copy (its elements lie in another order in memory)\n"
                       "  hint: use x:reshape(...), which copies where it must",
                       where, hd_tensor_text(x), hd_shape_text(ndim, shape));
    HD_CHECK(hd_do_clone(x, HD_ROW_MAJOR, &row_major));
    const hd_status status = view_strides(row_major, ndim, shape, strides)
                                 ? hd_tensor_view(row_major, ndim, shape, strides, 0, out)
                                 : hd_fail(HD_ESHAPE, "%s: internal error", where);
    hd_tensor_release(row_major);
    return status;
}

static hd_status reshape_forward(hd_op_call *c, const char *where, bool may_copy) {
    int64_t shape[HD_MAX_DIMS];
    HD_CHECK(resolve_sizes(where, c->in[0], c->args, shape));
    return reshaped(where, c->in[0], c->args->nsizes, shape, may_copy, &c->out);
}

hd_status hd_reshape_forward(hd_op_call *c) { return reshape_forward(c, "reshape", true); }
hd_status hd_view_forward(hd_op_call *c) { return reshape_forward(c, "view", false); }
hd_status hd_reshape_backward(hd_op_call *c) {
    return reshaped("reshape", c->dout, c->in_ndim[0], c->in_shape[0], true, &c->din[0]);
}
hd_status hd_view_backward(hd_op_call *c) { return hd_reshape_backward(c); }

// Dimensions args->dim to args->dim2 become one.
hd_status hd_flatten_forward(hd_op_call *c) {
    hd_tensor *x = c->in[0];
    int64_t shape[HD_MAX_DIMS];
    int first = 0, last = x->ndim - 1, n = 0;
    if (x->ndim == 0)
        return hd_tensor_view(x, 1, (int64_t[]){1}, (int64_t[]){1}, x->offset, &c->out);
    if (c->args->dim != HD_UNSET)
        HD_CHECK(hd_dim("flatten", c->args->dim, x->ndim, &first));
    if (c->args->dim2 != HD_UNSET)
        HD_CHECK(hd_dim("flatten", c->args->dim2, x->ndim, &last));
    if (first > last)
        return hd_fail(HD_ESHAPE, "flatten: dimensions in the wrong order: got %d and %d", first + 1, last + 1);
    for (int d = 0; d < x->ndim; d++) {
        if (d > first && d <= last)
            shape[n - 1] *= x->shape[d];
        else
            shape[n++] = x->shape[d];
    }
    return reshaped("flatten", x, n, shape, true, &c->out);
}
hd_status hd_flatten_backward(hd_op_call *c) { return hd_reshape_backward(c); }

// permute(dims): dimension d of the result is dimension sizes[d] of x (0-based here).
static hd_status permutation(const hd_op_args *args, int ndim, int *order) {
    bool seen[HD_MAX_DIMS] = {false};
    if (args->ndims != ndim)
        return hd_fail(HD_ESHAPE, "permute: wrong number of dimensions: got %d, expected %d", args->ndims, ndim);
    for (int d = 0; d < ndim; d++) {
        HD_CHECK(hd_dim("permute", args->dims[d], ndim, &order[d]));
        if (seen[order[d]])
            return hd_fail(HD_ESHAPE, "permute: dimension %d is named twice, expected once", order[d] + 1);
        seen[order[d]] = true;
    }
    return HD_OK;
}

static hd_status permuted(const hd_tensor *x, const int *order, hd_tensor **out) {
    int64_t shape[HD_MAX_DIMS], strides[HD_MAX_DIMS];
    for (int d = 0; d < x->ndim; d++)
        shape[d] = x->shape[order[d]], strides[d] = x->strides[order[d]];
    return hd_tensor_view(x, x->ndim, shape, strides, x->offset, out);
}

hd_status hd_permute_forward(hd_op_call *c) {
    int order[HD_MAX_DIMS];
    HD_CHECK(permutation(c->args, c->in[0]->ndim, order));
    return permuted(c->in[0], order, &c->out);
}

hd_status hd_permute_backward(hd_op_call *c) {
    int order[HD_MAX_DIMS], inverse[HD_MAX_DIMS];
    HD_CHECK(permutation(c->args, c->dout->ndim, order));
    for (int d = 0; d < c->dout->ndim; d++)
        inverse[order[d]] = d;
    return permuted(c->dout, inverse, &c->din[0]);
}

static hd_status transposed(const hd_op_call *c, const hd_tensor *x, hd_tensor **out) {
    int d1, d2;
    HD_CHECK(hd_dim("transpose", c->args->dim, x->ndim, &d1));
    HD_CHECK(hd_dim("transpose", c->args->dim2, x->ndim, &d2));
    return hd_do_transposed(x, d1, d2, out);
}
hd_status hd_transpose_forward(hd_op_call *c) { return transposed(c, c->in[0], &c->out); }
hd_status hd_transpose_backward(hd_op_call *c) { return transposed(c, c->dout, &c->din[0]); }

hd_status hd_expand_forward(hd_op_call *c) {
    hd_tensor *x = c->in[0];
    const int n = c->args->nsizes, lead = n - x->ndim;
    int64_t shape[HD_MAX_DIMS], strides[HD_MAX_DIMS];
    bool fits = lead >= 0;
    for (int d = 0; fits && d < n; d++) {
        const int64_t have = d < lead ? 1 : x->shape[d - lead];
        shape[d] = c->args->sizes[d] == -1 && d >= lead ? have : c->args->sizes[d];
        strides[d] = d < lead || have != shape[d] ? 0 : x->strides[d - lead];
        fits = shape[d] >= 0 && (have == shape[d] || have == 1);
    }
    if (!fits)
        return hd_fail(HD_ESHAPE,
                       "expand: shape does not fit: got %s, expected it to repeat only dimensions of extent 1 for %s",
                       hd_tensor_text(x), hd_shape_text(n, c->args->sizes));
    return hd_tensor_view(x, n, shape, strides, x->offset, &c->out);
}
hd_status hd_expand_backward(hd_op_call *c) { return hd_do_sum_to(c->dout, c->in_ndim[0], c->in_shape[0], &c->din[0]); }

hd_status hd_unsqueeze_forward(hd_op_call *c) {
    hd_tensor *x = c->in[0];
    int64_t shape[HD_MAX_DIMS], strides[HD_MAX_DIMS];
    int at;
    if (x->ndim == HD_MAX_DIMS)
        return hd_fail(HD_ESHAPE, "unsqueeze: too many dimensions: got %s", hd_tensor_text(x));
    HD_CHECK(hd_dim("unsqueeze", c->args->dim, x->ndim + 1, &at));
    for (int d = 0, from = 0; d <= x->ndim; d++) {
        shape[d] = d == at ? 1 : x->shape[from];
        strides[d] = d == at ? (from < x->ndim ? x->shape[from] * x->strides[from] : 1) : x->strides[from];
        from += d != at;
    }
    return hd_tensor_view(x, x->ndim + 1, shape, strides, x->offset, &c->out);
}
hd_status hd_unsqueeze_backward(hd_op_call *c) { return hd_reshape_backward(c); }

// Without a dimension all of extent 1 go.
hd_status hd_squeeze_forward(hd_op_call *c) {
    hd_tensor *x = c->in[0];
    int64_t shape[HD_MAX_DIMS], strides[HD_MAX_DIMS];
    int only = -1, n = 0;
    if (c->args->dim != HD_UNSET)
        HD_CHECK(hd_dim("squeeze", c->args->dim, x->ndim, &only));
    for (int d = 0; d < x->ndim; d++)
        if (x->shape[d] != 1 || (only >= 0 && d != only))
            shape[n] = x->shape[d], strides[n++] = x->strides[d];
    return hd_tensor_view(x, n, shape, strides, x->offset, &c->out);
}
hd_status hd_squeeze_backward(hd_op_call *c) { return hd_reshape_backward(c); }

// Parts --------------------------------------------------------------------------

// The view of `length` elements from `start` (0-based) along dim.
static hd_status narrowed(const hd_tensor *x, int dim, int64_t start, int64_t length, hd_tensor **out) {
    int64_t shape[HD_MAX_DIMS];
    memcpy(shape, x->shape, sizeof shape);
    shape[dim] = length;
    return hd_tensor_view(x, x->ndim, shape, x->strides, x->offset + (length > 0 ? start * x->strides[dim] : 0), out);
}

static hd_status narrow_range(const hd_op_call *c, const char *where, const int64_t *shape, int ndim, int *dim,
                              int64_t *start, int64_t *length) {
    HD_CHECK(hd_dim(where, c->args->dim, ndim, dim));
    const int64_t extent = shape[*dim];
    *start = c->args->start < 0 ? c->args->start + extent : c->args->start;
    *length = c->args->length;
    if (*start < 0 || *length < 0 || *length > extent - *start)
        return hd_fail(
            HD_ESHAPE, "%s: range outside dimension %d: got start %lld, length %lld, expected within 1 to %lld of %s",
            where, *dim + 1, (long long)*start + 1, (long long)*length, (long long)extent, hd_shape_text(ndim, shape));
    return HD_OK;
}

// Zeros of the input's shape, in dout's memory order where that tells one, with `part` set to dout.
static hd_status zeros_of_input(const hd_op_call *c, hd_tensor **out) {
    const hd_layout layout =
        c->dout->ndim == c->in_ndim[0] && hd_tensor_is_channels_last(c->dout) && !hd_tensor_is_contiguous(c->dout)
            ? HD_CHANNELS_LAST
            : HD_ROW_MAJOR;
    HD_CHECK(hd_tensor_new(c->dout->dtype, c->in_ndim[0], c->in_shape[0], layout, out));
    return hd_do_fill(*out, 0);
}

hd_status hd_narrow_forward(hd_op_call *c) {
    int dim;
    int64_t start, length;
    HD_CHECK(narrow_range(c, "narrow", c->in[0]->shape, c->in[0]->ndim, &dim, &start, &length));
    return narrowed(c->in[0], dim, start, length, &c->out);
}

hd_status hd_narrow_backward(hd_op_call *c) {
    int dim;
    int64_t start, length;
    hd_tensor *part;
    HD_CHECK(narrow_range(c, "narrow", c->in_shape[0], c->in_ndim[0], &dim, &start, &length));
    HD_CHECK(zeros_of_input(c, &c->din[0]));
    HD_CHECK(narrowed(c->din[0], dim, start, length, &part));
    const hd_status status = hd_do_copy(c->dout, part);
    hd_tensor_release(part);
    return status;
}

// One index along a dimension, which goes.
static hd_status selected(const hd_tensor *x, int dim, int64_t index, hd_tensor **out) {
    int64_t shape[HD_MAX_DIMS], strides[HD_MAX_DIMS];
    int n = 0;
    for (int d = 0; d < x->ndim; d++)
        if (d != dim)
            shape[n] = x->shape[d], strides[n++] = x->strides[d];
    return hd_tensor_view(x, n, shape, strides, x->offset + index * x->strides[dim], out);
}

static hd_status select_index(const hd_op_call *c, const int64_t *shape, int ndim, int *dim, int64_t *index) {
    HD_CHECK(hd_dim("select", c->args->dim, ndim, dim));
    *index = c->args->index < 0 ? c->args->index + shape[*dim] : c->args->index;
    if (*index < 0 || *index >= shape[*dim])
        return hd_fail(HD_ESHAPE, "select: index outside dimension %d: got %lld, expected 1 to %lld of %s", *dim + 1,
                       (long long)(c->args->index < 0 ? c->args->index : c->args->index + 1), (long long)shape[*dim],
                       hd_shape_text(ndim, shape));
    return HD_OK;
}

hd_status hd_select_forward(hd_op_call *c) {
    int dim;
    int64_t index;
    HD_CHECK(select_index(c, c->in[0]->shape, c->in[0]->ndim, &dim, &index));
    return selected(c->in[0], dim, index, &c->out);
}

hd_status hd_select_backward(hd_op_call *c) {
    int dim;
    int64_t index;
    hd_tensor *part;
    HD_CHECK(select_index(c, c->in_shape[0], c->in_ndim[0], &dim, &index));
    HD_CHECK(zeros_of_input(c, &c->din[0]));
    HD_CHECK(selected(c->din[0], dim, index, &part));
    const hd_status status = hd_do_copy(c->dout, part);
    hd_tensor_release(part);
    return status;
}

// flip: a copy with the named dimensions reversed; its own inverse.
static hd_status flipped(const hd_op_call *c, const hd_tensor *x, hd_tensor **out) {
    hd_view v = hd_tensor_as_view(x);
    bool seen[HD_MAX_DIMS] = {false};
    HD_CHECK(hd_tensor_new_like(x, x->dtype, out));
    for (int i = 0; i < c->args->ndims; i++) {
        int d;
        HD_CHECK(hd_dim("flip", c->args->dims[i], x->ndim, &d));
        if (seen[d])
            return hd_fail(HD_ESHAPE, "flip: dimension %d is named twice, expected once", d + 1);
        seen[d] = true;
        if (v.shape[d] > 0)
            v.data = (char *)v.data + (v.shape[d] - 1) * v.strides[d] * (int64_t)hd_dtype_size(v.dtype);
        v.strides[d] = -v.strides[d];
    }
    return hd_be()->copy(&(hd_copy_args){v, hd_tensor_as_view(*out)});
}
hd_status hd_flip_forward(hd_op_call *c) { return flipped(c, c->in[0], &c->out); }
hd_status hd_flip_backward(hd_op_call *c) { return flipped(c, c->dout, &c->din[0]); }

// Copies ---------------------------------------------------------------------------

// aux: hd_layout of the result. An alias where x lies so already.
hd_status hd_contiguous_forward(hd_op_call *c) {
    hd_tensor *y;
    HD_CHECK(c->aux == HD_CHANNELS_LAST ? hd_do_channels_last(c->in[0], &y) : hd_do_contiguous(c->in[0], &y));
    if (y != c->in[0]) {
        c->out = y;
        return HD_OK;
    }
    hd_tensor_release(y); // an op's result is a tensor of its own
    return hd_tensor_detach(c->in[0], &c->out);
}
hd_status hd_contiguous_backward(hd_op_call *c) {
    c->din[0] = hd_tensor_retain(c->dout);
    return HD_OK;
}

hd_status hd_clone_forward(hd_op_call *c) {
    HD_CHECK(hd_tensor_new_like(c->in[0], c->in[0]->dtype, &c->out));
    return hd_do_copy(c->in[0], c->out);
}
hd_status hd_clone_backward(hd_op_call *c) { return hd_contiguous_backward(c); }

// copy_: x becomes the values of y, broadcast and converted. In place only; x's own history ends.
hd_status hd_copy_forward(hd_op_call *c) {
    hd_tensor *x = c->in[0], *y = c->in[1];
    int ndim;
    int64_t shape[HD_MAX_DIMS];
    c->saves = 0;
    c->out = hd_tensor_retain(x);
    if (!y)
        return hd_do_fill(x, c->args->value);
    HD_CHECK(hd_broadcast("copy_", x, y, &ndim, shape));
    if (ndim != x->ndim || memcmp(shape, x->shape, (size_t)ndim * sizeof *shape) != 0)
        return hd_fail(HD_ESHAPE, "copy_: shape does not fit: got %s, expected %s or what broadcasts to it",
                       hd_tensor_text(y), hd_tensor_text(x));
    return hd_be()->copy(&(hd_copy_args){hd_view_broadcast(hd_tensor_as_view(y), ndim, shape), hd_tensor_as_view(x)});
}
hd_status hd_copy_backward(hd_op_call *c) {
    if (c->want[0])
        HD_CHECK(hd_do_full_like(c->dout, 0, &c->din[0]));
    if (c->want[1])
        HD_CHECK(hd_do_sum_to(c->dout, c->in_ndim[1], c->in_shape[1], &c->din[1]));
    return HD_OK;
}
