// backend/cpu/conv_winograd.c: convolution of stride 1 and its input gradient by Winograd's method, for any form.
// Layer: backend. Calls: gemm.h, conv_winograd.h. Called by: conv.c. Used where x and y are channels-last.
//
// Per block of tiles: transform the windows to planes [tiles, in], multiply each plane by its transformed weights
// [in, outs], transform the results [tiles, outs] back to pixels and add bias and `add`. The input gradient is the same
// convolution of dy with the weights transposed and turned by 180 degrees, and with padding taps - 1 - p.
// Threads: blocks of tiles (and panels of outputs, where there are few blocks) cut by shape; each writes its own
// outputs. The weights are transformed once per call, in parallel over their panels.
#include "backend/cpu/conv_winograd.h"

#include <string.h>

#define TASKS_WANTED 8
#define MOST_TASKS 64                 // runs of blocks
#define ROOM_BYTES ((int64_t)1 << 20) // of the planes of one task: they stay in the second-level cache
#define LEAST_TILES 24                // of a block: fewer would read the weights too often
#define MOST_TILES 60
#define TILE_ROWS 6 // of the product's tiles: blocks are multiples of it

typedef struct {
    const wino_form *form;
    const hd_view *source, *out; // [n,in,h,w], [n,outs,oh,ow]
    int64_t padding[2];
    int64_t in, outs;
    const float *weights; // of tap (0, 0), in 0, out 0
    int64_t tap_stride[2], in_stride, out_stride;
    const float *bias;  // dense, or NULL
    const hd_view *add; // of out's shape, channels contiguous, or NULL
    conv_normed normed; // of the source
    // Set by plan:
    wino_tiles tiles;
    int64_t block, blocks;  // tiles of a block, number of blocks
    int64_t splits;         // tasks that share the panels of one block
    int64_t panels_at_once; // whose planes a task holds
    int64_t normed_floats;  // of the source that a task holds normalised
    float *packed;          // one packed matrix [in, outs] per plane, packed_pitch apart
    int64_t packed_pitch;
} wino;

static hd_status no_memory(void) { return hd_fail(HD_ENOMEM, "conv: no memory for the workspace"); }

// Input -------------------------------------------------------------------------------------------------------------

// Pixels first..last-1 of a view [n,c,h,w], counted through all images.
typedef struct {
    int64_t first, last;
} span;

// Those among which the windows of some tiles lie: whole rows, or in one dimension the windows alone.
static span span_of(const wino_form *form, const wino_run *r) {
    const int64_t h = r->view->shape[2], w = r->view->shape[3], cols = r->tiles->cols, image = r->tiles->rows * cols;
    const int64_t end = r->first + r->count - 1; // the last tile
    const int64_t top = r->first % image / cols * form->rows->tile - r->padding[0];
    const int64_t bottom = end % image / cols * form->rows->tile - r->padding[0] + form->rows->window;
    span s = {(r->first / image * h + cpu_max(0, top)) * w, (end / image * h + cpu_min(h, bottom)) * w};
    if (form->rows->window == 1) {
        s.first += cpu_max(0, r->first % cols * form->cols->tile - r->padding[1]);
        s.last -= cpu_max(0, w - (end % cols * form->cols->tile - r->padding[1] + form->cols->window));
    }
    return s;
}

int64_t wino_span_most(const wino_form *form, const hd_conv_args *a, const wino_tiles *tiles, int64_t block) {
    int64_t most = 0;
    for (int64_t tile = 0; a->norm && tile < tiles->count; tile += block) {
        const span s = span_of(
            form,
            &(wino_run){&a->x, {a->padding[0], a->padding[1]}, tiles, tile, cpu_min(block, tiles->count - tile), 0, 0});
        most = cpu_max(most, s.last - s.first);
    }
    return most;
}

void wino_input(const wino_form *form, const conv_normed *x, const wino_run *r, const wino_planes *planes,
                const float *zeros, float *room) {
    if (!x->scale) {
        form->input(r, planes, zeros);
        return;
    }
    const span s = span_of(form, r);
    const int64_t h = r->view->shape[2], w = r->view->shape[3], c = r->channels;
    conv_normed_pixels(x, s.first, s.last, r->channel, c, room);
    hd_view view = *r->view; // of all pixels, of which only the span's are there
    view.data = (void *)((uintptr_t)room - (uintptr_t)(s.first * c) * sizeof(float));
    view.strides[0] = h * w * c, view.strides[2] = w * c, view.strides[3] = c;
    wino_run run = *r;
    run.view = &view;
    run.channel = 0;
    form->input(&run, planes, zeros);
}

// Weights ----------------------------------------------------------------------------------------------------------

// taps[t][i * VF_LANES + l] = tap t of input channel i, output l; zeros for the outputs that are not there. Tap by tap
// within a channel, since that is how weights lie in memory.
static void gather_taps(const wino *w, float taps[][WINO_WEIGHT_ROWS * VF_LANES], const float *src, int64_t count,
                        int64_t outs) {
    const int cols = w->form->cols->taps, n = w->form->rows->taps * cols;
    int64_t offset[WINO_MOST_TAPS];
    for (int t = 0; t < n; t++)
        offset[t] = t / cols * w->tap_stride[0] + t % cols * w->tap_stride[1];
    for (int64_t l = 0; l < VF_LANES; l++)
        for (int64_t i = 0; i < count; i++) {
            const float *from = src + i * w->in_stride + l * w->out_stride;
            for (int t = 0; t < n; t++)
                taps[t][i * VF_LANES + l] = l < outs ? from[offset[t]] : 0.0f;
        }
}

// The weights of `count` (at most WINO_WEIGHT_ROWS) input channels and one panel of outputs.
static void transform_weights(const wino *w, int64_t panel, int64_t first, int64_t count) {
    float taps[WINO_MOST_TAPS][WINO_WEIGHT_ROWS * VF_LANES] __attribute__((aligned(64)));
    const int64_t col = panel * CPU_PANEL, width = cpu_panel_width(w->outs, panel);
    const float *src = w->weights + first * w->in_stride + col * w->out_stride;
    float *to = w->packed + col * w->in + first * width;
    for (int64_t j = 0; j < width; j += VF_LANES) {
        gather_taps(w, taps, src + j * w->out_stride, count, w->outs - col - j);
        w->form->weights(taps, count, to + j, width, w->packed_pitch);
    }
}

// Blocks -----------------------------------------------------------------------------------------------------------

// What one task works in; all of it one piece of memory.
typedef struct {
    wino_planes source, result;
    float *zeros;           // [in]
    float *normed;          // [pixels, in], where there is a norm
    int64_t *a_row, *c_row; // [block]
    cpu_segment *segments;
    int64_t segment_count;
} wino_room;

static size_t room_bytes(const wino *w) {
    const int64_t in = wino_width(w->in), outs = cpu_min(wino_width(w->outs), w->panels_at_once * CPU_PANEL);
    return wino_planes_bytes(w->form, w->block, in) + wino_planes_bytes(w->form, w->block, outs) +
           sizeof(float) * (size_t)(in + w->normed_floats) + sizeof(int64_t) * 2 * (size_t)w->block +
           sizeof(cpu_segment) * (size_t)cpu_parts(w->in, CPU_DEPTH);
}

static wino_room lay_out(const wino *w, char *memory) {
    const int64_t in = wino_width(w->in), outs = cpu_min(wino_width(w->outs), w->panels_at_once * CPU_PANEL);
    wino_room room = {.source = {(float *)memory, in, wino_pitch(w->block, in)}};
    memory += wino_planes_bytes(w->form, w->block, in);
    room.result = (wino_planes){(float *)memory, outs, wino_pitch(w->block, outs)};
    room.zeros = (float *)(memory + wino_planes_bytes(w->form, w->block, outs));
    memset(room.zeros, 0, sizeof(float) * (size_t)in);
    room.normed = room.zeros + in;
    room.a_row = (int64_t *)(room.normed + w->normed_floats);
    room.c_row = room.a_row + w->block;
    room.segments = (cpu_segment *)(room.c_row + w->block);
    for (int64_t i = 0; i < w->block; i++) {
        room.a_row[i] = i * in;
        room.c_row[i] = i * outs;
    }
    for (int64_t c = 0; c < w->in; c += CPU_DEPTH)
        room.segments[room.segment_count++] = (cpu_segment){c, cpu_min(CPU_DEPTH, w->in - c)};
    return room;
}

// Panels first..last-1 of the outputs of `tiles` tiles, whose source planes are there.
static void multiply(const wino *w, const wino_room *room, int64_t tiles, int64_t first, int64_t last) {
    const int64_t planes = wino_plane_count(w->form), col = first * CPU_PANEL;
    cpu_panels b = {.k = w->in, .n = cpu_min(wino_width(w->outs), last * CPU_PANEL) - col};
    cpu_product p = {.rows = tiles,
                     .a_row = room->a_row,
                     .a_step = 1,
                     .segments = room->segments,
                     .segment_count = room->segment_count,
                     .b = &b,
                     .c_row = room->c_row,
                     .c_step = 1};
    for (int64_t plane = 0; plane < planes; plane++) {
        p.a = room->source.data + plane * room->source.pitch;
        b.data = w->packed + plane * w->packed_pitch + col * w->in;
        p.c = room->result.data + plane * room->result.pitch;
        cpu_product_run(&p, 0, last - first);
    }
}

// One block of tiles, panels first..last-1 of the outputs.
static void run_block(const wino *w, const wino_room *room, int64_t block, int64_t first, int64_t last) {
    const int64_t tile = block * w->block, tiles = cpu_min(w->block, w->tiles.count - tile);
    const wino_run source = {w->source, {w->padding[0], w->padding[1]}, &w->tiles, tile, tiles, 0, w->in};
    wino_input(w->form, &w->normed, &source, &room->source, room->zeros, room->normed);
    for (int64_t panel = first; panel < last; panel += w->panels_at_once) {
        const int64_t end = cpu_min(last, panel + w->panels_at_once), channel = panel * CPU_PANEL;
        multiply(w, room, tiles, panel, end);
        const wino_run out = {
            w->out, {0}, &w->tiles, tile, tiles, channel, cpu_min(w->outs, end * CPU_PANEL) - channel};
        w->form->output(&out, &room->result, w->bias ? w->bias + channel : NULL, w->add);
    }
}

static hd_status run_tasks(const wino *w) {
    const int64_t panels = cpu_panel_count(w->outs), runs = cpu_min(w->blocks, MOST_TASKS);
    const size_t bytes = room_bytes(w);
    bool failed = false;
    CPU_PARALLEL_FOR(task, runs * w->splits) {
        const int64_t run = task / w->splits, split = task % w->splits, end = w->blocks * (run + 1) / runs;
        char *memory = hd_alloc(bytes);
        if (memory) {
            const wino_room room = lay_out(w, memory);
            for (int64_t block = w->blocks * run / runs; block < end; block++)
                run_block(w, &room, block, panels * split / w->splits, panels * (split + 1) / w->splits);
        } else {
            __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
        }
        hd_free(memory);
    }
    return failed ? no_memory() : HD_OK;
}

static void plan(wino *w) {
    const int64_t in = wino_width(w->in), outs = wino_width(w->outs), panels = cpu_panel_count(w->outs);
    w->tiles = wino_tiles_over(w->form, w->out);
    w->panels_at_once = 2;
    const int64_t tile_bytes =
        (int64_t)sizeof(float) * wino_plane_count(w->form) * (in + cpu_min(outs, w->panels_at_once * CPU_PANEL));
    const int64_t most = cpu_max(LEAST_TILES, cpu_min(MOST_TILES, ROOM_BYTES / tile_bytes)) / TILE_ROWS * TILE_ROWS;
    const int64_t even = cpu_parts(w->tiles.count, cpu_parts(w->tiles.count, most));
    w->block = cpu_parts(even, TILE_ROWS) * TILE_ROWS;
    w->blocks = cpu_parts(w->tiles.count, w->block);
    const int64_t wanted = cpu_min(panels, cpu_parts(TASKS_WANTED, w->blocks));
    w->splits = cpu_parts(panels, cpu_parts(panels, wanted)); // as many panels in each
    w->packed_pitch = w->in * outs + WINO_LINE;
}

static hd_status run(wino *w) {
    w->packed = hd_alloc(sizeof(float) * (size_t)(wino_plane_count(w->form) * w->packed_pitch));
    if (!w->packed)
        return no_memory();
    const int64_t parts = cpu_parts(w->in, WINO_WEIGHT_ROWS);
    CPU_PARALLEL_FOR(i, cpu_panel_count(w->outs) * parts) {
        const int64_t first = i % parts * WINO_WEIGHT_ROWS;
        transform_weights(w, i / parts, first, cpu_min(WINO_WEIGHT_ROWS, w->in - first));
    }
    hd_status status = run_tasks(w);
    hd_free(w->packed);
    return status;
}

hd_status conv_winograd(const wino_form *form, const hd_conv_args *a, const float *bias) {
    wino w = {.form = form,
              .source = &a->x,
              .out = &a->y,
              .padding = {a->padding[0], a->padding[1]},
              .in = a->w.shape[1],
              .outs = a->y.shape[1],
              .weights = a->w.data,
              .tap_stride = {a->w.strides[2], a->w.strides[3]},
              .in_stride = a->w.strides[1],
              .out_stride = a->w.strides[0],
              .bias = bias,
              .add = a->add.data ? &a->add : NULL};
    HD_CHECK(conv_normed_begin(a, &w.normed));
    plan(&w);
    w.normed_floats = wino_width(wino_span_most(form, a, &w.tiles, w.block) * w.in);
    const hd_status status = run(&w);
    conv_normed_end(&w.normed);
    return status;
}

hd_status conv_dx_winograd(const wino_form *form, const hd_conv_args *a) {
    const int rows = form->rows->taps - 1, cols = form->cols->taps - 1;
    wino w = {.form = form,
              .source = &a->y,
              .out = &a->x,
              .padding = {rows - a->padding[0], cols - a->padding[1]},
              .in = a->y.shape[1],
              .outs = a->x.shape[1],
              .weights = (const float *)a->w.data + rows * a->w.strides[2] + cols * a->w.strides[3],
              .tap_stride = {-a->w.strides[2], -a->w.strides[3]},
              .in_stride = a->w.strides[0],
              .out_stride = a->w.strides[1]};
    plan(&w);
    return run(&w);
}
