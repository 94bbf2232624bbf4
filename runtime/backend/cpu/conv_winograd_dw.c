// backend/cpu/conv_winograd_dw.c: the weight gradient of convolutions of stride 1 by Winograd's method, for any form.
// Layer: backend. Calls: gemm.h, conv_winograd.h. Called by: conv.c. Used where x and y are channels-last.
//
// dw = GT [sum over tiles of (BT x B) * (A dy AT)] G: per block of tiles the windows of x give planes [tiles, in], the
// tiles of dy planes [tiles, outs]; each pair's product over the tiles is added to the plane's sum [in, outs], and the
// sums are transformed to taps at the end.
// Threads: the blocks are dealt to `parts` partial sums and, where those are few, the input channels to `splits`; both
// numbers depend on the shapes alone. The partial sums are added pairwise, always in the same tree.
#include "backend/cpu/conv_winograd.h"

#include <string.h>

#define TASKS_WANTED 8
#define PARTIAL_BYTES ((int64_t)32 << 20) // of all partial sums together
#define CHEAP_BYTES ((int64_t)4 << 20)    // partial sums that cost little to combine, however few the blocks
#define PART_BLOCKS 4                     // least blocks of a part where they cost more
#define ROOM_BYTES ((int64_t)1 << 20)     // of the planes of one task: they stay in the second-level cache
#define LEAST_TILES 48                    // of a block: fewer would pass over the sums too often
#define MOST_TILES CPU_DEPTH              // a block's sum is one chain
#define SPLIT 64                          // input channels come in groups of so many: each transforms dy anew
#define FINISH_ROWS 16                    // input channels whose sums one task transforms to taps

typedef struct {
    const wino_form *form;
    const hd_conv_args *args;
    int64_t planes;
    int64_t in, outs, width; // channels of x and of dy, and these in whole vectors
    wino_tiles tiles;
    int64_t block, blocks; // tiles of a block, number of blocks
    int64_t parts, splits;
    float *sums;        // [parts][planes] sums [in, width]
    int64_t pitch;      // from sum to sum
    double *bias;       // [parts][outs] sums of dy, or NULL
    conv_normed normed; // of x
    int64_t pixels;     // of x that a task holds normalised
} wino_dw;

static hd_status no_memory(void) { return hd_fail(HD_ENOMEM, "conv_dw: no memory for the workspace"); }

// What one task works in; all of it one piece of memory.
typedef struct {
    wino_planes x, dy;
    float *zeros;           // as many as channels of x or dy
    float *bias;            // [width] sums of one block of dy
    float *normed;          // [pixels, channels], where there is a norm
    int64_t *a_row, *c_row; // [channels]
} wino_room;

static size_t room_bytes(const wino_dw *d, int64_t channels) {
    return wino_planes_bytes(d->form, d->block, wino_width(channels)) + wino_planes_bytes(d->form, d->block, d->width) +
           sizeof(float) *
               (size_t)(cpu_max(wino_width(channels), d->width) + d->width + wino_width(d->pixels * channels)) +
           sizeof(int64_t) * 2 * (size_t)channels;
}

static wino_room lay_out(const wino_dw *d, int64_t channels, char *memory) {
    const int64_t width = wino_width(channels), zeros = cpu_max(width, d->width);
    wino_room room = {.x = {(float *)memory, width, wino_pitch(d->block, width)}};
    memory += wino_planes_bytes(d->form, d->block, width);
    room.dy = (wino_planes){(float *)memory, d->width, wino_pitch(d->block, d->width)};
    room.zeros = (float *)(memory + wino_planes_bytes(d->form, d->block, d->width));
    memset(room.zeros, 0, sizeof(float) * (size_t)zeros);
    room.bias = room.zeros + zeros;
    room.normed = room.bias + d->width;
    room.a_row = (int64_t *)(room.normed + wino_width(d->pixels * channels));
    room.c_row = room.a_row + channels;
    for (int64_t i = 0; i < channels; i++) {
        room.a_row[i] = i;
        room.c_row[i] = i * d->width;
    }
    return room;
}

// sums (+)= the products of one block, whose planes are there. `sums` begins at the task's first input channel.
static void add_block(const wino_dw *d, const wino_room *room, int64_t tiles, int64_t channels, float *sums, bool add) {
    const cpu_segment segment = {0, tiles};
    cpu_panels b = {.k = tiles, .n = d->width, .ld = d->width};
    cpu_product p = {.rows = channels,
                     .a_row = room->a_row,
                     .a_step = room->x.width,
                     .segments = &segment,
                     .segment_count = 1,
                     .b = &b,
                     .c_row = room->c_row,
                     .c_step = 1,
                     .add = add};
    for (int64_t plane = 0; plane < d->planes; plane++) {
        p.a = room->x.data + plane * room->x.pitch;
        b.data = room->dy.data + plane * room->dy.pitch;
        p.c = sums + plane * d->pitch;
        cpu_product_run(&p, 0, cpu_panel_count(d->width));
    }
}

// dy's planes of one block, and its sums into those of the part where `bias` is set.
static void transform_dy(const wino_dw *d, const wino_room *room, int64_t tile, int64_t tiles, double *bias) {
    const wino_run dy = {&d->args->y, {0}, &d->tiles, tile, tiles, 0, d->outs};
    memset(room->bias, 0, sizeof(float) * (size_t)d->width);
    d->form->gradient(&dy, &room->dy, room->zeros, bias ? room->bias : NULL);
    for (int64_t k = 0; bias && k < d->outs; k++)
        bias[k] += (double)room->bias[k];
}

// All blocks of one part, input channels first..last-1.
static hd_status run_task(const wino_dw *d, int64_t part, int64_t first, int64_t last) {
    char *memory = hd_alloc(room_bytes(d, last - first));
    if (!memory)
        return HD_ENOMEM;
    const hd_conv_args *a = d->args;
    const wino_room room = lay_out(d, last - first, memory);
    const int64_t begin = d->blocks * part / d->parts, end = d->blocks * (part + 1) / d->parts;
    float *sums = d->sums + part * d->planes * d->pitch + first * d->width;
    double *bias = d->bias && first == 0 ? d->bias + part * d->outs : NULL;
    for (int64_t block = begin; block < end; block++) {
        const int64_t tile = block * d->block, tiles = cpu_min(d->block, d->tiles.count - tile);
        const wino_run x = {&a->x, {a->padding[0], a->padding[1]}, &d->tiles, tile, tiles, first, last - first};
        wino_input(d->form, &d->normed, &x, &room.x, room.zeros, room.normed);
        transform_dy(d, &room, tile, tiles, bias);
        add_block(d, &room, tiles, last - first, sums, block > begin);
    }
    hd_free(memory);
    return HD_OK;
}

// Partial sums -----------------------------------------------------------------------------------------------------

// Input channels first..last-1 of all partial sums, added pairwise into the first.
static void combine(const wino_dw *d, int64_t first, int64_t last) {
    for (int64_t plane = 0; plane < d->planes; plane++)
        for (int64_t apart = 1; apart < d->parts; apart *= 2)
            for (int64_t p = 0; p + apart < d->parts; p += 2 * apart) {
                float *to = d->sums + (p * d->planes + plane) * d->pitch;
                const float *from = to + apart * d->planes * d->pitch;
                for (int64_t e = first * d->width; e < last * d->width; e += VF_LANES)
                    vf_store(to + e, vf_load(to + e) + vf_load(from + e));
            }
}

// The sums of input channel c to its taps.
static void finish_channel(const wino_dw *d, int64_t c) {
    const hd_view *w = &d->args->w;
    const int64_t strides[] = {w->strides[0], w->strides[2], w->strides[3]};
    d->form->finish(d->sums + c * d->width, d->pitch, (float *)w->data + c * w->strides[1], strides, d->outs);
}

static void combine_bias(const wino_dw *d) {
    const hd_view *b = &d->args->b;
    for (int64_t k = 0; k < d->outs; k++) {
        double sum = 0;
        for (int64_t part = 0; part < d->parts; part++)
            sum += d->bias[part * d->outs + k];
        ((float *)b->data)[k * b->strides[0]] = (float)sum;
    }
}

static hd_status run_all(const wino_dw *d) {
    const int64_t groups = cpu_parts(d->in, SPLIT);
    bool failed = false;
    CPU_PARALLEL_FOR(task, d->parts * d->splits) {
        const int64_t split = task % d->splits, first = groups * split / d->splits * SPLIT;
        const int64_t last = cpu_min(d->in, groups * (split + 1) / d->splits * SPLIT);
        if (run_task(d, task / d->splits, first, last) != HD_OK)
            __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
    }
    if (failed)
        return no_memory();
    CPU_PARALLEL_FOR(task, cpu_parts(d->in, FINISH_ROWS)) {
        const int64_t first = task * FINISH_ROWS, last = cpu_min(d->in, first + FINISH_ROWS);
        combine(d, first, last);
        for (int64_t c = first; c < last; c++)
            finish_channel(d, c);
    }
    if (d->bias)
        combine_bias(d);
    return HD_OK;
}

// How the work is cut: see the head of the file.
static void plan(wino_dw *d) {
    const int64_t tile_bytes = (int64_t)sizeof(float) * d->planes * (wino_width(d->in) + d->width);
    const int64_t most = cpu_max(LEAST_TILES, cpu_min(MOST_TILES, ROOM_BYTES / tile_bytes));
    d->pitch = d->in * d->width + WINO_LINE;
    d->tiles = wino_tiles_over(d->form, &d->args->y);
    d->blocks = cpu_parts(d->tiles.count, most);
    d->block = cpu_parts(d->tiles.count, d->blocks);
    const int64_t sums_bytes = (int64_t)sizeof(float) * d->planes * d->pitch;
    const int64_t worth = cpu_max(CHEAP_BYTES / sums_bytes, d->blocks / PART_BLOCKS);
    d->parts = cpu_min(cpu_min(TASKS_WANTED, d->blocks), cpu_min(PARTIAL_BYTES / sums_bytes, worth));
    d->parts = cpu_max(1, d->parts);
    d->splits = cpu_max(1, cpu_min(TASKS_WANTED / d->parts, d->in / SPLIT));
}

hd_status conv_dw_winograd(const wino_form *form, const hd_conv_args *a) {
    wino_dw d = {.form = form,
                 .planes = wino_plane_count(form),
                 .args = a,
                 .in = a->w.shape[1],
                 .outs = a->y.shape[1],
                 .width = wino_width(a->y.shape[1])};
    HD_CHECK(conv_normed_begin(a, &d.normed));
    plan(&d);
    d.pixels = wino_span_most(form, a, &d.tiles, d.block);
    const size_t bias_count = a->b.data ? (size_t)(d.parts * d.outs) : 0;
    d.sums = hd_alloc(sizeof(float) * (size_t)(d.parts * d.planes * d.pitch));
    d.bias = bias_count > 0 ? hd_calloc(bias_count, sizeof(double)) : NULL;
    hd_status status = d.sums && (d.bias || bias_count == 0) ? run_all(&d) : no_memory();
    hd_free(d.bias);
    hd_free(d.sums);
    conv_normed_end(&d.normed);
    return status;
}
