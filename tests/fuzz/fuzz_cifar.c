// tests/fuzz/fuzz_cifar.c: the input as a CIFAR-10 file and as an IDX file, plain or packed.
#include "fuzz.h"
#include "io/cifar.h"
#include "io/idx.h"

static void read_cifar(const char *path) {
    int64_t count;
    if (hd_cifar_count(path, &count) != HD_OK)
        return;
    uint8_t *pixels = hd_alloc((size_t)count * 3072);
    int64_t *labels = hd_alloc((size_t)count * sizeof *labels);
    if (!pixels || !labels)
        abort();
    hd_cifar_read(path, count, pixels, labels);
    hd_free(pixels);
    hd_free(labels);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    int fd;
    const char *path = as_file(data, size, &fd);
    read_cifar(path);
    hd_bytes file;
    hd_idx idx;
    if (hd_file_read_gz(path, (size_t)1 << 24, &file) == HD_OK && hd_idx_parse("input", &file, &idx) == HD_OK) {
        size_t n = file.size - (size_t)(idx.data - file.data);
        volatile uint8_t sum = 0;
        for (size_t i = 0; i < n; i++)
            sum = (uint8_t)(sum + idx.data[i]);
    }
    hd_bytes_free(&file);
    close(fd);
    expect_no_memory();
    return 0;
}
