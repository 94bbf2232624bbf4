// ops/resize.c: interpolate (nearest, bilinear) and pooling, 1-D and 2-D.
// Layer: ops. Calls: backend resize*, pool*. Called by: autograd, bind.
// x [n,c,h,w] or [n,c,w]; activations are channels-last. Pooling: aux is hd_pool_mode.
#include "ops/families.h"
#include <math.h>

static hd_status channels_last_output(const hd_tensor *x, const int64_t *spatial, hd_tensor **out) {
    int64_t shape[4] = {x->shape[0], x->shape[1]};
    for (int d = 2; d < x->ndim; d++)
        shape[d] = spatial[d - 2];
    return hd_tensor_new(x->dtype, x->ndim, shape, HD_CHANNELS_LAST, out);
}

static hd_status check_input(const char *where, const hd_tensor *x) {
    HD_CHECK(hd_check_float(where, x));
    if (x->ndim == 3 || x->ndim == 4)
        return HD_OK;
    return hd_fail(HD_ESHAPE, "%s: got input %s, expected [n,c,h,w] or [n,c,w]", where, hd_tensor_text(x));
}

hd_status hd_interpolate_forward(hd_op_call *c) {
    hd_tensor *x = c->in[0];
    const hd_op_args *a = c->args;
    int64_t spatial[2];
    HD_CHECK(check_input("interpolate", x));
    if (a->mode == HD_BILINEAR && x->ndim == 3)
        return hd_fail(HD_EARG, "interpolate: mode 'bilinear' needs [n,c,h,w], got %s\n  hint: use mode = \"linear\"",
                       hd_tensor_text(x));
    for (int d = 0; d < x->ndim - 2; d++) {
        if (a->size[d] != HD_UNSET)
            spatial[d] = a->size[d];
        else if (!isnan(a->scale_factor[d]))
            spatial[d] = (int64_t)floor((double)x->shape[d + 2] * a->scale_factor[d]);
        else
            return hd_fail(HD_EARG, "interpolate: the size is missing: expected size or scale_factor");
        if (spatial[d] < 1 || x->shape[d + 2] < 1)
            return hd_fail(HD_ESHAPE, "interpolate: bad size: got %lld for dimension %d of %s, expected at least 1",
                           (long long)spatial[d], d + 3, hd_tensor_text(x));
    }
    HD_CHECK(channels_last_output(x, spatial, &c->out));
    return hd_be()->resize(&(hd_resize_args){hd_view_as_2d(x), hd_view_as_2d(c->out),
                                             a->mode ? HD_BILINEAR : HD_NEAREST, a->align_corners});
}

hd_status hd_interpolate_backward(hd_op_call *c) {
    HD_CHECK(hd_tensor_new(c->dout->dtype, c->in_ndim[0], c->in_shape[0], HD_CHANNELS_LAST, &c->din[0]));
    return hd_be()->resize_back(&(hd_resize_args){hd_view_as_2d(c->din[0]), hd_view_as_2d(c->dout),
                                                  c->args->mode ? HD_BILINEAR : HD_NEAREST, c->args->align_corners});
}

static hd_pool_args pool_args(const hd_op_call *c) {
    const hd_op_args *a = c->args;
    const int dims = (c->dout ? c->dout : c->in[0])->ndim - 2;
    hd_pool_args p = {.mode = (hd_pool_mode)c->aux};
    for (int d = 0; d < 2; d++) {
        const bool used = dims == 2 || d == 1;
        const int from = dims == 2 ? d : 0;
        p.kernel[d] = used ? a->kernel[from] : 1;
        p.stride[d] = used ? (a->stride[from] == HD_UNSET ? a->kernel[from] : a->stride[from]) : 1;
        p.padding[d] = used ? a->padding[from] : 0;
    }
    return p;
}

hd_status hd_pool_forward(hd_op_call *c) {
    const char *where = c->aux == HD_POOL_MAX ? "max_pool" : "avg_pool";
    hd_tensor *x = c->in[0];
    int64_t spatial[2];
    HD_CHECK(check_input(where, x));
    hd_pool_args p = pool_args(c);
    for (int d = 0; d < x->ndim - 2; d++) {
        const int k = x->ndim == 4 ? d : 1;
        const bool sane = x->shape[d + 2] >= 1 && p.kernel[k] >= 1 && p.kernel[k] <= INT32_MAX && p.stride[k] >= 1 &&
                          p.padding[k] >= 0 && p.padding[k] <= p.kernel[k] / 2;
        const int64_t room = sane ? x->shape[d + 2] + 2 * p.padding[k] - p.kernel[k] : -1;
        if (room < 0)
            return hd_fail(HD_ESHAPE, "%s: window does not fit: got input %s, kernel %lld, stride %lld, padding %lld",
                           where, hd_tensor_text(x), (long long)p.kernel[k], (long long)p.stride[k],
                           (long long)p.padding[k]);
        spatial[d] = room / p.stride[k] + 1;
    }
    HD_CHECK(channels_last_output(x, spatial, &c->out));
    p.x = hd_view_as_2d(x);
    p.y = hd_view_as_2d(c->out);
    if (c->aux == HD_POOL_MAX) {
        HD_CHECK(hd_tensor_new(HD_I64, c->out->ndim, c->out->shape, HD_CHANNELS_LAST, &c->saved[0]));
        p.idx = hd_view_as_2d(c->saved[0]);
    }
    return hd_be()->pool(&p);
}

hd_status hd_pool_backward(hd_op_call *c) {
    hd_pool_args p = pool_args(c);
    HD_CHECK(hd_tensor_new(c->dout->dtype, c->in_ndim[0], c->in_shape[0], HD_CHANNELS_LAST, &c->din[0]));
    p.x = hd_view_as_2d(c->din[0]);
    p.y = hd_view_as_2d(c->dout);
    if (c->saved[0])
        p.idx = hd_view_as_2d(c->saved[0]);
    return hd_be()->pool_back(&p);
}
