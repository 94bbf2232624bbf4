// tests/fuzz/fuzz_safetensors.c: open a file and read every tensor that it names.
#define FUZZ_MENDS
#include "fuzz.h"
#include "io/safetensors.h"

// The largest number that ends a pair, as in [0,24].
static size_t data_end(const uint8_t *header, size_t length) {
    size_t largest = 0, number = 0;
    for (size_t i = 0; i < length; i++) {
        if (header[i] >= '0' && header[i] <= '9' && number < SIZE_MAX / 16)
            number = 10 * number + header[i] - '0';
        else if (header[i] == ']' && number > largest)
            largest = number;
        if (header[i] < '0' || header[i] > '9')
            number = 0;
    }
    return largest;
}

// The header ends with its last '}' and the spaces behind it, the file with the last byte of a tensor.
static size_t mend(uint8_t *data, size_t size, size_t max) {
    size_t end = size;
    while (end > 8 && data[end - 1] != '}')
        end--;
    while (end > 8 && end < size && data[end] == ' ')
        end++;
    if (end <= 8)
        return size;
    const uint64_t length = end - 8;
    memcpy(data, &length, sizeof length);
    const size_t wanted = data_end(data + 8, length);
    if (wanted > max - end)
        return size;
    if (end + wanted > size)
        memset(data + size, 0, end + wanted - size);
    return end + wanted;
}

static void one_input(const uint8_t *data, size_t size) {
    hd_safetensors *f;
    if (hd_safetensors_open(as_file(data, size), &f) == HD_OK)
        for (int i = 0; i < f->count; i++) {
            const hd_safetensors_entry *e = &f->entries[i];
            const hd_number_info *info = &hd_numbers[e->type];
            int64_t odd = 0;
            const size_t count = (size_t)(e->end - e->begin) / info->size;
            void *values = hd_alloc(count * hd_dtype_size(info->dtype));
            if (!values)
                abort(); // the file cannot ask for more than a few times its size
            hd_safetensors_read(f, i, values, &odd);
            hd_free(values);
        }
    hd_safetensors_close(f);
}
