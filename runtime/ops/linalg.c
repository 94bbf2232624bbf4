// ops/linalg.c: decompositions of matrices: eigh.
// Layer: ops. Calls: backend eigh. Called by: bind.
#include "ops/linalg.h"
#include "ops/compose.h"
#include <math.h>

static hd_status check_symmetric(const hd_tensor *x) {
    enum { LARGEST = 16384 }; // LAPACK counts its workspace of 2 n^2 in 32 bits
    HD_CHECK(hd_check_float("eigh", x));
    HD_CHECK(hd_check_ndim("eigh", "x", x, 2));
    if (x->shape[0] != x->shape[1] || x->shape[0] > LARGEST)
        return hd_fail(HD_ESHAPE, "eigh: x is no square matrix of at most %d rows: got %s", LARGEST, hd_tensor_text(x));
    return HD_OK;
}

static hd_status check_finite(const hd_tensor *x) {
    double sum = 0;
    HD_CHECK(hd_do_sum_of_squares(x, &sum));
    if (!isfinite(sum))
        return hd_fail(HD_EARG, "eigh: x holds values that are not finite, or too large to be squared");
    return HD_OK;
}

// vectors = rows^T and values, in the type of x.
static hd_status deliver(const hd_tensor *x, const hd_tensor *w, const hd_tensor *rows, hd_tensor **values,
                         hd_tensor **vectors) {
    hd_tensor *columns = NULL;
    hd_status status = hd_do_transposed(rows, 0, 1, &columns);
    if (status == HD_OK)
        status = hd_tensor_new(x->dtype, 2, x->shape, HD_ROW_MAJOR, vectors);
    if (status == HD_OK)
        status = hd_do_copy(columns, *vectors);
    if (status == HD_OK)
        status = hd_tensor_new(x->dtype, 1, x->shape, HD_ROW_MAJOR, values);
    if (status == HD_OK)
        status = hd_do_copy(w, *values);
    hd_tensor_release(columns);
    return status;
}

hd_status hd_eigh(const hd_tensor *x, hd_tensor **values, hd_tensor **vectors) {
    hd_tensor *a = NULL, *w = NULL;
    *values = *vectors = NULL;
    HD_CHECK(check_symmetric(x));
    HD_CHECK(hd_tensor_new(HD_F64, 2, x->shape, HD_ROW_MAJOR, &a));
    hd_status status = hd_do_copy(x, a);
    if (status == HD_OK)
        status = check_finite(a);
    if (status == HD_OK)
        status = hd_tensor_new(HD_F64, 1, x->shape, HD_ROW_MAJOR, &w);
    if (status == HD_OK)
        status = hd_be()->eigh(&(hd_eigh_args){hd_tensor_as_view(a), hd_tensor_as_view(w)});
    if (status == HD_OK)
        status = deliver(x, w, a, values, vectors);
    hd_tensor_release(a);
    hd_tensor_release(w);
    if (status != HD_OK) {
        hd_tensor_release(*values);
        hd_tensor_release(*vectors);
        *values = *vectors = NULL;
    }
    return status;
}
