// backend/ref/ref_optim.c: one optimizer step on one tensor, and the moving average.
// Sources: Kingma and Ba 2015 (Adam), Loshchilov and Hutter 2019 (AdamW), Sutskever et al. 2013 (Nesterov, as PyTorch
// writes it).
#include "backend/ref/ref.h"
#include <math.h>

hd_status ref_adam(const hd_adam_args *a) {
    const int64_t size = hd_view_numel(&a->p);
    const double correct1 = 1 - pow(a->beta1, (double)a->step), correct2 = 1 - pow(a->beta2, (double)a->step);
    ref_scratch s = {0};
    double *p = ref_in(&s, &a->p), *g = ref_in(&s, &a->g), *m = ref_in(&s, &a->m), *v = ref_in(&s, &a->v);
    if (s.failed)
        return ref_end(&s);
    for (int64_t i = 0; i < size; i++) {
        double grad = g[i] * a->grad_scale;
        if (a->decoupled)
            p[i] *= 1 - a->lr * a->weight_decay;
        else
            grad += a->weight_decay * p[i];
        m[i] = a->beta1 * m[i] + (1 - a->beta1) * grad;
        v[i] = a->beta2 * v[i] + (1 - a->beta2) * grad * grad;
        p[i] -= a->lr * (m[i] / correct1) / (sqrt(v[i] / correct2) + a->eps);
    }
    ref_out(&a->p, p);
    ref_out(&a->m, m);
    ref_out(&a->v, v);
    return ref_end(&s);
}

hd_status ref_sgd(const hd_sgd_args *a) {
    const int64_t size = hd_view_numel(&a->p);
    ref_scratch s = {0};
    double *p = ref_in(&s, &a->p), *g = ref_in(&s, &a->g), *m = ref_in(&s, &a->m);
    if (s.failed)
        return ref_end(&s);
    for (int64_t i = 0; i < size; i++) {
        double step = g[i] * a->grad_scale + a->weight_decay * p[i];
        if (m) {
            m[i] = a->momentum * m[i] + step;
            step = a->nesterov ? step + a->momentum * m[i] : m[i];
        }
        p[i] -= a->lr * step;
    }
    ref_out(&a->p, p);
    ref_out(&a->m, m);
    return ref_end(&s);
}

hd_status ref_lerp(const hd_lerp_args *args) {
    const int64_t size = hd_view_numel(&args->a);
    ref_scratch s = {0};
    double *a = ref_in(&s, &args->a);
    const double *b = ref_in(&s, &args->b);
    if (s.failed)
        return ref_end(&s);
    for (int64_t i = 0; i < size; i++)
        a[i] += args->weight * (b[i] - a[i]);
    ref_out(&args->a, a);
    return ref_end(&s);
}
