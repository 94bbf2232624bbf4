// backend/cpu/conv_dw.c: the gradients of a convolution's weights and bias by shifted products.
// Layer: backend. Calls: gemm.h, conv.h. Called by: conv.c.
//
// dw[(r,s,c), k] = sum over output pixels of x[pixel's source at tap (r,s), c] * dy[pixel, k]: one long product whose
// rows are the taps' channels (overlapping windows of padded x, k running over pixels) and whose B is dy. It is taken
// in chunks of pixels that stay in the cache.
// With few outputs the product is turned round (dw^T = dy^T x), so that vectors run along the channels of x.
// Threads: the chunks are dealt to `parts` partial sums and, where those are few, the rows of dw to `splits`; both
// numbers depend on the shapes alone. The partial sums are added pairwise, always in the same tree.
#include "backend/cpu/conv.h"

#include <string.h>

#define TASKS_WANTED 16
#define PARTIAL_BYTES ((int64_t)32 << 20) // of all partial sums together
#define SPLIT_ROWS 48                     // least rows of dw in one task
#define BIAS_RUN 64                       // pixels added up in float before they go to the double sum

typedef struct {
    const hd_conv_args *args;
    conv_window window;
    conv_blocks chunks;
    int64_t in, outs, rows; // of one group: channels of x and dy, rows of dw = taps * in
    int64_t parts, splits;
    bool dy_in_place;       // dy itself serves as B
    bool few;               // few outputs: the product turned round
    bool depthwise;         // one channel and one output in each group, dy in place: all groups at once
    float *partial;         // [parts][groups][rows][outs]
    double *bias;           // [parts][k] or NULL
    int64_t *a_row, *c_row; // [rows]
} dw;

static hd_status no_memory(void) { return hd_fail(HD_ENOMEM, "conv_dw: no memory for the workspace"); }

static int64_t partial_floats(const dw *d) { return d->args->groups * d->rows * d->outs; }

// dy of one group and one chunk, packed into panels [pixels][panel width].
static void pack_dy(const dw *d, const conv_block *block, int64_t group, float *dst) {
    const hd_view *dy = &d->args->y;
    for (int64_t panel = 0; panel < cpu_panel_count(d->outs); panel++) {
        const int64_t col = panel * CPU_PANEL, width = cpu_panel_width(d->outs, panel);
        const float *src = (const float *)dy->data + (group * d->outs + col) * dy->strides[1];
        for (int64_t n = 0; n < block->count[0]; n++)
            for (int64_t y = 0; y < block->count[1]; y++, dst += block->count[2] * width)
                cpu_pack_rows(dst, width,
                              src + (block->first[0] + n) * dy->strides[0] + (block->first[1] + y) * dy->strides[2] +
                                  block->first[2] * dy->strides[3],
                              block->count[2], cpu_min(width, d->outs - col), dy->strides[3], dy->strides[1]);
    }
}

// The pixels of a chunk as segments of a row of A: one per row of the output.
static int64_t set_segments(const dw *d, const conv_block *block, cpu_segment *segments) {
    int64_t count = 0;
    for (int64_t n = 0; n < block->count[0]; n++)
        for (int64_t y = 0; y < block->count[1]; y++)
            for (int64_t x = 0; x < block->count[2]; x += CPU_DEPTH)
                segments[count++] = (cpu_segment){n * d->window.pitch[0] + y * d->window.step[0] * d->window.pitch[1] +
                                                      x * d->window.step[1] * d->window.pitch[2],
                                                  cpu_min(CPU_DEPTH, block->count[2] - x)};
    return count;
}

// Rows first..last-1 of one partial sum, one chunk; room for the window, for dy and for the segments.
static void add_chunk(const dw *d, const conv_block *block, float *partial, int64_t first, int64_t last, bool add,
                      float *room_x, float *room_dy, cpu_segment *segments) {
    const hd_view *dy = &d->args->y;
    const float *x = conv_window_load(&d->window, block, room_x);
    const int64_t pixels = block->count[0] * block->count[1] * block->count[2];
    const int64_t origin =
        block->first[0] * dy->strides[0] + block->first[1] * dy->strides[2] + block->first[2] * dy->strides[3];
    cpu_panels b = {room_dy, pixels, d->outs, 0};
    cpu_product p = {.rows = last - first,
                     .a_row = d->a_row + first,
                     .a_step = d->window.step[1] * d->window.pitch[2],
                     .segments = segments,
                     .segment_count = set_segments(d, block, segments),
                     .b = &b,
                     .c_row = d->c_row + first,
                     .c_step = 1,
                     .add = add};
    if (d->depthwise) {
        b = (cpu_panels){(const float *)dy->data + origin, pixels, d->args->groups, dy->strides[3]};
        p.a = x;
        p.c = partial;
        p.c_step = d->rows;
        conv_depthwise_dw(&p);
        return;
    }
    for (int64_t g = 0; g < d->args->groups; g++) {
        if (d->dy_in_place)
            b = (cpu_panels){(const float *)dy->data + origin + g * d->outs, pixels, d->outs, dy->strides[3]};
        else
            pack_dy(d, block, g, room_dy);
        p.a = x + g * d->in;
        p.c = partial + g * d->rows * d->outs;
        cpu_product_run(&p, 0, cpu_panel_count(d->outs));
    }
}

// Pixels of the window from the first to the last that an output pixel of the chunk meets at tap (0, 0).
static int64_t window_pixels(const dw *d, const int64_t count[3]) {
    const int64_t *pitch = d->window.pitch;
    return ((count[0] - 1) * pitch[0] + (count[1] - 1) * pitch[1]) / pitch[2] + count[2];
}

// dy^T of one group and one chunk as [outs, depth], laid out like the pixels of the window, zeros between.
static void spread_dy(const dw *d, const conv_block *block, int64_t group, int64_t depth, float *dst) {
    const hd_view *dy = &d->args->y;
    const int64_t *pitch = d->window.pitch;
    memset(dst, 0, sizeof(float) * (size_t)(d->outs * depth));
    for (int64_t k = 0; k < d->outs; k++)
        for (int64_t n = 0; n < block->count[0]; n++)
            for (int64_t y = 0; y < block->count[1]; y++) {
                const float *src = (const float *)dy->data + (block->first[0] + n) * dy->strides[0] +
                                   (group * d->outs + k) * dy->strides[1] + (block->first[1] + y) * dy->strides[2] +
                                   block->first[2] * dy->strides[3];
                float *to = dst + k * depth + (n * pitch[0] + y * pitch[1]) / pitch[2];
                for (int64_t x = 0; x < block->count[2]; x++)
                    to[x] = src[x * dy->strides[3]];
            }
}

// The same as add_chunk for few outputs: one product per tap, [outs, depth] times the window's pixels [depth, in].
static void add_chunk_few(const dw *d, const conv_block *block, float *partial, bool add, float *room_x, float *room_dy,
                          cpu_segment *segments) {
    const float *x = conv_window_load(&d->window, block, room_x);
    const int64_t depth = window_pixels(d, block->count);
    int64_t a_row[CPU_DOTS + 1], c_row[CPU_DOTS + 1]; // + 1: CPU_DOTS may be 0
    cpu_panels b = {.k = depth, .n = d->in, .ld = d->window.pitch[2]};
    cpu_product p = {.rows = d->outs,
                     .a = room_dy,
                     .a_row = a_row,
                     .a_step = 1,
                     .segments = segments,
                     .b = &b,
                     .c_row = c_row,
                     .c_step = d->outs,
                     .add = add};
    for (int64_t k0 = 0; k0 < depth; k0 += CPU_DEPTH)
        segments[p.segment_count++] = (cpu_segment){k0, cpu_min(CPU_DEPTH, depth - k0)};
    for (int64_t k = 0; k < d->outs; k++) {
        a_row[k] = k * depth;
        c_row[k] = k;
    }
    for (int64_t g = 0; g < d->args->groups; g++) {
        spread_dy(d, block, g, depth, room_dy);
        for (int64_t row = 0; row < d->rows; row += d->in) {
            b.data = x + g * d->in + d->a_row[row];
            p.c = partial + (g * d->rows + row) * d->outs;
            cpu_product_run(&p, 0, cpu_panel_count(d->in));
        }
    }
}

// sum[k] += dy over `count` pixels of one row.
static void add_bias_run(double *sum, float *run, const float *dy, int64_t count, int64_t outs, int64_t col_stride,
                         int64_t channel_stride) {
    memset(run, 0, sizeof(float) * (size_t)outs);
    for (int64_t x = 0; x < count; x++)
        if (channel_stride == 1)
            for (int64_t k = 0; k < outs; k++)
                run[k] += dy[x * col_stride + k];
        else
            for (int64_t k = 0; k < outs; k++)
                run[k] += dy[x * col_stride + k * channel_stride];
    for (int64_t k = 0; k < outs; k++)
        sum[k] += run[k];
}

static void add_bias(const hd_view *dy, const conv_block *block, double *sum, float *run) {
    for (int64_t n = block->first[0]; n < block->first[0] + block->count[0]; n++)
        for (int64_t y = block->first[1]; y < block->first[1] + block->count[1]; y++)
            for (int64_t x = 0; x < block->count[2]; x += BIAS_RUN)
                add_bias_run(sum, run,
                             (const float *)dy->data + n * dy->strides[0] + y * dy->strides[2] +
                                 (block->first[2] + x) * dy->strides[3],
                             cpu_min(BIAS_RUN, block->count[2] - x), dy->shape[1], dy->strides[3], dy->strides[1]);
}

// All chunks of one part, one split of the rows.
static hd_status run_task(const dw *d, int64_t part, int64_t split) {
    const int64_t chunks = conv_blocks_count(&d->chunks);
    const int64_t pixels = d->chunks.size[0] * d->chunks.size[1] * d->chunks.size[2];
    const int64_t first = d->rows * split / d->splits, last = d->rows * (split + 1) / d->splits;
    const size_t x_bytes = (sizeof(float) * (size_t)conv_window_size(&d->window, &d->chunks) + 63) / 64 * 64;
    const size_t dy_bytes = d->few           ? cpu_panel_bytes(d->outs, window_pixels(d, d->chunks.size))
                            : d->dy_in_place ? 0
                                             : cpu_panel_bytes(pixels, d->outs);
    const size_t run_bytes = sizeof(float) * (size_t)d->args->y.shape[1];
    char *room = hd_alloc(x_bytes + dy_bytes + sizeof(cpu_segment) * (size_t)pixels + run_bytes);
    if (!room)
        return HD_ENOMEM;
    float *partial = d->partial + part * partial_floats(d);
    float *room_dy = (float *)(room + x_bytes);
    cpu_segment *segments = (cpu_segment *)(room + x_bytes + dy_bytes);
    const int64_t begin = chunks * part / d->parts;
    for (int64_t i = begin; i < chunks * (part + 1) / d->parts; i++) {
        const conv_block block = conv_block_at(&d->chunks, i);
        if (d->few)
            add_chunk_few(d, &block, partial, i > begin, (float *)room, room_dy, segments);
        else
            add_chunk(d, &block, partial, first, last, i > begin, (float *)room, room_dy, segments);
        if (d->bias && split == 0)
            add_bias(&d->args->y, &block, d->bias + part * d->args->y.shape[1], (float *)(segments + pixels));
    }
    hd_free(room);
    return HD_OK;
}

// One row (group, tap, channel) of all partial sums, added pairwise into the first, then out to dw.
static void combine_row(const dw *d, int64_t i) {
    const hd_view *w = &d->args->w;
    const int64_t group = i / d->rows, tap = i % d->rows / d->in, c = i % d->in;
    for (int64_t apart = 1; apart < d->parts; apart *= 2)
        for (int64_t p = 0; p + apart < d->parts; p += 2 * apart) {
            float *to = d->partial + p * partial_floats(d) + i * d->outs;
            const float *from = to + apart * partial_floats(d);
            for (int64_t k = 0; k < d->outs; k++)
                to[k] += from[k];
        }
    const float *sum = d->partial + i * d->outs;
    float *out = (float *)w->data + group * d->outs * w->strides[0] + c * w->strides[1] +
                 tap / w->shape[3] * w->strides[2] + tap % w->shape[3] * w->strides[3];
    for (int64_t k = 0; k < d->outs; k++)
        out[k * w->strides[0]] = sum[k];
}

static void combine_bias(const dw *d) {
    const hd_view *b = &d->args->b;
    for (int64_t k = 0; k < b->shape[0]; k++) {
        double sum = 0;
        for (int64_t part = 0; part < d->parts; part++)
            sum += d->bias[part * b->shape[0] + k];
        ((float *)b->data)[k * b->strides[0]] = (float)sum;
    }
}

static hd_status run_all(const dw *d) {
    bool failed = false;
    CPU_PARALLEL_FOR(task, d->parts * d->splits) {
        if (run_task(d, task / d->splits, task % d->splits) != HD_OK)
            __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
    }
    if (failed)
        return no_memory();
    const int64_t rows = d->args->groups * d->rows, run = cpu_max(1, 16384 / cpu_max(1, d->outs));
    CPU_PARALLEL_FOR(block, cpu_parts(rows, run)) {
        for (int64_t i = block * run; i < cpu_min(rows, (block + 1) * run); i++)
            combine_row(d, i);
    }
    if (d->bias)
        combine_bias(d);
    return HD_OK;
}

// How the work is cut: see the head of the file.
static void plan(dw *d) {
    const hd_conv_args *a = d->args;
    const hd_view *dy = &a->y;
    const int64_t channels = cpu_max(1, a->x.shape[1] + dy->shape[1]);
    d->chunks = conv_blocks_cut(dy->shape[0], dy->shape[2], dy->shape[3],
                                cpu_max(4 * CPU_DEPTH, cpu_min(8 * CPU_DEPTH, 131072 / channels)));
    conv_window_set(&d->window, &d->chunks);
    d->parts = cpu_min(TASKS_WANTED, PARTIAL_BYTES / ((int64_t)sizeof(float) * cpu_max(1, partial_floats(d))));
    d->parts = cpu_max(1, cpu_min(d->parts, conv_blocks_count(&d->chunks)));
    // The gaps between the rows of the window are multiplied too, by zeros: only where they are narrow.
    d->few = conv_blocks_count(&d->chunks) > 0 && d->outs <= CPU_DOTS && d->in % VF_LANES == 0 && !d->window.in_place &&
             d->window.step[0] == 1 && d->window.step[1] == 1 &&
             window_pixels(d, d->chunks.size) <= 2 * d->chunks.size[0] * d->chunks.size[1] * d->chunks.size[2];
    d->splits = d->few ? 1 : cpu_max(1, cpu_min(TASKS_WANTED / d->parts, d->rows / SPLIT_ROWS));
    // The pixels of every chunk must be equally far apart: whole rows, and whole images where there are several.
    d->depthwise = d->in == 1 && d->outs == 1 && a->groups > 1;
    d->dy_in_place = dy->strides[1] == 1 && (d->depthwise || d->outs % VF_LANES == 0) && dy->strides[3] > 0 &&
                     (d->chunks.size[1] * d->chunks.size[0] == 1 ||
                      (d->chunks.parts[2] == 1 && dy->strides[2] == dy->shape[3] * dy->strides[3])) &&
                     (d->chunks.size[0] == 1 || dy->strides[0] == dy->shape[2] * dy->strides[2]);
    d->depthwise = d->depthwise && d->dy_in_place;
}

static void set_rows(dw *d) {
    const hd_view *w = &d->args->w;
    for (int64_t i = 0; i < d->rows; i++) {
        const int64_t tap = i / d->in;
        d->a_row[i] = tap / w->shape[3] * d->args->dilation[0] * d->window.pitch[1] +
                      tap % w->shape[3] * d->args->dilation[1] * d->window.pitch[2] + i % d->in;
        d->c_row[i] = i * d->outs;
    }
}

static dw describe(const hd_conv_args *a) {
    dw d = {.args = a,
            .in = a->w.shape[1],
            .outs = a->w.shape[0] / a->groups,
            .rows = a->w.shape[1] * a->w.shape[2] * a->w.shape[3],
            .window = {.source = &a->x,
                       .step = {a->stride[0], a->stride[1]},
                       .first = {-a->padding[0], -a->padding[1]},
                       .last = {(a->w.shape[2] - 1) * a->dilation[0] - a->padding[0],
                                (a->w.shape[3] - 1) * a->dilation[1] - a->padding[1]}}};
    plan(&d);
    return d;
}

hd_status conv_dw_shift(const hd_conv_args *a) {
    dw d = describe(a);
    const size_t bias_bytes = a->b.data ? sizeof(double) * (size_t)(d.parts * a->y.shape[1]) : 0;
    d.partial = hd_alloc(sizeof(float) * (size_t)(d.parts * partial_floats(&d)));
    d.a_row = hd_alloc(sizeof(int64_t) * 2 * (size_t)d.rows);
    d.bias = bias_bytes > 0 ? hd_alloc(bias_bytes) : NULL;
    hd_status status = HD_OK;
    if (d.partial && d.a_row && (d.bias || bias_bytes == 0)) {
        d.c_row = d.a_row + d.rows;
        set_rows(&d);
        if (d.bias)
            memset(d.bias, 0, bias_bytes);
        if (conv_blocks_count(&d.chunks) == 0) // no pixels: the sums are zero
            memset(d.partial, 0, sizeof(float) * (size_t)partial_floats(&d));
        status = run_all(&d);
    } else {
        status = no_memory();
    }
    hd_free(d.bias);
    hd_free(d.a_row);
    hd_free(d.partial);
    return status;
}
