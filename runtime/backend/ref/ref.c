// backend/ref/ref.c: the table of the reference back end, and the way from strided views to dense scratch and back.
#include "backend/ref/ref.h"
#include "core/alloc.h"
#include <math.h>
#include <string.h>

// Numbers and integers share one size, so one allocator serves both; both have a zero of all bits 0.
static void *take(ref_scratch *s, int64_t n) {
    const size_t bytes = (size_t)(n + 1) * sizeof(double);
    void *block = s->failed ? NULL : hd_alloc(bytes);
    if (!block) {
        s->failed = true;
        return NULL;
    }
    s->block[s->n++] = block;
    return memset(block, 0, bytes);
}

double *ref_doubles(ref_scratch *s, int64_t n) { return take(s, n); }
int64_t *ref_ints(ref_scratch *s, int64_t n) { return take(s, n); }

hd_status ref_end(ref_scratch *s) {
    while (s->n > 0)
        hd_free(s->block[--s->n]);
    return s->failed ? hd_fail(HD_ENOMEM, "ref: no memory for the doubles of an operand") : HD_OK;
}

void ref_step(const hd_view *v, ref_cursor *cursor) {
    for (int d = v->ndim - 1; d >= 0; d--) {
        cursor->offset += v->strides[d];
        if (++cursor->index[d] < v->shape[d])
            return;
        cursor->offset -= v->strides[d] * v->shape[d];
        cursor->index[d] = 0;
    }
}

double *ref_in(ref_scratch *s, const hd_view *v) {
    if (!v->data)
        return NULL;
    const int64_t n = hd_view_numel(v);
    double *values = ref_doubles(s, n);
    ref_cursor at = {0};
    for (int64_t i = 0; values && i < n; i++, ref_step(v, &at))
        values[i] = hd_load(v->data, v->dtype, at.offset);
    return values;
}

void ref_out(const hd_view *v, const double *values) {
    const int64_t n = v->data ? hd_view_numel(v) : 0;
    ref_cursor at = {0};
    for (int64_t i = 0; i < n; i++, ref_step(v, &at))
        hd_store(v->data, v->dtype, at.offset, values[i]);
}

static int64_t load_int(const hd_view *v, int64_t offset) {
    switch (v->dtype) {
    case HD_I64:
        return ((const int64_t *)v->data)[offset];
    case HD_I32:
        return ((const int32_t *)v->data)[offset];
    default:
        return ((const uint8_t *)v->data)[offset];
    }
}

static void store_int(const hd_view *v, int64_t offset, int64_t value) {
    switch (v->dtype) {
    case HD_F32:
        ((float *)v->data)[offset] = (float)value;
        break;
    case HD_F64:
        ((double *)v->data)[offset] = (double)value;
        break;
    case HD_I64:
        ((int64_t *)v->data)[offset] = value;
        break;
    case HD_I32:
        ((int32_t *)v->data)[offset] = (int32_t)value;
        break;
    case HD_BOOL:
        ((uint8_t *)v->data)[offset] = value != 0;
        break;
    default:
        ((uint8_t *)v->data)[offset] = (uint8_t)value;
    }
}

int64_t *ref_in_ints(ref_scratch *s, const hd_view *v) {
    if (!v->data)
        return NULL;
    const int64_t n = hd_view_numel(v);
    int64_t *values = ref_ints(s, n);
    ref_cursor at = {0};
    for (int64_t i = 0; values && i < n; i++, ref_step(v, &at))
        values[i] = load_int(v, at.offset);
    return values;
}

void ref_out_ints(const hd_view *v, const int64_t *values) {
    const int64_t n = v->data ? hd_view_numel(v) : 0;
    ref_cursor at = {0};
    for (int64_t i = 0; i < n; i++, ref_step(v, &at))
        store_int(v, at.offset, values[i]);
}

void ref_move(const hd_view *to, int64_t to_offset, const hd_view *from, int64_t from_offset) {
    const int64_t size = (int64_t)hd_dtype_size(to->dtype);
    memmove((char *)to->data + to_offset * size, (const char *)from->data + from_offset * size, (size_t)size);
}

ref_split ref_split_at(const hd_view *v, int dim) {
    ref_split at = {1, v->shape[dim], 1};
    for (int d = 0; d < v->ndim; d++)
        *(d < dim ? &at.outer : &at.inner) *= d == dim ? 1 : v->shape[d];
    return at;
}

bool ref_beats(double a, double b, int sign) { return isnan(a) ? !isnan(b) : sign * a > sign * b; }

double ref_sigmoid(double x) { return 1 / (1 + exp(-x)); }

static hd_status ref_sync(void) { return HD_OK; }

const hd_backend hd_backend_ref = {
    .api_version = HD_BACKEND_API,
    .name = "ref",
    .isa = "scalar",
    .host_visible = true,
    .alloc = hd_alloc,
    .free = hd_free,
    .sync = ref_sync,
    .copy = ref_copy,
    .fill = ref_fill,
    .to_bf16 = ref_to_bf16,
    .from_bf16 = ref_from_bf16,
    .unary = ref_unary,
    .unary_back = ref_unary_back,
    .binary = ref_binary,
    .where = ref_where,
    .reduce = ref_reduce,
    .cumsum = ref_cumsum,
    .softmax = ref_softmax,
    .softmax_back = ref_softmax_back,
    .matmul = ref_matmul,
    .conv = ref_conv,
    .conv_dx = ref_conv_dx,
    .conv_dw = ref_conv_dw,
    .norm = ref_norm,
    .norm_back = ref_norm_back,
    .attention = ref_attention,
    .attention_back = ref_attention_back,
    .resize = ref_resize,
    .resize_back = ref_resize_back,
    .pool = ref_pool,
    .pool_back = ref_pool_back,
    .index_select = ref_index_select,
    .index_add = ref_index_add,
    .gather = ref_gather,
    .scatter_add = ref_scatter_add,
    .eigh = ref_eigh,
    .random = ref_random,
    .adam = ref_adam,
    .sgd = ref_sgd,
    .lerp = ref_lerp,
};
