// ops/norm.c: group norm (with SiLU in the same pass on request), layer norm and RMS norm.
// Layer: ops. Calls: backend norm, norm_back. Called by: autograd, bind.
// All three are one table entry on a view [n, c, p]: see backend.h. Saved for backward: mean and 1/std, [n, groups].
// Source: Wu and He 2018 (group norm); Ba et al. 2016 (layer norm); Zhang and Sennrich 2019 (RMS norm).
#include "ops/families.h"

// Distance of neighbouring positions of x [n, c, ...], -1: they are not equally far apart.
static int64_t position_stride(const hd_tensor *x) {
    int64_t stride = 1, row = -1; // of the last dimension with more than one position; what the one before must have
    for (int d = x->ndim - 1; d >= 2; d--) {
        if (x->shape[d] == 1)
            continue;
        if (row >= 0 && x->strides[d] != row)
            return -1;
        stride = row < 0 ? x->strides[d] : stride;
        row = x->shape[d] * x->strides[d];
    }
    return stride;
}

// May the kernel read x as [n, c, p] with channels fastest?
static bool is_ncp(const hd_tensor *x) { return x && x->strides[1] == 1 && position_stride(x) >= 0; }

// x as [n, c, p]; NULL gives a view without data.
static hd_view as_ncp(const hd_tensor *x) {
    hd_view v = hd_tensor_as_view(x);
    if (!x)
        return v;
    v.ndim = 3;
    v.shape[2] = 1;
    for (int d = 2; d < x->ndim; d++)
        v.shape[2] *= x->shape[d];
    v.strides[2] = position_stride(x);
    return v;
}

// One memory order for all, hence one order of sums: values never depend on layout.
static hd_status dense_input(hd_tensor *x, hd_tensor **out) {
    return x->ndim < 3 ? hd_do_contiguous(x, out) : hd_do_channels_last(x, out);
}

// A view [rows, d] of x over its last `tail` dimensions as [rows, d, 1], for layer and RMS norm. x is row-major; NULL
// gives a view without data.
static hd_view as_rows(const hd_tensor *x, int tail) {
    hd_view v = hd_tensor_as_view(x);
    int64_t d = 1;
    if (!x)
        return v;
    for (int i = x->ndim - tail; i < x->ndim; i++)
        d *= x->shape[i];
    v.ndim = 3;
    v.shape[0] = d > 0 ? hd_tensor_numel(x) / d : 0, v.shape[1] = d, v.shape[2] = 1;
    v.strides[0] = d, v.strides[1] = 1, v.strides[2] = d;
    return v;
}

static hd_view flat(const hd_tensor *w) {
    hd_view v = hd_tensor_as_view(w);
    if (w) {
        v.shape[0] = hd_tensor_numel(w), v.strides[0] = 1;
        v.ndim = 1;
    }
    return v;
}

static hd_status new_statistics(hd_op_call *c, hd_dtype dtype, int64_t n, int64_t groups) {
    for (int i = 0; i < 2; i++)
        HD_CHECK(hd_tensor_new(dtype, 2, (int64_t[]){n, groups}, HD_ROW_MAJOR, &c->saved[i]));
    return HD_OK;
}

static hd_status run_forward(hd_op_call *c, hd_view x, hd_view y, int64_t groups, bool rms) {
    hd_status status;
    hd_tensor *w = NULL, *b = NULL;
    HD_CHECK(new_statistics(c, x.dtype, x.shape[0], groups));
    status = c->in[1] ? hd_do_contiguous(c->in[1], &w) : HD_OK;
    if (status == HD_OK && c->nin > 2 && c->in[2])
        status = hd_do_contiguous(c->in[2], &b);
    if (status == HD_OK)
        status = hd_be()->norm(&(hd_norm_args){.x = x,
                                               .w = flat(w),
                                               .b = flat(b),
                                               .y = y,
                                               .mean = hd_tensor_as_view(c->saved[0]),
                                               .rstd = hd_tensor_as_view(c->saved[1]),
                                               .groups = groups,
                                               .eps = c->args->eps,
                                               .act = (hd_activation)c->args->activation,
                                               .rms = rms});
    hd_tensor_release(w);
    hd_tensor_release(b);
    return status;
}

// din[1] and din[2] (weight and bias) are made here; x, dy, dx and add are views of one form.
static hd_status run_backward(hd_op_call *c, hd_view x, hd_view dy, hd_view dx, hd_view add, int64_t groups, bool rms) {
    hd_status status = HD_OK;
    hd_tensor *w = NULL, *b = NULL;
    for (int i = 1; i < 3 && i < c->nin; i++)
        if (c->want[i])
            HD_CHECK(hd_tensor_new(x.dtype, c->in_ndim[i], c->in_shape[i], HD_ROW_MAJOR, &c->din[i]));
    if (c->in[1])
        status = hd_do_contiguous(c->in[1], &w);
    if (status == HD_OK && c->nin > 2 && c->in[2])
        status = hd_do_contiguous(c->in[2], &b);
    if (status == HD_OK)
        status = hd_be()->norm_back(&(hd_norm_back_args){.x = x,
                                                         .w = flat(w),
                                                         .b = flat(b),
                                                         .mean = hd_tensor_as_view(c->saved[0]),
                                                         .rstd = hd_tensor_as_view(c->saved[1]),
                                                         .dy = dy,
                                                         .dx = dx,
                                                         .dw = flat(c->din[1]),
                                                         .db = flat(c->nin > 2 ? c->din[2] : NULL),
                                                         .add = add,
                                                         .groups = groups,
                                                         .act = (hd_activation)c->args->activation,
                                                         .rms = rms});
    hd_tensor_release(w);
    hd_tensor_release(b);
    return status;
}

static hd_status check_affine(const char *where, const hd_tensor *x, const hd_tensor *w, const char *what, int ndim,
                              const int64_t *shape) {
    if (!w)
        return HD_OK;
    HD_CHECK(hd_check_same_dtype(where, x, what, w));
    bool fits = w->ndim == ndim;
    for (int d = 0; fits && d < ndim; d++)
        fits = w->shape[d] == shape[d];
    return fits ? HD_OK
                : hd_fail(HD_ESHAPE, "%s: %s differs: got %s, expected %s for input %s", where, what, hd_tensor_text(w),
                          hd_shape_text(ndim, shape), hd_tensor_text(x));
}

hd_status hd_group_norm_forward(hd_op_call *c) {
    hd_tensor *x = c->in[0], *dense;
    const int64_t groups = c->args->groups;
    HD_CHECK(hd_check_float("group_norm", x));
    if (x->ndim < 2)
        return hd_fail(HD_ESHAPE, "group_norm: got input %s, expected [n,c,...]", hd_tensor_text(x));
    if (groups < 1 || x->shape[1] % groups != 0)
        return hd_fail(HD_ESHAPE, "group_norm: groups do not divide the channels: got %lld groups for input %s",
                       (long long)groups, hd_tensor_text(x));
    HD_CHECK(check_affine("group_norm", x, c->in[1], "weight", 1, &x->shape[1]));
    HD_CHECK(check_affine("group_norm", x, c->in[2], "bias", 1, &x->shape[1]));
    HD_CHECK(dense_input(x, &dense));
    hd_status status = hd_tensor_new(x->dtype, x->ndim, x->shape, HD_CHANNELS_LAST, &c->out);
    if (status == HD_OK)
        status = run_forward(c, as_ncp(dense), as_ncp(c->out), groups, false);
    hd_tensor_release(dense);
    return status;
}

hd_status hd_group_norm_backward(hd_op_call *c) {
    hd_tensor *x = NULL, *dy = NULL;
    hd_status status = dense_input(c->in[0], &x);
    if (status == HD_OK)
        status = dense_input(c->dout, &dy);
    if (status == HD_OK && c->want[0])
        status = hd_tensor_new(x->dtype, x->ndim, x->shape, HD_CHANNELS_LAST, &c->din[0]);
    const bool add = c->din[0] && is_ncp(c->so_far[0]);
    if (status == HD_OK)
        status = run_backward(c, as_ncp(x), as_ncp(dy), as_ncp(c->din[0]), as_ncp(add ? c->so_far[0] : NULL),
                              c->args->groups, false);
    c->added[0] = add && status == HD_OK;
    hd_tensor_release(x);
    hd_tensor_release(dy);
    return status;
}

// aux: 1 = RMS norm. args->sizes: the trailing extents that are normalised together.
hd_status hd_layer_norm_forward(hd_op_call *c) {
    const char *where = c->aux ? "rms_norm" : "layer_norm";
    hd_tensor *x = c->in[0], *dense;
    const int tail = c->args->nsizes;
    HD_CHECK(hd_check_float(where, x));
    bool fits = tail >= 1 && tail <= x->ndim;
    for (int i = 0; fits && i < tail; i++)
        fits = x->shape[x->ndim - tail + i] == c->args->sizes[i];
    if (!fits)
        return hd_fail(HD_ESHAPE, "%s: sizes differ: got input %s, expected its last dimensions to be %s", where,
                       hd_tensor_text(x), hd_shape_text(tail, c->args->sizes));
    HD_CHECK(check_affine(where, x, c->in[1], "weight", tail, c->args->sizes));
    if (c->nin > 2)
        HD_CHECK(check_affine(where, x, c->in[2], "bias", tail, c->args->sizes));
    HD_CHECK(hd_tensor_new(x->dtype, x->ndim, x->shape, HD_ROW_MAJOR, &c->out));
    HD_CHECK(hd_do_contiguous(x, &dense));
    const hd_status status = run_forward(c, as_rows(dense, tail), as_rows(c->out, tail), 1, c->aux);
    hd_tensor_release(dense);
    return status;
}

hd_status hd_layer_norm_backward(hd_op_call *c) {
    hd_tensor *x = NULL, *dy = NULL;
    const int tail = c->args->nsizes;
    hd_status status = hd_do_contiguous(c->in[0], &x);
    if (status == HD_OK)
        status = hd_do_contiguous(c->dout, &dy);
    if (status == HD_OK && c->want[0])
        status = hd_tensor_new(x->dtype, x->ndim, x->shape, HD_ROW_MAJOR, &c->din[0]);
    const bool add = c->din[0] && c->so_far[0] && hd_tensor_is_contiguous(c->so_far[0]);
    if (status == HD_OK)
        status = run_backward(c, as_rows(x, tail), as_rows(dy, tail), as_rows(c->din[0], tail),
                              as_rows(add ? c->so_far[0] : NULL, tail), 1, c->aux);
    c->added[0] = add && status == HD_OK;
    hd_tensor_release(x);
    hd_tensor_release(dy);
    return status;
}
