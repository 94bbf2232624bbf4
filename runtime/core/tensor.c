// core/tensor.c: storages, tensors and views.
#include "core/tensor.h"
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static hd_memory_kind new_kind = HD_TENSORS;

// A storage's buffer comes from hd_alloc: both back ends there are use it. (A device back end brings its own.)
static hd_status storage_new(size_t bytes, hd_storage **out) {
    hd_storage *s = hd_alloc(sizeof *s);
    void *data = s ? hd_alloc_kind(bytes, new_kind) : NULL;
    if (!data) {
        hd_free(s);
        *out = NULL;
        return hd_fail(HD_ENOMEM, "tensor: out of memory");
    }
    *s = (hd_storage){.refs = 1, .data = data, .bytes = bytes};
    *out = s;
    return HD_OK;
}

static void (*pack)(hd_storage *);
void hd_tensor_on_only_rounded(void (*function)(hd_storage *)) { pack = function; }

static void storage_release(hd_storage *s) {
    if (--s->refs > 0) {
        if (s->refs == s->rounded && s->data)
            pack(s);
        return;
    }
    hd_free(s->data);
    hd_free(s->packed);
    hd_free(s);
}

hd_memory_kind hd_tensor_set_new_kind(hd_memory_kind kind) {
    const hd_memory_kind before = new_kind;
    new_kind = kind;
    return before;
}

void hd_tensor_set_kind(const hd_tensor *x, hd_memory_kind kind) {
    hd_alloc_move(x->storage->data, hd_alloc_kind_of(x->storage->data), kind);
}

void hd_tensor_save(const hd_tensor *x) {
    x->storage->rounded += x->rounded;
    if (x->storage->saves++ == 0)
        hd_alloc_move(x->storage->data, HD_TENSORS, HD_ACTIVATIONS);
}

void hd_tensor_unsave(const hd_tensor *x) {
    x->storage->rounded -= x->rounded;
    if (--x->storage->saves == 0 && x->storage->data)
        hd_alloc_move(x->storage->data, HD_ACTIVATIONS, HD_TENSORS);
}

// The autograd layer hands its release function in, so that core needs no header of a layer above.
static void (*release_node)(struct hd_node *);
void hd_tensor_on_release_node(void (*release)(struct hd_node *)) { release_node = release; }

static void row_major_strides(int ndim, const int64_t *shape, int64_t *strides) {
    int64_t step = 1;
    for (int d = ndim - 1; d >= 0; d--) {
        strides[d] = step;
        step *= shape[d] > 0 ? shape[d] : 1;
    }
}

static void channels_last_strides(int ndim, const int64_t *shape, int64_t *strides) {
    int64_t step = 1;
    strides[1] = 1;
    step = shape[1] > 0 ? shape[1] : 1;
    for (int d = ndim - 1; d >= 0; d--) {
        if (d == 1)
            continue;
        strides[d] = step;
        step *= shape[d] > 0 ? shape[d] : 1;
    }
}

// An extent of 0 counts as 1 on the way: strides, too, must not overflow.
static hd_status count_elements(int ndim, const int64_t *shape, size_t size, int64_t *numel) {
    int64_t n = 1;
    bool empty = false;
    if (ndim > HD_MAX_DIMS)
        return hd_fail(HD_ESHAPE, "tensor: too many dimensions: got %d, expected at most %d", ndim, HD_MAX_DIMS);
    for (int d = 0; d < ndim; d++) {
        if (shape[d] < 0)
            return hd_fail(HD_ESHAPE, "tensor: negative extent: got %s", hd_shape_text(ndim, shape));
        empty = empty || shape[d] == 0;
        if (__builtin_mul_overflow(n, shape[d] > 0 ? shape[d] : 1, &n) || n > (int64_t)(INT64_MAX / 16 / size))
            return hd_fail(HD_ESHAPE, "tensor: too many elements: got shape %s", hd_shape_text(ndim, shape));
    }
    *numel = empty ? 0 : n;
    return HD_OK;
}

// All live tensors, in the order of their making; see holders.c. One thread makes and releases tensors.
static hd_tensor *oldest, *newest;

hd_tensor *hd_tensor_oldest(void) { return oldest; }

static void list_add(hd_tensor *t) {
    t->older = newest;
    *(newest ? &newest->newer : &oldest) = t;
    newest = t;
}

static void list_remove(const hd_tensor *t) {
    *(t->older ? &t->older->newer : &oldest) = t->newer;
    *(t->newer ? &t->newer->older : &newest) = t->older;
}

static hd_tensor *header_new(hd_dtype dtype, int ndim, const int64_t *shape, hd_storage *storage) {
    hd_tensor *t = hd_calloc(1, sizeof *t);
    if (!t)
        return NULL;
    t->refs = 1;
    t->dtype = dtype;
    t->ndim = ndim;
    for (int d = 0; d < ndim; d++) // memcpy may not be given the NULL that a scalar comes with
        t->shape[d] = shape[d];
    t->storage = storage;
    list_add(t);
    return t;
}

hd_status hd_tensor_new(hd_dtype dtype, int ndim, const int64_t *shape, hd_layout layout, hd_tensor **out) {
    int64_t numel = 0;
    hd_storage *storage;
    *out = NULL;
    HD_CHECK(count_elements(ndim, shape, hd_dtype_size(dtype), &numel));
    HD_CHECK(storage_new((size_t)numel * hd_dtype_size(dtype), &storage));
    hd_tensor *t = header_new(dtype, ndim, shape, storage);
    if (!t) {
        storage_release(storage);
        return hd_fail(HD_ENOMEM, "tensor: out of memory");
    }
    if (layout == HD_CHANNELS_LAST && ndim >= 3)
        channels_last_strides(ndim, t->shape, t->strides);
    else
        row_major_strides(ndim, t->shape, t->strides);
    *out = t;
    return HD_OK;
}

// Memory order of x's dimensions, slowest first; ties (extent 1, stride 0) keep their logical order.
static void memory_order(const hd_tensor *x, int *order) {
    for (int d = 0; d < x->ndim; d++) {
        int at = d;
        while (at > 0 && x->strides[order[at - 1]] < x->strides[d]) {
            order[at] = order[at - 1];
            at--;
        }
        order[at] = d;
    }
}

bool hd_tensor_is_expanded(const hd_tensor *x) {
    for (int d = 0; d < x->ndim; d++)
        if (x->strides[d] == 0 && x->shape[d] > 1)
            return true;
    return false;
}

hd_status hd_tensor_new_like(const hd_tensor *x, hd_dtype dtype, hd_tensor **out) {
    HD_CHECK(hd_tensor_new(dtype, x->ndim, x->shape, HD_ROW_MAJOR, out));
    if (hd_tensor_is_contiguous(x) || hd_tensor_is_expanded(x))
        return HD_OK;
    int order[HD_MAX_DIMS];
    memory_order(x, order);
    int64_t step = 1;
    for (int i = x->ndim - 1; i >= 0; i--) {
        (*out)->strides[order[i]] = step;
        step *= x->shape[order[i]] > 0 ? x->shape[order[i]] : 1;
    }
    return HD_OK;
}

hd_status hd_tensor_view(const hd_tensor *x, int ndim, const int64_t *shape, const int64_t *strides, int64_t offset,
                         hd_tensor **out) {
    int64_t numel;
    *out = NULL;
    HD_CHECK(count_elements(ndim, shape, hd_dtype_size(x->dtype), &numel)); // one that is expanded may count too many
    hd_tensor *t = header_new(x->dtype, ndim, shape, x->storage);
    *out = t;
    if (!t)
        return hd_fail(HD_ENOMEM, "tensor: out of memory");
    assert(offset >= 0);
    memcpy(t->strides, strides, (size_t)ndim * sizeof *strides);
    t->offset = offset;
    t->maker = x->maker;
    x->storage->refs++;
    return HD_OK;
}

hd_status hd_tensor_detach(const hd_tensor *x, hd_tensor **out) {
    return hd_tensor_view(x, x->ndim, x->shape, x->strides, x->offset, out);
}

hd_tensor *hd_tensor_retain(hd_tensor *x) {
    x->refs++;
    return x;
}

void hd_tensor_release(hd_tensor *x) {
    if (!x || --x->refs > 0)
        return;
    if (x->node)
        release_node(x->node);
    hd_tensor_release(x->grad);
    storage_release(x->storage);
    list_remove(x);
    hd_free(x);
}

int64_t hd_tensor_numel(const hd_tensor *x) {
    int64_t n = 1;
    for (int d = 0; d < x->ndim; d++)
        n *= x->shape[d];
    return n;
}

hd_view hd_tensor_as_view(const hd_tensor *x) {
    hd_view v = {0};
    if (!x)
        return v;
    v.data = (char *)x->storage->data + x->offset * (int64_t)hd_dtype_size(x->dtype);
    v.dtype = x->dtype;
    v.ndim = x->ndim;
    memcpy(v.shape, x->shape, sizeof v.shape);
    memcpy(v.strides, x->strides, sizeof v.strides);
    return v;
}

static bool has_strides(const hd_tensor *x, const int64_t *strides) {
    for (int d = 0; d < x->ndim; d++)
        if (x->shape[d] != 1 && x->strides[d] != strides[d])
            return false;
    return true;
}

bool hd_tensor_is_contiguous(const hd_tensor *x) {
    int64_t strides[HD_MAX_DIMS];
    row_major_strides(x->ndim, x->shape, strides);
    return has_strides(x, strides);
}

bool hd_tensor_is_channels_last(const hd_tensor *x) {
    int64_t strides[HD_MAX_DIMS];
    if (x->ndim < 3)
        return false;
    channels_last_strides(x->ndim, x->shape, strides);
    return has_strides(x, strides);
}

bool hd_tensor_is_dense(const hd_tensor *x) {
    int order[HD_MAX_DIMS];
    memory_order(x, order);
    int64_t step = 1;
    for (int i = x->ndim - 1; i >= 0; i--) {
        const int d = order[i];
        if (x->shape[d] == 1)
            continue;
        if (x->strides[d] != step)
            return false;
        step *= x->shape[d];
    }
    return true;
}

bool hd_same_shape(const hd_tensor *a, const hd_tensor *b) {
    return a->ndim == b->ndim && memcmp(a->shape, b->shape, (size_t)a->ndim * sizeof *a->shape) == 0;
}

const char *hd_shape_text(int ndim, const int64_t *shape) {
    static _Thread_local char ring[8][HD_MAX_DIMS * 22 + 3];
    static _Thread_local int next;
    char *text = ring[next++ & 7];
    size_t at = 0;
    text[at++] = '[';
    for (int d = 0; d < ndim && d < HD_MAX_DIMS; d++)
        at += (size_t)snprintf(text + at, 23, d ? ",%lld" : "%lld", (long long)shape[d]);
    text[at++] = ']';
    text[at] = 0;
    return text;
}

const char *hd_tensor_text(const hd_tensor *x) { return hd_shape_text(x->ndim, x->shape); }
