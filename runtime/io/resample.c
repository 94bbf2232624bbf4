// io/resample.c: area average and linear interpolation.
// Layer: io. Called by: image.c, font.c, bind_io.c. Threads: any.
#include "io/resample.h"
#include "core/alloc.h"
#include <math.h>
#include <string.h>

// New pixel i of an axis is the sum over k < count of weights[i*stride + k] x old pixel (first[i] + k).
typedef struct {
    int stride;
    int *first, *count;
    double *weights;
} axis;

static void axis_free(axis *a) {
    hd_free(a->first);
    hd_free(a->count);
    hd_free(a->weights);
}

static void area_weights(axis *a, int i, int in, int out) {
    double scale = (double)in / out, begin = i * scale, end = (i + 1) * scale;
    int from = (int)begin, to = (int)ceil(end);
    if (to > in)
        to = in;
    a->first[i] = from;
    a->count[i] = to - from;
    double *w = a->weights + (size_t)i * (size_t)a->stride;
    for (int k = from; k < to; k++) {
        double low = k > begin ? k : begin, high = k + 1 < end ? k + 1 : end;
        w[k - from] = (high > low ? high - low : 0) / scale;
    }
}

static void linear_weights(axis *a, int i, int in, int out) {
    double centre = (i + 0.5) * in / out - 0.5;
    if (centre < 0)
        centre = 0;
    if (centre > in - 1)
        centre = in - 1;
    int from = (int)centre;
    double part = centre - from, *w = a->weights + (size_t)i * (size_t)a->stride;
    a->first[i] = from;
    a->count[i] = part > 0 ? 2 : 1;
    w[0] = 1 - part;
    w[1] = part;
}

static hd_status axis_make(int in, int out, axis *a) {
    a->stride = out < in ? in / out + 3 : 2;
    a->first = hd_alloc((size_t)out * sizeof *a->first);
    a->count = hd_alloc((size_t)out * sizeof *a->count);
    a->weights = hd_alloc((size_t)out * (size_t)a->stride * sizeof *a->weights);
    if (!a->first || !a->count || !a->weights)
        return hd_fail(HD_ENOMEM, "resize: no memory for %d x %d weights", out, a->stride);
    for (int i = 0; i < out; i++)
        (out < in ? area_weights : linear_weights)(a, i, in, out);
    return HD_OK;
}

static void resample_line(const axis *a, int out, int channels, const double *row, double *line) {
    for (int i = 0; i < out; i++)
        for (int c = 0; c < channels; c++) {
            const double *w = a->weights + (size_t)i * (size_t)a->stride;
            const double *p = row + (size_t)a->first[i] * (size_t)channels + c;
            double sum = 0;
            for (int k = 0; k < a->count[i]; k++, p += channels)
                sum += w[k] * *p;
            *line++ = sum;
        }
}

// The last two resampled lines are kept: neighbouring output rows share them.
static void resample_rows(const hd_resample_args *g, const axis *across, const axis *down, double *buffer) {
    size_t n = (size_t)g->out_width * (size_t)g->channels;
    double *lines[2] = {buffer, buffer + n}, *sum = buffer + 2 * n, *row = buffer + 3 * n;
    int held[2] = {-1, -1};
    for (int y = 0; y < g->out_height; y++) {
        memset(sum, 0, n * sizeof *sum);
        for (int k = 0; k < down->count[y]; k++) {
            int at = down->first[y] + k, slot = at & 1;
            if (held[slot] != at) {
                g->source(g->from, at, row);
                resample_line(across, g->out_width, g->channels, row, lines[slot]);
                held[slot] = at;
            }
            double w = down->weights[(size_t)y * (size_t)down->stride + (size_t)k];
            for (size_t i = 0; i < n; i++)
                sum[i] += w * lines[slot][i];
        }
        g->sink(g->to, y, sum);
    }
}

hd_status hd_resample(const hd_resample_args *g) {
    axis across = {0}, down = {0};
    double *buffer = NULL;
    hd_status status = axis_make(g->width, g->out_width, &across);
    if (status == HD_OK)
        status = axis_make(g->height, g->out_height, &down);
    if (status == HD_OK) {
        size_t doubles = ((size_t)g->out_width * 3 + (size_t)g->width) * (size_t)g->channels;
        buffer = hd_alloc(doubles * sizeof *buffer);
        if (!buffer)
            status = hd_fail(HD_ENOMEM, "resize: no memory for rows of %zu numbers", doubles);
    }
    if (status == HD_OK)
        resample_rows(g, &across, &down, buffer);
    hd_free(buffer);
    axis_free(&across);
    axis_free(&down);
    return status;
}
