// backend/ref/ref_norm.c: group, layer and RMS norm and their gradients, with an activation behind.
// x is [n, c, p]; the c/groups channels of a group lie together, so in row-major order a group is one run of
// count = c/groups * p numbers and group g of sample i is run i * groups + g.
#include "backend/ref/ref.h"
#include <math.h>

// The channel of element i of a dense [n, c, p].
static int64_t channel_of(const hd_view *x, int64_t i) { return i / x->shape[2] % x->shape[1]; }

static void moments(const double *x, int64_t count, double eps, bool rms, double *mean, double *rstd) {
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < count; i++)
        sum += x[i];
    *mean = rms ? 0 : sum / (double)count;
    for (int64_t i = 0; i < count; i++)
        squares += (x[i] - *mean) * (x[i] - *mean);
    *rstd = 1 / sqrt(squares / (double)count + eps);
}

hd_status ref_norm(const hd_norm_args *a) {
    const int64_t size = hd_view_numel(&a->x), runs = a->x.shape[0] * a->groups, count = runs > 0 ? size / runs : 0;
    ref_scratch s = {0};
    double *x = ref_in(&s, &a->x), *mean = ref_doubles(&s, runs), *rstd = ref_doubles(&s, runs);
    const double *w = ref_in(&s, &a->w), *b = ref_in(&s, &a->b);
    if (s.failed)
        return ref_end(&s);
    for (int64_t g = 0; g < runs; g++)
        moments(x + g * count, count, a->eps, a->rms, mean + g, rstd + g);
    for (int64_t i = 0; i < size; i++) {
        const int64_t g = i / count, c = channel_of(&a->x, i);
        const double z = (x[i] - mean[g]) * rstd[g] * (w ? w[c] : 1) + (b ? b[c] : 0);
        x[i] = a->act == HD_ACT_SILU ? z * ref_sigmoid(z) : z;
    }
    ref_out(&a->y, x);
    ref_out(&a->mean, mean);
    ref_out(&a->rstd, rstd);
    return ref_end(&s);
}

// The gradient through normalisation of one run, in place: d is dL/dxhat and becomes dL/dx.
//   dx = rstd * (d - mean(d) - xhat * mean(d * xhat)),  without mean(d) for rms.
static void unnormalise(double *d, const double *xhat, int64_t count, double rstd, bool rms) {
    double sum = 0, dot = 0;
    for (int64_t i = 0; i < count; i++) {
        sum += rms ? 0 : d[i];
        dot += d[i] * xhat[i];
    }
    for (int64_t i = 0; i < count; i++)
        d[i] = rstd * (d[i] - sum / (double)count - xhat[i] * dot / (double)count);
}

hd_status ref_norm_back(const hd_norm_back_args *a) {
    const int64_t size = hd_view_numel(&a->x), channels = a->x.shape[1];
    const int64_t runs = a->x.shape[0] * a->groups, count = runs > 0 ? size / runs : 0;
    ref_scratch s = {0};
    double *x = ref_in(&s, &a->x), *d = ref_in(&s, &a->dy), *dw = ref_doubles(&s, channels);
    double *db = ref_doubles(&s, channels);
    const double *mean = ref_in(&s, &a->mean), *rstd = ref_in(&s, &a->rstd);
    const double *w = ref_in(&s, &a->w), *b = ref_in(&s, &a->b), *add = ref_in(&s, &a->add);
    if (s.failed)
        return ref_end(&s);
    for (int64_t i = 0; i < size; i++) {
        const int64_t g = i / count, c = channel_of(&a->x, i);
        const double weight = w ? w[c] : 1;
        x[i] = (x[i] - mean[g]) * rstd[g]; // xhat
        const double z = x[i] * weight + (b ? b[c] : 0), gate = ref_sigmoid(z);
        d[i] *= a->act == HD_ACT_SILU ? gate * (1 + z * (1 - gate)) : 1; // dL/dz
        dw[c] += d[i] * x[i];
        db[c] += d[i];
        d[i] *= weight; // dL/dxhat
    }
    for (int64_t g = 0; g < runs; g++)
        unnormalise(d + g * count, x + g * count, count, rstd[g], a->rms);
    for (int64_t i = 0; add && i < size; i++)
        d[i] += add[i];
    ref_out(&a->dx, d);
    ref_out(&a->dw, dw);
    ref_out(&a->db, db);
    return ref_end(&s);
}
