// ops/norm.c: group norm (with SiLU in the same pass on request), layer norm and RMS norm.
// Layer: ops. Calls: backend norm, norm_back. Called by: autograd, bind.
// All three are one table entry on a view [n, c, p]: see backend.h. Saved for backward: mean and 1/std, [n, groups].
// Source: Wu and He 2018 (group norm); Ba et al. 2016 (layer norm); Zhang and Sennrich 2019 (RMS norm).
#include "ops/families.h"
#include <string.h>

// Distance of neighbouring positions of x [n, c, ...], -1: they are not equally far apart.
static int64_t position_stride(const hd_tensor *x) {
    int64_t stride = 1, row = -1; // of the last dimension with more than one position; what the one before must have
    for (int d = x->ndim - 1; d >= 2; d--) {
        if (x->shape[d] == 1)
            continue;
        if (row >= 0 && x->strides[d] != row)
            return -1;
        stride = row < 0 ? x->strides[d] : stride;
        row = x->shape[d] * x->strides[d];
    }
    return stride;
}

// May the kernel read x as [n, c, p] with channels fastest?
static bool is_ncp(const hd_tensor *x) { return x && x->strides[1] == 1 && position_stride(x) >= 0; }

// x as [n, c, p]; NULL gives a view without data.
static hd_view as_ncp(const hd_tensor *x) {
    hd_view v = hd_tensor_as_view(x);
    if (!x)
        return v;
    v.ndim = 3;
    v.shape[2] = 1;
    for (int d = 2; d < x->ndim; d++)
        v.shape[2] *= x->shape[d];
    v.strides[2] = position_stride(x);
    return v;
}

// One memory order for all, hence one order of sums: values never depend on layout.
static hd_status dense_input(hd_tensor *x, hd_tensor **out) {
    return x->ndim < 3 ? hd_do_contiguous(x, out) : hd_do_channels_last(x, out);
}

// A view [rows, d] of x over its last `tail` dimensions as [rows, d, 1], for layer and RMS norm. x is row-major; NULL
// gives a view without data.
static hd_view as_rows(const hd_tensor *x, int tail) {
    hd_view v = hd_tensor_as_view(x);
    int64_t d = 1;
    if (!x)
        return v;
    for (int i = x->ndim - tail; i < x->ndim; i++)
        d *= x->shape[i];
    v.ndim = 3;
    v.shape[0] = d > 0 ? hd_tensor_numel(x) / d : 0, v.shape[1] = d, v.shape[2] = 1;
    v.strides[0] = d, v.strides[1] = 1, v.strides[2] = d;
    return v;
}

static hd_view flat(const hd_tensor *w) {
    hd_view v = hd_tensor_as_view(w);
    if (w) {
        v.shape[0] = hd_tensor_numel(w), v.strides[0] = 1;
        v.ndim = 1;
    }
    return v;
}

static hd_status new_statistics(hd_op_call *c, hd_dtype dtype, int64_t n, int64_t groups) {
    for (int i = 0; i < 2; i++)
        HD_CHECK(hd_tensor_new(dtype, 2, (int64_t[]){n, groups}, HD_ROW_MAJOR, &c->saved[i]));
    return HD_OK;
}

// Entries first..first+count-1 of dimension d of v.
static hd_view slice(hd_view v, int d, int64_t first, int64_t count) {
    if (v.data) {
        v.data = (char *)v.data + first * v.strides[d] * (int64_t)hd_dtype_size(v.dtype);
        v.shape[d] = count;
    }
    return v;
}

// Whole groups that lie in one piece of memory, never none: channels first.. of all; x, dx and add have these channels
// alone.
typedef struct {
    hd_view x, dx, add;
    int64_t first;
} run;

// Weight and bias as vectors without gaps, to be released; those that are absent stay NULL.
static hd_status take_affine(const hd_op_call *c, hd_tensor **w, hd_tensor **b) {
    if (c->in[1])
        HD_CHECK(hd_do_contiguous(c->in[1], w));
    return c->nin > 2 && c->in[2] ? hd_do_contiguous(c->in[2], b) : HD_OK;
}

// y and everything that belongs to a channel or a group cover all runs.
static hd_status run_forward(hd_op_call *c, const run *runs, int count, hd_view y, int64_t groups, bool rms) {
    hd_tensor *w = NULL, *b = NULL;
    HD_CHECK(new_statistics(c, y.dtype, y.shape[0], groups));
    hd_status status = take_affine(c, &w, &b);
    for (int i = 0; i < count && status == HD_OK; i++) {
        const int64_t width = y.shape[1] / groups, first = runs[i].first, channels = runs[i].x.shape[1];
        status = hd_be()->norm(
            &(hd_norm_args){.x = runs[i].x,
                            .w = slice(flat(w), 0, first, channels),
                            .b = slice(flat(b), 0, first, channels),
                            .y = slice(y, 1, first, channels),
                            .mean = slice(hd_tensor_as_view(c->saved[0]), 1, first / width, channels / width),
                            .rstd = slice(hd_tensor_as_view(c->saved[1]), 1, first / width, channels / width),
                            .groups = channels / width,
                            .eps = c->args->eps,
                            .act = (hd_activation)c->args->activation,
                            .rms = rms});
    }
    hd_tensor_release(w);
    hd_tensor_release(b);
    return status;
}

// din[1] and din[2] (weight and bias) are made here.
static hd_status run_backward(hd_op_call *c, const run *runs, int count, hd_view dy, int64_t groups, bool rms) {
    hd_tensor *w = NULL, *b = NULL;
    for (int i = 1; i < 3 && i < c->nin; i++)
        if (c->want[i])
            HD_CHECK(hd_tensor_new(dy.dtype, c->in_ndim[i], c->in_shape[i], HD_ROW_MAJOR, &c->din[i]));
    hd_status status = take_affine(c, &w, &b);
    for (int i = 0; i < count && status == HD_OK; i++) {
        const int64_t width = dy.shape[1] / groups, first = runs[i].first, channels = runs[i].x.shape[1];
        status = hd_be()->norm_back(
            &(hd_norm_back_args){.x = runs[i].x,
                                 .w = slice(flat(w), 0, first, channels),
                                 .b = slice(flat(b), 0, first, channels),
                                 .mean = slice(hd_tensor_as_view(c->saved[0]), 1, first / width, channels / width),
                                 .rstd = slice(hd_tensor_as_view(c->saved[1]), 1, first / width, channels / width),
                                 .dy = slice(dy, 1, first, channels),
                                 .dx = runs[i].dx,
                                 .dw = slice(flat(c->din[1]), 0, first, channels),
                                 .db = slice(flat(c->nin > 2 ? c->din[2] : NULL), 0, first, channels),
                                 .add = runs[i].add,
                                 .groups = channels / width,
                                 .act = (hd_activation)c->args->activation,
                                 .rms = rms});
    }
    hd_tensor_release(w);
    hd_tensor_release(b);
    return status;
}

static hd_status check_affine(const char *where, const hd_tensor *x, const hd_tensor *w, const char *what, int ndim,
                              const int64_t *shape) {
    if (!w)
        return HD_OK;
    HD_CHECK(hd_check_same_dtype(where, x, what, w));
    bool fits = w->ndim == ndim;
    for (int d = 0; fits && d < ndim; d++)
        fits = w->shape[d] == shape[d];
    return fits ? HD_OK
                : hd_fail(HD_ESHAPE, "%s: %s differs: got %s, expected %s for input %s", where, what, hd_tensor_text(w),
                          hd_shape_text(ndim, shape), hd_tensor_text(x));
}

// Group norm ---------------------------------------------------------------------------------------------------------

// The two inputs x and `more` (absent: NULL) count as joined along the channels. Groups are normalised where they lie;
// where one lies in both, it is, with some neighbours so that all runs are whole vectors, in a copy.
enum { X, MORE, BOTH };
static const int place_of[] = {[X] = 0, [MORE] = 3}; // among the op's inputs
#define VECTOR 16                                    // channels of the widest vector

typedef struct {
    int64_t channels, own; // of x and more together, and of x
    int64_t first, both;   // channels in the copy: the first, and how many
    hd_tensor *x[3], *dx[3], *add[3];
} joined;

static joined join(const hd_op_call *c, const int64_t *x_shape, const int64_t *more_shape) {
    joined j = {.own = x_shape[1], .channels = x_shape[1] + (more_shape ? more_shape[1] : 0)};
    const int64_t width = j.channels / c->args->groups;
    int64_t step = width;
    if (!more_shape || width == 0 || j.own % width == 0)
        return j;
    while (step % VECTOR != 0)
        step += width;
    if (j.own / step * step + step > j.channels)
        step = width;
    j.first = j.own / step * step;
    j.both = step;
    return j;
}

static void joined_free(joined *j) {
    for (int i = 0; i < 3; i++) {
        hd_tensor_release(j->x[i]);
        hd_tensor_release(j->dx[i]);
        hd_tensor_release(j->add[i]);
    }
}

// The two parts of the copy: in it, and where they come from: a (x, or what belongs to it) and b (more).
static void parts_of(const joined *j, const hd_tensor *both, const hd_tensor *a, const hd_tensor *b, hd_view in[2],
                     hd_view from[2]) {
    const int64_t shared = j->own - j->first;
    in[0] = slice(as_ncp(both), 1, 0, shared);
    in[1] = slice(as_ncp(both), 1, shared, j->both - shared);
    from[0] = slice(as_ncp(a), 1, j->first, shared);
    from[1] = slice(as_ncp(b), 1, 0, j->both - shared);
}

// A new copy [n, channels, p] from a and b; zeros for one that is NULL.
static hd_status gather(const joined *j, const hd_tensor *a, const hd_tensor *b, hd_tensor **both) {
    const hd_view any = as_ncp(a ? a : b);
    hd_view in[2], from[2];
    HD_CHECK(hd_tensor_new(any.dtype, 3, (int64_t[]){any.shape[0], j->both, any.shape[2]}, HD_CHANNELS_LAST, both));
    parts_of(j, *both, a, b, in, from);
    for (int i = 0; i < 2; i++)
        HD_CHECK(from[i].data ? hd_be()->copy(&(hd_copy_args){from[i], in[i]})
                              : hd_be()->fill(&(hd_fill_args){in[i], 0}));
    return HD_OK;
}

// And back, to those of a and b that are not NULL.
static hd_status scatter(const joined *j, const hd_tensor *both, const hd_tensor *a, const hd_tensor *b) {
    hd_view in[2], to[2];
    parts_of(j, both, a, b, in, to);
    for (int i = 0; i < 2; i++)
        if (to[i].data)
            HD_CHECK(hd_be()->copy(&(hd_copy_args){in[i], to[i]}));
    return HD_OK;
}

// The runs of whole groups: those of x, those of `more`, those in the copy. Returns how many.
static int runs_of(const joined *j, run *runs) {
    const int64_t end = j->both ? j->first : j->own, begin = j->both ? j->first + j->both : j->own;
    const struct {
        int64_t first, end, origin; // channels of all, and where the tensor begins among them
    } extent[] = {[X] = {0, end, 0}, [MORE] = {begin, j->channels, j->own}, [BOTH] = {end, begin, end}};
    int count = 0;
    for (int i = 0; i < 3; i++) {
        const int64_t at = extent[i].first - extent[i].origin, channels = extent[i].end - extent[i].first;
        if (channels > 0)
            runs[count++] = (run){slice(as_ncp(j->x[i]), 1, at, channels), slice(as_ncp(j->dx[i]), 1, at, channels),
                                  slice(as_ncp(j->add[i]), 1, at, channels), extent[i].first};
    }
    return count;
}

static hd_status take_inputs(const hd_op_call *c, joined *j) {
    HD_CHECK(dense_input(c->in[0], &j->x[X]));
    if (c->in[3])
        HD_CHECK(dense_input(c->in[3], &j->x[MORE]));
    return j->both ? gather(j, j->x[X], j->x[MORE], &j->x[BOTH]) : HD_OK;
}

static hd_status check_group_norm(const hd_op_call *c) {
    const char *where = c->name;
    const hd_tensor *x = c->in[0], *more = c->in[3];
    const int64_t groups = c->args->groups;
    HD_CHECK(hd_check_float(where, x));
    if (x->ndim < 2)
        return hd_fail(HD_ESHAPE, "%s: got input %s, expected [n,c,...]", where, hd_tensor_text(x));
    HD_CHECK(hd_check_same_dtype(where, x, "more", more));
    bool fits = !more || more->ndim == x->ndim;
    for (int d = 0; more && fits && d < x->ndim; d++)
        fits = d == 1 || more->shape[d] == x->shape[d];
    if (!fits)
        return hd_fail(HD_ESHAPE, "%s: more differs outside the channels: got %s for input %s", where,
                       hd_tensor_text(more), hd_tensor_text(x));
    const int64_t channels = x->shape[1] + (more ? more->shape[1] : 0);
    if (groups < 1 || channels % groups != 0)
        return hd_fail(HD_ESHAPE, "%s: groups do not divide the channels: got %lld groups for input %s%s%s", where,
                       (long long)groups, hd_tensor_text(x), more ? " and " : "", more ? hd_tensor_text(more) : "");
    HD_CHECK(check_affine(where, x, c->in[1], "weight", 1, &channels));
    return check_affine(where, x, c->in[2], "bias", 1, &channels);
}

// What both forwards do: the statistics, and y = the normalised channels where y is there.
static hd_status group_norm_to(hd_op_call *c, const hd_view *y) {
    const hd_tensor *x = c->in[0], *more = c->in[3];
    run runs[3];
    joined j = join(c, x->shape, more ? more->shape : NULL);
    hd_status status = take_inputs(c, &j);
    if (status == HD_OK)
        status = run_forward(c, runs, runs_of(&j, runs), *y, c->args->groups, false);
    joined_free(&j);
    return status;
}

hd_status hd_group_norm_forward(hd_op_call *c) {
    int64_t shape[HD_MAX_DIMS];
    HD_CHECK(check_group_norm(c));
    memcpy(shape, c->in[0]->shape, sizeof shape);
    shape[1] += c->in[3] ? c->in[3]->shape[1] : 0;
    HD_CHECK(hd_tensor_new(c->in[0]->dtype, c->in[0]->ndim, shape, HD_CHANNELS_LAST, &c->out));
    const hd_view y = as_ncp(c->out);
    return group_norm_to(c, &y);
}

hd_status hd_group_norm_statistics(hd_op_call *c) {
    HD_CHECK(check_group_norm(c));
    hd_view none = as_ncp(c->in[0]);
    none.shape[1] += c->in[3] ? c->in[3]->shape[1] : 0;
    none.data = NULL;
    return group_norm_to(c, &none);
}

// din of x and `more`, and what they have got from elsewhere.
static hd_status make_gradients(hd_op_call *c, joined *j) {
    for (int i = X; i <= MORE; i++) {
        const int at = place_of[i];
        if (!c->want[at])
            continue;
        HD_CHECK(hd_tensor_new(j->x[i]->dtype, j->x[i]->ndim, j->x[i]->shape, HD_CHANNELS_LAST, &c->din[at]));
        j->dx[i] = hd_tensor_retain(c->din[at]);
        if (is_ncp(c->so_far[at]))
            j->add[i] = hd_tensor_retain(c->so_far[at]);
    }
    if (!j->both || !(j->dx[X] || j->dx[MORE]))
        return HD_OK;
    HD_CHECK(hd_tensor_new_like(j->x[BOTH], j->x[BOTH]->dtype, &j->dx[BOTH]));
    return j->add[X] || j->add[MORE] ? gather(j, j->add[X], j->add[MORE], &j->add[BOTH]) : HD_OK;
}

hd_status hd_group_norm_backward(hd_op_call *c) {
    hd_tensor *dy = NULL;
    run runs[3];
    joined j = join(c, c->in_shape[0], c->in[3] ? c->in_shape[3] : NULL);
    hd_status status = take_inputs(c, &j);
    if (status == HD_OK)
        status = dense_input(c->dout, &dy);
    if (status == HD_OK)
        status = make_gradients(c, &j);
    if (status == HD_OK)
        status = run_backward(c, runs, runs_of(&j, runs), as_ncp(dy), c->args->groups, false);
    if (status == HD_OK && j.dx[BOTH])
        status = scatter(&j, j.dx[BOTH], j.dx[X], j.dx[MORE]);
    for (int i = X; i <= MORE; i++)
        c->added[place_of[i]] = status == HD_OK && j.add[i];
    joined_free(&j);
    hd_tensor_release(dy);
    return status;
}

// Layer norm and RMS norm --------------------------------------------------------------------------------------------

// aux: 1 = RMS norm. args->sizes: the trailing extents that are normalised together.
hd_status hd_layer_norm_forward(hd_op_call *c) {
    const char *where = c->aux ? "rms_norm" : "layer_norm";
    hd_tensor *x = c->in[0], *dense;
    const int tail = c->args->nsizes;
    HD_CHECK(hd_check_float(where, x));
    bool fits = tail >= 1 && tail <= x->ndim;
    for (int i = 0; fits && i < tail; i++)
        fits = x->shape[x->ndim - tail + i] == c->args->sizes[i];
    if (!fits)
        return hd_fail(HD_ESHAPE, "%s: sizes differ: got input %s, expected its last dimensions to be %s", where,
                       hd_tensor_text(x), hd_shape_text(tail, c->args->sizes));
    HD_CHECK(check_affine(where, x, c->in[1], "weight", tail, c->args->sizes));
    if (c->nin > 2)
        HD_CHECK(check_affine(where, x, c->in[2], "bias", tail, c->args->sizes));
    HD_CHECK(hd_tensor_new(x->dtype, x->ndim, x->shape, HD_ROW_MAJOR, &c->out));
    HD_CHECK(hd_do_contiguous(x, &dense));
    const run all = {.x = as_rows(dense, tail)};
    const hd_status status = run_forward(c, &all, all.x.shape[1] > 0, as_rows(c->out, tail), 1, c->aux);
    hd_tensor_release(dense);
    return status;
}

hd_status hd_layer_norm_backward(hd_op_call *c) {
    hd_tensor *x = NULL, *dy = NULL;
    const int tail = c->args->nsizes;
    hd_status status = hd_do_contiguous(c->in[0], &x);
    if (status == HD_OK)
        status = hd_do_contiguous(c->dout, &dy);
    if (status == HD_OK && c->want[0])
        status = hd_tensor_new(x->dtype, x->ndim, x->shape, HD_ROW_MAJOR, &c->din[0]);
    const bool add = c->din[0] && c->so_far[0] && hd_tensor_is_contiguous(c->so_far[0]);
    const run all = {as_rows(x, tail), as_rows(c->din[0], tail), as_rows(add ? c->so_far[0] : NULL, tail), 0};
    if (status == HD_OK)
        status = run_backward(c, &all, all.x.shape[1] > 0, as_rows(dy, tail), 1, c->aux);
    c->added[0] = add && status == HD_OK;
    hd_tensor_release(x);
    hd_tensor_release(dy);
    return status;
}
