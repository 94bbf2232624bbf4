// ops/compose.c: the small steps that rules are composed of, and shape arithmetic with its messages.
// Layer: ops. Calls: the back-end table, core.
#include "ops/compose.h"
#include <math.h>
#include <string.h>

// Shapes -----------------------------------------------------------------------

hd_status hd_dim(const char *where, int64_t dim, int ndim, int *out) {
    const int64_t d = dim < 0 ? dim + ndim : dim;
    if (d < 0 || d >= ndim)
        return hd_fail(HD_ESHAPE, "%s: dimension out of range: got %lld, expected 1 to %d (or -%d to -1)", where,
                       (long long)(dim < 0 ? dim : dim + 1), ndim, ndim);
    *out = (int)d;
    return HD_OK;
}

hd_status hd_broadcast(const char *where, const hd_tensor *a, const hd_tensor *b, int *ndim, int64_t *shape) {
    const int n = a->ndim > b->ndim ? a->ndim : b->ndim;
    for (int d = 0; d < n; d++) {
        const int da = d - (n - a->ndim), db = d - (n - b->ndim);
        const int64_t ea = da < 0 ? 1 : a->shape[da], eb = db < 0 ? 1 : b->shape[db];
        if (ea != eb && ea != 1 && eb != 1)
            return hd_fail(HD_ESHAPE,
                           "%s: shapes do not broadcast: got %s and %s, expected dimension %d to agree or be 1", where,
                           hd_tensor_text(a), hd_tensor_text(b), d + 1);
        shape[d] = ea == 1 ? eb : ea;
    }
    *ndim = n;
    return HD_OK;
}

hd_view hd_view_broadcast(hd_view v, int ndim, const int64_t *shape) {
    hd_view r = v;
    r.ndim = ndim;
    for (int d = 0; d < ndim; d++) {
        const int dv = d - (ndim - v.ndim);
        r.shape[d] = shape[d];
        r.strides[d] = dv < 0 || (v.shape[dv] == 1 && shape[d] != 1) ? 0 : v.strides[dv];
    }
    return r;
}

static int rank_of(hd_dtype t) {
    static const int ranks[HD_DTYPE_COUNT] = {[HD_F64] = 5, [HD_F32] = 4, [HD_I64] = 3, [HD_I32] = 2, [HD_U8] = 1};
    return ranks[t];
}
static int category_of(hd_dtype t) { return t == HD_BOOL ? 0 : hd_dtype_is_float(t) ? 2 : 1; }

hd_dtype hd_promote(const hd_tensor *a, const hd_tensor *b) {
    if (a->dtype == b->dtype)
        return a->dtype;
    if ((a->ndim == 0) != (b->ndim == 0) && category_of(a->dtype) == category_of(b->dtype))
        return a->ndim == 0 ? b->dtype : a->dtype;
    return rank_of(a->dtype) > rank_of(b->dtype) ? a->dtype : b->dtype;
}

hd_status hd_check_float(const char *where, const hd_tensor *x) {
    if (hd_dtype_is_float(x->dtype))
        return HD_OK;
    return hd_fail(HD_EARG, "%s: wrong type: got %s, expected f32 or f64\n  hint: convert with x:to(\"f32\")", where,
                   hd_dtype_name(x->dtype));
}

hd_status hd_check_ndim(const char *where, const char *what, const hd_tensor *x, int ndim) {
    if (x->ndim == ndim)
        return HD_OK;
    return hd_fail(HD_ESHAPE, "%s: %s has the wrong number of dimensions: got %s, expected %d%s", where, what,
                   hd_tensor_text(x), ndim,
                   x->ndim == ndim - 1 ? "\n  hint: for a single one x:unsqueeze(1) makes a batch" : "");
}

hd_status hd_check_same_dtype(const char *where, const hd_tensor *a, const char *what, const hd_tensor *b) {
    if (!b || a->dtype == b->dtype)
        return HD_OK;
    return hd_fail(HD_EARG, "%s: types differ: got input %s and %s %s, expected one type", where,
                   hd_dtype_name(a->dtype), what, hd_dtype_name(b->dtype));
}

hd_view hd_view_as_2d(const hd_tensor *x) {
    hd_view v = hd_tensor_as_view(x);
    if (!x || x->ndim == 4)
        return v;
    v.ndim = 4;
    v.shape[3] = v.shape[2], v.strides[3] = v.strides[2];
    v.shape[2] = 1, v.strides[2] = v.shape[3] * v.strides[3];
    return v;
}

// Steps --------------------------------------------------------------------------

hd_status hd_do_copy(const hd_tensor *x, hd_tensor *y) {
    return hd_be()->copy(&(hd_copy_args){hd_tensor_as_view(x), hd_tensor_as_view(y)});
}

// Hand `y` out when `status` is fine, release it otherwise.
static hd_status give(hd_status status, hd_tensor *y, hd_tensor **out) {
    if (status != HD_OK) {
        hd_tensor_release(y);
        y = NULL;
    }
    *out = y;
    return status;
}

hd_status hd_do_cast(hd_tensor *x, hd_dtype dtype, hd_tensor **out) {
    hd_tensor *y;
    if (x->dtype == dtype) {
        *out = hd_tensor_retain(x);
        return HD_OK;
    }
    *out = NULL;
    HD_CHECK(hd_tensor_new_like(x, dtype, &y));
    return give(hd_do_copy(x, y), y, out);
}

hd_status hd_do_clone(const hd_tensor *x, hd_layout layout, hd_tensor **out) {
    hd_tensor *y;
    *out = NULL;
    HD_CHECK(hd_tensor_new(x->dtype, x->ndim, x->shape, layout, &y));
    return give(hd_do_copy(x, y), y, out);
}

hd_status hd_do_contiguous(hd_tensor *x, hd_tensor **out) {
    if (!hd_tensor_is_contiguous(x))
        return hd_do_clone(x, HD_ROW_MAJOR, out);
    *out = hd_tensor_retain(x);
    return HD_OK;
}

hd_status hd_do_channels_last(hd_tensor *x, hd_tensor **out) {
    if (!hd_tensor_is_channels_last(x))
        return hd_do_clone(x, HD_CHANNELS_LAST, out);
    *out = hd_tensor_retain(x);
    return HD_OK;
}

hd_status hd_do_to_bf16(const float *x, uint16_t *y, int64_t n) {
    return hd_be()->to_bf16(&(hd_bf16_args){(float *)(uintptr_t)x, y, n});
}

hd_status hd_do_from_bf16(const uint16_t *x, float *y, int64_t n) {
    return hd_be()->from_bf16(&(hd_bf16_args){y, (uint16_t *)(uintptr_t)x, n});
}

hd_status hd_do_fill(hd_tensor *x, double value) { return hd_be()->fill(&(hd_fill_args){hd_tensor_as_view(x), value}); }

hd_status hd_do_full_like(const hd_tensor *x, double value, hd_tensor **out) {
    hd_tensor *y;
    *out = NULL;
    HD_CHECK(hd_tensor_new_like(x, x->dtype, &y));
    return give(hd_do_fill(y, value), y, out);
}

hd_status hd_do_unary(hd_unary op, const hd_tensor *x, double a, double b, hd_tensor **out) {
    hd_tensor *y;
    *out = NULL;
    HD_CHECK(hd_tensor_new_like(x, op == HD_ISFINITE || op == HD_NOT ? HD_BOOL : x->dtype, &y));
    return give(hd_be()->unary(&(hd_unary_args){op, hd_tensor_as_view(x), hd_tensor_as_view(y), a, b}), y, out);
}

hd_status hd_do_scale(const hd_tensor *x, double factor, hd_tensor **out) {
    return hd_do_unary(HD_SCALE, x, factor, 0, out);
}

// True when x can say in which memory order a result of this shape shall lie.
static bool is_model(const hd_tensor *x, int ndim, const int64_t *shape) {
    return x && x->ndim == ndim && memcmp(x->shape, shape, (size_t)ndim * sizeof *shape) == 0 &&
           !hd_tensor_is_expanded(x);
}

hd_status hd_new_result(hd_dtype dtype, int ndim, const int64_t *shape, const hd_tensor *a, const hd_tensor *b,
                        hd_tensor **out) {
    if (is_model(a, ndim, shape))
        return hd_tensor_new_like(a, dtype, out);
    if (is_model(b, ndim, shape))
        return hd_tensor_new_like(b, dtype, out);
    return hd_tensor_new(dtype, ndim, shape, HD_ROW_MAJOR, out);
}

hd_status hd_do_binary(hd_binary op, const hd_tensor *a, const hd_tensor *b, hd_tensor **out) {
    int ndim;
    int64_t shape[HD_MAX_DIMS];
    hd_tensor *y;
    *out = NULL;
    HD_CHECK(hd_broadcast("arithmetic", a, b, &ndim, shape));
    const hd_dtype dtype = op >= HD_LT && op <= HD_OR ? HD_BOOL : a->dtype;
    HD_CHECK(hd_new_result(dtype, ndim, shape, a, b, &y));
    return give(
        hd_be()->binary(&(hd_binary_args){op, hd_view_broadcast(hd_tensor_as_view(a), ndim, shape),
                                          hd_view_broadcast(hd_tensor_as_view(b), ndim, shape), hd_tensor_as_view(y)}),
        y, out);
}

hd_status hd_do_add_into(hd_tensor *a, const hd_tensor *b) {
    const hd_view v = hd_tensor_as_view(a);
    return hd_be()->binary(&(hd_binary_args){HD_ADD, v, hd_tensor_as_view(b), v});
}

hd_status hd_do_sum_dims(const hd_tensor *x, hd_reduce op, const bool *reduced, bool keepdim, hd_dtype dtype,
                         hd_tensor **out) {
    int64_t kept_shape[HD_MAX_DIMS], full_shape[HD_MAX_DIMS];
    hd_view v = hd_tensor_as_view(x), y;
    hd_tensor *t;
    int kept = 0, nred = 0;
    *out = NULL;
    for (int pass = 0; pass < 2; pass++) { // kept dimensions first, then the reduced ones
        for (int d = 0; d < x->ndim; d++) {
            if (reduced[d] != (pass == 1))
                continue;
            const int at = kept + nred;
            v.shape[at] = x->shape[d], v.strides[at] = x->strides[d];
            if (pass == 1)
                nred++;
            else
                kept_shape[kept++] = x->shape[d];
            full_shape[d] = pass == 1 ? 1 : x->shape[d];
        }
    }
    HD_CHECK(keepdim ? hd_tensor_new(dtype, x->ndim, full_shape, HD_ROW_MAJOR, &t)
                     : hd_tensor_new(dtype, kept, kept_shape, HD_ROW_MAJOR, &t));
    y = hd_tensor_as_view(t);
    y.ndim = kept;
    int64_t step = 1;
    for (int d = kept - 1; d >= 0; d--) {
        y.shape[d] = kept_shape[d];
        y.strides[d] = step;
        step *= kept_shape[d];
    }
    return give(hd_be()->reduce(&(hd_reduce_args){op, nred, v, y}), t, out);
}

hd_status hd_do_sum_of_squares(const hd_tensor *x, double *sum) {
    bool all[HD_MAX_DIMS];
    hd_tensor *part;
    for (int d = 0; d < HD_MAX_DIMS; d++)
        all[d] = true;
    HD_CHECK(hd_do_sum_dims(x, HD_SUMSQ, all, false, HD_F64, &part));
    const hd_status status = hd_be()->sync();
    if (status == HD_OK)
        *sum += hd_load(part->storage->data, HD_F64, 0);
    hd_tensor_release(part);
    return status;
}

hd_status hd_do_sum_to(hd_tensor *x, int ndim, const int64_t *shape, hd_tensor **out) {
    bool reduced[HD_MAX_DIMS], any = false;
    hd_tensor *sum;
    *out = NULL;
    for (int d = 0; d < x->ndim; d++) {
        const int ds = d - (x->ndim - ndim);
        reduced[d] = ds < 0 || (shape[ds] == 1 && x->shape[d] != 1);
        any = any || reduced[d];
    }
    if (!any) {
        *out = hd_tensor_retain(x);
        return HD_OK;
    }
    HD_CHECK(hd_do_sum_dims(x, HD_SUM, reduced, true, x->dtype, &sum));
    // Drop the leading dimensions of extent 1 that the target does not have.
    const int skip = x->ndim - ndim;
    const hd_status status = hd_tensor_view(sum, ndim, shape, sum->strides + skip, 0, out);
    hd_tensor_release(sum);
    return status;
}

hd_status hd_do_transposed(const hd_tensor *x, int d1, int d2, hd_tensor **out) {
    int64_t shape[HD_MAX_DIMS], strides[HD_MAX_DIMS];
    memcpy(shape, x->shape, sizeof shape);
    memcpy(strides, x->strides, sizeof strides);
    shape[d1] = x->shape[d2], shape[d2] = x->shape[d1];
    strides[d1] = x->strides[d2], strides[d2] = x->strides[d1];
    return hd_tensor_view(x, x->ndim, shape, strides, x->offset, out);
}
