// tests/fuzz/fuzz_cifar.c: the input as a CIFAR-10 file.
#define FUZZ_MENDS
#include "fuzz.h"
#include "io/cifar.h"

enum { RECORD = 3073 };

// Whole records.
static size_t mend(uint8_t *data, size_t size, size_t max) {
    const size_t whole = (size + RECORD - 1) / RECORD * RECORD;
    if (whole > max)
        return size / RECORD * RECORD;
    memset(data + size, 0, whole - size);
    return whole;
}

static void one_input(const uint8_t *data, size_t size) {
    const char *path = as_file(data, size);
    int64_t count;
    if (hd_cifar_count(path, &count) != HD_OK)
        return;
    uint8_t *pixels = hd_alloc((size_t)count * 3072);
    int64_t *labels = hd_alloc((size_t)count * sizeof *labels);
    if (!pixels || !labels)
        abort();
    if (hd_cifar_read(path, count, pixels, labels) == HD_OK)
        for (int64_t i = 0; i < count; i++)
            if (labels[i] < 1 || labels[i] > 10 || memcmp(pixels + i * 3072, data + i * RECORD + 1, 3072) != 0)
                complain("is read wrong");
    hd_free(pixels);
    hd_free(labels);
}
