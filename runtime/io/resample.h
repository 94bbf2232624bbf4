// io/resample.h: change the size of a picture, row by row.
// Shrinking an axis averages exactly over the area of each new pixel (edge pixels weighted by their overlap); enlarging
// interpolates linearly between pixel centres, the border repeated. The axes are independent.
#ifndef HD_RESAMPLE_H
#define HD_RESAMPLE_H

#include "core/status.h"

// A row is width x channels numbers, interleaved. `source` fills row y of the input (rows come in rising order, some
// twice); `sink` takes row y of the output, each once, in order.
typedef struct {
    int width, height, channels, out_width, out_height; // all >= 1
    void (*source)(const void *from, int y, double *row);
    const void *from;
    void (*sink)(void *to, int y, const double *row);
    void *to;
} hd_resample_args;

hd_status hd_resample(const hd_resample_args *args);

// Round half up, clamped to a byte.
static inline unsigned char hd_round_byte(double v) { return v <= 0 ? 0 : v >= 254.5 ? 255 : (unsigned char)(v + 0.5); }

#endif
