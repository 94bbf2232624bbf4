// core/dtype.h: element types, and the strided view that is all a kernel sees of a tensor.
#ifndef HD_DTYPE_H
#define HD_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HD_MAX_DIMS 8

typedef enum { HD_F32, HD_F64, HD_I64, HD_I32, HD_U8, HD_BOOL, HD_DTYPE_COUNT } hd_dtype;

size_t hd_dtype_size(hd_dtype dtype);      // bytes of one element
const char *hd_dtype_name(hd_dtype dtype); // "f32" ...
bool hd_dtype_is_float(hd_dtype dtype);

// A strided window on memory. Strides count elements, may be 0 (broadcast) or negative (flip); data points at
// element (0, 0, ...). Element (i0, i1, ...) lies at data + (i0*strides[0] + i1*strides[1] + ...) * size.
typedef struct hd_view {
    void *data; // NULL: an optional operand that is absent
    hd_dtype dtype;
    int ndim;
    int64_t shape[HD_MAX_DIMS];
    int64_t strides[HD_MAX_DIMS];
} hd_view;

static inline int64_t hd_view_numel(const hd_view *v) {
    int64_t n = 1;
    for (int d = 0; d < v->ndim; d++)
        n *= v->shape[d];
    return n;
}

// True when the elements follow each other in row-major order without gaps.
bool hd_view_is_contiguous(const hd_view *v);

// A number as an integer, cut towards 0. Where C leaves the result open: the nearest one there is, 0 for NaN. Narrower
// integers keep its low bits.
static inline int64_t hd_cut(double x) {
    return x != x ? 0 : x >= 0x1p63 ? INT64_MAX : x <= -0x1p63 ? INT64_MIN : (int64_t)x;
}

// One element as a double and back; slow, for reference code and single values. i is a flat row-major index.
int64_t hd_view_offset(const hd_view *v, int64_t i);
double hd_load(const void *data, hd_dtype dtype, int64_t offset);
void hd_store(void *data, hd_dtype dtype, int64_t offset, double value);

#endif
