// backend/cpu/gemm.c: the register-tiled product kernel, packing, and matmul on top of them.
// Layer: backend. Called by: the table (matmul), conv.c, attention.c. See gemm.h for the form of a product.
//
// A tile of C (6 rows x 4 vectors with AVX-512 and NEON, 6 x 2 otherwise) stays in registers for the whole depth; per
// step the kernel loads one row of a panel and broadcasts one element of each row of A. Plain GCC vector extensions:
// the broadcast is a vector initialiser, the form that gcc and clang both turn into one instruction.
// Threads: matmul is cut into blocks of C by shape, and where they are few k into parts that are added in order; each
// is one task and is computed in one order.
#include "backend/cpu/gemm.h"

#include "backend/cpu/blas.h"
#include "backend/cpu/simd.h"
#include "backend/cpu/transpose.h"

#include <cblas.h>
#include <limits.h>
#include <string.h>

#define TILE_ROWS 6      // rows of a tile two or more vectors wide
#define TILE_ROWS_THIN 8 // of a tile one vector wide: more rows to hide the latency of the multiply-adds

#if VF_LANES == 16
#define BROADCAST(s) ((vf){s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s})
#elif VF_LANES == 8
#define BROADCAST(s) ((vf){s, s, s, s, s, s, s, s})
#else
#define BROADCAST(s) ((vf){s, s, s, s})
#endif

#define UNROLL CPU_UNROLL

// Tiles ------------------------------------------------------------------------------------------------------------

// out[i] (+)= the product of row i of A with one panel over a few segments.
typedef struct {
    const float *a[TILE_ROWS_THIN]; // starts of the rows
    int64_t a_step;
    const cpu_segment *segments;
    int64_t segment_count;
    const float *b;
    int64_t ld;
    float *out[TILE_ROWS_THIN]; // rows of C, or of room for them
    const float *bias;          // of these columns, or NULL; only without add
    bool add;
} tile_args;

#define TILE(ROWS, VECTORS)                                                                                            \
    static void tile_##ROWS##x##VECTORS(const tile_args *t) {                                                          \
        vf sum[ROWS][VECTORS];                                                                                         \
        const float *a[ROWS], *b = t->b;                                                                               \
        const int64_t step = t->a_step, ld = t->ld;                                                                    \
        UNROLL for (int i = 0; i < ROWS; i++) {                                                                        \
            a[i] = t->a[i];                                                                                            \
            UNROLL for (int j = 0; j < VECTORS; j++) {                                                                 \
                __builtin_prefetch(t->out[i] + j * VF_LANES, 1);                                                       \
                sum[i][j] = (vf){0};                                                                                   \
            }                                                                                                          \
        }                                                                                                              \
        for (int64_t s = 0; s < t->segment_count; s++) {                                                               \
            int64_t q = t->segments[s].offset;                                                                         \
            for (int64_t p = t->segments[s].length; p > 0; p--, q += step, b += ld) {                                  \
                vf row[VECTORS];                                                                                       \
                UNROLL for (int j = 0; j < VECTORS; j++) row[j] = *(const vf_mem *)(b + j * VF_LANES);                 \
                UNROLL for (int i = 0; i < ROWS; i++) {                                                                \
                    const float element = a[i][q];                                                                     \
                    const vf all = BROADCAST(element);                                                                 \
                    UNROLL for (int j = 0; j < VECTORS; j++) sum[i][j] += all * row[j];                                \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
        UNROLL for (int i = 0; i < ROWS; i++) UNROLL for (int j = 0; j < VECTORS; j++) {                               \
            vf_mem *out = (vf_mem *)(t->out[i] + j * VF_LANES);                                                        \
            if (t->add)                                                                                                \
                *out += sum[i][j];                                                                                     \
            else                                                                                                       \
                *out = t->bias ? sum[i][j] + vf_load(t->bias + j * VF_LANES) : sum[i][j];                              \
        }                                                                                                              \
    }
#define TILES_6(V) TILE(1, V) TILE(2, V) TILE(3, V) TILE(4, V) TILE(5, V) TILE(6, V)
#define NAMES_6(V) tile_1x##V, tile_2x##V, tile_3x##V, tile_4x##V, tile_5x##V, tile_6x##V

TILES_6(1)
TILE(7, 1)
TILE(8, 1)
TILES_6(2)
#if VF_REGISTERS == 32
TILES_6(3)
TILES_6(4)
#endif

// [vectors - 1][rows - 1]
static void (*const tiles[CPU_PANEL_VECTORS][TILE_ROWS_THIN])(const tile_args *) = {
    {NAMES_6(1), tile_7x1, tile_8x1},
    {NAMES_6(2)},
#if VF_REGISTERS == 32
    {NAMES_6(3)},
    {NAMES_6(4)},
#endif
};

// All segments, in runs of at most CPU_DEPTH; the first is added to what is there if t->add says so.
static void tile_run(const cpu_product *p, tile_args *t, int rows, int64_t vectors) {
    const cpu_segment *end = p->segments + p->segment_count;
    t->segments = p->segments;
    do {
        int64_t depth = 0;
        t->segment_count = 0;
        while (t->segments + t->segment_count < end &&
               (depth == 0 || depth + t->segments[t->segment_count].length <= CPU_DEPTH))
            depth += t->segments[t->segment_count++].length;
        tiles[vectors - 1][rows - 1](t);
        t->segments += t->segment_count;
        t->b += depth * t->ld;
        t->add = true;
    } while (t->segments < end);
}

// Rows of C one after the other; whole vectors where C's columns are contiguous.
static void tile_store(const cpu_product *p, const float *sum, int64_t row, int rows, int64_t col, int64_t cols) {
    const float *bias = p->bias ? p->bias + col : NULL;
    const int64_t step = p->c_step, whole = step == 1 ? cols / VF_LANES * VF_LANES : 0;
    for (int i = 0; i < rows; i++, sum += CPU_PANEL) {
        float *c = p->c + p->c_row[row + i] + col * step;
        for (int64_t j = 0; j < whole; j += VF_LANES) {
            vf x = *(const vf_mem *)(sum + j);
            if (bias)
                x += *(const vf_mem *)(bias + j);
            if (p->add)
                x += *(const vf_mem *)(c + j);
            *(vf_mem *)(c + j) = x;
        }
        for (int64_t j = whole; j < cols; j++)
            c[j * step] = (p->add ? c[j * step] : 0.0f) + (sum[j] + (bias ? bias[j] : 0.0f));
    }
}

static void run_panel(const cpu_product *p, int64_t panel) {
    const int64_t width = cpu_panel_width(p->b->n, panel), vectors = width / VF_LANES;
    const int64_t col = panel * CPU_PANEL, cols = cpu_min(width, p->b->n - col);
    const int64_t ld = p->b->ld > 0 ? p->b->ld : width;
    const float *b = p->b->data + (p->b->ld > 0 ? col : col * p->b->k) + p->b_first * ld;
    const int64_t most = vectors == 1 ? TILE_ROWS_THIN : TILE_ROWS;
    // Whole vectors of C that take no more than one addition are written by the tiles themselves.
    const bool direct = p->c_step == 1 && cols == width && (!p->add || (p->segment_count == 1 && !p->bias));
    float sum[TILE_ROWS_THIN * CPU_PANEL] __attribute__((aligned(64)));

    for (int64_t row = 0; row < p->rows;) {
        const int64_t left = p->rows - row;
        const int rows = (int)cpu_parts(left, cpu_parts(left, most)); // 8 rows left: 4 + 4, not 6 + 2
        tile_args t = {.a_step = p->a_step, .b = b, .ld = ld, .add = direct && p->add};
        t.bias = direct && p->bias ? p->bias + col : NULL;
        for (int i = 0; i < rows; i++) {
            t.a[i] = p->a + p->a_row[row + i];
            t.out[i] = direct ? p->c + p->c_row[row + i] + col : sum + i * CPU_PANEL;
        }
        tile_run(p, &t, rows, vectors);
        if (!direct)
            tile_store(p, sum, row, rows, col, cols);
        row += rows;
    }
}

// OpenBLAS instead of the tiles ---------------------------------------------------------------------------------------

// Rows from `row` on whose starts in A and in C are equally far apart.
static int64_t uniform_rows(const cpu_product *p, int64_t row) {
    int64_t n = cpu_min(2, p->rows - row);
    while (row + n < p->rows && p->a_row[row + n] - p->a_row[row + n - 1] == p->a_row[row + 1] - p->a_row[row] &&
           p->c_row[row + n] - p->c_row[row + n - 1] == p->c_row[row + 1] - p->c_row[row])
        n++;
    return n;
}

// What BLAS needs to know of one uniform run of rows.
typedef struct {
    int64_t rows, lda, ldc;
    bool transposed;
} blas_run;

// False when BLAS cannot say it: two strides in A, rows of C that overlap, numbers beyond 32 bits.
static bool blas_describe(const cpu_product *p, int64_t row, int64_t cols, blas_run *run) {
    const int64_t rows = uniform_rows(p, row);
    const bool transposed = p->a_step != 1;
    const int64_t apart = rows > 1 ? p->a_row[row + 1] - p->a_row[row] : transposed ? 1 : INT_MAX;
    const int64_t lda = transposed ? p->a_step : apart, ldc = rows > 1 ? p->c_row[row + 1] - p->c_row[row] : cols;
    *run = (blas_run){rows, lda, ldc, transposed};
    return p->c_step == 1 && (!transposed || apart == 1) && lda >= (transposed ? rows : 1) && ldc >= cols &&
           lda <= INT_MAX && ldc <= INT_MAX && rows <= INT_MAX;
}

static void blas_rows(const cpu_product *p, const blas_run *run, int64_t row, const float *b, int64_t ldb, int64_t col,
                      int64_t cols) {
    float *c = p->c + p->c_row[row] + col;
    for (int64_t i = 0; i < run->rows; i++)
        for (int64_t j = 0; j < cols; j++)
            c[i * run->ldc + j] = (p->add ? c[i * run->ldc + j] : 0.0f) + (p->bias ? p->bias[col + j] : 0.0f);
    for (int64_t s = 0; s < p->segment_count; s++) {
        const float *a = p->a + p->a_row[row] + p->segments[s].offset;
        for (int64_t left = p->segments[s].length, k; left > 0; left -= k) {
            k = cpu_min(left, CPU_DEPTH); // and BLAS refuses overlapping rows: no longer than their distance
            if (!run->transposed)
                k = cpu_min(k, run->lda);
            cblas_sgemm(CblasRowMajor, run->transposed ? CblasTrans : CblasNoTrans, CblasNoTrans, (int)run->rows,
                        (int)cols, (int)k, 1.0f, a, (int)run->lda, b, (int)ldb, 1.0f, c, (int)run->ldc);
            a += k * p->a_step;
            b += k * ldb;
        }
    }
}

static bool blas_panel(const cpu_product *p, int64_t panel) {
    const int64_t width = cpu_panel_width(p->b->n, panel), col = panel * CPU_PANEL;
    const int64_t cols = cpu_min(width, p->b->n - col), ld = p->b->ld > 0 ? p->b->ld : width;
    const float *b = p->b->data + (p->b->ld > 0 ? col : col * p->b->k) + p->b_first * ld;
    blas_run run;
    if (ld > INT_MAX)
        return false;
    for (int64_t row = 0; row < p->rows; row += run.rows)
        if (!blas_describe(p, row, cols, &run))
            return false;
    for (int64_t row = 0; row < p->rows; row += run.rows) {
        blas_describe(p, row, cols, &run);
        blas_rows(p, &run, row, b, ld, col, cols);
    }
    return true;
}

void cpu_product_run(const cpu_product *p, int64_t first, int64_t last) {
    for (int64_t panel = first; panel < last; panel++)
        if (!hd_gemm_uses_blas() || !blas_panel(p, panel))
            run_panel(p, panel);
}

// Inner products -----------------------------------------------------------------------------------------------------

// sums[i * COLS + j] = inner product of row i of a with row j of b^T (ld floats apart), over all segments.
#define DOTS(ROWS, COLS)                                                                                               \
    static void dots_##ROWS##x##COLS(const cpu_product *p, int64_t first, float *sums) {                               \
        vf sum[ROWS][COLS];                                                                                            \
        const float *a[ROWS], *b = p->b->data;                                                                         \
        const int64_t ld = p->b->k;                                                                                    \
        UNROLL for (int i = 0; i < ROWS; i++) {                                                                        \
            a[i] = p->a + p->a_row[first + i];                                                                         \
            UNROLL for (int j = 0; j < COLS; j++) sum[i][j] = (vf){0};                                                 \
        }                                                                                                              \
        for (int64_t s = 0; s < p->segment_count; s++) {                                                               \
            const int64_t end = p->segments[s].offset + p->segments[s].length;                                         \
            for (int64_t q = p->segments[s].offset; q < end; q += VF_LANES, b += VF_LANES) {                           \
                vf column[COLS];                                                                                       \
                UNROLL for (int j = 0; j < COLS; j++) column[j] = vf_load(b + j * ld);                                 \
                UNROLL for (int i = 0; i < ROWS; i++) {                                                                \
                    const vf row = vf_load(a[i] + q);                                                                  \
                    UNROLL for (int j = 0; j < COLS; j++) sum[i][j] += row * column[j];                                \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
        UNROLL for (int i = 0; i < ROWS; i++) UNROLL for (int j = 0; j < COLS; j++) sums[i * COLS + j] =               \
            vf_sum(sum[i][j]);                                                                                         \
    }
DOTS(1, 1)
DOTS(1, 2)
DOTS(1, 3)
DOTS(1, 4)
DOTS(4, 1)
DOTS(4, 2)
DOTS(4, 3)
DOTS(4, 4)

void cpu_dots_run(const cpu_product *p) {
    static void (*const dots[2][4])(const cpu_product *, int64_t, float *) = {{dots_1x1, dots_1x2, dots_1x3, dots_1x4},
                                                                              {dots_4x1, dots_4x2, dots_4x3, dots_4x4}};
    const int64_t n = p->b->n;
    float sums[16];
    for (int64_t row = 0, rows; row < p->rows; row += rows) {
        rows = p->rows - row >= 4 ? 4 : 1;
        dots[rows == 4][n - 1](p, row, sums);
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < n; j++) {
                float *c = p->c + p->c_row[row + i] + j * p->c_step;
                *c = (p->add ? *c : 0.0f) + (sums[i * n + j] + (p->bias ? p->bias[j] : 0.0f));
            }
    }
}

// Packing ------------------------------------------------------------------------------------------------------------

void cpu_pack_rows(float *dst, int64_t width, const float *src, int64_t rows, int64_t cols, int64_t row_stride,
                   int64_t col_stride) {
    if (col_stride == 1) {
        for (int64_t i = 0; i < rows; i++, dst += width, src += row_stride) {
            for (int64_t j = 0; j < cols; j++)
                dst[j] = src[j];
            for (int64_t j = cols; j < width; j++)
                dst[j] = 0.0f;
        }
        return;
    }
    if (row_stride == 1)
        cpu_transpose(dst, width, src, col_stride, rows, cols);
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = row_stride == 1 ? cols : 0; j < cols; j++)
            dst[i * width + j] = src[i * row_stride + j * col_stride];
        for (int64_t j = cols; j < width; j++)
            dst[i * width + j] = 0.0f;
    }
}

// Rows row.. of b, all panels.
static void pack_slice(float *dst, const cpu_panels *to, const float *b, int64_t k_stride, int64_t n_stride,
                       int64_t row, int64_t rows) {
    for (int64_t panel = 0; panel < cpu_panel_count(to->n); panel++) {
        const int64_t col = panel * CPU_PANEL, width = cpu_panel_width(to->n, panel);
        cpu_pack_rows(dst + col * to->k + row * width, width, b + row * k_stride + col * n_stride, rows,
                      cpu_min(width, to->n - col), k_stride, n_stride);
    }
}

void cpu_pack(float *dst, const float *b, int64_t k, int64_t n, int64_t k_stride, int64_t n_stride) {
    pack_slice(dst, &(cpu_panels){.k = k, .n = n}, b, k_stride, n_stride, 0, k);
}

// Matmul -------------------------------------------------------------------------------------------------------------

#define BLOCK_ROWS 96               // rows of A and C in one task
#define BLOCK_PANELS 4              // panels of B in one task
#define BLOCK_PANELS_WIDE 16        // where there are many tasks: the rows of A are read once
#define TASKS_WANTED 32             // so that 16 threads share the work evenly
#define PACK_ROWS 64                // rows of B packed by one task
#define ADD_ROWS 16                 // rows of C whose parts are added by one task
#define BLOCK_DEPTH (8 * CPU_DEPTH) // elements of k taken at a time, so that the rows of A stay in the cache

// One product with one B. Rows of A and C are listed, so that batch dimensions that share B are rows like others.
typedef struct {
    int64_t m, n, k;
    const float *a, *b;
    float *c;
    const int64_t *a_row, *c_row; // [m]
    int64_t a_step, b_step, b_col, c_step;
    const float *bias; // [n] or NULL
    float *sums;       // [m] of A's rows, or NULL; only where packs_a
    cpu_panels panels;
    // Where C alone has too few tasks, k is cut too. The first part writes C, part s > 0 writes later[s - 1], which is
    // dense [m,n] and then [m] for the sums, and these are added in order.
    int64_t parts, part_depth;
    float *later;
    int64_t *later_row; // [m]: i * n
} gemm;

static float *later_part(const gemm *g, int64_t part) { return g->later + (part - 1) * g->m * (g->n + 1); }

// Whether A is copied block by block, so that its rows are contiguous.
static bool packs_a(int64_t m, int64_t k, int64_t a_step) { return a_step != 1 && m > TILE_ROWS && k > 1; }

// A with its k not contiguous: BLOCK_ROWS x depth of it as [depth, BLOCK_ROWS].
static void pack_block(float *dst, const gemm *g, int64_t row, int64_t rows, int64_t k0, int64_t depth) {
    bool adjacent = true;
    for (int64_t i = 1; i < rows; i++)
        adjacent = adjacent && g->a_row[row + i] == g->a_row[row] + i;
    for (int64_t p = 0; p < depth; p++, dst += BLOCK_ROWS) {
        const float *a = g->a + (k0 + p) * g->a_step;
        if (adjacent)
            memcpy(dst, a + g->a_row[row], (size_t)rows * sizeof(float));
        else
            for (int64_t i = 0; i < rows; i++)
                dst[i] = a[g->a_row[row + i]];
    }
}

// sums[i] += the sum of column i of a packed block, in double after each CPU_DEPTH elements.
static void add_sums(double *sums, const float *block, int64_t rows, int64_t depth) {
    VF_LOOP(i, lanes, rows) {
        for (int64_t p = 0; p < depth; p += CPU_DEPTH) {
            vf sum = {0};
            for (int64_t q = p; q < cpu_min(p + CPU_DEPTH, depth); q++)
                sum += vf_load_n(block + q * BLOCK_ROWS + i, lanes);
            vf_add_to_double(sums + i, sum, lanes);
        }
    }
}

// One part of k for rows row.. of C, panels first..last-1. `block` is room for pack_block, NULL where A is used in
// place.
static void gemm_task(const gemm *g, int64_t part, int64_t row, int64_t first, int64_t last, float *block) {
    static const int64_t packed_row[] = {
#define R8(i) i, i + 1, i + 2, i + 3, i + 4, i + 5, i + 6, i + 7
        R8(0), R8(8), R8(16), R8(24), R8(32), R8(40), R8(48), R8(56), R8(64), R8(72), R8(80), R8(88)};
    const int64_t begin = part * g->part_depth, end = cpu_min(g->k, begin + g->part_depth);
    cpu_segment segments[BLOCK_DEPTH / CPU_DEPTH];
    float *sums_out = first > 0 || !g->sums ? NULL : part == 0 ? g->sums : later_part(g, part) + g->m * g->n;
    double sums[BLOCK_ROWS] = {0};
    cpu_product p = {.rows = cpu_min(BLOCK_ROWS, g->m - row),
                     .a_step = g->a_step,
                     .segments = segments,
                     .b = &g->panels,
                     .c = part == 0 ? g->c : later_part(g, part),
                     .c_row = (part == 0 ? g->c_row : g->later_row) + row,
                     .c_step = part == 0 ? g->c_step : 1};
    for (int64_t k0 = begin; k0 == begin || k0 < end; k0 += BLOCK_DEPTH) {
        const int64_t depth = cpu_min(BLOCK_DEPTH, end - k0);
        p.a = g->a + k0 * g->a_step;
        p.a_row = g->a_row + row;
        if (block) {
            pack_block(block, g, row, p.rows, k0, depth);
            p.a = block, p.a_row = packed_row, p.a_step = BLOCK_ROWS;
            if (sums_out)
                add_sums(sums, block, p.rows, depth);
        }
        p.segment_count = cpu_parts(depth, CPU_DEPTH);
        for (int64_t s = 0; s < p.segment_count; s++)
            segments[s] = (cpu_segment){s * CPU_DEPTH * p.a_step, cpu_min(CPU_DEPTH, depth - s * CPU_DEPTH)};
        p.b_first = k0;
        p.add = k0 > begin;
        p.bias = k0 == 0 ? g->bias : NULL;
        cpu_product_run(&p, first, last);
    }
    for (int64_t i = 0; sums_out && i < p.rows; i++)
        sums_out[row + i] = (float)sums[i];
}

// C and the sums of rows row..row+rows-1 += what the later parts of k gave.
static void add_later(const gemm *g, int64_t row, int64_t rows) {
    for (int64_t i = row; i < row + rows; i++)
        for (int64_t part = 1; part < g->parts; part++) {
            const float *x = later_part(g, part) + i * g->n;
            float *c = g->c + g->c_row[i];
            for (int64_t j = 0; j < g->n; j++)
                c[j * g->c_step] += x[j];
            if (g->sums)
                g->sums[i] += later_part(g, part)[g->m * g->n + i];
        }
}

static hd_status no_memory(void) { return hd_fail(HD_ENOMEM, "matmul: no memory for the workspace"); }

// B where it lies if that costs nothing, else packed. *packed is to be freed.
static hd_status gemm_pack(gemm *g, float **packed) {
    *packed = NULL;
    g->panels = (cpu_panels){g->b, g->k, g->n, g->b_step};
    if (g->b_col == 1 && g->b_step >= g->n && g->n % VF_LANES == 0 && g->m <= BLOCK_ROWS / 2)
        return HD_OK;
    float *b = hd_alloc(cpu_panel_bytes(g->k, g->n));
    if (!b)
        return no_memory();
    CPU_PARALLEL_FOR(slice, cpu_parts(g->k, PACK_ROWS)) {
        const int64_t row = slice * PACK_ROWS;
        pack_slice(b, &g->panels, g->b, g->b_step, g->b_col, row, cpu_min(PACK_ROWS, g->k - row));
    }
    g->panels.data = *packed = b;
    g->panels.ld = 0;
    return HD_OK;
}

// Into how many parts k is cut, for so many tasks over C; room for the later ones, to be freed.
static hd_status gemm_cut(gemm *g, int64_t tasks) {
    const int64_t blocks = cpu_max(1, cpu_parts(g->k, BLOCK_DEPTH));
    g->part_depth = cpu_parts(blocks, cpu_min(blocks, cpu_parts(TASKS_WANTED, tasks))) * BLOCK_DEPTH;
    g->parts = cpu_max(1, cpu_parts(g->k, g->part_depth));
    if (g->parts == 1)
        return HD_OK;
    const size_t rows = sizeof(int64_t) * (size_t)g->m;
    g->later_row = hd_alloc(rows + sizeof(float) * (size_t)((g->parts - 1) * g->m * (g->n + 1)));
    if (!g->later_row)
        return no_memory();
    g->later = (float *)(g->later_row + g->m);
    for (int64_t i = 0; i < g->m; i++)
        g->later_row[i] = i * g->n;
    return HD_OK;
}

static hd_status gemm_tasks(const gemm *g, int64_t row_blocks, int64_t column_blocks, int64_t wide) {
    const bool pack_a = packs_a(g->m, g->k, g->a_step);
    bool failed = false;
    CPU_PARALLEL_FOR(task, row_blocks * column_blocks * g->parts) { // neighbours share a part of B
        const int64_t row = task % row_blocks * BLOCK_ROWS, first = task / row_blocks % column_blocks * wide;
        float *block = pack_a ? hd_alloc(sizeof(float) * BLOCK_ROWS * BLOCK_DEPTH) : NULL;
        if (pack_a && !block)
            __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
        else
            gemm_task(g, task / row_blocks / column_blocks, row, first, cpu_min(first + wide, cpu_panel_count(g->n)),
                      block);
        hd_free(block);
    }
    if (failed)
        return no_memory();
    if (g->parts == 1)
        return HD_OK;
    CPU_PARALLEL_FOR(i, cpu_parts(g->m, ADD_ROWS))
    add_later(g, i * ADD_ROWS, cpu_min(ADD_ROWS, g->m - i * ADD_ROWS));
    return HD_OK;
}

static hd_status gemm_run(gemm *g) {
    const int64_t row_blocks = cpu_parts(g->m, BLOCK_ROWS);
    const int64_t wide = row_blocks < TASKS_WANTED ? BLOCK_PANELS : BLOCK_PANELS_WIDE;
    const int64_t column_blocks = cpu_parts(cpu_panel_count(g->n), wide);
    float *packed = NULL;
    hd_status status = gemm_cut(g, row_blocks * column_blocks);
    if (status == HD_OK)
        status = gemm_pack(g, &packed);
    if (status == HD_OK)
        status = gemm_tasks(g, row_blocks, column_blocks, wide);
    hd_free(packed);
    hd_free(g->later_row);
    return status;
}

// Offset of position i, in row-major order, of dimensions first..last-1.
static int64_t offset_of(const hd_view *v, int first, int last, int64_t i) {
    int64_t offset = 0;
    for (int d = last - 1; d >= first; d--) {
        offset += i % v->shape[d] * v->strides[d];
        i /= v->shape[d];
    }
    return offset;
}

static int64_t row_offset(const hd_view *v, int first, int64_t row) { return offset_of(v, first, v->ndim - 1, row); }

static int64_t batch_offset(const hd_view *v, int64_t i) { return offset_of(v, 0, v->ndim - 2, i); }

// One matrix b; a and c with all dimensions from `from` on. bias [n] and sums [m], or NULL.
static hd_status matmul_f32(const hd_view *a, const hd_view *b, const hd_view *c, int from, const float *bias,
                            float *sums) {
    const int d = c->ndim;
    gemm g = {.m = 1,
              .bias = bias,
              .sums = sums,
              .n = c->shape[d - 1],
              .k = a->shape[d - 1],
              .a = a->data,
              .b = b->data,
              .c = c->data,
              .a_step = a->strides[d - 1],
              .b_step = b->strides[d - 2],
              .b_col = b->strides[d - 1],
              .c_step = c->strides[d - 1]};
    for (int i = from; i < d - 1; i++)
        g.m *= c->shape[i];
    if (g.m == 0 || g.n == 0)
        return HD_OK;
    int64_t *rows = hd_alloc(sizeof(int64_t) * 2 * (size_t)g.m);
    if (!rows)
        return no_memory();
    for (int64_t i = 0; i < g.m; i++) {
        rows[i] = row_offset(a, from, i);
        rows[g.m + i] = row_offset(c, from, i);
    }
    g.a_row = rows;
    g.c_row = rows + g.m;
    hd_status status = gemm_run(&g);
    hd_free(rows);
    return status;
}

// Double: one task per row of c, in the plain order of the sum.
static void matmul_f64(const hd_view *a, const hd_view *b, const hd_view *c, int64_t row) {
    const int d = c->ndim;
    const int64_t n = c->shape[d - 1], k = a->shape[d - 1];
    const double *x = (const double *)a->data + row_offset(a, 0, row);
    const double *y = (const double *)b->data + batch_offset(b, row / c->shape[d - 2]);
    double *z = (double *)c->data + row_offset(c, 0, row);
    for (int64_t j = 0; j < n; j++)
        z[j * c->strides[d - 1]] = 0;
    for (int64_t p = 0; p < k; p++) {
        const double element = x[p * a->strides[d - 1]];
        const double *line = y + p * b->strides[d - 2];
        for (int64_t j = 0; j < n; j++)
            z[j * c->strides[d - 1]] += element * line[j * b->strides[d - 1]];
    }
}

// The two last dimensions exchanged.
static hd_view transposed(hd_view v) {
    const int d = v.ndim;
    const int64_t extent = v.shape[d - 1], stride = v.strides[d - 1];
    v.shape[d - 1] = v.shape[d - 2], v.strides[d - 1] = v.strides[d - 2];
    v.shape[d - 2] = extent, v.strides[d - 2] = stride;
    return v;
}

// Whether c^T = b^T a^T is the better product: c lies transposed, or few rows meet a large b that would need packing.
static bool better_transposed(const hd_view *b, const hd_view *c) {
    const int d = c->ndim;
    const int64_t m = c->shape[d - 2], n = c->shape[d - 1];
    if (c->strides[d - 1] != 1)
        return c->strides[d - 2] == 1;
    return m <= VF_LANES && n >= 8 * m && b->strides[d - 2] == 1 && b->strides[d - 1] != 1;
}

// Batches of b, each against its own part of a and c: small ones side by side, large ones one after the other with the
// threads inside (a parallel region within one runs on one thread).
static hd_status matmul_batches(const hd_view *a, const hd_view *b, const hd_view *c) {
    const int d = c->ndim;
    const int64_t batches = hd_view_numel(c) / cpu_max(1, c->shape[d - 2] * c->shape[d - 1]);
    const bool side_by_side = batches >= 16 || c->shape[d - 2] * c->shape[d - 1] <= BLOCK_ROWS * CPU_PANEL;
    bool failed = false;
#pragma omp parallel for num_threads(side_by_side ? hd_threads() : 1) schedule(dynamic, 1)
    for (int64_t i = 0; i < batches; i++) {
        hd_view ai = *a, bi = *b, ci = *c;
        hd_view *all[] = {&ai, &bi, &ci};
        for (int v = 0; v < 3; v++)
            all[v]->data = (float *)all[v]->data + batch_offset(all[v], i);
        if (better_transposed(&bi, &ci)) {
            const hd_view at = transposed(ai);
            ai = transposed(bi), bi = at, ci = transposed(ci);
        }
        if (matmul_f32(&ai, &bi, &ci, d - 2, NULL, NULL) != HD_OK)
            __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
    }
    return failed ? no_memory() : HD_OK;
}

// What products do not do on their way: bias added to all rows of c, sums of the rows of a.
static void add_bias(const hd_view *c, const hd_view *bias) {
    CPU_PARALLEL_FOR(i, c->shape[0]) {
        for (int64_t j = 0; j < c->shape[1]; j++) {
            const int64_t at = i * c->strides[0] + j * c->strides[1];
            if (c->dtype == HD_F64)
                ((double *)c->data)[at] += ((const double *)bias->data)[j * bias->strides[0]];
            else
                ((float *)c->data)[at] += ((const float *)bias->data)[j * bias->strides[0]];
        }
    }
}

static void sum_rows(const hd_view *a, const hd_view *sums) {
    CPU_PARALLEL_FOR(i, a->shape[0]) {
        double sum = 0;
        for (int64_t p = 0; p < a->shape[1]; p++) {
            const int64_t at = i * a->strides[0] + p * a->strides[1];
            sum += a->dtype == HD_F64 ? ((const double *)a->data)[at] : (double)((const float *)a->data)[at];
        }
        if (a->dtype == HD_F64)
            ((double *)sums->data)[i * sums->strides[0]] = sum;
        else
            ((float *)sums->data)[i * sums->strides[0]] = (float)sum;
    }
}

hd_status cpu_matmul(const hd_matmul_args *g) {
    const hd_view *a = &g->a, *b = &g->b, *c = &g->c;
    const int d = c->ndim;
    bool one_b = true, bias_done = !g->bias.data, sums_done = !g->sums.data;
    for (int i = 0; i < d - 2; i++)
        one_b = one_b && (b->strides[i] == 0 || b->shape[i] == 1);
    hd_status status = HD_OK;
    if (c->dtype == HD_F64) {
        CPU_PARALLEL_FOR(row, hd_view_numel(c) / cpu_max(1, c->shape[d - 1]))
        matmul_f64(a, b, c, row);
    } else if (hd_view_numel(c) > 0 && one_b && (d > 2 || !better_transposed(b, c))) {
        const bool dense_bias = !bias_done && g->bias.strides[0] == 1;
        const bool sums_too = !sums_done && g->sums.strides[0] == 1 && packs_a(c->shape[0], a->shape[1], a->strides[1]);
        status = matmul_f32(a, b, c, 0, dense_bias ? g->bias.data : NULL, sums_too ? g->sums.data : NULL);
        bias_done = bias_done || dense_bias;
        sums_done = sums_done || sums_too;
    } else if (hd_view_numel(c) > 0) {
        status = matmul_batches(a, b, c);
    }
    if (status == HD_OK && !bias_done)
        add_bias(c, &g->bias);
    if (status == HD_OK && !sums_done)
        sum_rows(a, &g->sums);
    return status;
}
