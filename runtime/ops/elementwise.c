// ops/elementwise.c: unary and binary arithmetic, comparisons and where, with broadcasting and type promotion.
// Layer: ops. Calls: backend unary*, binary, where. Called by: autograd, bind.
// A number that stands for a tensor operand arrives as a NULL input with its value in args->value.
#include "ops/families.h"
#include <math.h>
#include <string.h>

// Unary ------------------------------------------------------------------------

static bool takes_integers(hd_unary op) {
    return op == HD_NEG || op == HD_ABS || op == HD_SIGN || op == HD_SQUARE || op == HD_CLAMP || op == HD_NOT;
}

// Whether an integer type holds what clamp may give: whole bounds that are not both on one side of the type's range.
static bool holds_bounds(hd_dtype dtype, double low, double high) {
    const double least = dtype == HD_U8 ? 0 : dtype == HD_I32 ? INT32_MIN : -0x1p63;
    const double most = dtype == HD_U8 ? UINT8_MAX : dtype == HD_I32 ? INT32_MAX : 0x1p63;
    return low == floor(low) && high == floor(high) && low <= most && high >= least;
}

// The type that op works in: f32 for integers that it does not take, or that would lose the bounds of clamp.
static hd_dtype working_type(hd_unary op, hd_dtype dtype, double a, double b) {
    if (hd_dtype_is_float(dtype) || (takes_integers(op) && (op != HD_CLAMP || holds_bounds(dtype, a, b))))
        return dtype;
    return HD_F32;
}

// The scalars of the table entry: bounds of clamp, slope of leaky_relu.
static void unary_scalars(const hd_op_call *c, double *a, double *b) {
    *a = c->args->alpha;
    *b = c->args->beta;
    if (c->aux == HD_CLAMP) {
        *a = isnan(*a) ? -INFINITY : *a;
        *b = isnan(*b) ? INFINITY : *b;
    } else if (c->aux == HD_LEAKY_RELU && isnan(*a)) {
        *a = 0.01;
    }
}

hd_status hd_unary_forward(hd_op_call *c) {
    hd_tensor *x = c->in[0], *source;
    const hd_unary op = (hd_unary)c->aux;
    const int needs = hd_unary_needs(op);
    double a, b;
    unary_scalars(c, &a, &b);
    c->saves = (needs & 1 ? 1 : 0) | (needs & 2 ? HD_SAVE_OUT : 0);
    if (op == HD_NOT && x->dtype != HD_BOOL)
        return hd_fail(HD_EARG, "logical_not: wrong type: got %s, expected bool", hd_dtype_name(x->dtype));
    if (takes_integers(op) && op != HD_NOT && x->dtype == HD_BOOL)
        return hd_fail(HD_EARG, "%s: wrong type: got bool, expected numbers", c->name);
    if (c->inplace) {
        if (working_type(op, x->dtype, a, b) != x->dtype)
            return hd_check_float(c->name, x);
        const hd_view v = hd_tensor_as_view(x);
        c->out = hd_tensor_retain(x);
        return hd_be()->unary(&(hd_unary_args){op, v, v, a, b});
    }
    HD_CHECK(hd_do_cast(x, working_type(op, x->dtype, a, b), &source));
    const hd_status status = hd_do_unary(op, source, a, b, &c->out);
    hd_tensor_release(source);
    return status;
}

// Nobody else reads the gradient that came in: it may be overwritten.
static bool is_disposable(const hd_tensor *dout) {
    return dout->refs == 1 && dout->storage->refs == 1 && hd_tensor_is_dense(dout);
}

hd_status hd_unary_backward(hd_op_call *c) {
    double a, b;
    unary_scalars(c, &a, &b);
    if (is_disposable(c->dout))
        c->din[0] = hd_tensor_retain(c->dout);
    else
        HD_CHECK(hd_tensor_new_like(c->dout, c->dout->dtype, &c->din[0]));
    return hd_be()->unary_back(&(hd_unary_back_args){(hd_unary)c->aux, hd_tensor_as_view(c->in[0]),
                                                     hd_tensor_as_view(c->out), hd_tensor_as_view(c->dout),
                                                     hd_tensor_as_view(c->din[0]), a, b});
}

// Binary -----------------------------------------------------------------------

static bool is_comparison(int op) { return op >= HD_LT && op <= HD_NE; }
static bool is_logical(int op) { return op == HD_AND || op == HD_OR; }
// The results of these on bools are bools; all other arithmetic counts with them.
static bool keeps_bool(int op) {
    return is_comparison(op) || is_logical(op) || op == HD_MUL || op == HD_MAXIMUM || op == HD_MINIMUM;
}

// The type that both operands are brought to.
static hd_dtype operand_type(const hd_op_call *c) {
    const hd_tensor *a = c->in[0], *b = c->in[1], *x = a ? a : b;
    hd_dtype dtype = x->dtype;
    if (a && b)
        dtype = hd_promote(a, b);
    else if (!hd_dtype_is_float(dtype) && (c->args->value != floor(c->args->value) || isinf(c->args->value)))
        dtype = HD_F32;
    else if (dtype == HD_BOOL && !is_comparison(c->aux))
        dtype = HD_I64;
    if (dtype == HD_BOOL && !keeps_bool(c->aux))
        dtype = HD_I64;
    if (!hd_dtype_is_float(dtype) && (c->aux == HD_DIV || c->aux == HD_POW))
        dtype = HD_F32;
    return dtype;
}

// A scalar as a 0-d view of the wanted type; `cell` holds it.
static hd_view number_view(double value, hd_dtype dtype, int64_t *cell) {
    hd_store(cell, dtype, 0, value);
    return (hd_view){.data = cell, .dtype = dtype};
}

static hd_status result_shape(const char *where, const hd_tensor *a, const hd_tensor *b, int *ndim, int64_t *shape) {
    const hd_tensor *x = a ? a : b;
    if (a && b)
        return hd_broadcast(where, a, b, ndim, shape);
    *ndim = x->ndim;
    memcpy(shape, x->shape, sizeof x->shape);
    return HD_OK;
}

static hd_status binary_output(hd_op_call *c, hd_dtype dtype, const hd_tensor *a, const hd_tensor *b, int ndim,
                               const int64_t *shape) {
    if (c->inplace) {
        hd_tensor *x = c->in[0];
        if (x->ndim != ndim || memcmp(x->shape, shape, (size_t)ndim * sizeof *shape) != 0)
            return hd_fail(HD_ESHAPE, "%s_: the result has another shape: got %s, expected %s", c->name,
                           hd_shape_text(ndim, shape), hd_tensor_text(x));
        if (x->dtype != dtype)
            return hd_fail(HD_EARG, "%s_: the result has another type: got %s, expected %s", c->name,
                           hd_dtype_name(dtype), hd_dtype_name(x->dtype));
        c->out = hd_tensor_retain(x);
        return HD_OK;
    }
    return hd_new_result(dtype, ndim, shape, a, b, &c->out);
}

// What backward will read, given which operands need a gradient.
static int binary_saves(const hd_op_call *c) {
    const int a = 1, b = 2;
    switch (c->aux) {
    case HD_MUL:
        return (c->want[0] ? b : 0) | (c->want[1] ? a : 0);
    case HD_DIV:
        return b | (c->want[1] ? a : 0);
    case HD_POW:
        return a | b | (c->want[1] ? HD_SAVE_OUT : 0);
    case HD_MAXIMUM:
    case HD_MINIMUM:
        return a | b;
    default:
        return 0;
    }
}

hd_status hd_binary_forward(hd_op_call *c) {
    const hd_binary op = (hd_binary)c->aux;
    const hd_dtype dtype = operand_type(c);
    hd_tensor *operand[2] = {NULL, NULL};
    hd_view v[2];
    int64_t shape[HD_MAX_DIMS], cell = 0;
    int ndim = 0;
    hd_status status = HD_OK;
    c->saves = binary_saves(c);
    if (is_logical(c->aux) && dtype != HD_BOOL)
        return hd_fail(HD_EARG, "%s: wrong type: got %s, expected bool", c->name, hd_dtype_name(dtype));
    for (int i = 0; i < 2 && status == HD_OK; i++)
        if (c->in[i])
            status = hd_do_cast(c->in[i], dtype, &operand[i]);
    if (status == HD_OK)
        status = result_shape(c->name, operand[0], operand[1], &ndim, shape);
    if (status == HD_OK)
        status = binary_output(c, op >= HD_LT ? HD_BOOL : dtype, operand[0], operand[1], ndim, shape);
    if (status == HD_OK) {
        for (int i = 0; i < 2; i++) {
            v[i] = operand[i] ? hd_tensor_as_view(operand[i]) : number_view(c->args->value, dtype, &cell);
            v[i] = hd_view_broadcast(v[i], ndim, shape);
        }
        if (op == HD_POW && !operand[1])
            status = hd_be()->unary(&(hd_unary_args){HD_POW_S, v[0], hd_tensor_as_view(c->out), c->args->value, 0});
        else
            status = hd_be()->binary(&(hd_binary_args){op, v[0], v[1], hd_tensor_as_view(c->out)});
    }
    hd_tensor_release(operand[0]);
    hd_tensor_release(operand[1]);
    return status;
}

// One operand as a tensor for backward: the saved one, or the number.
static hd_status operand_or_number(const hd_op_call *c, int i, hd_tensor **out) {
    if (c->in[i])
        return hd_do_cast(c->in[i], c->dout->dtype, out);
    HD_CHECK(hd_tensor_new(c->dout->dtype, 0, NULL, HD_ROW_MAJOR, out));
    return hd_do_fill(*out, c->args->value);
}

// dz = dout combined with one operand, then released.
static hd_status times(hd_binary op, hd_tensor *dz, const hd_tensor *by, hd_tensor **out) {
    const hd_status status = hd_do_binary(op, dz, by, out);
    hd_tensor_release(dz);
    return status;
}

static hd_status negated(hd_status status, hd_tensor **x) {
    if (status != HD_OK)
        return status;
    const hd_view v = hd_tensor_as_view(*x);
    return hd_be()->unary(&(hd_unary_args){HD_NEG, v, v, 0, 0});
}

static hd_status div_gradient(hd_op_call *c, int i, const hd_tensor *b, hd_tensor **dz) {
    hd_tensor *a, *q;
    if (i == 0)
        return hd_do_binary(HD_DIV, c->dout, b, dz);
    HD_CHECK(operand_or_number(c, 0, &a)); // d(a/b)/db = -a / b^2
    hd_status status = hd_do_binary(HD_DIV, c->dout, b, &q);
    if (status == HD_OK)
        status = times(HD_MUL, q, a, &q);
    if (status == HD_OK)
        status = negated(times(HD_DIV, q, b, dz), dz);
    hd_tensor_release(a);
    return status;
}

static hd_status pow_gradient(hd_op_call *c, int i, const hd_tensor *a, const hd_tensor *b, hd_tensor **dz) {
    hd_tensor *t, *one;
    if (i == 0 && !c->in[1]) { // d(x^s)/dx = s x^(s-1)
        HD_CHECK(hd_tensor_new_like(c->dout, c->dout->dtype, dz));
        return hd_be()->unary_back(&(hd_unary_back_args){HD_POW_S,
                                                         hd_tensor_as_view(a),
                                                         {0},
                                                         hd_tensor_as_view(c->dout),
                                                         hd_tensor_as_view(*dz),
                                                         c->args->value,
                                                         0});
    }
    if (i == 0) { // b a^(b-1)
        HD_CHECK(hd_do_full_like(b, 1, &one));
        hd_status status = hd_do_binary(HD_SUB, b, one, &t);
        hd_tensor_release(one);
        HD_CHECK(status);
        hd_tensor *power;
        status = hd_do_binary(HD_POW, a, t, &power);
        hd_tensor_release(t);
        HD_CHECK(status);
        HD_CHECK(times(HD_MUL, power, b, &t));
        return times(HD_MUL, t, c->dout, dz);
    }
    HD_CHECK(hd_do_unary(HD_LOG, a, 0, 0, &t)); // y log a
    HD_CHECK(times(HD_MUL, t, c->out, &t));
    return times(HD_MUL, t, c->dout, dz);
}

// The gradient goes to the operand that won; ties go to the first one.
static hd_status extremum_gradient(hd_op_call *c, int i, const hd_tensor *a, const hd_tensor *b, hd_tensor **dz) {
    const bool first = i == 0, max = c->aux == HD_MAXIMUM;
    hd_tensor *mask, *weight;
    HD_CHECK(hd_do_binary(first ? (max ? HD_GE : HD_LE) : (max ? HD_LT : HD_GT), a, b, &mask));
    const hd_status status = hd_do_cast(mask, c->dout->dtype, &weight);
    hd_tensor_release(mask);
    HD_CHECK(status);
    return times(HD_MUL, weight, c->dout, dz);
}

static hd_status operand_gradient(hd_op_call *c, int i, const hd_tensor *a, const hd_tensor *b, hd_tensor **dz) {
    switch (c->aux) {
    case HD_ADD:
        *dz = hd_tensor_retain(c->dout);
        return HD_OK;
    case HD_SUB:
        if (i == 1)
            return hd_do_unary(HD_NEG, c->dout, 0, 0, dz);
        *dz = hd_tensor_retain(c->dout);
        return HD_OK;
    case HD_MUL:
        return hd_do_binary(HD_MUL, c->dout, i == 0 ? b : a, dz);
    case HD_DIV:
        return div_gradient(c, i, b, dz);
    case HD_POW:
        return pow_gradient(c, i, a, b, dz);
    case HD_MAXIMUM:
    case HD_MINIMUM:
        return extremum_gradient(c, i, a, b, dz);
    default:
        return hd_fail(HD_EARG, "backward: this operation is not differentiable");
    }
}

hd_status hd_binary_backward(hd_op_call *c) {
    hd_tensor *operand[2] = {NULL, NULL};
    hd_status status = HD_OK;
    for (int i = 0; i < 2 && status == HD_OK; i++)
        if (c->aux != HD_ADD && c->aux != HD_SUB && (c->in[i] || c->in_ndim[i] < 0))
            status = operand_or_number(c, i, &operand[i]);
    for (int i = 0; i < 2 && status == HD_OK; i++) {
        hd_tensor *dz = NULL;
        if (!c->want[i])
            continue;
        status = operand_gradient(c, i, operand[0], operand[1], &dz);
        if (status == HD_OK)
            status = hd_do_sum_to(dz, c->in_ndim[i], c->in_shape[i], &c->din[i]);
        hd_tensor_release(dz);
    }
    hd_tensor_release(operand[0]);
    hd_tensor_release(operand[1]);
    return status;
}

// where(cond, a, b) ------------------------------------------------------------

// Shape of cond, a and b together; the operands as views of one type. `cell` holds the number, if one is a number.
hd_status hd_where_forward(hd_op_call *c) {
    hd_tensor *cond = c->in[0], *a = c->in[1], *b = c->in[2];
    int ndim = cond->ndim;
    int64_t shape[HD_MAX_DIMS], cell = 0;
    if (cond->dtype != HD_BOOL)
        return hd_fail(HD_EARG, "where: condition has the wrong type: got %s, expected bool",
                       hd_dtype_name(cond->dtype));
    if (!a && !b)
        return hd_fail(HD_EARG, "where: got two numbers, expected a tensor at least once");
    const hd_dtype dtype = a && b ? hd_promote(a, b) : (a ? a : b)->dtype;
    hd_tensor shape_so_far = *cond; // a header only, to broadcast step by step
    for (int i = 1; i < 3; i++) {
        if (!c->in[i])
            continue;
        HD_CHECK(hd_broadcast("where", &shape_so_far, c->in[i], &ndim, shape));
        shape_so_far.ndim = ndim;
        memcpy(shape_so_far.shape, shape, sizeof shape);
    }
    memcpy(shape, shape_so_far.shape, sizeof shape);
    hd_tensor *cast[2] = {NULL, NULL};
    hd_view v[2];
    hd_status status = HD_OK;
    for (int i = 0; i < 2 && status == HD_OK; i++) {
        if (c->in[i + 1])
            status = hd_do_cast(c->in[i + 1], dtype, &cast[i]);
        v[i] = cast[i] ? hd_tensor_as_view(cast[i]) : number_view(c->args->value, dtype, &cell);
        v[i] = hd_view_broadcast(v[i], ndim, shape);
    }
    if (status == HD_OK)
        status = hd_new_result(dtype, ndim, shape, cast[0], cast[1], &c->out);
    if (status == HD_OK)
        status = hd_be()->where(&(hd_where_args){hd_view_broadcast(hd_tensor_as_view(cond), ndim, shape), v[0], v[1],
                                                 hd_tensor_as_view(c->out)});
    hd_tensor_release(cast[0]);
    hd_tensor_release(cast[1]);
    return status;
}

hd_status hd_where_backward(hd_op_call *c) {
    double zero[1] = {0};
    const hd_tensor *dy = c->dout;
    const hd_view cond = hd_view_broadcast(hd_tensor_as_view(c->in[0]), dy->ndim, dy->shape);
    const hd_view none = hd_view_broadcast((hd_view){.data = zero, .dtype = dy->dtype}, dy->ndim, dy->shape);
    for (int i = 1; i < 3; i++) {
        hd_tensor *dz;
        if (!c->want[i])
            continue;
        HD_CHECK(hd_tensor_new_like(dy, dy->dtype, &dz));
        const hd_view v = hd_tensor_as_view(dy);
        hd_status status =
            hd_be()->where(&(hd_where_args){cond, i == 1 ? v : none, i == 1 ? none : v, hd_tensor_as_view(dz)});
        if (status == HD_OK)
            status = hd_do_sum_to(dz, c->in_ndim[i], c->in_shape[i], &c->din[i]);
        hd_tensor_release(dz);
        HD_CHECK(status);
    }
    return HD_OK;
}

// to(dtype) ----------------------------------------------------------------------

hd_status hd_to_forward(hd_op_call *c) {
    hd_tensor *y;
    HD_CHECK(hd_do_cast(c->in[0], (hd_dtype)c->args->dtype, &y));
    if (y != c->in[0]) {
        c->out = y;
        return HD_OK;
    }
    hd_tensor_release(y); // an op's result is a tensor of its own: an alias of the same storage
    return hd_tensor_detach(c->in[0], &c->out);
}

hd_status hd_to_backward(hd_op_call *c) { return hd_do_cast(c->dout, c->in_dtype[0], &c->din[0]); }
