// backend/cpu/optim.c: one optimizer step on one tensor, in place, in one pass over its memory.
// Layer: backend. Sources: Adam, Kingma and Ba 2015; decoupled decay, Loshchilov and Hutter 2019; SGD as PyTorch has
// it.
#include "backend/cpu/simd.h"
#include "backend/cpu/strided.h"

// Constants of an Adam step, worked out once: p -= step_size * m / (sqrt(v) * v_scale + eps).
typedef struct {
    double beta1, beta2, eps, grad_scale, decay, keep, step_size, v_scale;
} adam;

static adam adam_constants(const hd_adam_args *a) {
    const double c1 = 1 - pow(a->beta1, (double)a->step), c2 = 1 - pow(a->beta2, (double)a->step);
    return (adam){
        .beta1 = a->beta1,
        .beta2 = a->beta2,
        .eps = a->eps,
        .grad_scale = a->grad_scale,
        .decay = a->decoupled ? 0 : a->weight_decay,
        .keep = a->decoupled ? 1 - a->lr * a->weight_decay : 1,
        .step_size = a->lr / c1,
        .v_scale = 1 / sqrt(c2),
    };
}

static void adam_f32(const void *context, int64_t first, int64_t n, void *const ptr[]) {
    (void)first;
    const adam *c = context;
    const float beta1 = (float)c->beta1, beta2 = (float)c->beta2, eps = (float)c->eps, decay = (float)c->decay;
    const float rest1 = (float)(1 - c->beta1), rest2 = (float)(1 - c->beta2), grad_scale = (float)c->grad_scale;
    const float keep = (float)c->keep, step_size = (float)c->step_size, v_scale = (float)c->v_scale;
    float *p = ptr[0], *m = ptr[1], *v = ptr[2];
    const float *g = ptr[3];
    VF_LOOP(i, count, n) {
        const vf pi = vf_load_n(p + i, count), gi = vf_load_n(g + i, count) * grad_scale + pi * decay;
        const vf mi = vf_load_n(m + i, count) * beta1 + gi * rest1;
        const vf v2 = vf_load_n(v + i, count) * beta2 + gi * gi * rest2;
        vf_store_n(m + i, mi, count);
        vf_store_n(v + i, v2, count);
        vf_store_n(p + i, pi * keep - step_size * mi / (vf_sqrt(v2) * v_scale + eps), count);
    }
}

static void adam_f64(const void *context, int64_t first, int64_t n, void *const ptr[]) {
    (void)first;
    const adam *c = context;
    double *p = ptr[0], *m = ptr[1], *v = ptr[2];
    const double *g = ptr[3];
    for (int64_t i = 0; i < n; i++) {
        const double gi = g[i] * c->grad_scale + p[i] * c->decay;
        m[i] = m[i] * c->beta1 + gi * (1 - c->beta1);
        v[i] = v[i] * c->beta2 + gi * gi * (1 - c->beta2);
        p[i] = p[i] * c->keep - c->step_size * m[i] / (sqrt(v[i]) * c->v_scale + c->eps);
    }
}

hd_status cpu_adam(const hd_adam_args *a) {
    const adam constants = adam_constants(a);
    cpu_loop loop;
    cpu_loop_start(&loop, &a->p, a->p.ndim, CPU_UPDATE);
    cpu_loop_add(&loop, &a->m, CPU_UPDATE);
    cpu_loop_add(&loop, &a->v, CPU_UPDATE);
    cpu_loop_add(&loop, &a->g, CPU_READ);
    cpu_loop_collapse(&loop, false);
    cpu_loop_run(&loop, a->p.dtype == HD_F32 ? adam_f32 : adam_f64, &constants);
    return HD_OK;
}

// g' = grad_scale g + weight_decay p; m = momentum m + g'; p -= lr (m, or g' + momentum m with Nesterov's rule).
#define DEFINE_SGD(name, type)                                                                                         \
    static void sgd_##name(const void *context, int64_t first, int64_t n, void *const ptr[]) {                         \
        (void)first;                                                                                                   \
        const hd_sgd_args *a = context;                                                                                \
        const type lr = (type)a->lr, scale = (type)a->grad_scale, decay = (type)a->weight_decay;                       \
        type *p = ptr[0];                                                                                              \
        const type *g = ptr[1];                                                                                        \
        CPU_KERNEL_LOOP                                                                                                \
        for (int64_t i = 0; i < n; i++)                                                                                \
            p[i] -= lr * (g[i] * scale + p[i] * decay);                                                                \
    }                                                                                                                  \
    static void momentum_##name(const void *context, int64_t first, int64_t n, void *const ptr[]) {                    \
        (void)first;                                                                                                   \
        const hd_sgd_args *a = context;                                                                                \
        const type lr = (type)a->lr, scale = (type)a->grad_scale, decay = (type)a->weight_decay;                       \
        const type momentum = (type)a->momentum, plain = a->nesterov, ahead = a->nesterov ? momentum : 1;              \
        type *p = ptr[0], *m = ptr[2];                                                                                 \
        const type *g = ptr[1];                                                                                        \
        CPU_KERNEL_LOOP                                                                                                \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            const type gi = g[i] * scale + p[i] * decay;                                                               \
            m[i] = momentum * m[i] + gi;                                                                               \
            p[i] -= lr * (plain * gi + ahead * m[i]);                                                                  \
        }                                                                                                              \
    }
DEFINE_SGD(f32, float)
DEFINE_SGD(f64, double)

hd_status cpu_sgd(const hd_sgd_args *a) {
    const bool f32 = a->p.dtype == HD_F32;
    cpu_loop loop;
    cpu_loop_start(&loop, &a->p, a->p.ndim, CPU_UPDATE);
    cpu_loop_add(&loop, &a->g, CPU_READ);
    if (a->m.data)
        cpu_loop_add(&loop, &a->m, CPU_UPDATE);
    cpu_loop_collapse(&loop, false);
    if (a->m.data)
        cpu_loop_run(&loop, f32 ? momentum_f32 : momentum_f64, a);
    else
        cpu_loop_run(&loop, f32 ? sgd_f32 : sgd_f64, a);
    return HD_OK;
}

#define DEFINE_LERP(name, type)                                                                                        \
    static void lerp_##name(const void *context, int64_t first, int64_t n, void *const ptr[]) {                        \
        (void)first;                                                                                                   \
        const type weight = (type) * (const double *)context;                                                          \
        type *a = ptr[0];                                                                                              \
        const type *b = ptr[1];                                                                                        \
        CPU_KERNEL_LOOP                                                                                                \
        for (int64_t i = 0; i < n; i++)                                                                                \
            a[i] += weight * (b[i] - a[i]);                                                                            \
    }
DEFINE_LERP(f32, float)
DEFINE_LERP(f64, double)

hd_status cpu_lerp(const hd_lerp_args *l) {
    cpu_loop loop;
    cpu_loop_start(&loop, &l->a, l->a.ndim, CPU_UPDATE);
    cpu_loop_add(&loop, &l->b, CPU_READ);
    cpu_loop_collapse(&loop, false);
    cpu_loop_run(&loop, l->a.dtype == HD_F32 ? lerp_f32 : lerp_f64, &l->weight);
    return HD_OK;
}
