// autograd/anomaly.c: looking through results for NaN and infinities.
// Layer: autograd. Calls: ops. Called by: the tape and bind.
// A sum of squares is not finite where any value is not: one pass at the speed of memory. Only where it is not does a
// second, slow pass look for the place.
#include "autograd/anomaly.h"
#include "core/alloc.h"
#include "ops/compose.h"
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

bool hd_anomaly_on;

static const char *current_place;
static const hd_op *planted;
static bool planted_backward;

bool hd_set_anomaly(bool on) {
    const bool before = hd_anomaly_on;
    hd_anomaly_on = on;
    return before;
}

void hd_anomaly_place(const char *place) { current_place = place; }

char *hd_anomaly_copy_place(void) {
    const size_t bytes = current_place ? strlen(current_place) + 1 : 0;
    char *copy = bytes ? hd_alloc(bytes) : NULL;
    return copy ? memcpy(copy, current_place, bytes) : NULL;
}

void hd_anomaly_plant(const hd_op *op, bool backward) {
    planted = op;
    planted_backward = backward;
}

static hd_status plant(const hd_op *op, bool backward, const hd_tensor *x) {
    if (op != planted || backward != planted_backward || !x || !hd_dtype_is_float(x->dtype) || !hd_tensor_numel(x))
        return HD_OK;
    planted = NULL;
    hd_view first = hd_tensor_as_view(x);
    for (int d = 0; d < first.ndim; d++)
        first.shape[d] = 1;
    return hd_be()->fill(&(hd_fill_args){first, NAN});
}

// Looking ----------------------------------------------------------------------------

typedef struct {
    int64_t count, nans, first; // first: row-major position
    double value;               // there
} odd_values;

static hd_status find_odd(hd_tensor *x, odd_values *odd) {
    double sum = 0;
    hd_tensor *flat;
    *odd = (odd_values){0};
    if (!x || !hd_dtype_is_float(x->dtype))
        return HD_OK;
    HD_CHECK(hd_do_sum_of_squares(x, &sum));
    if (isfinite(sum))
        return HD_OK;
    HD_CHECK(hd_do_contiguous(x, &flat));
    const hd_status status = hd_be()->sync();
    const hd_view v = hd_tensor_as_view(flat);
    for (int64_t i = 0, n = hd_tensor_numel(flat); i < n && status == HD_OK; i++) {
        const double value = hd_load(v.data, v.dtype, i);
        if (isfinite(value))
            continue;
        if (odd->count++ == 0)
            odd->first = i, odd->value = value;
        odd->nans += isnan(value) != 0;
    }
    hd_tensor_release(flat);
    return status;
}

hd_status hd_anomaly_is_finite(hd_tensor *x, bool *finite) {
    odd_values odd;
    HD_CHECK(find_odd(x, &odd));
    *finite = odd.count == 0;
    return HD_OK;
}

// The first input, of those from `first` on, that holds such a value; -1 for none.
static hd_status first_odd(const hd_op_call *call, int first, int *which) {
    *which = -1;
    for (int i = first; i < call->nin && *which < 0; i++) {
        odd_values odd;
        HD_CHECK(find_odd(call->in[i], &odd));
        if (odd.count)
            *which = i;
    }
    return HD_OK;
}

static bool has_infinite_number(const hd_op_args *args) {
    return isinf(args->value) || isinf(args->alpha) || isinf(args->beta);
}

// Telling ----------------------------------------------------------------------------

typedef struct {
    char text[640];
    size_t length;
} words;

static void __attribute__((format(printf, 2, 3))) add(words *w, const char *format, ...) {
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(w->text + w->length, sizeof w->text - w->length, format, args);
    va_end(args);
    w->length += n > 0 ? (size_t)n : 0;
    if (w->length >= sizeof w->text)
        w->length = sizeof w->text - 1;
}

// "nan at [1,3,2] (5 of 24 values) of f32 [2,3,4]", counted from 1; "nan" where there is one value
static void add_values(words *w, const hd_tensor *x, const odd_values *odd) {
    int64_t at[HD_MAX_DIMS], rest = odd->first;
    for (int d = x->ndim - 1; d >= 0; d--) {
        at[d] = rest % x->shape[d] + 1;
        rest /= x->shape[d];
    }
    const char *value = isnan(odd->value) ? "nan" : odd->value > 0 ? "inf" : "-inf";
    add(w, "%s", value);
    if (hd_tensor_numel(x) > 1)
        add(w, " at %s (%lld of %lld values) of %s %s", hd_shape_text(x->ndim, at), (long long)odd->count,
            (long long)hd_tensor_numel(x), hd_dtype_name(x->dtype), hd_tensor_text(x));
}

// "f32 [2,3], no tensor, f32 [3]", at most four
static void add_input(words *w, int i, int ndim, const int64_t *shape, hd_dtype dtype) {
    add(w, "%s", i > 0 ? ", " : "");
    if (i > 3)
        add(w, i == 4 ? "..." : "");
    else if (ndim < 0)
        add(w, "no tensor");
    else
        add(w, "%s %s", hd_dtype_name(dtype), hd_shape_text(ndim, shape));
}

// Forward and backward -----------------------------------------------------------------

static hd_status check_forward(const hd_op *op, const hd_op_call *call, bool was_finite) {
    odd_values odd;
    words got = {0}, inputs = {0};
    int source = 0;
    HD_CHECK(plant(op, false, call->out));
    HD_CHECK(find_odd(call->out, &odd));
    if (!odd.count)
        return HD_OK;
    if (was_finite)
        HD_CHECK(first_odd(call, call->inplace, &source));
    if (!odd.nans && (source >= 0 || has_infinite_number(call->args)))
        return HD_OK;
    add_values(&got, call->out, &odd);
    int shown = call->nin; // without the options at the end that were left out
    while (shown > 2 && !call->in[shown - 1])
        shown--;
    for (int i = 0; i < shown; i++) {
        const hd_tensor *x = call->in[i];
        add_input(&inputs, i, x ? x->ndim : -1, x ? x->shape : NULL, x ? x->dtype : HD_F32);
    }
    if (source >= 0)
        add(&inputs, "; input %d was not finite before", source + 1);
    else
        add(&inputs, "; all of them were finite");
    return hd_fail(HD_EARG, "%s: the result is not finite: got %s, expected finite values\n  inputs: %s", op->name,
                   got.text, inputs.text);
}

// The gradient of input i is the first that is not finite.
static hd_status fail_backward(const hd_op *op, const hd_op_call *call, const char *place, int i, const odd_values *odd,
                               const char *before) {
    words got = {0}, inputs = {0};
    add_values(&got, call->din[i], odd);
    int shown = call->nin;
    while (shown > 2 && call->in_ndim[shown - 1] < 0)
        shown--;
    for (int k = 0; k < shown; k++)
        add_input(&inputs, k, call->in_ndim[k], call->in_shape[k], call->in_dtype[k]);
    return hd_fail(HD_EARG,
                   "backward of %s: the gradient of input %d is not finite: got %s, expected finite values\n"
                   "  %s was called at %s\n  inputs: %s; %s",
                   op->name, i + 1, got.text, op->name, place ? place : "a line that is not known", inputs.text,
                   before);
}

static hd_status check_backward(const hd_op *op, const hd_op_call *call, bool was_finite, const char *place) {
    for (int i = 0; i < call->nin; i++) {
        odd_values odd;
        int source;
        if (!call->want[i])
            continue;
        HD_CHECK(plant(op, true, call->din[i]));
        HD_CHECK(find_odd(call->din[i], &odd));
        if (!odd.count)
            continue;
        HD_CHECK(first_odd(call, 0, &source));
        if (!odd.nans && (!was_finite || source >= 0 || has_infinite_number(call->args)))
            continue;
        char before[80] = "they and the gradient of the result were finite";
        if (!was_finite)
            snprintf(before, sizeof before, "the gradient of the result was not finite before");
        else if (source >= 0)
            snprintf(before, sizeof before, "input %d was not finite before", source + 1);
        return fail_backward(op, call, place, i, &odd, before);
    }
    return HD_OK;
}

// Out of memory here must not look as if the op itself could be tried again.
static hd_status only_once(hd_status status) {
    return status == HD_ENOMEM ? hd_fail(HD_EARG, "anomaly detection: %s", hd_message()) : status;
}

hd_status hd_anomaly_check_forward(const hd_op *op, const hd_op_call *call, bool was_finite) {
    return only_once(check_forward(op, call, was_finite));
}

hd_status hd_anomaly_check_backward(const hd_op *op, const hd_op_call *call, bool was_finite, const char *place) {
    return only_once(check_backward(op, call, was_finite, place));
}
