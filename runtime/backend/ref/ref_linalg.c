// backend/ref/ref_linalg.c: eigenvalues by Jacobi's rotations (1846): each turns one off-diagonal element to zero, and
// what lies off the diagonal fades quadratically.
#include "backend/ref/ref.h"
#include <math.h>

// Turn rows p and q of x [n, n] by the angle with cosine c and sine s.
static void rotate_rows(double *x, int64_t n, int64_t p, int64_t q, double c, double s) {
    for (int64_t j = 0; j < n; j++) {
        const double xp = x[p * n + j], xq = x[q * n + j];
        x[p * n + j] = c * xp - s * xq;
        x[q * n + j] = s * xp + c * xq;
    }
}

static void rotate_columns(double *x, int64_t n, int64_t p, int64_t q, double c, double s) {
    for (int64_t i = 0; i < n; i++) {
        const double xp = x[i * n + p], xq = x[i * n + q];
        x[i * n + p] = c * xp - s * xq;
        x[i * n + q] = s * xp + c * xq;
    }
}

// Turn a[p][q] to zero; v's rows turn along.
static void annihilate(double *a, double *v, int64_t n, int64_t p, int64_t q) {
    if (a[p * n + q] == 0)
        return;
    const double theta = (a[q * n + q] - a[p * n + p]) / (2 * a[p * n + q]);
    const double t = (theta < 0 ? -1 : 1) / (fabs(theta) + hypot(theta, 1)), c = 1 / hypot(t, 1);
    rotate_rows(a, n, p, q, c, t * c);
    rotate_columns(a, n, p, q, c, t * c);
    rotate_rows(v, n, p, q, c, t * c);
    a[p * n + q] = a[q * n + p] = 0;
}

// Bring the eigenvalues on a's diagonal into rising order, with the rows of v.
static void sort_rising(double *a, double *v, int64_t n, double *w) {
    for (int64_t i = 0; i < n; i++)
        w[i] = a[i * n + i];
    for (int64_t i = 0; i < n; i++) {
        int64_t least = i;
        for (int64_t k = i + 1; k < n; k++)
            least = w[k] < w[least] ? k : least;
        for (int64_t j = 0; least != i && j < n; j++) {
            const double swap = v[i * n + j];
            v[i * n + j] = v[least * n + j], v[least * n + j] = swap;
        }
        const double swap = w[i];
        w[i] = w[least], w[least] = swap;
    }
}

hd_status ref_eigh(const hd_eigh_args *args) {
    enum { SWEEPS = 30 }; // far more than it ever needs
    const int64_t n = args->w.shape[0];
    ref_scratch s = {0};
    double *a = ref_in(&s, &args->a), *v = ref_doubles(&s, n * n), *w = ref_doubles(&s, n);
    if (s.failed)
        return ref_end(&s);
    for (int64_t i = 0; i < n; i++) {
        v[i * n + i] = 1;
        for (int64_t j = 0; j < i; j++)
            a[j * n + i] = a[i * n + j];
    }
    for (int sweep = 0; sweep < SWEEPS; sweep++)
        for (int64_t p = 0; p < n; p++)
            for (int64_t q = p + 1; q < n; q++)
                annihilate(a, v, n, p, q);
    sort_rising(a, v, n, w);
    ref_out(&args->a, v);
    ref_out(&args->w, w);
    return ref_end(&s);
}
