// io/shapes.h: a procedural set of coloured textured shapes on white, for tests and where no pictures are at hand.
#ifndef HD_SHAPES_H
#define HD_SHAPES_H

#include <stdint.h>

#define HD_SHAPE_KINDS 5 // disc, square, triangle, star, ring

// Draw picture i of the set that `seed` names, as planes red, green, blue of size x size; returns its kind, 0 to 4.
// The picture depends on (seed, i, size) alone.
int hd_shape_draw(uint64_t seed, int64_t i, int size, uint8_t *out);

#endif
