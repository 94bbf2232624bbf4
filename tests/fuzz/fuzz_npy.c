// tests/fuzz/fuzz_npy.c: the input as .npy and as .npz.
#include "fuzz.h"
#include "io/npy.h"

static void read_array(const unsigned char *bytes, size_t size) {
    hd_npy array;
    int64_t odd = 0;
    if (hd_npy_parse("input", bytes, size, &array) != HD_OK)
        return;
    void *values = hd_alloc((size_t)array.count * hd_dtype_size(hd_numbers[array.type].dtype));
    if (!values)
        abort();
    hd_number_convert(array.type, array.big_endian, array.data, array.count, values, &odd);
    hd_free(values);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    read_array(data, size);
    int fd;
    hd_npz z;
    if (hd_npz_open(as_file(data, size, &fd), &z) == HD_OK)
        for (int i = 0; i < z.count; i++) {
            hd_bytes member;
            if (hd_npz_read("member", &z, i, &member) == HD_OK)
                read_array(member.data, member.size);
            hd_bytes_free(&member);
        }
    hd_npz_close(&z);
    close(fd);
    expect_no_memory();
    return 0;
}
