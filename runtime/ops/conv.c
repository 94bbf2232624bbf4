// ops/conv.c: 1-D and 2-D convolution, transposed convolution, group norm and convolution in one; their gradients.
// Layer: ops. Calls: backend conv, conv_dx, conv_dw. Called by: autograd, bind.
// Layout: x [n,c,h,w] and weight [k,c/groups,r,s] by shape; in memory activations are channels-last and weights lie as
// r,s,c,k. 1-D data [n,c,w] goes through the same kernels with h = 1. aux: number of spatial dimensions.
// Source: cross-correlation as in PyTorch. Transposed convolution is the input gradient of a convolution.
#include "ops/families.h"

#include <string.h>

static int64_t stride_of(const hd_op_args *a, int d) { return a->stride[d] == HD_UNSET ? 1 : a->stride[d]; }

// Options of the 2-D kernel; 1-D ones apply to the last dimension.
static hd_conv_args kernel_args(const hd_op_call *c) {
    const hd_op_args *a = c->args;
    hd_conv_args k = {.groups = a->groups};
    for (int d = 0; d < 2; d++) {
        const bool used = c->aux == 2 || d == 1;
        const int from = c->aux == 2 ? d : 0;
        k.stride[d] = used ? stride_of(a, from) : 1;
        k.padding[d] = used ? a->padding[from] : 0;
        k.dilation[d] = used ? a->dilation[from] : 1;
    }
    return k;
}

// Small enough that no extent computed from it overflows.
static bool within(int64_t value, int64_t least) { return value >= least && value <= INT32_MAX; }

static hd_status check_options(const hd_op_call *c, const char *where) {
    for (int d = 0; d < c->aux; d++)
        if (!within(stride_of(c->args, d), 1) || !within(c->args->padding[d], 0) || !within(c->args->dilation[d], 1) ||
            !within(c->args->output_padding[d], 0) || !within(c->args->groups, 1))
            return hd_fail(
                HD_EARG,
                "%s: bad option: got stride %lld, padding %lld, dilation %lld, groups %lld, expected stride, "
                "dilation, groups >= 1 and padding >= 0, all below 2^31",
                where, (long long)stride_of(c->args, d), (long long)c->args->padding[d],
                (long long)c->args->dilation[d], (long long)c->args->groups);
    return HD_OK;
}

enum { MORE = 4 }; // input of a convolution: channels that count as joined to x

static hd_status check_more(const hd_tensor *x, const hd_tensor *more, int64_t groups, const char *where) {
    bool fits = more->ndim == x->ndim && groups == 1;
    for (int d = 0; fits && d < x->ndim; d++)
        fits = d == 1 || more->shape[d] == x->shape[d];
    HD_CHECK(hd_check_same_dtype(where, x, "more", more));
    return fits ? HD_OK
                : hd_fail(HD_ESHAPE,
                          "%s: more differs outside the channels, or there are groups: got %s for input %s, groups "
                          "%lld",
                          where, hd_tensor_text(more), hd_tensor_text(x), (long long)groups);
}

static hd_status check_operands(const hd_op_call *c, const char *where, bool transposed) {
    const hd_tensor *x = c->in[0], *w = c->in[1], *b = c->in[2];
    const int64_t groups = c->args->groups;
    HD_CHECK(hd_check_float(where, x));
    HD_CHECK(hd_check_ndim(where, "input", x, c->aux + 2));
    HD_CHECK(hd_check_ndim(where, "weight", w, c->aux + 2));
    HD_CHECK(hd_check_same_dtype(where, x, "weight", w));
    HD_CHECK(hd_check_same_dtype(where, x, "bias", b));
    HD_CHECK(check_options(c, where));
    const int64_t channels = transposed ? w->shape[0] : w->shape[1] * groups;
    const int64_t filters = transposed ? w->shape[1] * groups : w->shape[0];
    const hd_tensor *more = transposed ? NULL : c->in[MORE];
    if (more)
        HD_CHECK(check_more(x, more, groups, where));
    if (x->shape[1] + (more ? more->shape[1] : 0) != channels)
        return hd_fail(HD_ESHAPE,
                       "%s: channel count differs: got input %s (%lld channels), expected %lld from weight %s%s", where,
                       hd_tensor_text(x), (long long)x->shape[1], (long long)channels, hd_tensor_text(w),
                       groups > 1 ? " and groups" : "");
    if ((transposed ? channels : filters) % groups != 0)
        return hd_fail(HD_ESHAPE, "%s: groups do not divide the channels: got weight %s, groups %lld", where,
                       hd_tensor_text(w), (long long)groups);
    if (b && (b->ndim != 1 || b->shape[0] != filters))
        return hd_fail(HD_ESHAPE, "%s: bias differs: got %s, expected [%lld]", where, hd_tensor_text(b),
                       (long long)filters);
    return HD_OK;
}

// New [n, channels, spatial...] in channels-last memory.
static hd_status new_activation(const hd_tensor *x, int64_t channels, const int64_t *spatial, hd_tensor **out) {
    int64_t shape[4] = {x->shape[0], channels};
    for (int d = 2; d < x->ndim; d++)
        shape[d] = spatial[d - 2];
    return hd_tensor_new(x->dtype, x->ndim, shape, HD_CHANNELS_LAST, out);
}

// x itself, or a copy whose channels are contiguous: one method and one order of sums whatever the memory order, and
// the fast ones need it.
static hd_status channels_last(hd_tensor *x, hd_tensor **out) {
    if (x->strides[1] != 1 && x->shape[1] != 1)
        return hd_do_clone(x, HD_CHANNELS_LAST, out);
    *out = hd_tensor_retain(x);
    return HD_OK;
}

typedef hd_status (*conv_kernel)(const hd_conv_args *);

// Run a kernel with `x` and `y` (either may be NULL: it is set in k already) as the convolution's input and output.
static hd_status run_kernel(conv_kernel kernel, hd_conv_args k, hd_tensor *x, hd_tensor *y) {
    hd_tensor *x_last = NULL, *y_last = NULL;
    hd_status status = x ? channels_last(x, &x_last) : HD_OK;
    if (status == HD_OK && y)
        status = channels_last(y, &y_last);
    if (x_last)
        k.x = hd_view_as_2d(x_last);
    if (y_last)
        k.y = hd_view_as_2d(y_last);
    if (status == HD_OK)
        status = kernel(&k);
    hd_tensor_release(x_last);
    hd_tensor_release(y_last);
    return status;
}

// A weight-shaped tensor [k,c,r,s] that lies in memory as r,s,c,k.
hd_status hd_conv_weight_new(hd_dtype dtype, int ndim, const int64_t *shape, hd_tensor **out) {
    int64_t step = shape[0] > 0 ? shape[0] : 1, c = shape[1] > 0 ? shape[1] : 1;
    HD_CHECK(hd_tensor_new(dtype, ndim, shape, HD_ROW_MAJOR, out));
    (*out)->strides[0] = 1;
    (*out)->strides[1] = step;
    step *= c;
    for (int d = ndim - 1; d >= 2; d--) {
        (*out)->strides[d] = step;
        step *= shape[d] > 0 ? shape[d] : 1;
    }
    return HD_OK;
}

// Convolution ------------------------------------------------------------------------

static hd_status conv_extents(const hd_op_call *c, const char *where, int64_t *out) {
    const hd_tensor *x = c->in[0], *w = c->in[1];
    const hd_op_args *a = c->args;
    for (int d = 0; d < c->aux; d++) {
        const int64_t reach = a->dilation[d] * (w->shape[d + 2] - 1) + 1, room = x->shape[d + 2] + 2 * a->padding[d];
        if (room < reach || w->shape[d + 2] < 1)
            return hd_fail(HD_ESHAPE,
                           "%s: kernel is larger than the padded input: got input %s, weight %s, padding %lld", where,
                           hd_tensor_text(x), hd_tensor_text(w), (long long)a->padding[d]);
        out[d] = (room - reach) / stride_of(a, d) + 1;
    }
    return HD_OK;
}

// The tensor that is added to the result, as the kernel takes it.
static hd_status view_of_add(const hd_op_call *c, const char *where, hd_view *view) {
    const hd_tensor *add = c->in[3], *y = c->out;
    if (!add)
        return HD_OK;
    bool fits = add->ndim == y->ndim;
    for (int d = 0; fits && d < y->ndim; d++)
        fits = add->shape[d] == y->shape[d] || add->shape[d] == 1;
    HD_CHECK(hd_check_same_dtype(where, y, "add", add));
    if (!fits)
        return hd_fail(HD_ESHAPE, "%s: add differs: got %s, expected %s, or 1 where it is to be repeated", where,
                       hd_tensor_text(add), hd_tensor_text(y));
    *view = hd_view_broadcast(hd_view_as_2d(add), 4, hd_view_as_2d(y).shape);
    return HD_OK;
}

// The part of the weight that meets `count` input channels from `first` on.
static hd_view weight_part(const hd_tensor *w, int64_t first, int64_t count) {
    hd_view v = hd_view_as_2d(w);
    v.data = (char *)v.data + first * v.strides[1] * (int64_t)hd_dtype_size(v.dtype);
    v.shape[1] = count;
    return v;
}

hd_status hd_conv_forward(hd_op_call *c) {
    const char *where = c->name;
    const hd_tensor *x = c->in[0], *w = c->in[1];
    int64_t extents[2];
    HD_CHECK(check_operands(c, where, false));
    HD_CHECK(conv_extents(c, where, extents));
    HD_CHECK(new_activation(x, w->shape[0], extents, &c->out));
    c->saves = (c->want[0] || c->want[MORE] ? 1 << 1 : 0) | (c->want[1] ? 1 << 0 | 1 << MORE : 0);
    hd_conv_args k = kernel_args(c);
    k.w = c->in[MORE] ? weight_part(w, 0, x->shape[1]) : hd_view_as_2d(w);
    k.b = hd_tensor_as_view(c->in[2]);
    k.y = hd_view_as_2d(c->out);
    HD_CHECK(view_of_add(c, where, &k.add));
    HD_CHECK(run_kernel(hd_be()->conv, k, c->in[0], NULL));
    if (!c->in[MORE])
        return HD_OK;
    k.w = weight_part(w, x->shape[1], c->in[MORE]->shape[1]);
    k.b = (hd_view){0};
    k.add = k.y;
    return run_kernel(hd_be()->conv, k, c->in[MORE], NULL);
}

// The two inputs whose channels the weight meets: x and, where there is one, `more`.
static int inputs_of(const hd_op_call *c, int at[2]) {
    at[0] = 0, at[1] = MORE;
    return c->in_ndim[MORE] < 0 ? 1 : 2;
}

static hd_status conv_backward_inputs(hd_op_call *c, hd_conv_args k) {
    int at[2];
    int64_t first = 0;
    for (int i = 0, n = inputs_of(c, at); i < n; i++) {
        const int64_t *shape = c->in_shape[at[i]];
        if (c->want[at[i]]) {
            HD_CHECK(hd_tensor_new(c->dout->dtype, c->in_ndim[0], shape, HD_CHANNELS_LAST, &c->din[at[i]]));
            k.x = hd_view_as_2d(c->din[at[i]]);
            k.w = n > 1 ? weight_part(c->in[1], first, shape[1]) : hd_view_as_2d(c->in[1]);
            HD_CHECK(run_kernel(hd_be()->conv_dx, k, NULL, c->dout));
        }
        first += shape[1];
    }
    return HD_OK;
}

// The weight's gradient into din[1] and, with the first input, the bias's into din[2] where it is there.
static hd_status conv_backward_weight(hd_op_call *c, hd_conv_args k) {
    int at[2];
    int64_t first = 0;
    HD_CHECK(hd_conv_weight_new(c->dout->dtype, c->in_ndim[1], c->in_shape[1], &c->din[1]));
    for (int i = 0, n = inputs_of(c, at); i < n; i++) {
        const int64_t channels = c->in_shape[at[i]][1];
        k.w = n > 1 ? weight_part(c->din[1], first, channels) : hd_view_as_2d(c->din[1]);
        k.b = hd_tensor_as_view(i == 0 ? c->din[2] : NULL);
        HD_CHECK(run_kernel(hd_be()->conv_dw, k, c->in[at[i]], c->dout));
        first += channels;
    }
    return HD_OK;
}

// The bias's gradient alone: the sum over images and positions.
static hd_status sum_to_channels(hd_tensor *dy, hd_tensor **sum) {
    const bool reduced[4] = {true, false, true, true};
    return hd_do_sum_dims(dy, HD_SUM, reduced, false, dy->dtype, sum);
}

hd_status hd_conv_backward(hd_op_call *c) {
    const hd_conv_args k = kernel_args(c);
    HD_CHECK(conv_backward_inputs(c, k));
    if (c->want[3])
        HD_CHECK(hd_do_sum_to(c->dout, c->in_ndim[3], c->in_shape[3], &c->din[3]));
    if (!c->want[1]) // a frozen weight, perhaps with a trained bias
        return c->want[2] ? sum_to_channels(c->dout, &c->din[2]) : HD_OK;
    if (c->want[2])
        HD_CHECK(hd_tensor_new(c->dout->dtype, 1, c->in_shape[2], HD_ROW_MAJOR, &c->din[2]));
    return conv_backward_weight(c, k);
}

// Group norm and convolution in one ------------------------------------------------------------------------------
// Inputs: those of group norm (x, its weight, its bias, more), then weight, bias, add. What lies between is never
// stored: the convolution normalises what it reads, and so does its weight gradient.

enum { NORMED = 4 }; // the first inputs are group norm's

// The convolution's own call, for the checks: its inputs, and groups 1.
typedef struct {
    hd_op_call call;
    hd_op_args args;
    hd_tensor *in[MORE + 1];
} conv_part;

static void conv_part_of(const hd_op_call *c, conv_part *p) {
    *p = (conv_part){*c, *c->args, {c->in[0], c->in[NORMED], c->in[NORMED + 1], c->in[NORMED + 2], c->in[3]}};
    p->args.groups = 1;
    p->call.args = &p->args;
    p->call.in = p->in;
}

// Run a kernel that reads the normalised x and more. y: as of run_kernel.
static hd_status run_normed(const hd_op_call *c, conv_kernel kernel, hd_conv_args k, hd_tensor *y) {
    hd_tensor *x = NULL, *more = NULL;
    hd_status status = hd_do_channels_last(c->in[0], &x);
    if (status == HD_OK && c->in[3])
        status = hd_do_channels_last(c->in[3], &more);
    const hd_conv_norm norm = {.more = more ? hd_view_as_2d(more) : (hd_view){0},
                               .w = hd_tensor_as_view(c->in[1]),
                               .b = hd_tensor_as_view(c->in[2]),
                               .mean = hd_tensor_as_view(c->saved[0]),
                               .rstd = hd_tensor_as_view(c->saved[1]),
                               .groups = c->args->groups,
                               .act = (hd_activation)c->args->activation};
    k.norm = &norm;
    if (status == HD_OK)
        status = run_kernel(kernel, k, x, y);
    hd_tensor_release(more);
    hd_tensor_release(x);
    return status;
}

hd_status hd_norm_conv_forward(hd_op_call *c) {
    conv_part p;
    int64_t extents[2];
    conv_part_of(c, &p);
    HD_CHECK(check_operands(&p.call, c->name, false));
    HD_CHECK(conv_extents(&p.call, c->name, extents));
    HD_CHECK(hd_group_norm_statistics(c));
    HD_CHECK(new_activation(c->in[0], c->in[NORMED]->shape[0], extents, &c->out));
    const bool before = c->want[0] || c->want[1] || c->want[2] || c->want[3];
    c->saves = (before || c->want[NORMED] ? (1 << NORMED) - 1 : 0) | (before ? 1 << NORMED : 0);
    hd_conv_args k = kernel_args(&p.call);
    k.w = hd_view_as_2d(c->in[NORMED]);
    k.b = hd_tensor_as_view(c->in[NORMED + 1]);
    k.y = hd_view_as_2d(c->out);
    p.call.out = c->out;
    HD_CHECK(view_of_add(&p.call, c->name, &k.add));
    return run_normed(c, hd_be()->conv, k, NULL);
}

// The gradients of all that lies before the convolution, through that of what it reads.
static hd_status norm_conv_backward_inputs(hd_op_call *c, hd_conv_args k) {
    hd_op_call norm = *c;
    int64_t shape[HD_MAX_DIMS];
    memcpy(shape, c->in_shape[0], sizeof shape);
    shape[1] = c->in_shape[NORMED][1];
    HD_CHECK(hd_tensor_new(c->dout->dtype, c->in_ndim[0], shape, HD_CHANNELS_LAST, &norm.dout));
    k.x = hd_view_as_2d(norm.dout);
    k.w = hd_view_as_2d(c->in[NORMED]);
    hd_status status = run_kernel(hd_be()->conv_dx, k, NULL, c->dout);
    if (status == HD_OK)
        status = hd_group_norm_backward(&norm);
    hd_tensor_release(norm.dout);
    return status;
}

hd_status hd_norm_conv_backward(hd_op_call *c) {
    hd_tensor **din = c->din + NORMED; // of weight, bias, add
    const bool *want = c->want + NORMED;
    conv_part p;
    conv_part_of(c, &p);
    hd_conv_args k = kernel_args(&p.call);
    if (want[2])
        HD_CHECK(hd_do_sum_to(c->dout, c->in_ndim[NORMED + 2], c->in_shape[NORMED + 2], &din[2]));
    if (want[1] && !want[0])
        HD_CHECK(sum_to_channels(c->dout, &din[1]));
    if (want[1] && want[0])
        HD_CHECK(hd_tensor_new(c->dout->dtype, 1, c->in_shape[NORMED + 1], HD_ROW_MAJOR, &din[1]));
    if (want[0]) {
        HD_CHECK(hd_conv_weight_new(c->dout->dtype, c->in_ndim[NORMED], c->in_shape[NORMED], &din[0]));
        k.w = hd_view_as_2d(din[0]);
        k.b = hd_tensor_as_view(din[1]);
        HD_CHECK(run_normed(c, hd_be()->conv_dw, k, c->dout));
        k.b = (hd_view){0};
    }
    const bool before = c->want[0] || c->want[1] || c->want[2] || c->want[3];
    return before ? norm_conv_backward_inputs(c, k) : HD_OK;
}

// Transposed convolution: weight [c, k/groups, r, s]; the convolution whose input gradient it is maps k to c channels
// ----

static hd_status transposed_extents(const hd_op_call *c, const char *where, int64_t *out) {
    const hd_op_args *a = c->args;
    for (int d = 0; d < c->aux; d++) {
        out[d] = (c->in[0]->shape[d + 2] - 1) * stride_of(a, d) - 2 * a->padding[d] +
                 a->dilation[d] * (c->in[1]->shape[d + 2] - 1) + a->output_padding[d] + 1;
        if (out[d] < 1 || a->output_padding[d] < 0 ||
            (a->output_padding[d] >= stride_of(a, d) && a->output_padding[d] >= a->dilation[d]))
            return hd_fail(
                HD_ESHAPE,
                "%s: sizes do not fit: got input %s, weight %s, stride %lld, padding %lld, output_padding %lld", where,
                hd_tensor_text(c->in[0]), hd_tensor_text(c->in[1]), (long long)stride_of(a, d),
                (long long)a->padding[d], (long long)a->output_padding[d]);
    }
    return HD_OK;
}

hd_status hd_conv_transpose_forward(hd_op_call *c) {
    const char *where = c->name;
    int64_t extents[2];
    HD_CHECK(check_operands(c, where, true));
    HD_CHECK(transposed_extents(c, where, extents));
    HD_CHECK(new_activation(c->in[0], c->in[1]->shape[1] * c->args->groups, extents, &c->out));
    c->saves = (c->want[0] ? 2 : 0) | (c->want[1] ? 1 : 0);
    hd_conv_args k = kernel_args(c);
    k.x = hd_view_as_2d(c->out);
    k.w = hd_view_as_2d(c->in[1]);
    HD_CHECK(run_kernel(hd_be()->conv_dx, k, NULL, c->in[0]));
    if (!c->in[2])
        return HD_OK;
    const hd_view y = hd_tensor_as_view(c->out);
    hd_view b = hd_tensor_as_view(c->in[2]); // [k] along dimension 2 of 3 or 4
    b.ndim = c->aux + 1;
    for (int d = 1; d < b.ndim; d++)
        b.shape[d] = 1, b.strides[d] = 0;
    return hd_be()->binary(&(hd_binary_args){HD_ADD, y, hd_view_broadcast(b, y.ndim, y.shape), y});
}

hd_status hd_conv_transpose_backward(hd_op_call *c) {
    hd_conv_args k = kernel_args(c);
    if (c->want[0]) { // forward convolution of dout
        HD_CHECK(hd_tensor_new(c->dout->dtype, c->in_ndim[0], c->in_shape[0], HD_CHANNELS_LAST, &c->din[0]));
        k.w = hd_view_as_2d(c->in[1]);
        k.y = hd_view_as_2d(c->din[0]);
        HD_CHECK(run_kernel(hd_be()->conv, k, c->dout, NULL));
    }
    if (c->want[1]) {
        HD_CHECK(hd_conv_weight_new(c->dout->dtype, c->in_ndim[1], c->in_shape[1], &c->din[1]));
        k.w = hd_view_as_2d(c->din[1]);
        HD_CHECK(run_kernel(hd_be()->conv_dw, k, c->dout, c->in[0]));
    }
    return c->nin > 2 && c->want[2] ? sum_to_channels(c->dout, &c->din[2]) : HD_OK;
}
