// io/number.h: element types as files know them, and how they become ours.
// Types that tensors do not have are widened when read: f16 and bf16 to f32; i8, i16 and u16 to i32; u32 and u64 to
// i64.
#ifndef HD_NUMBER_H
#define HD_NUMBER_H

#include "core/dtype.h"
#include "core/status.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "io/ reads little-endian files by copying");

typedef enum {
    HD_NUM_F64,
    HD_NUM_F32,
    HD_NUM_F16,
    HD_NUM_BF16,
    HD_NUM_I64,
    HD_NUM_I32,
    HD_NUM_I16,
    HD_NUM_I8,
    HD_NUM_U64,
    HD_NUM_U32,
    HD_NUM_U16,
    HD_NUM_U8,
    HD_NUM_BOOL,
    HD_NUM_COUNT
} hd_number;

typedef struct {
    const char *safetensors; // "F32" ...
    const char *numpy;       // "f4" ...; NULL: NumPy has none
    size_t size;
    hd_dtype dtype; // what it is read as
} hd_number_info;

extern const hd_number_info hd_numbers[HD_NUM_COUNT];

hd_number hd_number_of(hd_dtype dtype); // what a dtype is written as

// Convert n elements at src (any alignment; big_endian: their bytes are reversed first) to the type's dtype at dst.
// Bool becomes 0 or 1. Fails only for a u64 above i64's range. *odd grows by the number of values that are not finite.
hd_status hd_number_convert(hd_number type, bool big_endian, const unsigned char *src, int64_t n, void *dst,
                            int64_t *odd);

// Elements first .. first+count-1 of v in row-major order, packed at dst.
void hd_view_pack(const hd_view *v, int64_t first, int64_t count, void *dst);

// Product of extents times size. False on a negative extent or on overflow of int64_t.
bool hd_extent_bytes(int ndim, const int64_t *shape, size_t size, int64_t *bytes);

#endif
