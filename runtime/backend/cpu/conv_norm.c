// backend/cpu/conv_norm.c: the input of a convolution that normalises what it reads (hd_conv_norm), made in parts.
// Layer: backend. Calls: norm.c. Called by: conv_winograd*.c, for the pixels of a block of tiles, which then stay in
// the cache until they are transformed; conv.c, whole, for all other methods.
#include "backend/cpu/conv.h"
#include <math.h>

static double number(const hd_view *v, int64_t i, int64_t j) {
    return hd_load(v->data, v->dtype, i * v->strides[0] + j * v->strides[1]);
}

// Channel c of image n becomes act(x * scale + shift).
static void coefficients(const hd_conv_args *a, int64_t n, int64_t c, double *scale, double *shift) {
    const hd_conv_norm *m = a->norm;
    const int64_t group = c / (a->w.shape[1] / m->groups);
    *scale = number(&m->rstd, n, group) * (m->w.data ? number(&m->w, c, 0) : 1);
    *shift = (m->b.data ? number(&m->b, c, 0) : 0) - number(&m->mean, n, group) * *scale;
}

hd_status conv_normed_begin(const hd_conv_args *a, conv_normed *x) {
    const int64_t channels = a->w.shape[1], count = a->x.shape[0] * channels;
    *x = (conv_normed){.args = a, .channels = channels};
    if (!a->norm)
        return HD_OK;
    x->scale = hd_alloc(sizeof(float) * 2 * (size_t)count);
    if (!x->scale)
        return hd_fail(HD_ENOMEM, "conv: no memory for the workspace");
    x->shift = x->scale + count;
    for (int64_t i = 0; i < count; i++) {
        double scale, shift;
        coefficients(a, i / channels, i % channels, &scale, &shift);
        x->scale[i] = (float)scale;
        x->shift[i] = (float)shift;
    }
    return HD_OK;
}

void conv_normed_end(conv_normed *x) { hd_free(x->scale); }

// Pixels of one image, channels first..first+count-1 of those of one tensor; `joined`: the first one among all.
static void normalise(const conv_normed *x, const hd_view *v, int64_t pixel, int64_t pixels, int64_t first,
                      int64_t joined, int64_t count, float *to, int64_t width) {
    const int64_t step = v->shape[1], at = pixel / (v->shape[2] * v->shape[3]) * x->channels + joined;
    const float *from = (const float *)v->data + pixel * step + first;
    cpu_norm_apply(from, step, to, width, x->scale + at, x->shift + at, count, pixels, x->args->norm->act,
                   from + 32 * step);
}

void conv_normed_pixels(const conv_normed *x, int64_t first, int64_t last, int64_t channel, int64_t channels,
                        float *to) {
    const hd_view *own = &x->args->x, *more = &x->args->norm->more;
    const int64_t image = own->shape[2] * own->shape[3], border = own->shape[1];
    const int64_t ours = cpu_max(0, cpu_min(border, channel + channels) - channel), theirs = channels - ours;
    while (first < last) {
        const int64_t pixels = cpu_min(last, (first / image + 1) * image) - first;
        if (ours > 0)
            normalise(x, own, first, pixels, channel, channel, ours, to, channels);
        if (theirs > 0)
            normalise(x, more, first, pixels, channel + ours - border, channel + ours, theirs, to + ours, channels);
        to += pixels * channels;
        first += pixels;
    }
}

// Whole -------------------------------------------------------------------------------------------------------------

static double silu(double z) { return z / (1 + exp(-z)); }

// One image in double; `to` is dense and channels-last.
static void normalise_f64(const hd_conv_args *a, int64_t n, double *to) {
    const int64_t pixels = a->x.shape[2] * a->x.shape[3], channels = a->w.shape[1], border = a->x.shape[1];
    for (int64_t c = 0; c < channels; c++) {
        const hd_view *v = c < border ? &a->x : &a->norm->more;
        const double *from = (const double *)v->data + n * pixels * v->shape[1] + (c < border ? c : c - border);
        double scale, shift;
        coefficients(a, n, c, &scale, &shift);
        for (int64_t p = 0; p < pixels; p++) {
            const double z = from[p * v->shape[1]] * scale + shift;
            to[(n * pixels + p) * channels + c] = a->norm->act == HD_ACT_SILU ? silu(z) : z;
        }
    }
}

static hd_status fill(const hd_conv_args *a, void *to) {
    const int64_t images = a->x.shape[0], pixels = a->x.shape[2] * a->x.shape[3], channels = a->w.shape[1];
    conv_normed x;
    HD_CHECK(conv_normed_begin(a, &x));
    CPU_PARALLEL_FOR(n, images) {
        if (a->x.dtype == HD_F64)
            normalise_f64(a, n, to);
        else
            conv_normed_pixels(&x, n * pixels, (n + 1) * pixels, 0, channels, (float *)to + n * pixels * channels);
    }
    conv_normed_end(&x);
    return HD_OK;
}

hd_status conv_after_norm(const hd_conv_args *a, hd_status (*conv)(const hd_conv_args *)) {
    hd_conv_args plain = *a;
    hd_view *x = &plain.x;
    plain.norm = NULL;
    x->shape[1] = a->w.shape[1];
    x->strides[1] = 1;
    x->strides[3] = x->shape[1];
    x->strides[2] = x->strides[3] * x->shape[3];
    x->strides[0] = x->strides[2] * x->shape[2];
    x->data = hd_alloc((size_t)hd_view_numel(x) * hd_dtype_size(x->dtype));
    if (!x->data)
        return hd_fail(HD_ENOMEM, "conv: no memory for the workspace");
    hd_status status = fill(a, x->data);
    if (status == HD_OK)
        status = conv(&plain);
    hd_free(x->data);
    return status;
}
