// tests/fuzz/fuzz_font.c: the tables of a bitmap font and its first pictures.
#include "fuzz.h"
#include "io/font.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    int fd;
    hd_font font;
    uint8_t picture[3 * 8 * 8];
    if (hd_font_open(as_file(data, size, &fd), &font) == HD_OK)
        for (int i = 0; i < font.count && i < 3; i++)
            hd_font_picture(&font, i, 8, picture);
    hd_font_close(&font);
    close(fd);
    expect_no_memory();
    return 0;
}
