// backend/cpu/transpose.h: transposition of a matrix of 4-byte elements, for copies and for packing.
// Layer: backend. By tiles: a whole cache line of every row and column of a tile is used while it is in the cache.
#ifndef HD_TRANSPOSE_H
#define HD_TRANSPOSE_H

#include "backend/cpu/simd.h"

enum { CPU_TILE = 16 }; // elements of a cache line

// y[r * ys + c] = x[c * xs + r] for a whole tile.
#if VF_LANES == 16
// In registers, a row of x in each. Riffling the rows r and r + d moves one bit of the row's number to the end of the
// lane's, and the first bit of the lane's into its place; once for each bit exchanges both.
static inline void cpu_transpose_tile(float *y, int64_t ys, const float *x, int64_t xs) {
    vf t[CPU_TILE];
    CPU_UNROLL for (int r = 0; r < CPU_TILE; r++) t[r] = vf_load(x + r * xs);
    CPU_UNROLL for (int d = CPU_TILE / 2; d > 0; d /= 2) CPU_UNROLL for (int r = 0; r < CPU_TILE; r++) if (!(r & d)) {
        const vf a = t[r], b = t[r + d];
        t[r] = vf_riffle_low(a, b);
        t[r + d] = vf_riffle_high(a, b);
    }
    CPU_UNROLL for (int r = 0; r < CPU_TILE; r++) vf_store(y + r * ys, t[r]);
}
#else
typedef float v4 __attribute__((vector_size(16)));
typedef float v4_mem __attribute__((vector_size(16), aligned(4), may_alias));

// By 4 x 4 blocks, then row by row.
static inline void cpu_transpose_tile(float *y, int64_t ys, const float *x, int64_t xs) {
    float t[CPU_TILE][CPU_TILE];
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
    for (int i = 0; i < CPU_TILE; i++)
        memcpy(y + i * ys, t[i], sizeof t[i]);
}
#endif

// The same for a tile of m x n elements at the edge.
static inline void cpu_transpose_rest(float *y, int64_t ys, const float *x, int64_t xs, int64_t m, int64_t n) {
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++)
            y[i * ys + j] = x[j * xs + i];
}

// y[r * ys + c] = x[c * xs + r]. A band of rows of y is done before the next; it is wide where the rows of x lie far
// apart, so that several cache lines of each are read in one go.
static inline void cpu_transpose(float *y, int64_t ys, const float *x, int64_t xs, int64_t rows, int64_t columns) {
    const int64_t band = xs > ys ? 8 * CPU_TILE : CPU_TILE;
    for (int64_t r0 = 0; r0 < rows; r0 += band) {
        const int64_t r1 = rows < r0 + band ? rows : r0 + band;
        for (int64_t c = 0; c < columns; c += CPU_TILE)
            for (int64_t r = r0; r < r1; r += CPU_TILE) {
                const int64_t m = r1 - r < CPU_TILE ? r1 - r : CPU_TILE;
                const int64_t n = columns - c < CPU_TILE ? columns - c : CPU_TILE;
                if (m == CPU_TILE && n == CPU_TILE)
                    cpu_transpose_tile(y + r * ys + c, ys, x + c * xs + r, xs);
                else
                    cpu_transpose_rest(y + r * ys + c, ys, x + c * xs + r, xs, m, n);
            }
    }
}

#endif
