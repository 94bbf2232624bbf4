// core/dtype.c: element types and slow single-element access.
#include "core/dtype.h"

static const struct {
    const char *name;
    size_t size;
} types[HD_DTYPE_COUNT] = {
    [HD_F32] = {"f32", 4}, [HD_F64] = {"f64", 8}, [HD_I64] = {"i64", 8},
    [HD_I32] = {"i32", 4}, [HD_U8] = {"u8", 1},   [HD_BOOL] = {"bool", 1},
};

size_t hd_dtype_size(hd_dtype dtype) { return types[dtype].size; }
const char *hd_dtype_name(hd_dtype dtype) { return types[dtype].name; }
bool hd_dtype_is_float(hd_dtype dtype) { return dtype == HD_F32 || dtype == HD_F64; }

bool hd_view_is_contiguous(const hd_view *v) {
    int64_t expected = 1;
    for (int d = v->ndim - 1; d >= 0; d--) {
        if (v->shape[d] != 1 && v->strides[d] != expected)
            return false;
        expected *= v->shape[d];
    }
    return true;
}

int64_t hd_view_offset(const hd_view *v, int64_t i) {
    int64_t offset = 0;
    for (int d = v->ndim - 1; d >= 0; d--) {
        offset += (i % v->shape[d]) * v->strides[d];
        i /= v->shape[d];
    }
    return offset;
}

double hd_load(const void *data, hd_dtype dtype, int64_t offset) {
    switch (dtype) {
    case HD_F32:
        return ((const float *)data)[offset];
    case HD_F64:
        return ((const double *)data)[offset];
    case HD_I64:
        return (double)((const int64_t *)data)[offset];
    case HD_I32:
        return ((const int32_t *)data)[offset];
    default:
        return ((const uint8_t *)data)[offset];
    }
}

void hd_store(void *data, hd_dtype dtype, int64_t offset, double value) {
    switch (dtype) {
    case HD_F32:
        ((float *)data)[offset] = (float)value;
        break;
    case HD_F64:
        ((double *)data)[offset] = value;
        break;
    case HD_I64:
        ((int64_t *)data)[offset] = hd_cut(value);
        break;
    case HD_I32:
        ((int32_t *)data)[offset] = (int32_t)hd_cut(value);
        break;
    case HD_BOOL:
        ((uint8_t *)data)[offset] = value != 0;
        break;
    default:
        ((uint8_t *)data)[offset] = (uint8_t)hd_cut(value);
        break;
    }
}
