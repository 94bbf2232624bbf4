// backend/cpu/transpose.h: transposition of a matrix of 4-byte elements, for copies and for packing.
// Layer: backend. By tiles: a whole cache line of every row and column of a tile is used while it is in the cache.
#ifndef HD_TRANSPOSE_H
#define HD_TRANSPOSE_H

#include "backend/cpu/cpu.h"

#include <string.h>

enum { CPU_TILE = 16 }; // elements of a cache line

typedef float v4 __attribute__((vector_size(16)));
typedef float v4_mem __attribute__((vector_size(16), aligned(4), may_alias));

// t[r][c] = x[c * xs + r] for a whole tile, by 4 x 4 blocks.
static inline void cpu_transpose_tile(float t[CPU_TILE][CPU_TILE], const float *x, int64_t xs) {
    for (int c = 0; c < CPU_TILE; c += 4)
        for (int r = 0; r < CPU_TILE; r += 4) {
            const v4 a = *(const v4_mem *)(x + c * xs + r), b = *(const v4_mem *)(x + (c + 1) * xs + r);
            const v4 d = *(const v4_mem *)(x + (c + 2) * xs + r), e = *(const v4_mem *)(x + (c + 3) * xs + r);
            const v4 ab0 = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab1 = __builtin_shufflevector(a, b, 2, 6, 3, 7);
            const v4 de0 = __builtin_shufflevector(d, e, 0, 4, 1, 5), de1 = __builtin_shufflevector(d, e, 2, 6, 3, 7);
            *(v4_mem *)&t[r][c] = __builtin_shufflevector(ab0, de0, 0, 1, 4, 5);
            *(v4_mem *)&t[r + 1][c] = __builtin_shufflevector(ab0, de0, 2, 3, 6, 7);
            *(v4_mem *)&t[r + 2][c] = __builtin_shufflevector(ab1, de1, 0, 1, 4, 5);
            *(v4_mem *)&t[r + 3][c] = __builtin_shufflevector(ab1, de1, 2, 3, 6, 7);
        }
}

// y[r * ys + c] = x[c * xs + r]
static inline void cpu_transpose(float *y, int64_t ys, const float *x, int64_t xs, int64_t rows, int64_t columns) {
    float t[CPU_TILE][CPU_TILE];
    for (int64_t r = 0; r < rows; r += CPU_TILE)
        for (int64_t c = 0; c < columns; c += CPU_TILE) {
            const int64_t m = rows - r < CPU_TILE ? rows - r : CPU_TILE;
            const int64_t n = columns - c < CPU_TILE ? columns - c : CPU_TILE;
            if (m == CPU_TILE && n == CPU_TILE) {
                cpu_transpose_tile(t, x + c * xs + r, xs);
                for (int i = 0; i < CPU_TILE; i++)
                    memcpy(y + (r + i) * ys + c, t[i], sizeof t[i]);
            } else {
                for (int64_t i = 0; i < m; i++)
                    for (int64_t j = 0; j < n; j++)
                        y[(r + i) * ys + c + j] = x[(c + j) * xs + r + i];
            }
        }
}

#endif
