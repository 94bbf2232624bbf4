// ops/compose.h: what forward and backward rules are composed of: small unrecorded steps on tensors, each one call of
// the back-end table. Every `out` receives a new tensor that the caller releases; NULL on failure.
#ifndef HD_COMPOSE_H
#define HD_COMPOSE_H

#include "ops/op.h"

hd_status hd_do_copy(const hd_tensor *x, hd_tensor *y);              // y = x, same shape, types may differ
hd_status hd_do_cast(hd_tensor *x, hd_dtype dtype, hd_tensor **out); // x retained when it has the type
// The result of an operation on a and b (either may be NULL): in the memory order of the first that has its shape.
hd_status hd_new_result(hd_dtype dtype, int ndim, const int64_t *shape, const hd_tensor *a, const hd_tensor *b,
                        hd_tensor **out);
hd_status hd_do_clone(const hd_tensor *x, hd_layout layout, hd_tensor **out); // dense copy
hd_status hd_do_contiguous(hd_tensor *x, hd_tensor **out);                    // x retained when row-major already
hd_status hd_do_channels_last(hd_tensor *x, hd_tensor **out);                 // x retained when channels-last already
hd_status hd_do_fill(hd_tensor *x, double value);
hd_status hd_do_to_bf16(const float *x, uint16_t *y, int64_t n); // rounded to nearest, halves to even
hd_status hd_do_from_bf16(const uint16_t *x, float *y, int64_t n);
hd_status hd_do_full_like(const hd_tensor *x, double value, hd_tensor **out);
hd_status hd_do_unary(hd_unary op, const hd_tensor *x, double a, double b, hd_tensor **out);
hd_status hd_do_binary(hd_binary op, const hd_tensor *a, const hd_tensor *b, hd_tensor **out); // broadcasts; one type
hd_status hd_do_scale(const hd_tensor *x, double factor, hd_tensor **out);
hd_status hd_do_add_into(hd_tensor *a, const hd_tensor *b); // a += b, same shape
hd_status hd_do_sum_dims(const hd_tensor *x, hd_reduce op, const bool *reduced, bool keepdim, hd_dtype dtype,
                         hd_tensor **out);
hd_status hd_do_sum_of_squares(const hd_tensor *x, double *sum); // adds to *sum, waits for the back end; x is a float
// The gradient of broadcasting: x summed down to the given shape. x retained when nothing is to be summed.
hd_status hd_do_sum_to(hd_tensor *x, int ndim, const int64_t *shape, hd_tensor **out);
hd_status hd_do_transposed(const hd_tensor *x, int d1, int d2, hd_tensor **out); // a view

// Shapes ---------------------------------------------------------------------
// Resolve a dimension of an ndim-D tensor: 0-based or negative -> 0-based; HD_ESHAPE names `where` and the range.
hd_status hd_dim(const char *where, int64_t dim, int ndim, int *out);
hd_status hd_broadcast(const char *where, const hd_tensor *a, const hd_tensor *b, int *ndim, int64_t *shape);
hd_view hd_view_broadcast(hd_view v, int ndim, const int64_t *shape); // stride 0 where v is repeated
hd_dtype hd_promote(const hd_tensor *a, const hd_tensor *b);     // f64 > f32 > i64 > i32 > u8 > bool; 0-d tensors yield
hd_status hd_check_float(const char *where, const hd_tensor *x); // HD_EARG unless f32 or f64
hd_status hd_check_ndim(const char *where, const char *what, const hd_tensor *x, int ndim);
hd_status hd_check_same_dtype(const char *where, const hd_tensor *a, const char *what, const hd_tensor *b);

// The view [n,c,1,w] of x [n,c,w], for 1-D data on 2-D kernels.
hd_view hd_view_as_2d(const hd_tensor *x);

#endif
