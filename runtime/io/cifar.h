// io/cifar.h: CIFAR-10's binary files: records of one label byte (0 to 9) and 3072 pixel bytes, [3,32,32], red first.
#ifndef HD_CIFAR_H
#define HD_CIFAR_H

#include "core/status.h"
#include <stdint.h>

// Number of pictures in a file: its size must be a multiple of 3073 bytes, and not 0.
hd_status hd_cifar_count(const char *path, int64_t *count);
// Read `count` pictures into pixels [count,3,32,32] and labels [count], counted from 1.
hd_status hd_cifar_read(const char *path, int64_t count, uint8_t *pixels, int64_t *labels);

#endif
