// io/number.c: conversion of file elements to tensor elements, and packing of strided views.
// Layer: io. Called by: safetensors.c, npy.c. Threads: any.
#include "io/number.h"
#include <math.h>
#include <string.h>

const hd_number_info hd_numbers[HD_NUM_COUNT] = {
    [HD_NUM_F64] = {"F64", "f8", 8, HD_F64},    [HD_NUM_F32] = {"F32", "f4", 4, HD_F32},
    [HD_NUM_F16] = {"F16", "f2", 2, HD_F32},    [HD_NUM_BF16] = {"BF16", NULL, 2, HD_F32},
    [HD_NUM_I64] = {"I64", "i8", 8, HD_I64},    [HD_NUM_I32] = {"I32", "i4", 4, HD_I32},
    [HD_NUM_I16] = {"I16", "i2", 2, HD_I32},    [HD_NUM_I8] = {"I8", "i1", 1, HD_I32},
    [HD_NUM_U64] = {"U64", "u8", 8, HD_I64},    [HD_NUM_U32] = {"U32", "u4", 4, HD_I64},
    [HD_NUM_U16] = {"U16", "u2", 2, HD_I32},    [HD_NUM_U8] = {"U8", "u1", 1, HD_U8},
    [HD_NUM_BOOL] = {"BOOL", "b1", 1, HD_BOOL},
};

hd_number hd_number_of(hd_dtype dtype) {
    switch (dtype) {
    case HD_F64:
        return HD_NUM_F64;
    case HD_I64:
        return HD_NUM_I64;
    case HD_I32:
        return HD_NUM_I32;
    case HD_U8:
        return HD_NUM_U8;
    case HD_BOOL:
        return HD_NUM_BOOL;
    default:
        return HD_NUM_F32;
    }
}

static float from_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

// IEEE 754 binary16: 1 sign, 5 exponent (bias 15), 10 mantissa bits.
static float from_half(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 1023;
    if (exponent == 31)
        return from_bits(sign | 0x7F800000 | mantissa << 13);
    if (exponent == 0) // zero and subnormals
        return (sign ? -1.0f : 1.0f) * (float)mantissa * 0x1p-24f;
    return from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
}

// One element's bits, zero-extended.
static uint64_t fetch(const unsigned char *p, size_t size, bool big_endian) {
    uint64_t v = 0;
    for (size_t i = 0; i < size; i++)
        v |= (uint64_t)p[big_endian ? size - 1 - i : i] << (8 * i);
    return v;
}

static hd_status convert_one(hd_number type, uint64_t bits, int64_t i, void *dst) {
    switch (type) {
    case HD_NUM_F64:
    case HD_NUM_I64:
        memcpy((uint64_t *)dst + i, &bits, 8);
        break;
    case HD_NUM_F32:
        ((float *)dst)[i] = from_bits((uint32_t)bits);
        break;
    case HD_NUM_F16:
        ((float *)dst)[i] = from_half((uint16_t)bits);
        break;
    case HD_NUM_BF16:
        ((float *)dst)[i] = from_bits((uint32_t)bits << 16);
        break;
    case HD_NUM_I32:
        ((int32_t *)dst)[i] = (int32_t)bits;
        break;
    case HD_NUM_I16:
        ((int32_t *)dst)[i] = (int16_t)bits;
        break;
    case HD_NUM_I8:
        ((int32_t *)dst)[i] = (int8_t)bits;
        break;
    case HD_NUM_U16:
        ((int32_t *)dst)[i] = (int32_t)bits;
        break;
    case HD_NUM_U8:
        ((uint8_t *)dst)[i] = (uint8_t)bits;
        break;
    case HD_NUM_BOOL:
        ((uint8_t *)dst)[i] = bits != 0;
        break;
    default: // u64, u32
        if (bits > INT64_MAX)
            return hd_fail(HD_EFORMAT, "u64 value %llu does not fit into i64", (unsigned long long)bits);
        ((int64_t *)dst)[i] = (int64_t)bits;
    }
    return HD_OK;
}

static int64_t count_odd(hd_dtype dtype, const void *data, int64_t n) {
    int64_t odd = 0;
    if (dtype == HD_F32)
        for (int64_t i = 0; i < n; i++)
            odd += !isfinite(((const float *)data)[i]);
    else if (dtype == HD_F64)
        for (int64_t i = 0; i < n; i++)
            odd += !isfinite(((const double *)data)[i]);
    return odd;
}

hd_status hd_number_convert(hd_number type, bool big_endian, const unsigned char *src, int64_t n, void *dst,
                            int64_t *odd) {
    const hd_number_info *info = &hd_numbers[type];
    bool same = hd_number_of(info->dtype) == type && type != HD_NUM_BOOL;
    if (same && (!big_endian || info->size == 1)) {
        if (n)
            memcpy(dst, src, (size_t)n * info->size);
    } else {
        for (int64_t i = 0; i < n; i++)
            HD_CHECK(convert_one(type, fetch(src + (size_t)i * info->size, info->size, big_endian), i, dst));
    }
    *odd += count_odd(info->dtype, dst, n);
    return HD_OK;
}

void hd_view_pack(const hd_view *v, int64_t first, int64_t count, void *dst) {
    if (count == 0)
        return;
    size_t size = hd_dtype_size(v->dtype);
    const char *src = v->data;
    char *to = dst;
    if (hd_view_is_contiguous(v)) {
        memcpy(to, src + (size_t)first * size, (size_t)count * size);
        return;
    }
    int64_t index[HD_MAX_DIMS] = {0}, offset = 0, rest = first;
    for (int d = v->ndim - 1; d >= 0; d--) { // where `first` is
        index[d] = rest % v->shape[d];
        rest /= v->shape[d];
        offset += index[d] * v->strides[d];
    }
    for (int64_t i = 0; i < count; i++) {
        memcpy(to, src + offset * (int64_t)size, size);
        to += size;
        for (int d = v->ndim - 1; d >= 0; d--) { // the next element
            offset += v->strides[d];
            if (++index[d] < v->shape[d])
                break;
            offset -= v->strides[d] * v->shape[d];
            index[d] = 0;
        }
    }
}

bool hd_extent_bytes(int ndim, const int64_t *shape, size_t size, int64_t *bytes) {
    int64_t n = (int64_t)size;
    bool empty = false;
    for (int d = 0; d < ndim; d++) {
        if (shape[d] < 0)
            return false;
        if (shape[d] == 0) {
            empty = true;
            continue;
        }
        if (__builtin_mul_overflow(n, shape[d], &n))
            return false;
    }
    *bytes = empty ? 0 : n;
    return true;
}
