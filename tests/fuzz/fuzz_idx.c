// tests/fuzz/fuzz_idx.c: the input as an IDX file, plain or packed by gzip.
#include "fuzz.h"
#include "io/idx.h"

static void one_input(const uint8_t *data, size_t size) {
    hd_bytes file;
    hd_idx idx;
    if (hd_file_read_gz(as_file(data, size), (size_t)1 << 24, &file) == HD_OK &&
        hd_idx_parse("input", &file, &idx) == HD_OK) {
        size_t n = 1;
        for (int d = 0; d < idx.ndim; d++)
            n *= (size_t)idx.shape[d];
        if (n != file.size - (size_t)(idx.data - file.data))
            complain("has another size than its shape");
    }
    hd_bytes_free(&file);
}
