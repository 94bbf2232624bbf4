// backend/ref/ref_index.c: choosing and adding by index along a dimension.
// Both families pair every element of y with one of x: index_* takes the position along dim from idx [n], gather and
// scatter from idx of y's shape; the other coordinates are equal.
#include "backend/ref/ref.h"

// The row-major number in x of the partner of y's element i. dense idx; per_element: it has y's shape.
static int64_t partner(const hd_index_args *a, const int64_t *idx, bool per_element, int64_t i) {
    int64_t index = 0, rest = i, step = 1;
    for (int d = a->y.ndim - 1; d >= 0; d--) {
        const int64_t here = rest % a->y.shape[d];
        rest /= a->y.shape[d];
        index += step * (d != a->dim ? here : per_element ? idx[i] : idx[here]);
        step *= a->x.shape[d];
    }
    return index;
}

// y's elements are copies of their partners, bits unchanged.
static hd_status take(const hd_index_args *a, bool per_element) {
    const int64_t n = hd_view_numel(&a->y);
    ref_scratch s = {0};
    const int64_t *idx = ref_in_ints(&s, &a->idx);
    ref_cursor at = {0};
    for (int64_t i = 0; idx && i < n; i++, ref_step(&a->y, &at))
        ref_move(&a->y, at.offset, &a->x, hd_view_offset(&a->x, partner(a, idx, per_element, i)));
    return ref_end(&s);
}

// x's elements gain those of their partners in y, in logical order of y.
static hd_status add(const hd_index_args *a, bool per_element) {
    const int64_t n = hd_view_numel(&a->y);
    const bool is_float = hd_dtype_is_float(a->x.dtype);
    ref_scratch s = {0};
    const int64_t *idx = ref_in_ints(&s, &a->idx);
    double *x = is_float ? ref_in(&s, &a->x) : NULL, *y = is_float ? ref_in(&s, &a->y) : NULL;
    int64_t *kx = is_float ? NULL : ref_in_ints(&s, &a->x), *ky = is_float ? NULL : ref_in_ints(&s, &a->y);
    for (int64_t i = 0; !s.failed && i < n; i++) {
        const int64_t j = partner(a, idx, per_element, i);
        if (is_float)
            x[j] += y[i];
        else
            kx[j] = (int64_t)((uint64_t)kx[j] + (uint64_t)ky[i]);
    }
    if (!s.failed && is_float)
        ref_out(&a->x, x);
    else if (!s.failed)
        ref_out_ints(&a->x, kx);
    return ref_end(&s);
}

hd_status ref_index_select(const hd_index_args *a) { return take(a, false); }
hd_status ref_gather(const hd_index_args *a) { return take(a, true); }
hd_status ref_index_add(const hd_index_args *a) { return add(a, false); }
hd_status ref_scatter_add(const hd_index_args *a) { return add(a, true); }
