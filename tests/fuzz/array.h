// tests/fuzz/array.h: one array of a .npy file, read to its end.
#ifndef FUZZ_ARRAY_H
#define FUZZ_ARRAY_H

#include "core/alloc.h"
#include "io/npy.h"
#include <stdlib.h>

static inline void read_array(const unsigned char *bytes, size_t size) {
    hd_npy array;
    int64_t odd = 0;
    if (hd_npy_parse("input", bytes, size, &array) != HD_OK)
        return;
    void *values = hd_alloc((size_t)array.count * hd_dtype_size(hd_numbers[array.type].dtype));
    if (!values)
        abort(); // the file cannot ask for more than a few times its size
    hd_number_convert(array.type, array.big_endian, array.data, array.count, values, &odd);
    hd_free(values);
}

#endif
