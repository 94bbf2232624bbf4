// backend/cpu/planes.h: how resizing and pooling of [n,c,h,w] are cut into tasks: one image and a block of channels
// each.
#ifndef HD_PLANES_H
#define HD_PLANES_H

#include "backend/cpu/cpu.h"

// Channels of one task: many where they are neighbours in memory, else one plane.
static inline int64_t plane_block(const hd_view *x, const hd_view *y) {
    return x->strides[1] == 1 && y->strides[1] == 1 ? 64 : 1;
}

typedef struct {
    int64_t n, c0, c; // image, first channel, number of channels
} plane_task;

static inline int64_t plane_tasks(const hd_view *x, int64_t block) {
    return x->shape[0] * ((x->shape[1] + block - 1) / block);
}

static inline plane_task plane_task_at(const hd_view *x, int64_t block, int64_t i) {
    const int64_t blocks = (x->shape[1] + block - 1) / block, c0 = i % blocks * block, left = x->shape[1] - c0;
    return (plane_task){i / blocks, c0, left < block ? left : block};
}

#endif
