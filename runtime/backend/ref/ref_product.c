// backend/ref/ref_product.c: matrix products, convolution and attention as their defining sums.
#include "backend/ref/ref.h"
#include <math.h>

hd_status ref_matmul(const hd_matmul_args *args) {
    const hd_view *va = &args->a, *vc = &args->c;
    const int64_t m = vc->shape[vc->ndim - 2], n = vc->shape[vc->ndim - 1], k = va->shape[va->ndim - 1];
    const int64_t size = hd_view_numel(vc), batches = m * n > 0 ? size / (m * n) : 0;
    ref_scratch s = {0};
    const double *a = ref_in(&s, va), *b = ref_in(&s, &args->b), *bias = ref_in(&s, &args->bias);
    double *c = ref_doubles(&s, size), *sums = ref_doubles(&s, m);
    if (s.failed)
        return ref_end(&s);
    for (int64_t i = 0; i < batches * m; i++) { // row i of all of c
        for (int64_t q = 0; q < k; q++)
            for (int64_t j = 0; j < n; j++)
                c[i * n + j] += a[i * k + q] * b[(i / m * k + q) * n + j];
        for (int64_t j = 0; bias && j < n; j++)
            c[i * n + j] += bias[j];
    }
    for (int64_t i = 0; args->sums.data && i < m * k; i++)
        sums[i / k] += a[i];
    ref_out(vc, c);
    ref_out(&args->sums, sums);
    return ref_end(&s);
}

// The convolution is one sum of products x * w over all pairs of an output and a tap; its gradients are the same sum,
// collected elsewhere: dx += w * dy, dw += x * dy.
typedef enum { INTO_Y, INTO_X, INTO_W } conv_target;

// The products of one output row y [ow] with one row of taps w [s] and the input row x [w] it reads.
static void conv_row(const hd_conv_args *a, double *x, double *w, double *y, conv_target into) {
    for (int64_t s = 0; s < a->w.shape[3]; s++)
        for (int64_t ow = 0; ow < a->y.shape[3]; ow++) {
            const int64_t iw = ow * a->stride[1] - a->padding[1] + s * a->dilation[1];
            if (iw < 0 || iw >= a->x.shape[3])
                continue;
            if (into == INTO_Y)
                y[ow] += x[iw] * w[s];
            else if (into == INTO_X)
                x[iw] += w[s] * y[ow];
            else
                w[s] += x[iw] * y[ow];
        }
}

// All products, into one of x [n,c,h,w], w [k,c/groups,r,s] and y [n,k,oh,ow]; each is dense and row-major.
static void conv_sum(const hd_conv_args *a, double *x, double *w, double *y, conv_target into) {
    const int64_t *xs = a->x.shape, *ws = a->w.shape, *ys = a->y.shape;
    const int64_t per_group = ys[1] / a->groups; // outputs
    for (int64_t n = 0; n < ys[0]; n++)
        for (int64_t k = 0; k < ys[1]; k++)
            for (int64_t c = 0; c < ws[1]; c++)
                for (int64_t r = 0; r < ws[2]; r++)
                    for (int64_t oh = 0; oh < ys[2]; oh++) {
                        const int64_t ih = oh * a->stride[0] - a->padding[0] + r * a->dilation[0];
                        const int64_t in_channel = n * ws[1] * a->groups + k / per_group * ws[1] + c;
                        if (ih >= 0 && ih < xs[2])
                            conv_row(a, x + (in_channel * xs[2] + ih) * xs[3],
                                     w + ((k * ws[1] + c) * ws[2] + r) * ws[3],
                                     y + ((n * ys[1] + k) * ys[2] + oh) * ys[3], into);
                    }
}

// One channel of one image, normalised.
static void normalised_plane(const hd_conv_norm *m, const double *from, int64_t plane, double mean, double rstd,
                             double weight, double bias, double *to) {
    for (int64_t i = 0; i < plane; i++) {
        const double z = (from[i] - mean) * rstd * weight + bias;
        to[i] = m->act == HD_ACT_SILU ? z * ref_sigmoid(z) : z;
    }
}

// What is convolved, in row-major order: x, or where there is a norm x joined to `more` and normalised.
static double *conv_input(ref_scratch *s, const hd_conv_args *a) {
    const hd_conv_norm *m = a->norm;
    double *x = ref_in(s, &a->x);
    if (!m)
        return x;
    const int64_t n = a->x.shape[0], own = a->x.shape[1], channels = a->w.shape[1], others = channels - own;
    const int64_t plane = a->x.shape[2] * a->x.shape[3];
    const double *more = ref_in(s, &m->more), *mean = ref_in(s, &m->mean), *rstd = ref_in(s, &m->rstd);
    const double *w = ref_in(s, &m->w), *b = ref_in(s, &m->b);
    double *joined = ref_doubles(s, n * channels * plane);
    for (int64_t i = 0; !s->failed && i < n * channels; i++) {
        const int64_t c = i % channels, g = i / channels * m->groups + c * m->groups / channels;
        const double *from =
            c < own ? x + (i / channels * own + c) * plane : more + (i / channels * others + c - own) * plane;
        normalised_plane(m, from, plane, mean[g], rstd[g], w ? w[c] : 1, b ? b[c] : 0, joined + i * plane);
    }
    return joined;
}

hd_status ref_conv(const hd_conv_args *a) {
    const int64_t size = hd_view_numel(&a->y), plane = a->y.shape[2] * a->y.shape[3];
    ref_scratch s = {0};
    double *x = conv_input(&s, a), *w = ref_in(&s, &a->w), *b = ref_in(&s, &a->b), *y = ref_doubles(&s, size);
    const double *add = ref_in(&s, &a->add);
    if (s.failed)
        return ref_end(&s);
    for (int64_t i = 0; i < size; i++)
        y[i] = (b ? b[i / plane % a->y.shape[1]] : 0) + (add ? add[i] : 0);
    conv_sum(a, x, w, y, INTO_Y);
    ref_out(&a->y, y);
    return ref_end(&s);
}

hd_status ref_conv_dx(const hd_conv_args *a) {
    ref_scratch s = {0};
    double *w = ref_in(&s, &a->w), *dy = ref_in(&s, &a->y), *dx = ref_doubles(&s, hd_view_numel(&a->x));
    if (s.failed)
        return ref_end(&s);
    conv_sum(a, dx, w, dy, INTO_X);
    ref_out(&a->x, dx);
    return ref_end(&s);
}

hd_status ref_conv_dw(const hd_conv_args *a) {
    const int64_t size = hd_view_numel(&a->y), channels = a->y.shape[1], plane = a->y.shape[2] * a->y.shape[3];
    ref_scratch s = {0};
    double *x = conv_input(&s, a), *dy = ref_in(&s, &a->y);
    double *dw = ref_doubles(&s, hd_view_numel(&a->w)), *db = ref_doubles(&s, channels);
    if (s.failed)
        return ref_end(&s);
    conv_sum(a, x, dw, dy, INTO_W);
    for (int64_t i = 0; i < size; i++)
        db[i / plane % channels] += dy[i];
    ref_out(&a->w, dw);
    ref_out(&a->b, db);
    return ref_end(&s);
}

// p [tk] = softmax of scale * q k^T for one query q [d]; returns the log of its denominator.
static double attention_weights(const double *q, const double *k, int64_t tk, int64_t d, double scale, double *p) {
    double largest = -INFINITY, sum = 0;
    for (int64_t j = 0; j < tk; j++) {
        p[j] = 0;
        for (int64_t i = 0; i < d; i++)
            p[j] += scale * q[i] * k[j * d + i];
        largest = ref_beats(p[j], largest, 1) ? p[j] : largest;
    }
    for (int64_t j = 0; j < tk; j++)
        sum += exp(p[j] - largest);
    for (int64_t j = 0; j < tk; j++)
        p[j] = exp(p[j] - largest) / sum;
    return largest + log(sum);
}

hd_status ref_attention(const hd_attention_args *a) {
    const int64_t tq = a->q.shape[2], d = a->q.shape[3], tk = a->v.shape[2], e = a->v.shape[3];
    const int64_t rows = a->q.shape[0] * a->q.shape[1] * tq; // queries of all n and h
    ref_scratch s = {0};
    const double *q = ref_in(&s, &a->q), *k = ref_in(&s, &a->k), *v = ref_in(&s, &a->v);
    double *o = ref_doubles(&s, rows * e), *lse = ref_doubles(&s, rows), *p = ref_doubles(&s, tk);
    if (s.failed)
        return ref_end(&s);
    for (int64_t i = 0; i < rows; i++) {
        const int64_t key = i / tq * tk; // row of this head's first key
        lse[i] = attention_weights(q + i * d, k + key * d, tk, d, a->scale, p);
        for (int64_t j = 0; j < tk; j++)
            for (int64_t c = 0; c < e; c++)
                o[i * e + c] += p[j] * v[(key + j) * e + c];
    }
    ref_out(&a->o, o);
    ref_out(&a->lse, lse);
    return ref_end(&s);
}

// With p = softmax(z), z = scale q k^T, o = p v:  dv = p^T do,  dp = do v^T,  dz = p (dp - sum p dp),
// dq = scale dz k,  dk = scale dz^T q. p is computed again, so neither o nor lse is read.
hd_status ref_attention_back(const hd_attention_back_args *a) {
    const int64_t tq = a->q.shape[2], d = a->q.shape[3], tk = a->v.shape[2], e = a->v.shape[3];
    const int64_t rows = a->q.shape[0] * a->q.shape[1] * tq;
    ref_scratch s = {0};
    const double *q = ref_in(&s, &a->q), *k = ref_in(&s, &a->k), *v = ref_in(&s, &a->v), *do_ = ref_in(&s, &a->do_);
    double *dq = ref_doubles(&s, rows * d), *dk = ref_doubles(&s, hd_view_numel(&a->k));
    double *dv = ref_doubles(&s, hd_view_numel(&a->v)), *p = ref_doubles(&s, tk), *dp = ref_doubles(&s, tk);
    if (s.failed)
        return ref_end(&s);
    for (int64_t i = 0; i < rows; i++) {
        const int64_t key = i / tq * tk;
        double mean_dp = 0;
        attention_weights(q + i * d, k + key * d, tk, d, a->scale, p);
        for (int64_t j = 0; j < tk; j++) {
            dp[j] = 0;
            for (int64_t c = 0; c < e; c++) {
                dv[(key + j) * e + c] += p[j] * do_[i * e + c];
                dp[j] += do_[i * e + c] * v[(key + j) * e + c];
            }
            mean_dp += p[j] * dp[j];
        }
        for (int64_t j = 0; j < tk; j++)
            for (int64_t c = 0; c < d; c++) {
                const double dz = a->scale * p[j] * (dp[j] - mean_dp);
                dq[i * d + c] += dz * k[(key + j) * d + c];
                dk[(key + j) * d + c] += dz * q[i * d + c];
            }
    }
    ref_out(&a->dq, dq);
    ref_out(&a->dk, dk);
    ref_out(&a->dv, dv);
    return ref_end(&s);
}
