// backend/ref/ref_reduce.c: reductions, running sums, softmax.
#include "backend/ref/ref.h"
#include <math.h>

// The reduction of n >= 0 numbers.
static double reduce(hd_reduce op, const double *x, int64_t n) {
    const int sign = op == HD_MAX || op == HD_ARGMAX ? 1 : -1;
    double sum = 0, squares = 0, product = 1, best = sign * -INFINITY;
    int64_t where = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += x[i];
        squares += x[i] * x[i];
        product *= x[i];
        if (i == 0 || ref_beats(x[i], best, sign)) {
            best = x[i];
            where = i;
        }
    }
    switch (op) {
    case HD_SUM:
        return sum;
    case HD_MEAN:
        return sum / (double)n;
    case HD_PROD:
        return product;
    case HD_SUMSQ:
        return squares;
    case HD_ARGMAX:
    case HD_ARGMIN:
        return (double)where;
    default:
        return best;
    }
}

// The same for integers and bools, exactly (wrapping on overflow).
static int64_t reduce_int(hd_reduce op, const int64_t *x, int64_t n) {
    const bool largest = op == HD_MAX || op == HD_ARGMAX;
    uint64_t sum = 0, squares = 0, product = 1;
    int64_t where = 0, nonzero = 0;
    for (int64_t i = 0; i < n; i++) {
        const uint64_t u = (uint64_t)x[i];
        sum += u;
        squares += u * u;
        product *= u;
        nonzero += x[i] != 0;
        if (largest ? x[i] > x[where] : x[i] < x[where])
            where = i;
    }
    switch (op) {
    case HD_SUM:
        return (int64_t)sum;
    case HD_PROD:
        return (int64_t)product;
    case HD_SUMSQ:
        return (int64_t)squares;
    case HD_ARGMAX:
    case HD_ARGMIN:
        return where;
    case HD_ALL:
        return nonzero == n;
    case HD_ANY:
        return nonzero > 0;
    default:
        return n > 0 ? x[where] : 0;
    }
}

hd_status ref_reduce(const hd_reduce_args *a) {
    const int64_t rows = hd_view_numel(&a->y);
    int64_t n = 1;
    for (int d = a->x.ndim - a->nred; d < a->x.ndim; d++)
        n *= a->x.shape[d];
    ref_scratch s = {0};
    if (hd_dtype_is_float(a->x.dtype) || a->op == HD_MEAN) {
        const double *x = ref_in(&s, &a->x);
        double *y = ref_doubles(&s, rows);
        for (int64_t i = 0; !s.failed && i < rows; i++)
            y[i] = reduce(a->op, x + i * n, n);
        if (!s.failed)
            ref_out(&a->y, y);
    } else {
        const int64_t *x = ref_in_ints(&s, &a->x);
        int64_t *y = ref_ints(&s, rows);
        for (int64_t i = 0; !s.failed && i < rows; i++)
            y[i] = reduce_int(a->op, x + i * n, n);
        if (!s.failed)
            ref_out_ints(&a->y, y);
    }
    return ref_end(&s);
}

hd_status ref_cumsum(const hd_cumsum_args *a) {
    const ref_split at = ref_split_at(&a->x, a->dim);
    const int64_t lines = at.outer * at.inner, step = a->reverse ? -at.inner : at.inner;
    const bool is_float = hd_dtype_is_float(a->x.dtype);
    ref_scratch s = {0};
    double *x = is_float ? ref_in(&s, &a->x) : NULL;
    int64_t *k = is_float ? NULL : ref_in_ints(&s, &a->x);
    for (int64_t line = 0; !s.failed && line < lines; line++) {
        int64_t i = line / at.inner * at.n * at.inner + line % at.inner + (a->reverse ? (at.n - 1) * at.inner : 0);
        for (int64_t j = 1; j < at.n; j++, i += step) {
            if (is_float)
                x[i + step] += x[i];
            else
                k[i + step] = (int64_t)((uint64_t)k[i + step] + (uint64_t)k[i]);
        }
    }
    if (x)
        ref_out(&a->y, x);
    if (k)
        ref_out_ints(&a->y, k);
    return ref_end(&s);
}

// In place on n numbers, `step` apart.
static void softmax_line(double *x, int64_t n, int64_t step, bool log_) {
    double largest = -INFINITY, sum = 0;
    for (int64_t j = 0; j < n; j++)
        largest = ref_beats(x[j * step], largest, 1) ? x[j * step] : largest;
    for (int64_t j = 0; j < n; j++)
        sum += exp(x[j * step] - largest);
    for (int64_t j = 0; j < n; j++)
        x[j * step] = log_ ? x[j * step] - largest - log(sum) : exp(x[j * step] - largest) / sum;
}

hd_status ref_softmax(const hd_softmax_args *a) {
    const ref_split at = ref_split_at(&a->x, a->dim);
    ref_scratch s = {0};
    double *x = ref_in(&s, &a->x);
    if (!s.failed) {
        for (int64_t o = 0; o < at.outer; o++)
            for (int64_t i = 0; i < at.inner; i++)
                softmax_line(x + o * at.n * at.inner + i, at.n, at.inner, a->log);
        ref_out(&a->y, x);
    }
    return ref_end(&s);
}

// softmax: dx = y (dy - sum dy y); log_softmax: dx = dy - exp(y) sum dy. In place on dy.
static void softmax_back_line(const double *y, double *dy, int64_t n, int64_t step, bool log_) {
    long double sum = 0; // its difference to dy may cancel
    for (int64_t j = 0; j < n; j++)
        sum += (long double)dy[j * step] * (log_ ? 1 : y[j * step]);
    for (int64_t j = 0; j < n; j++)
        dy[j * step] = (double)(log_ ? dy[j * step] - exp(y[j * step]) * sum : y[j * step] * (dy[j * step] - sum));
}

hd_status ref_softmax_back(const hd_softmax_back_args *a) {
    const ref_split at = ref_split_at(&a->y, a->dim);
    ref_scratch s = {0};
    const double *y = ref_in(&s, &a->y);
    double *dy = ref_in(&s, &a->dy);
    if (!s.failed) {
        for (int64_t o = 0; o < at.outer; o++)
            for (int64_t i = 0; i < at.inner; i++) {
                const int64_t first = o * at.n * at.inner + i;
                softmax_back_line(y + first, dy + first, at.n, at.inner, a->log);
            }
        ref_out(&a->dx, dy);
    }
    return ref_end(&s);
}
