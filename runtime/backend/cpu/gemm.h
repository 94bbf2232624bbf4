// backend/cpu/gemm.h: matrix products of float32, the engine under matmul, convolution and attention.
// Layer: backend. Compiled once per instruction set. Calls: nothing but OpenBLAS where HDLUA_GEMM=blas.
//
// A product is C[m,n] (+)= A[m,k] B[k,n] (+ bias[n]). B is packed into panels of CPU_PANEL columns (or used where it
// lies). A is never packed: row i starts at a + a_row[i], and its k elements are the concatenation of segments, each a
// run of `length` elements `a_step` apart that starts `offset` elements behind the row's start. So the rows may be
// pixels of a padded image (they overlap) and the segments the rows of a convolution kernel.
// Sums: from zero over at most CPU_DEPTH elements in registers; these partial sums are then added up.
#ifndef HD_GEMM_H
#define HD_GEMM_H

#include "backend/cpu/cpu.h"

#define CPU_PANEL_VECTORS (VF_REGISTERS / 8)
#define CPU_PANEL (CPU_PANEL_VECTORS * VF_LANES) // columns of a full panel
#define CPU_DEPTH 128                            // longest sum in one chain; longer ones lose accuracy

typedef struct {
    int64_t offset, length;
} cpu_segment;

// B. Packed: panel j at data + j * CPU_PANEL * k, its rows without gaps, the last panel's width rounded up to whole
// vectors with zeros. In place (ld > 0): row p at data + p * ld; n must then be a multiple of VF_LANES.
typedef struct {
    const float *data;
    int64_t k, n, ld;
} cpu_panels;

typedef struct {
    int64_t rows;
    const float *a;
    const int64_t *a_row;
    int64_t a_step;
    const cpu_segment *segments; // their lengths add up to the k of b, or less
    int64_t segment_count;
    const cpu_panels *b;
    int64_t b_first; // first row of b to use
    float *c;        // element (i, j) at c + c_row[i] + j * c_step
    const int64_t *c_row;
    int64_t c_step;
    const float *bias; // [n] or NULL
    bool add;          // add to c instead of writing it
} cpu_product;

#define cpu_product_run CPU_NAME(cpu_product_run)
#define cpu_dots_run CPU_NAME(cpu_dots_run)
#define cpu_pack_rows CPU_NAME(cpu_pack_rows)
#define cpu_pack CPU_NAME(cpu_pack)

static inline int64_t cpu_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t cpu_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t cpu_parts(int64_t n, int64_t size) { return (n + size - 1) / size; }

static inline int64_t cpu_panel_count(int64_t n) { return cpu_parts(n, CPU_PANEL); }
// Columns of panel j in memory, a multiple of VF_LANES.
static inline int64_t cpu_panel_width(int64_t n, int64_t j) {
    return cpu_min(CPU_PANEL, cpu_parts(n - j * CPU_PANEL, VF_LANES) * VF_LANES);
}
// Bytes of a packed k x n matrix.
static inline size_t cpu_panel_bytes(int64_t k, int64_t n) {
    return (size_t)k * (size_t)(cpu_parts(n, VF_LANES) * VF_LANES) * sizeof(float);
}

// Run panels first..last-1 of a product. One thread; allocates nothing.
void cpu_product_run(const cpu_product *p, int64_t first, int64_t last);

// The same for few columns (n <= CPU_DOTS) as inner products, vectors running along k: a tile would leave most lanes
// idle. b->data is b^T here, [n,k] without gaps; a_step must be 1 and every segment a multiple of VF_LANES long.
#define CPU_DOTS (VF_LANES == 16 ? 4 : VF_LANES == 8 ? 3 : 0)
void cpu_dots_run(const cpu_product *p);

// dst[rows, width] = src[rows, cols] with the given strides, zeros in columns cols..width-1.
void cpu_pack_rows(float *dst, int64_t width, const float *src, int64_t rows, int64_t cols, int64_t row_stride,
                   int64_t col_stride);

// Pack all of b[k,n]. One thread.
void cpu_pack(float *dst, const float *b, int64_t k, int64_t n, int64_t k_stride, int64_t n_stride);

#endif
