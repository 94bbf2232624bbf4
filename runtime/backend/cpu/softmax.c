// backend/cpu/softmax.c: softmax and log-softmax along one dimension, and their gradients.
// Layer: backend. f32 runs on vectors, a line whose elements lie apart by way of a dense copy, so that values do not
// depend on layout; f64 is scalar.
// The largest element is subtracted first, so that nothing overflows. Threads: groups of lines, by shape alone.
#include "backend/cpu/simd.h"
#include "backend/cpu/strided.h"

enum { AHEAD = 512 }; // floats: so far ahead is fetched what will be written; the next lines mostly lie there

// One line: its elements lie `strides[k]` apart in operand k (forward: y, x; backward: dx, y, dy).
typedef struct {
    void *p[3];
    int64_t strides[3], n;
    bool log;
} line;

typedef void line_function(const line *);

// sum of e^(x - top), which goes to y. Few terms are added in float, their sums in double.
static double exp_line(float *y, const float *x, float top, int64_t n) {
    vf_wide sum = {{0}, {0}};
    int64_t i = 0;
    while (i + VF_LANES <= n) {
        const int64_t whole = (n - i) / VF_LANES, end = i + (whole < 16 ? whole : 16) * VF_LANES;
        vf few = {0};
        for (; i < end; i += VF_LANES) {
            __builtin_prefetch(y + i + AHEAD, 1);
            const vf e = vf_exp(vf_load(x + i) - top);
            vf_store(y + i, e);
            few += e;
        }
        vf_wide_add(&sum, vf_widen(few));
    }
    double total = vf_wide_sum(sum);
    if (i < n) {
        const vf e = vf_exp(vf_load_part(x + i, n - i) - top);
        vf_store_part(y + i, e, n - i);
        for (int64_t l = 0; l < n - i; l++)
            total += (double)e[l];
    }
    return total;
}

static void softmax_dense(const line *s) {
    float *y = s->p[0];
    const float *x = s->p[1];
    vf tops = vf_set(-INFINITY);
    int64_t i = 0;
    for (; i + VF_LANES <= s->n; i += VF_LANES)
        tops = vf_max(tops, vf_load(x + i));
    float top = vf_largest(tops);
    for (; i < s->n; i++)
        top = x[i] > top ? x[i] : top;
    const double sum = exp_line(y, x, top, s->n);
    if (s->log) {
        const float log_sum = (float)log(sum);
        VF_LOOP(k, count, s->n) vf_store_n(y + k, vf_load_n(x + k, count) - top - log_sum, count);
    } else {
        const float scale = (float)(1 / sum);
        VF_LOOP(k, count, s->n) vf_store_n(y + k, vf_load_n(y + k, count) * scale, count);
    }
}

static void softmax_back_dense(const line *s) {
    float *dx = s->p[0];
    const float *y = s->p[1], *dy = s->p[2];
    vf_wide sums = {{0}, {0}};
    int64_t i = 0;
    for (; i + VF_LANES <= s->n; i += VF_LANES) {
        const vf_wide g = vf_widen(vf_load(dy + i));
        if (s->log)
            vf_wide_add(&sums, g);
        else
            vf_wide_add_product(&sums, g, vf_widen(vf_load(y + i)));
    }
    double total = vf_wide_sum(sums);
    for (; i < s->n; i++)
        total += (double)dy[i] * (s->log ? 1 : (double)y[i]);
    const float sum = (float)total, rest = (float)(total - (double)sum); // dy - sum may cancel
    VF_LOOP(k, count, s->n) {
        const vf g = vf_load_n(dy + k, count), v = vf_load_n(y + k, count);
        vf_store_n(dx + k, s->log ? g - vf_exp(v) * sum : v * (g - sum - rest), count);
    }
}

// A line of f32 whose elements lie apart, through `room` for n floats of each operand.
static void through_dense(const line *s, int operands, line_function *dense, float *room) {
    line packed = {.n = s->n, .log = s->log};
    for (int k = 0; k < operands; k++) {
        float *to = room + k * s->n;
        const float *from = s->p[k];
        for (int64_t i = 0; i < s->n && k > 0; i++)
            to[i] = from[i * s->strides[k]];
        packed.p[k] = to;
    }
    dense(&packed);
    float *out = s->p[0];
    for (int64_t i = 0; i < s->n; i++)
        out[i * s->strides[0]] = room[i];
}

// The gradient's sum is a long double: its difference to dy may cancel.
static void softmax_f64(const line *s) {
    double *y = s->p[0], top = -INFINITY, sum = 0;
    const double *x = s->p[1];
    for (int64_t i = 0; i < s->n; i++)
        top = x[i * s->strides[1]] > top ? x[i * s->strides[1]] : top;
    for (int64_t i = 0; i < s->n; i++)
        sum += exp(x[i * s->strides[1]] - top);
    for (int64_t i = 0; i < s->n; i++) {
        const double v = x[i * s->strides[1]] - top;
        y[i * s->strides[0]] = s->log ? v - log(sum) : exp(v) / sum;
    }
}

static void softmax_back_f64(const line *s) {
    double *dx = s->p[0];
    const double *y = s->p[1], *dy = s->p[2];
    long double sum = 0;
    for (int64_t i = 0; i < s->n; i++)
        sum += (long double)dy[i * s->strides[2]] * (s->log ? 1 : (long double)y[i * s->strides[1]]);
    for (int64_t i = 0; i < s->n; i++) {
        const long double g = dy[i * s->strides[2]], v = y[i * s->strides[1]];
        dx[i * s->strides[0]] = (double)(s->log ? g - (long double)exp((double)v) * sum : v * (g - sum));
    }
}

static hd_status for_lines(const hd_view *const views[], int operands, int dim, bool log, line_function *f32,
                           line_function *f64) {
    const int64_t n = views[0]->shape[dim];
    if (hd_view_numel(views[0]) == 0)
        return HD_OK;
    cpu_loop loop;
    bool dense = true;
    for (int k = 0; k < operands; k++) {
        hd_view first = *views[k];
        first.shape[dim] = 1;
        if (k == 0)
            cpu_loop_start(&loop, &first, first.ndim, CPU_WRITE);
        else
            cpu_loop_add(&loop, &first, CPU_READ);
        dense = dense && (views[k]->strides[dim] == 1 || n == 1);
    }
    cpu_loop_collapse(&loop, false);
    line_function *one = views[0]->dtype == HD_F64 ? f64 : f32;
    const int64_t group = n < CPU_PIECE ? CPU_PIECE / n : 1, tasks = (loop.numel + group - 1) / group;
    const int64_t room_size = one == f32 && !dense ? operands * n : 0; // floats for each task
    float *room = room_size ? hd_alloc((size_t)(tasks * room_size) * sizeof *room) : NULL;
    if (room_size && !room)
        return hd_fail(HD_ENOMEM, "softmax: no memory for a workspace");
    CPU_PARALLEL_FOR(t, tasks) {
        const int64_t end = (t + 1) * group < loop.numel ? (t + 1) * group : loop.numel;
        for (int64_t i = t * group; i < end; i++) {
            int64_t at[CPU_OPERANDS];
            line s = {.n = n, .log = log};
            cpu_loop_offsets(&loop, i, at);
            for (int k = 0; k < operands; k++) {
                s.p[k] = loop.data[k] + at[k] * (int64_t)loop.size[k];
                s.strides[k] = views[k]->strides[dim];
            }
            if (room)
                through_dense(&s, operands, one, room + t * room_size);
            else
                one(&s);
        }
    }
    hd_free(room);
    return HD_OK;
}

hd_status cpu_softmax(const hd_softmax_args *a) {
    const hd_view *const views[] = {&a->y, &a->x};
    return for_lines(views, 2, a->dim, a->log, softmax_dense, softmax_f64);
}

hd_status cpu_softmax_back(const hd_softmax_back_args *a) {
    const hd_view *const views[] = {&a->dx, &a->y, &a->dy};
    return for_lines(views, 3, a->dim, a->log, softmax_back_dense, softmax_back_f64);
}
