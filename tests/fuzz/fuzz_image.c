// tests/fuzz/fuzz_image.c: PNG and JPEG, decoded and resized.
#define FUZZ_MENDS
#include "fuzz.h"
#include "io/image.h"
#include "png.h"

static size_t mend(uint8_t *data, size_t size, size_t max) {
    (void)max;
    mend_png(data, size);
    return size;
}

static void one_input(const uint8_t *data, size_t size) {
    hd_image image, small;
    if (hd_image_decode("input", data, size, size ? data[size - 1] % 5 : 0, &image) != HD_OK)
        return;
    if (hd_image_cover(&image, 7, 5, &small) != HD_OK)
        abort();
    hd_image_free(&small);
    hd_image_free(&image);
}
