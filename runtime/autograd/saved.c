// autograd/saved.c: what is kept for backward, as it is or as bf16.
// Layer: autograd. Calls: ops. Called by: tape.c, segment.c, bind.
#include "autograd/saved.h"
#include "core/profile.h"
#include "ops/compose.h"
#include <string.h>

enum { LEAST = 16384 }; // bytes of a storage that is worth a conversion

static bool as_bf16;

const char *hd_activations(void) { return as_bf16 ? "bf16" : "f32"; }

// Half of the memory. Where even that cannot be had, the storage stays as it is: backward reads the same numbers.
static void pack(hd_storage *s) {
    const size_t n = s->bytes / sizeof(float);
    const int before = hd_profile_enter("rounding activations", HD_OUTSIDE, 0);
    uint16_t *packed = hd_alloc_kind(n * sizeof *packed, HD_ACTIVATIONS);
    if (packed && hd_do_to_bf16(s->data, packed, (int64_t)n) == HD_OK) {
        hd_free(s->data);
        s->data = NULL;
        s->packed = packed;
    } else {
        hd_free(packed);
    }
    hd_profile_leave(before);
}

hd_status hd_activations_select(const char *name) {
    if (strcmp(name, "f32") != 0 && strcmp(name, "bf16") != 0)
        return hd_fail(HD_EARG, "activations: unknown type: got '%s', expected 'f32' or 'bf16'", name);
    as_bf16 = strcmp(name, "bf16") == 0;
    hd_tensor_on_only_rounded(pack);
    return HD_OK;
}

// By type, size and use of the memory alone: never by who happens to hold it.
static bool may_round(const hd_tensor *x) {
    if (!as_bf16 || x->dtype != HD_F32 || x->storage->bytes < LEAST)
        return false;
    const hd_memory_kind kind = hd_alloc_kind_of(x->storage->data);
    return kind == HD_TENSORS || kind == HD_ACTIVATIONS;
}

hd_status hd_saved_new(const hd_tensor *x, bool exact, hd_tensor **saved) {
    HD_CHECK(hd_tensor_detach(x, saved));
    (*saved)->rounded = !exact && may_round(x);
    hd_tensor_save(*saved);
    return HD_OK;
}

void hd_saved_drop(hd_tensor **saved) {
    if (*saved)
        hd_tensor_unsave(*saved);
    hd_tensor_release(*saved);
    *saved = NULL;
}

// Elements from the first to the last that x reaches, those between them that it passes over too.
static int64_t span(const hd_tensor *x) {
    int64_t n = 1;
    for (int d = 0; d < x->ndim; d++) {
        if (x->shape[d] == 0)
            return 0;
        n += (x->shape[d] - 1) * x->strides[d];
    }
    return n;
}

// n elements of s from `first` on, rounded, to y.
static hd_status round_part(const hd_storage *s, int64_t first, int64_t n, float *y) {
    if (s->packed)
        return hd_do_from_bf16((const uint16_t *)s->packed + first, y, n);
    uint16_t *part = hd_alloc((size_t)n * sizeof *part);
    if (!part)
        return hd_fail(HD_ENOMEM, "backward: out of memory");
    hd_status status = hd_do_to_bf16((const float *)s->data + first, part, n);
    if (status == HD_OK)
        status = hd_do_from_bf16(part, y, n);
    hd_free(part);
    return status;
}

static hd_status read_rounded(const hd_tensor *saved, hd_tensor **out) {
    const int64_t n = span(saved);
    hd_tensor *flat;
    *out = NULL;
    HD_CHECK(hd_tensor_new(HD_F32, 1, &n, HD_ROW_MAJOR, &flat));
    flat->storage->version = saved->storage->version;
    hd_status status = round_part(saved->storage, saved->offset, n, flat->storage->data);
    if (status == HD_OK)
        status = hd_tensor_view(flat, saved->ndim, saved->shape, saved->strides, 0, out);
    hd_tensor_release(flat);
    return status;
}

hd_status hd_saved_values(const hd_tensor *saved, hd_tensor **out) {
    if (!saved->rounded)
        return hd_tensor_detach(saved, out);
    const int before = hd_profile_enter("rounding activations", HD_OUTSIDE, 0);
    const hd_memory_kind kind = hd_tensor_set_new_kind(HD_ACTIVATIONS);
    const hd_status status = read_rounded(saved, out);
    hd_tensor_set_new_kind(kind);
    hd_profile_leave(before);
    return status;
}

hd_status hd_saved_restore(hd_tensor **saved) {
    hd_tensor *values;
    if (!*saved || !(*saved)->rounded)
        return HD_OK;
    HD_CHECK(hd_saved_values(*saved, &values));
    hd_saved_drop(saved);
    hd_tensor_save(values);
    *saved = values;
    return HD_OK;
}
