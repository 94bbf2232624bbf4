// backend/cpu/conv.c: convolution and its input gradient by shifted products; which method computes what.
// Layer: backend. Calls: gemm.h, conv_winograd.c, conv_winograd_dw.c, conv_dw.c, conv_f64.c, conv_norm.c. Called by:
// the table. Layout: x [n,c,h,w], w [k,c/groups,r,s], y [n,k,oh,ow]; fastest with x and y channels-last.
//
// An output pixel is one row of a product: its row of A is what the kernel covers of the padded input, channels
// contiguous, so nothing is unrolled in memory ("implicit im2col"); B is the weights as [taps * channels, outputs].
// The input gradient is the same sum read the other way. Its pixels fall into stride x stride phases; within one phase
// the same taps of the kernel meet dy at the same relative places, so each phase is a convolution of dy with stride 1
// and a part of the kernel, transposed and flipped.
// Threads: blocks of pixels (and of columns, where there are few blocks) cut by shape; each writes its own outputs.
#include "backend/cpu/conv.h"
#include "backend/cpu/conv_winograd.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define TASKS_WANTED 32      // so that 16 threads share the work evenly
#define WINOGRAD_CHANNELS 16 // fewest of x and of y for Winograd's method

// Blocks and windows ----------------------------------------------------------------------------------------------

static void cut(conv_blocks *b, int d, int64_t size) {
    b->parts[d] = cpu_parts(b->count[d], cpu_max(1, cpu_min(size, b->count[d])));
    b->size[d] = cpu_parts(b->count[d], cpu_max(1, b->parts[d]));
}

conv_blocks conv_blocks_cut(int64_t images, int64_t rows, int64_t cols, int64_t pixels) {
    conv_blocks b = {.count = {images, rows, cols}};
    cut(&b, 2, pixels);
    cut(&b, 1, b.parts[2] > 1 ? 1 : pixels / cpu_max(1, cols));
    cut(&b, 0, b.parts[1] > 1 || b.parts[2] > 1 ? 1 : pixels / cpu_max(1, rows * cols));
    return b;
}

conv_block conv_block_at(const conv_blocks *b, int64_t i) {
    conv_block block;
    for (int d = 2; d >= 0; d--) {
        block.first[d] = i % b->parts[d] * b->size[d];
        block.count[d] = cpu_min(b->size[d], b->count[d] - block.first[d]);
        i /= b->parts[d];
    }
    return block;
}

// Rows (d = 0) or columns (d = 1) of the source that `count` output rows or columns need.
static int64_t reach(const conv_window *w, int d, int64_t count) {
    return (count - 1) * w->step[d] + w->last[d] - w->first[d] + 1;
}

void conv_window_set(conv_window *w, const conv_blocks *blocks) {
    const hd_view *x = w->source;
    const int64_t channels = x->shape[1];
    w->in_place = x->strides[1] == 1 || channels == 1;
    for (int d = 0; d < 2; d++)
        w->in_place =
            w->in_place && w->first[d] >= 0 && (blocks->count[d + 1] - 1) * w->step[d] + w->last[d] < x->shape[2 + d];
    w->pitch[2] = w->in_place ? x->strides[3] : channels;
    w->pitch[1] = w->in_place ? x->strides[2] : channels * reach(w, 1, blocks->size[2]);
    w->pitch[0] = w->in_place ? x->strides[0] : w->pitch[1] * reach(w, 0, blocks->size[1]);
}

int64_t conv_window_size(const conv_window *w, const conv_blocks *blocks) {
    return w->in_place ? 0 : w->pitch[0] * blocks->size[0];
}

// `cols` pixels of one source row, channels made contiguous.
static void copy_pixels(float *dst, const float *src, int64_t cols, int64_t channels, int64_t col_stride,
                        int64_t channel_stride) {
    if (channel_stride == 1 && col_stride == channels) {
        memcpy(dst, src, sizeof(float) * (size_t)(cols * channels));
    } else if (channel_stride == 1) {
        for (int64_t x = 0; x < cols; x++)
            memcpy(dst + x * channels, src + x * col_stride, sizeof(float) * (size_t)channels);
    } else {
        for (int64_t x0 = 0; x0 < cols; x0 += 16) // 16 pixels at a time: one cache line of each channel
            for (int64_t c = 0; c < channels; c++)
                for (int64_t x = x0; x < cpu_min(x0 + 16, cols); x++)
                    dst[x * channels + c] = src[x * col_stride + c * channel_stride];
    }
}

const float *conv_window_load(const conv_window *w, const conv_block *block, float *room) {
    const hd_view *s = w->source;
    const int64_t channels = s->shape[1], y0 = block->first[1] * w->step[0] + w->first[0];
    const int64_t x0 = block->first[2] * w->step[1] + w->first[1];
    const float *source = (const float *)s->data + block->first[0] * s->strides[0];
    if (w->in_place)
        return source + y0 * s->strides[2] + x0 * s->strides[3];
    const int64_t rows = reach(w, 0, block->count[1]), cols = reach(w, 1, block->count[2]);
    const int64_t left = cpu_min(cols, cpu_max(0, -x0));                       // columns before the source's first
    const int64_t inside = cpu_max(0, cpu_min(cols, s->shape[3] - x0) - left); // columns in the source
    for (int64_t n = 0; n < block->count[0]; n++)
        for (int64_t y = 0; y < rows; y++) {
            float *dst = room + n * w->pitch[0] + y * w->pitch[1];
            const bool empty = y0 + y < 0 || y0 + y >= s->shape[2];
            const int64_t copied = empty ? 0 : inside, before = empty ? 0 : left, after = cols - before - copied;
            memset(dst, 0, sizeof(float) * (size_t)(before * channels));
            if (copied > 0)
                copy_pixels(dst + before * channels,
                            source + n * s->strides[0] + (y0 + y) * s->strides[2] + (x0 + before) * s->strides[3],
                            copied, channels, s->strides[3], s->strides[1]);
            memset(dst + (before + copied) * channels, 0, sizeof(float) * (size_t)(after * channels));
        }
    return room;
}

// Shifted products ------------------------------------------------------------------------------------------------

// out[o0 + g * o_step] = sum over taps of source[g * step + tap] * weights[kernel index], g on a grid.
typedef struct {
    conv_window window;
    hd_view out;
    int64_t grid[2], out_first[2], out_step[2];
    int64_t taps[2];                             // how many in each dimension
    int64_t *tap[2];                             // where each meets the source, ascending
    int64_t *kernel[2];                          // its index in the kernel
    const hd_view *weights;                      // [k, c/groups, r, s]
    int64_t in, outs;                            // channels of source and of out in one group
    int64_t in_stride, out_stride, group_stride; // of the weights: along in, along outs, from group to group
    int64_t groups;
    const float *bias; // dense, or NULL
    bool add;          // to out, instead of writing it; not depthwise
    bool dots;         // few outputs: inner products along the channels instead of tiles
    bool depthwise;    // one channel and one output in each group, neighbours in memory: all groups at once
    // Set by shift_run:
    conv_blocks blocks;
    cpu_segment *segments;
    int64_t segment_count;
    float *packed; // one packed matrix per group
} shift;

static hd_status no_memory(void) { return hd_fail(HD_ENOMEM, "conv: no memory for the workspace"); }

// Of the packed weights of one group: panels, or [outs, taps * in] for inner products.
static size_t group_floats(const shift *s) {
    if (s->dots)
        return (size_t)(s->taps[0] * s->taps[1] * s->in * s->outs);
    return cpu_panel_bytes(s->taps[0] * s->taps[1] * s->in, s->outs) / sizeof(float);
}

// One panel of one group: the taps one below the other, each [in, panel width].
static void pack_weights(const shift *s, int64_t group, int64_t panel) {
    const hd_view *w = s->weights;
    const int64_t col = panel * CPU_PANEL, width = cpu_panel_width(s->outs, panel);
    float *dst = s->packed + (size_t)group * group_floats(s) + col * s->taps[0] * s->taps[1] * s->in;
    const float *src = (const float *)w->data + group * s->group_stride + col * s->out_stride;
    for (int64_t i = 0; i < s->taps[0]; i++)
        for (int64_t j = 0; j < s->taps[1]; j++, dst += s->in * width)
            cpu_pack_rows(dst, width, src + s->kernel[0][i] * w->strides[2] + s->kernel[1][j] * w->strides[3], s->in,
                          cpu_min(width, s->outs - col), s->in_stride, s->out_stride);
}

static void pack_weights_dots(const shift *s, int64_t group) {
    const hd_view *w = s->weights;
    const int64_t taps = s->taps[0] * s->taps[1];
    float *dst = s->packed + (size_t)group * group_floats(s);
    for (int64_t k = 0; k < s->outs; k++)
        for (int64_t t = 0; t < taps; t++, dst += s->in)
            cpu_pack_rows(dst, 1,
                          (const float *)w->data + group * s->group_stride + k * s->out_stride +
                              s->kernel[0][t / s->taps[1]] * w->strides[2] +
                              s->kernel[1][t % s->taps[1]] * w->strides[3],
                          s->in, 1, s->in_stride, 1);
}

// Where the taps lie relative to a row's start; neighbours in memory become one segment.
static void set_segments(shift *s) {
    s->segment_count = 0;
    for (int64_t i = 0; i < s->taps[0]; i++)
        for (int64_t j = 0; j < s->taps[1]; j++) {
            const int64_t offset =
                (s->tap[0][i] - s->tap[0][0]) * s->window.pitch[1] + (s->tap[1][j] - s->tap[1][0]) * s->window.pitch[2];
            cpu_segment *last = s->segment_count > 0 ? s->segments + s->segment_count - 1 : NULL;
            if (last && !s->depthwise && last->offset + last->length == offset && last->length + s->in <= CPU_DEPTH)
                last->length += s->in;
            else
                for (int64_t c = 0; c < s->in; c += CPU_DEPTH)
                    s->segments[s->segment_count++] = (cpu_segment){offset + c, cpu_min(CPU_DEPTH, s->in - c)};
        }
}

// All weights of a depthwise convolution: [taps, groups].
static void pack_weights_depthwise(const shift *s) {
    const hd_view *w = s->weights;
    const int64_t taps = s->taps[0] * s->taps[1];
    for (int64_t t = 0; t < taps; t++)
        cpu_pack_rows(s->packed + t * s->groups, s->groups,
                      (const float *)w->data + s->kernel[0][t / s->taps[1]] * w->strides[2] +
                          s->kernel[1][t % s->taps[1]] * w->strides[3],
                      1, s->groups, 0, s->group_stride);
}

// One block of pixels, all groups, panels first..last-1.
static void shift_block(const shift *s, const conv_block *block, int64_t first, int64_t last, int64_t *rows,
                        float *room) {
    const int64_t pixels = block->count[0] * block->count[1] * block->count[2];
    const hd_view *out = &s->out;
    const float *source = conv_window_load(&s->window, block, room);
    int64_t *a_row = rows, *c_row = rows + pixels, i = 0;
    for (int64_t n = 0; n < block->count[0]; n++)
        for (int64_t y = 0; y < block->count[1]; y++)
            for (int64_t x = 0; x < block->count[2]; x++, i++) {
                a_row[i] = n * s->window.pitch[0] + y * s->window.step[0] * s->window.pitch[1] +
                           x * s->window.step[1] * s->window.pitch[2];
                c_row[i] = (block->first[0] + n) * out->strides[0] +
                           (s->out_first[0] + (block->first[1] + y) * s->out_step[0]) * out->strides[2] +
                           (s->out_first[1] + (block->first[2] + x) * s->out_step[1]) * out->strides[3];
            }
    if (s->depthwise) {
        const cpu_panels b = {s->packed, s->taps[0] * s->taps[1], s->groups, s->groups};
        conv_depthwise_run(&(cpu_product){.rows = pixels,
                                          .a = source,
                                          .a_row = a_row,
                                          .segments = s->segments,
                                          .segment_count = s->segment_count,
                                          .b = &b,
                                          .c = out->data,
                                          .c_row = c_row,
                                          .bias = s->bias});
        return;
    }
    for (int64_t g = 0; g < s->groups; g++) {
        const cpu_panels b = {s->packed + (size_t)g * group_floats(s), s->taps[0] * s->taps[1] * s->in, s->outs, 0};
        const cpu_product p = {.rows = pixels,
                               .a = source + g * s->in,
                               .a_row = a_row,
                               .a_step = 1,
                               .segments = s->segments,
                               .segment_count = s->segment_count,
                               .b = &b,
                               .c = (float *)out->data + g * s->outs * out->strides[1],
                               .c_row = c_row,
                               .c_step = out->strides[1],
                               .bias = s->bias ? s->bias + g * s->outs : NULL,
                               .add = s->add};
        if (s->dots)
            cpu_dots_run(&p);
        else
            cpu_product_run(&p, first, last);
    }
}

static hd_status shift_tasks(const shift *s) {
    const int64_t panels = cpu_panel_count(s->outs), blocks = conv_blocks_count(&s->blocks);
    const int64_t splits = cpu_min(panels, cpu_parts(TASKS_WANTED, cpu_max(1, blocks)));
    const size_t row_bytes = sizeof(int64_t) * 2 * (size_t)(s->blocks.size[0] * s->blocks.size[1] * s->blocks.size[2]);
    const size_t bytes = row_bytes + sizeof(float) * (size_t)conv_window_size(&s->window, &s->blocks);
    bool failed = false;
    CPU_PARALLEL_FOR(task, blocks * splits) {
        const conv_block block = conv_block_at(&s->blocks, task / splits);
        const int64_t split = task % splits;
        char *room = hd_alloc(bytes);
        if (room)
            shift_block(s, &block, panels * split / splits, panels * (split + 1) / splits, (int64_t *)room,
                        (float *)(room + row_bytes));
        else
            __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
        hd_free(room);
    }
    return failed ? no_memory() : HD_OK;
}

static hd_status shift_run(shift *s) {
    const int64_t channels = s->window.source->shape[1], taps = s->taps[0] * s->taps[1];
    const int64_t panels = cpu_panel_count(s->outs);
    for (int d = 0; d < 2; d++) {
        s->window.first[d] = s->taps[d] > 0 ? s->tap[d][0] : 0;
        s->window.last[d] = s->taps[d] > 0 ? s->tap[d][s->taps[d] - 1] : 0;
    }
    s->dots = s->outs <= CPU_DOTS && s->in % VF_LANES == 0;
    s->depthwise = s->in == 1 && s->outs == 1 && s->groups > 1 && s->out.strides[1] == 1;
    // A window of about 128 KiB stays in the second-level cache while the panels of the weights pass by.
    s->blocks = conv_blocks_cut(s->window.source->shape[0], s->grid[0], s->grid[1],
                                cpu_max(128, cpu_min(512, 32768 / cpu_max(1, channels))));
    conv_window_set(&s->window, &s->blocks);
    s->packed = hd_alloc(sizeof(float) * group_floats(s) * (size_t)s->groups);
    s->segments = hd_alloc(sizeof(cpu_segment) * (size_t)(taps * cpu_parts(s->in, CPU_DEPTH)));
    hd_status status = HD_OK;
    if (s->packed && s->segments) {
        set_segments(s);
        CPU_PARALLEL_FOR(i, s->depthwise ? 1 : s->groups * panels) {
            if (s->depthwise)
                pack_weights_depthwise(s);
            else if (s->dots)
                pack_weights_dots(s, i);
            else
                pack_weights(s, i / panels, i % panels);
        }
        status = shift_tasks(s);
    } else {
        status = no_memory();
    }
    hd_free(s->segments);
    hd_free(s->packed);
    return status;
}

// Room for the taps of both dimensions; freed through *taps.
static hd_status alloc_taps(shift *s, int64_t **taps) {
    const int64_t r = s->weights->shape[2], n = r + s->weights->shape[3];
    *taps = hd_alloc(sizeof(int64_t) * 2 * (size_t)n);
    if (!*taps)
        return no_memory();
    s->tap[0] = *taps, s->tap[1] = *taps + r;
    s->kernel[0] = *taps + n, s->kernel[1] = *taps + n + r;
    return HD_OK;
}

static hd_status conv_shift(const hd_conv_args *a, const float *bias) {
    shift s = {.window = {.source = &a->x, .step = {a->stride[0], a->stride[1]}},
               .out = a->y,
               .grid = {a->y.shape[2], a->y.shape[3]},
               .out_step = {1, 1},
               .taps = {a->w.shape[2], a->w.shape[3]},
               .weights = &a->w,
               .in = a->w.shape[1],
               .outs = a->w.shape[0] / a->groups,
               .in_stride = a->w.strides[1],
               .out_stride = a->w.strides[0],
               .group_stride = a->w.shape[0] / a->groups * a->w.strides[0],
               .groups = a->groups,
               .bias = bias,
               .add = a->add.data};
    int64_t *taps;
    HD_CHECK(alloc_taps(&s, &taps));
    for (int d = 0; d < 2; d++)
        for (int64_t r = 0; r < s.taps[d]; r++) {
            s.tap[d][r] = r * a->dilation[d] - a->padding[d];
            s.kernel[d][r] = r;
        }
    hd_status status = shift_run(&s);
    hd_free(taps);
    return status;
}

// The pixels of dx whose row is phase[0] and whose column is phase[1] modulo the stride.
static hd_status dx_phase(shift *s, const hd_conv_args *a, const int64_t phase[2]) {
    for (int d = 0; d < 2; d++) {
        s->out_first[d] = phase[d];
        s->grid[d] = cpu_parts(a->x.shape[2 + d] - phase[d], a->stride[d]);
        s->taps[d] = 0;
        for (int64_t r = a->w.shape[2 + d] - 1; r >= 0; r--) {
            const int64_t at = phase[d] + a->padding[d] - r * a->dilation[d]; // stride * (its row of dy)
            if (at % a->stride[d] != 0)
                continue;
            s->tap[d][s->taps[d]] = at / a->stride[d];
            s->kernel[d][s->taps[d]++] = r;
        }
    }
    return shift_run(s);
}

static hd_status conv_dx_shift(const hd_conv_args *a) {
    shift s = {.window = {.source = &a->y, .step = {1, 1}},
               .out = a->x,
               .out_step = {a->stride[0], a->stride[1]},
               .weights = &a->w,
               .in = a->w.shape[0] / a->groups,
               .outs = a->w.shape[1],
               .in_stride = a->w.strides[0],
               .out_stride = a->w.strides[1],
               .group_stride = a->w.shape[0] / a->groups * a->w.strides[0],
               .groups = a->groups};
    int64_t *taps;
    HD_CHECK(alloc_taps(&s, &taps));
    hd_status status = HD_OK;
    for (int64_t i = 0; i < a->stride[0] && i < a->x.shape[2] && status == HD_OK; i++)
        for (int64_t j = 0; j < a->stride[1] && j < a->x.shape[3] && status == HD_OK; j++)
            status = dx_phase(&s, a, (int64_t[]){i, j});
    hd_free(taps);
    return status;
}

// The entries: which method -----------------------------------------------------------------------------------------

// HDLUA_CONV=shift: shifted products everywhere, for comparison. HDLUA_CONV=winograd or unset: the faster method.
static bool winograd_wanted;

static void choose(void) {
    const char *choice = getenv("HDLUA_CONV");
    winograd_wanted = !choice || strcmp(choice, "shift") != 0;
}

// Is there a form of Winograd's method for x, y and stride? From 16 channels on its products outweigh its transforms.
static bool winograd_fits(const hd_conv_args *a) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    const int64_t channels = a->w.shape[1]; // of x, and of what is joined to it
    pthread_once(&once, choose);
    bool fits = winograd_wanted && a->groups == 1 && a->x.shape[0] > 0 && channels >= WINOGRAD_CHANNELS &&
                a->y.shape[1] >= WINOGRAD_CHANNELS && a->x.strides[1] == 1 && a->y.strides[1] == 1;
    for (int d = 0; d < 2; d++)
        fits = fits && a->stride[d] == 1 && a->dilation[d] == 1 && a->padding[d] < a->w.shape[2 + d];
    return fits;
}

// The form of Winograd's method with the fewest products for one image, or NULL where none saves a third of the plain
// ones. tiled: what is cut into tiles, y or dx. Of equals the smaller form, whose transforms are cheaper: 3x3 on images
// of 5x5 and 6x6 is quickest with tiles of 2x2, on 4x4 and from 7x7 on with 4x4 (measured).
static const wino_form *winograd_form(const hd_conv_args *a, const hd_view *tiled) {
    static const wino_form *const forms[] = {&wino_2x2_3x3, &wino_4x4_3x3, &wino_1x4_1x5, &wino_1x2_1x3, &wino_1x4_1x3};
    const int64_t rows = a->w.shape[2], cols = a->w.shape[3];
    const int64_t pixels = tiled->shape[2] * tiled->shape[3];
    int64_t fewest = 2 * rows * cols * pixels / 3 + 1;
    const wino_form *best = NULL;
    if (!winograd_fits(a) || pixels == 0)
        return NULL;
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        const wino_form *f = forms[i];
        const int64_t products =
            wino_plane_count(f) * cpu_parts(tiled->shape[2], f->rows->tile) * cpu_parts(tiled->shape[3], f->cols->tile);
        if (f->rows->taps == rows && f->cols->taps == cols && (f->strict || !hd_accuracy_strict) && products < fewest) {
            fewest = products;
            best = f;
        }
    }
    return best;
}

// Is a->add added where the results are written? Shifted products add to y alone.
static bool adds_itself(const hd_conv_args *a) {
    if (a->y.dtype == HD_F64)
        return true;
    return winograd_form(a, &a->y) ? a->add.strides[1] == 1 : a->add.data == a->y.data;
}

static hd_status conv_f32(const hd_conv_args *a, const float *bias) {
    const wino_form *form = winograd_form(a, &a->y);
    return form ? conv_winograd(form, a, bias) : conv_shift(a, bias);
}

static hd_status conv_any(const hd_conv_args *a) {
    if (a->x.dtype == HD_F64)
        return conv_f64(a);
    if (!a->b.data || a->b.strides[0] == 1)
        return conv_f32(a, a->b.data);
    float *bias = hd_alloc(sizeof(float) * (size_t)a->b.shape[0]);
    if (!bias)
        return no_memory();
    for (int64_t k = 0; k < a->b.shape[0]; k++)
        bias[k] = ((const float *)a->b.data)[k * a->b.strides[0]];
    hd_status status = conv_f32(a, bias);
    hd_free(bias);
    return status;
}

// Has the input to be normalised as a whole, before?
static bool norm_comes_first(const hd_conv_args *a) {
    return a->norm && (a->x.dtype == HD_F64 || !winograd_form(a, &a->y));
}

hd_status cpu_conv(const hd_conv_args *a) {
    if (norm_comes_first(a))
        return conv_after_norm(a, cpu_conv);
    if (!a->add.data || adds_itself(a))
        return conv_any(a);
    hd_conv_args bare = *a;
    bare.add.data = NULL;
    HD_CHECK(conv_any(&bare));
    return cpu_binary(&(hd_binary_args){HD_ADD, a->y, a->add, a->y});
}

hd_status cpu_conv_dx(const hd_conv_args *a) {
    if (a->x.dtype == HD_F64)
        return conv_dx_f64(a);
    const wino_form *form = winograd_form(a, &a->x);
    return form ? conv_dx_winograd(form, a) : conv_dx_shift(a);
}

hd_status cpu_conv_dw(const hd_conv_args *a) {
    if (norm_comes_first(a))
        return conv_after_norm(a, cpu_conv_dw);
    if (a->x.dtype == HD_F64)
        return conv_dw_f64(a);
    const wino_form *form = winograd_form(a, &a->y);
    return form ? conv_dw_winograd(form, a) : conv_dw_shift(a);
}
