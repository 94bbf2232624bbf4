// ops/matmul.c: matrix products: matmul with PyTorch's rules for 1-D and batched operands, and linear layers.
// Layer: ops. Calls: backend matmul. Called by: autograd, bind.
// a [.., m, k], b [.., k, n] -> [.., m, n]; a 1-D a is a row, a 1-D b a column, and that dimension goes from the
// result.
#include "ops/families.h"
#include <string.h>

// Operands as views of one rank with broadcast leading dimensions.
typedef struct {
    hd_view a, b;
    int ndim;                   // of the product with its vector dimensions still there
    int64_t shape[HD_MAX_DIMS]; // the same
} matmul_plan;

static hd_view as_matrix(const hd_tensor *x, bool row) {
    hd_view v = hd_tensor_as_view(x);
    if (x->ndim != 1)
        return v;
    v.ndim = 2;
    v.shape[row ? 1 : 0] = x->shape[0], v.strides[row ? 1 : 0] = x->strides[0];
    v.shape[row ? 0 : 1] = 1, v.strides[row ? 0 : 1] = 0;
    return v;
}

// Give v leading dimensions so that it has ndim, those of `shape`, repeated where it has extent 1.
static hd_view with_batch(hd_view v, int ndim, const int64_t *shape) {
    int64_t target[HD_MAX_DIMS];
    memcpy(target, shape, sizeof target);
    target[ndim - 2] = v.shape[v.ndim - 2];
    target[ndim - 1] = v.shape[v.ndim - 1];
    return hd_view_broadcast(v, ndim, target);
}

static hd_status plan_matmul(const hd_tensor *a, const hd_tensor *b, matmul_plan *p) {
    if (a->ndim == 0 || b->ndim == 0)
        return hd_fail(HD_ESHAPE, "matmul: got %s and %s, expected at least one dimension each", hd_tensor_text(a),
                       hd_tensor_text(b));
    HD_CHECK(hd_check_float("matmul", a));
    HD_CHECK(hd_check_same_dtype("matmul", a, "other", b));
    const hd_view va = as_matrix(a, true), vb = as_matrix(b, false);
    p->ndim = va.ndim > vb.ndim ? va.ndim : vb.ndim;
    bool fits = va.shape[va.ndim - 1] == vb.shape[vb.ndim - 2];
    for (int d = 0; d < p->ndim - 2; d++) {
        const int da = d - (p->ndim - va.ndim), db = d - (p->ndim - vb.ndim);
        const int64_t ea = da < 0 ? 1 : va.shape[da], eb = db < 0 ? 1 : vb.shape[db];
        fits = fits && (ea == eb || ea == 1 || eb == 1);
        p->shape[d] = ea == 1 ? eb : ea;
    }
    if (!fits)
        return hd_fail(HD_ESHAPE, "matmul: shapes do not fit: got %s and %s, expected [..,m,k] and [..,k,n]",
                       hd_tensor_text(a), hd_tensor_text(b));
    p->shape[p->ndim - 2] = va.shape[va.ndim - 2];
    p->shape[p->ndim - 1] = vb.shape[vb.ndim - 1];
    p->a = with_batch(va, p->ndim, p->shape);
    p->b = with_batch(vb, p->ndim, p->shape);
    return HD_OK;
}

hd_status hd_matmul_forward(hd_op_call *c) {
    const hd_tensor *a = c->in[0], *b = c->in[1];
    matmul_plan p;
    int64_t shape[HD_MAX_DIMS];
    int n = 0;
    HD_CHECK(plan_matmul(a, b, &p));
    c->saves = (c->want[0] ? 2 : 0) | (c->want[1] ? 1 : 0);
    for (int d = 0; d < p.ndim; d++)
        if (!(d == p.ndim - 2 && a->ndim == 1) && !(d == p.ndim - 1 && b->ndim == 1))
            shape[n++] = p.shape[d];
    HD_CHECK(hd_tensor_new(a->dtype, n, shape, HD_ROW_MAJOR, &c->out));
    hd_view y = hd_tensor_as_view(c->out); // with the vector dimensions back in place; it is row-major
    int64_t step = 1;
    y.ndim = p.ndim;
    for (int d = p.ndim - 1; d >= 0; d--) {
        y.shape[d] = p.shape[d], y.strides[d] = step;
        step *= p.shape[d];
    }
    return hd_be()->matmul(&(hd_matmul_args){.a = p.a, .b = p.b, .c = y});
}

static hd_view swapped(hd_view v) {
    const int r = v.ndim - 2, k = v.ndim - 1;
    const int64_t shape = v.shape[r], stride = v.strides[r];
    v.shape[r] = v.shape[k], v.strides[r] = v.strides[k];
    v.shape[k] = shape, v.strides[k] = stride;
    return v;
}

// product of two planned views, summed over broadcast batches and brought to the operand's own shape
static hd_status operand_gradient(hd_view left, hd_view right, int ndim, const int64_t *in_shape, int in_ndim, bool row,
                                  hd_dtype dtype, hd_tensor **out) {
    int64_t shape[HD_MAX_DIMS], matrix[HD_MAX_DIMS];
    hd_tensor *full, *summed;
    memcpy(shape, left.shape, sizeof shape);
    shape[ndim - 1] = right.shape[ndim - 1];
    HD_CHECK(hd_tensor_new(dtype, ndim, shape, HD_ROW_MAJOR, &full));
    hd_status status = hd_be()->matmul(&(hd_matmul_args){.a = left, .b = right, .c = hd_tensor_as_view(full)});
    if (status == HD_OK) {
        const int n = in_ndim == 1 ? 2 : in_ndim;
        if (in_ndim == 1)
            matrix[row ? 0 : 1] = 1, matrix[row ? 1 : 0] = in_shape[0];
        else
            memcpy(matrix, in_shape, sizeof matrix);
        status = hd_do_sum_to(full, n, matrix, &summed);
        if (status == HD_OK) {
            const int64_t stride = summed->strides[row ? 1 : 0];
            status = hd_tensor_view(summed, in_ndim, in_shape, in_ndim == 1 ? &stride : summed->strides, summed->offset,
                                    out);
            hd_tensor_release(summed);
        }
    }
    hd_tensor_release(full);
    return status;
}

hd_status hd_matmul_backward(hd_op_call *c) {
    const hd_dtype dtype = c->dout->dtype;
    // Rebuild the plan from shapes: a saved operand is missing where nobody needs it.
    hd_tensor ghost[2];
    for (int i = 0; i < 2; i++) {
        ghost[i] =
            c->in[i] ? *c->in[i] : (hd_tensor){.dtype = dtype, .ndim = c->in_ndim[i], .storage = c->dout->storage};
        memcpy(ghost[i].shape, c->in_shape[i], sizeof ghost[i].shape);
    }
    matmul_plan p;
    HD_CHECK(plan_matmul(&ghost[0], &ghost[1], &p));
    hd_view dy = hd_tensor_as_view(c->dout);
    int from = c->dout->ndim - 1;
    for (int d = p.ndim - 1; d >= 0; d--) {
        const bool vector = (d == p.ndim - 2 && c->in_ndim[0] == 1) || (d == p.ndim - 1 && c->in_ndim[1] == 1);
        dy.shape[d] = p.shape[d];
        dy.strides[d] = vector ? 0 : c->dout->strides[from--];
    }
    dy.ndim = p.ndim;
    if (c->want[0]) // da = dy b^T
        HD_CHECK(operand_gradient(dy, swapped(p.b), p.ndim, c->in_shape[0], c->in_ndim[0], true, dtype, &c->din[0]));
    if (c->want[1]) // db = a^T dy
        HD_CHECK(operand_gradient(swapped(p.a), dy, p.ndim, c->in_shape[1], c->in_ndim[1], false, dtype, &c->din[1]));
    return HD_OK;
}

// linear: y [.., out] = x [.., in] weight^T [in, out] + bias [out] ---------------------------------------------------

// x [.., k] as rows [m, k]; copies only where its rows do not lie evenly.
static hd_status as_rows(const hd_tensor *x, hd_tensor **rows) {
    hd_tensor *dense;
    const int64_t k = x->shape[x->ndim - 1], m = k > 0 ? hd_tensor_numel(x) / k : 0;
    bool even = true;
    for (int d = x->ndim - 2; d > 0; d--)
        even = even && (x->shape[d - 1] == 1 || x->strides[d - 1] == x->strides[d] * x->shape[d]);
    if (x->ndim == 2 || (even && x->ndim > 2))
        return hd_tensor_view(x, 2, (int64_t[]){m, k}, (int64_t[]){x->strides[x->ndim - 2], x->strides[x->ndim - 1]},
                              x->offset, rows);
    HD_CHECK(hd_do_clone(x, HD_ROW_MAJOR, &dense));
    const hd_status status = hd_tensor_view(dense, 2, (int64_t[]){m, k}, (int64_t[]){k, 1}, 0, rows);
    hd_tensor_release(dense);
    return status;
}

static hd_status check_linear(const hd_tensor *x, const hd_tensor *w, const hd_tensor *b) {
    HD_CHECK(hd_check_float("linear", x));
    HD_CHECK(hd_check_ndim("linear", "weight", w, 2));
    HD_CHECK(hd_check_same_dtype("linear", x, "weight", w));
    HD_CHECK(hd_check_same_dtype("linear", x, "bias", b));
    if (x->ndim == 0 || x->shape[x->ndim - 1] != w->shape[1])
        return hd_fail(HD_ESHAPE,
                       "linear: feature count differs: got input %s, expected last dimension %lld from weight %s",
                       hd_tensor_text(x), (long long)w->shape[1], hd_tensor_text(w));
    if (b && (b->ndim != 1 || b->shape[0] != w->shape[0]))
        return hd_fail(HD_ESHAPE, "linear: bias differs: got %s, expected [%lld]", hd_tensor_text(b),
                       (long long)w->shape[0]);
    return HD_OK;
}

hd_status hd_linear_forward(hd_op_call *c) {
    hd_tensor *x = c->in[0], *w = c->in[1], *b = c->in[2], *rows;
    int64_t shape[HD_MAX_DIMS];
    HD_CHECK(check_linear(x, w, b));
    c->saves = (c->want[0] ? 2 : 0) | (c->want[1] ? 1 : 0);
    memcpy(shape, x->shape, sizeof shape);
    shape[x->ndim - 1] = w->shape[0];
    HD_CHECK(hd_tensor_new(x->dtype, x->ndim, shape, HD_ROW_MAJOR, &c->out));
    HD_CHECK(as_rows(x, &rows));
    hd_view y = hd_tensor_as_view(c->out);
    y.ndim = 2;
    y.shape[0] = rows->shape[0], y.shape[1] = w->shape[0];
    y.strides[0] = w->shape[0], y.strides[1] = 1;
    hd_matmul_args product = {.a = hd_tensor_as_view(rows), .b = swapped(hd_tensor_as_view(w)), .c = y};
    if (b)
        product.bias = hd_tensor_as_view(b);
    const hd_status status = hd_be()->matmul(&product);
    hd_tensor_release(rows);
    return status;
}

// dx = dy w
static hd_status linear_dx(hd_op_call *c, const hd_tensor *dy) {
    HD_CHECK(hd_tensor_new(dy->dtype, c->in_ndim[0], c->in_shape[0], HD_ROW_MAJOR, &c->din[0]));
    hd_view dx = hd_tensor_as_view(c->din[0]);
    const int64_t k = c->in_shape[0][c->in_ndim[0] - 1];
    dx.ndim = 2;
    dx.shape[0] = dy->shape[0], dx.shape[1] = k;
    dx.strides[0] = k, dx.strides[1] = 1;
    return hd_be()->matmul(&(hd_matmul_args){.a = hd_tensor_as_view(dy), .b = hd_tensor_as_view(c->in[1]), .c = dx});
}

// dw = dy^T x, and in the same pass over dy, where the bias wants it, db = the sums of dy's columns.
static hd_status linear_dw(hd_op_call *c, const hd_tensor *dy, bool bias) {
    hd_tensor *x;
    HD_CHECK(hd_tensor_new(dy->dtype, 2, c->in_shape[1], HD_ROW_MAJOR, &c->din[1]));
    if (bias)
        HD_CHECK(hd_tensor_new(dy->dtype, 1, c->in_shape[2], HD_ROW_MAJOR, &c->din[2]));
    HD_CHECK(as_rows(c->in[0], &x));
    hd_matmul_args product = {.a = swapped(hd_tensor_as_view(dy)), .b = hd_tensor_as_view(x)};
    product.c = hd_tensor_as_view(c->din[1]);
    if (bias)
        product.sums = hd_tensor_as_view(c->din[2]);
    const hd_status status = hd_be()->matmul(&product);
    hd_tensor_release(x);
    return status;
}

hd_status hd_linear_backward(hd_op_call *c) {
    static const bool rows_only[2] = {true, false};
    const bool bias = c->nin > 2 && c->want[2];
    hd_tensor *dy;
    hd_status status = HD_OK;
    HD_CHECK(as_rows(c->dout, &dy));
    if (c->want[0])
        status = linear_dx(c, dy);
    if (status == HD_OK && c->want[1])
        status = linear_dw(c, dy, bias);
    else if (status == HD_OK && bias)
        status = hd_do_sum_dims(dy, HD_SUM, rows_only, false, dy->dtype, &c->din[2]);
    hd_tensor_release(dy);
    return status;
}
