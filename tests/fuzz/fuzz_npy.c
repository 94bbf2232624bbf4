// tests/fuzz/fuzz_npy.c: the input as .npy.
#define FUZZ_MENDS
#include "array.h"
#include "fuzz.h"

// The header ends with the last '}' and the spaces behind it.
static size_t mend(uint8_t *data, size_t size, size_t max) {
    (void)max;
    size_t end = size;
    while (end > 10 && data[end - 1] != '}')
        end--;
    while (end > 10 && end < size && (data[end] == ' ' || data[end] == '\n'))
        end++;
    if (end <= 12 || data[6] > 1)
        return size;
    data[8] = (uint8_t)(end - 10);
    data[9] = (uint8_t)((end - 10) >> 8);
    return size;
}

static void one_input(const uint8_t *data, size_t size) { read_array(data, size); }
