// ops/join.c: cat and pad: several tensors, or one and a border, in a new one.
// Layer: ops. Calls: backend copy, fill. Called by: autograd, bind.
#include "ops/families.h"
#include <string.h>

// The part of y along dim that begins at `start` and has x's extent there, as a view for the back end.
static hd_view part_of(const hd_tensor *y, int dim, int64_t start, int64_t length) {
    hd_view v = hd_tensor_as_view(y);
    v.data = (char *)v.data + start * v.strides[dim] * (int64_t)hd_dtype_size(v.dtype);
    v.shape[dim] = length;
    return v;
}

static hd_status cat_shape(const hd_op_call *c, int *dim, hd_dtype *dtype, int64_t *shape) {
    const hd_tensor *first = c->in[0];
    HD_CHECK(hd_dim("cat", c->args->dim == HD_UNSET ? 0 : c->args->dim, first->ndim, dim));
    memcpy(shape, first->shape, sizeof first->shape);
    *dtype = first->dtype;
    shape[*dim] = 0;
    for (int i = 0; i < c->nin; i++) {
        const hd_tensor *x = c->in[i];
        bool fits = x->ndim == first->ndim;
        for (int d = 0; fits && d < x->ndim; d++)
            fits = d == *dim || x->shape[d] == shape[d];
        if (!fits)
            return hd_fail(HD_ESHAPE, "cat: shapes differ outside dimension %d: got %s and %s", *dim + 1,
                           hd_tensor_text(first), hd_tensor_text(x));
        *dtype = hd_promote(&(hd_tensor){.dtype = *dtype, .ndim = 1}, &(hd_tensor){.dtype = x->dtype, .ndim = 1});
        shape[*dim] += x->shape[*dim];
    }
    return HD_OK;
}

hd_status hd_cat_forward(hd_op_call *c) {
    int dim;
    hd_dtype dtype;
    int64_t shape[HD_MAX_DIMS], start = 0;
    HD_CHECK(cat_shape(c, &dim, &dtype, shape));
    const hd_tensor *first = c->in[0];
    const bool channels_last = hd_tensor_is_channels_last(first) && !hd_tensor_is_contiguous(first);
    HD_CHECK(hd_tensor_new(dtype, first->ndim, shape, channels_last ? HD_CHANNELS_LAST : HD_ROW_MAJOR, &c->out));
    for (int i = 0; i < c->nin; i++) {
        const hd_tensor *x = c->in[i];
        HD_CHECK(hd_be()->copy(&(hd_copy_args){hd_tensor_as_view(x), part_of(c->out, dim, start, x->shape[dim])}));
        start += x->shape[dim];
    }
    return HD_OK;
}

// Each input's gradient is a view of dout: no copy.
hd_status hd_cat_backward(hd_op_call *c) {
    int dim;
    int64_t start = 0;
    HD_CHECK(hd_dim("cat", c->args->dim == HD_UNSET ? 0 : c->args->dim, c->dout->ndim, &dim));
    for (int i = 0; i < c->nin; i++) {
        if (c->want[i])
            HD_CHECK(hd_tensor_view(c->dout, c->dout->ndim, c->in_shape[i], c->dout->strides,
                                    c->dout->offset + start * c->dout->strides[dim], &c->din[i]));
        start += c->in_shape[i][dim];
    }
    return HD_OK;
}

#define MOST_PADDING ((int64_t)1 << 60) // sums of two and an extent stay far from the end of int64_t

// pad: args->pads as PyTorch's F.pad: (before, after) of the last dimension first; negative values crop.
typedef struct {
    int64_t shape[HD_MAX_DIMS];                 // of the padded tensor
    int64_t from[HD_MAX_DIMS], to[HD_MAX_DIMS]; // where the kept part begins in x, and in y
    int64_t kept[HD_MAX_DIMS];                  // its extents
} pad_plan;

static hd_status plan_pad(const hd_op_args *args, int ndim, const int64_t *shape, pad_plan *p) {
    if (args->npads % 2 != 0 || args->npads > 2 * ndim)
        return hd_fail(HD_EARG, "pad: wrong number of widths: got %d, expected pairs for at most %d dimensions",
                       args->npads, ndim);
    for (int d = 0; d < ndim; d++) {
        const int i = 2 * (ndim - 1 - d);
        const int64_t before = i < args->npads ? args->pads[i] : 0, after = i < args->npads ? args->pads[i + 1] : 0;
        if (before > MOST_PADDING || before < -MOST_PADDING || after > MOST_PADDING || after < -MOST_PADDING)
            return hd_fail(HD_ESHAPE, "pad: too wide: got %lld and %lld for dimension %d, expected at most %lld",
                           (long long)before, (long long)after, d + 1, (long long)MOST_PADDING);
        p->shape[d] = shape[d] + before + after;
        p->from[d] = before < 0 ? -before : 0;
        p->to[d] = before > 0 ? before : 0;
        p->kept[d] = shape[d] + (before < 0 ? before : 0) + (after < 0 ? after : 0);
        if (p->kept[d] < 0 || p->shape[d] < 0)
            return hd_fail(HD_ESHAPE, "pad: crops more than there is: got %lld and %lld for dimension %d of %s",
                           (long long)before, (long long)after, d + 1, hd_shape_text(ndim, shape));
    }
    return HD_OK;
}

static hd_view box_of(const hd_tensor *x, const int64_t *start, const int64_t *extent) {
    hd_view v = hd_tensor_as_view(x);
    for (int d = 0; d < x->ndim; d++) {
        v.data = (char *)v.data + (extent[d] > 0 ? start[d] * v.strides[d] * (int64_t)hd_dtype_size(v.dtype) : 0);
        v.shape[d] = extent[d];
    }
    return v;
}

// A tensor in x's memory order, filled with `value`, that takes x's kept box at another place.
static hd_status boxed(const hd_tensor *x, const int64_t *shape, double value, const int64_t *from, const int64_t *to,
                       const int64_t *kept, hd_tensor **out) {
    const bool channels_last = hd_tensor_is_channels_last(x) && !hd_tensor_is_contiguous(x);
    HD_CHECK(hd_tensor_new(x->dtype, x->ndim, shape, channels_last ? HD_CHANNELS_LAST : HD_ROW_MAJOR, out));
    HD_CHECK(hd_do_fill(*out, value));
    return hd_be()->copy(&(hd_copy_args){box_of(x, from, kept), box_of(*out, to, kept)});
}

hd_status hd_pad_forward(hd_op_call *c) {
    pad_plan p;
    const double value = c->args->value;
    HD_CHECK(plan_pad(c->args, c->in[0]->ndim, c->in[0]->shape, &p));
    return boxed(c->in[0], p.shape, value, p.from, p.to, p.kept, &c->out);
}

hd_status hd_pad_backward(hd_op_call *c) {
    pad_plan p;
    HD_CHECK(plan_pad(c->args, c->in_ndim[0], c->in_shape[0], &p));
    return boxed(c->dout, c->in_shape[0], 0, p.to, p.from, p.kept, &c->din[0]);
}
