// ops/loss.c: mean squared error, in one pass over each operand. Other losses are composed in lib/hd/nn/functional.lua.
// Layer: ops. Calls: backend binary, reduce. Called by: autograd, bind.
#include "ops/families.h"

hd_status hd_mse_loss_forward(hd_op_call *c) { // mean((x - y)^2) over all elements -> 0-d
    hd_tensor *x = c->in[0], *y = c->in[1], *difference;
    bool all[HD_MAX_DIMS];
    HD_CHECK(hd_check_float("mse_loss", x));
    HD_CHECK(hd_check_same_dtype("mse_loss", x, "target", y));
    if (!hd_same_shape(x, y))
        return hd_fail(HD_ESHAPE, "mse_loss: shapes differ: got input %s, expected %s from the target",
                       hd_tensor_text(x), hd_tensor_text(y));
    for (int d = 0; d < x->ndim; d++)
        all[d] = true;
    HD_CHECK(hd_do_binary(HD_SUB, x, y, &difference));
    const hd_status status = hd_do_sum_dims(difference, HD_SUMSQ, all, false, x->dtype, &c->out);
    if (c->want[0] || c->want[1])
        c->saved[0] = difference;
    else
        hd_tensor_release(difference);
    HD_CHECK(status);
    const hd_view v = hd_tensor_as_view(c->out);
    return hd_be()->unary(&(hd_unary_args){HD_SCALE, v, v, 1.0 / (double)hd_tensor_numel(x), 0});
}

hd_status hd_mse_loss_backward(hd_op_call *c) { // dx = 2 (x - y) dloss / n, dy = -dx
    hd_tensor *scaled;
    const double n = (double)hd_tensor_numel(c->saved[0]);
    HD_CHECK(hd_do_scale(c->dout, 2.0 / n, &scaled));
    hd_status status = HD_OK;
    if (c->want[0])
        status = hd_do_binary(HD_MUL, c->saved[0], scaled, &c->din[0]);
    if (status == HD_OK && c->want[1]) {
        status = hd_do_binary(HD_MUL, c->saved[0], scaled, &c->din[1]);
        if (status == HD_OK) {
            const hd_view v = hd_tensor_as_view(c->din[1]);
            status = hd_be()->unary(&(hd_unary_args){HD_NEG, v, v, 0, 0});
        }
    }
    hd_tensor_release(scaled);
    return status;
}
