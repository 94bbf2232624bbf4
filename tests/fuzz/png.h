// tests/fuzz/png.h: the checksums of PNG chunks put right.
#ifndef FUZZ_PNG_H
#define FUZZ_PNG_H

#include <stddef.h>
#include <stdint.h>
#include <zlib.h>

static inline uint32_t be32(const uint8_t *p) { return (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3]; }

static inline void mend_png(uint8_t *png, size_t size) {
    for (size_t at = 8; size >= 20 && at <= size - 12;) {
        const uint32_t length = be32(png + at);
        if (length > size - at - 12)
            return;
        const uint32_t crc = (uint32_t)crc32(crc32(0, NULL, 0), png + at + 4, length + 4);
        for (int i = 0; i < 4; i++)
            png[at + 8 + length + (size_t)i] = (uint8_t)(crc >> (24 - 8 * i));
        at += length + 12;
    }
}

#endif
