// io/loader.h: batches of a picture set, gathered, flipped and converted by a thread of their own.
// The set is u8 [n,c,h,w] in memory. Epoch after epoch, without end: the order of an epoch is a permutation that
// depends on (seed, epoch) alone, a flip on (seed, epoch, picture) alone; the last short batch of an epoch is dropped.
// The position counts batches handed over, not batches prepared, so a run resumed from it sees the same batches.
#ifndef HD_LOADER_H
#define HD_LOADER_H

#include "core/status.h"
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    const uint8_t *x;      // [n,c,h,w]; must outlive the loader, unchanged
    const int64_t *labels; // [n], or NULL
    int64_t n, c, h, w;
    int64_t batch; // pictures in a batch, 1 to n
    uint64_t seed;
    bool flip;    // mirror every other picture left to right
    bool shuffle; // false: the set's own order
    int prefetch; // batches prepared ahead; 0: no thread
} hd_loader_config;

typedef struct hd_loader hd_loader;

hd_status hd_loader_new(const hd_loader_config *config, hd_loader **out);
// The next batch: x as [batch,h,w,c] (channels last), values byte / 127.5 - 1; labels [batch], left alone where the set
// has none. Call from one thread.
hd_status hd_loader_next(hd_loader *l, float *x, int64_t *labels);
int64_t hd_loader_position(const hd_loader *l); // batches handed over
void hd_loader_seek(hd_loader *l, int64_t position);
void hd_loader_free(hd_loader *l); // stops and joins the thread; NULL is allowed

// The order of an epoch: a permutation of 0 .. n-1 (Fisher-Yates on Philox words).
void hd_loader_order(uint64_t seed, int64_t epoch, int64_t n, int64_t *order);
// Does picture i of the set appear mirrored in this epoch?
bool hd_loader_flips(uint64_t seed, int64_t epoch, int64_t i);

#endif
