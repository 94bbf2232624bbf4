// io/loader.c: the prefetching batch maker.
// Layer: io. Called by: bind_data.c.
// Threads: one worker, C only, that sees the set, its own buffers and nothing else. Batch b lies in slot b % slots; a
// slot belongs to the worker while b >= produced and to the consumer while consumed <= b < produced, so the data need
// no lock, only the two counters do.
#include "io/loader.h"
#include "core/alloc.h"
#include "core/rng.h"
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

enum { ORDER_STREAM = 0x6F726465, FLIP_STREAM = 0x666C6970 }; // "orde", "flip"

struct hd_loader {
    hd_loader_config config;
    int64_t item;      // elements of a picture
    float values[256]; // of each byte
    int64_t *order;    // of epoch `epoch`; the worker's
    int64_t epoch;     // -1: none yet
    int slots;         // >= 1
    float *x;          // [slots, batch, h, w, c]
    int64_t *labels;   // [slots, batch]
    int64_t produced, consumed;
    bool running, stop;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
};

// Order ----------------------------------------------------------------------

void hd_loader_order(uint64_t seed, int64_t epoch, int64_t n, int64_t *order) {
    uint64_t stream = hd_rng_mix(ORDER_STREAM, (uint64_t)epoch);
    for (int64_t i = 0; i < n; i++)
        order[i] = i;
    for (int64_t i = n - 1; i > 0; i--) {
        uint32_t word[4];
        hd_philox(seed, stream, (uint64_t)i, word);
        uint64_t bits = (uint64_t)word[1] << 32 | word[0];
        int64_t j = (int64_t)((unsigned __int128)bits * (uint64_t)(i + 1) >> 64); // 0 .. i, bias below 2^-32
        int64_t keep = order[i];
        order[i] = order[j];
        order[j] = keep;
    }
}

bool hd_loader_flips(uint64_t seed, int64_t epoch, int64_t i) {
    uint32_t word[4];
    hd_philox(seed, hd_rng_mix(FLIP_STREAM, (uint64_t)epoch), (uint64_t)i, word);
    return word[0] >> 31;
}

// Filling --------------------------------------------------------------------

// Planes [c,h,w] of bytes to [h,w,c] of floats, mirrored or not.
static void fill_picture(const hd_loader *l, const uint8_t *src, bool mirrored, float *dst) {
    int64_t c = l->config.c, h = l->config.h, w = l->config.w;
    for (int64_t k = 0; k < c; k++)
        for (int64_t y = 0; y < h; y++) {
            const uint8_t *row = src + (k * h + y) * w;
            float *to = dst + y * w * c + k;
            if (mirrored)
                for (int64_t x = 0; x < w; x++)
                    to[x * c] = l->values[row[w - 1 - x]];
            else
                for (int64_t x = 0; x < w; x++)
                    to[x * c] = l->values[row[x]];
        }
}

static void fill_batch(hd_loader *l, int64_t b, float *x, int64_t *labels) {
    const hd_loader_config *g = &l->config;
    int64_t per_epoch = g->n / g->batch, epoch = b / per_epoch, first = b % per_epoch * g->batch;
    if (g->shuffle && epoch != l->epoch)
        hd_loader_order(g->seed, epoch, g->n, l->order);
    l->epoch = epoch;
    for (int64_t k = 0; k < g->batch; k++) {
        int64_t i = g->shuffle ? l->order[first + k] : first + k;
        fill_picture(l, g->x + i * l->item, g->flip && hd_loader_flips(g->seed, epoch, i), x + k * l->item);
        if (g->labels)
            labels[k] = g->labels[i];
    }
}

static float *slot_x(const hd_loader *l, int64_t b) { return l->x + b % l->slots * l->config.batch * l->item; }
static int64_t *slot_labels(const hd_loader *l, int64_t b) { return l->labels + b % l->slots * l->config.batch; }

// Worker ---------------------------------------------------------------------

static void *work(void *argument) {
    hd_loader *l = argument;
    pthread_mutex_lock(&l->lock);
    while (!l->stop) {
        if (l->produced - l->consumed >= l->slots) {
            pthread_cond_wait(&l->changed, &l->lock);
            continue;
        }
        int64_t b = l->produced;
        pthread_mutex_unlock(&l->lock);
        fill_batch(l, b, slot_x(l, b), slot_labels(l, b));
        pthread_mutex_lock(&l->lock);
        l->produced = b + 1;
        pthread_cond_broadcast(&l->changed);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

// All signals stay with the main thread. Without a thread the consumer fills its batches itself.
static void start(hd_loader *l) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    l->stop = false;
    l->running = pthread_create(&l->thread, NULL, work, l) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void stop(hd_loader *l) {
    if (!l->running)
        return;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    l->running = false;
}

// Use ------------------------------------------------------------------------

static hd_status check(const hd_loader_config *g) {
    if (g->n < 1 || g->c < 1 || g->h < 1 || g->w < 1)
        return hd_fail(HD_EARG, "batches: the set is empty");
    if (g->batch < 1 || g->batch > g->n)
        return hd_fail(HD_EARG, "batches: size is wrong: got %lld, expected 1 to %lld (the set's length)",
                       (long long)g->batch, (long long)g->n);
    if (g->prefetch < 0 || g->prefetch > 64)
        return hd_fail(HD_EARG, "batches: prefetch is wrong: got %d, expected 0 to 64", g->prefetch);
    return HD_OK;
}

hd_status hd_loader_new(const hd_loader_config *config, hd_loader **out) {
    *out = NULL;
    HD_CHECK(check(config));
    hd_loader *l = hd_calloc(1, sizeof *l);
    if (!l)
        return hd_fail(HD_ENOMEM, "batches: no memory");
    l->config = *config;
    l->item = config->c * config->h * config->w;
    l->slots = config->prefetch > 0 ? config->prefetch : 1;
    l->epoch = -1;
    for (int v = 0; v < 256; v++)
        l->values[v] = (float)(v / 127.5 - 1.0);
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->changed, NULL);
    size_t pictures = (size_t)l->slots * (size_t)config->batch;
    l->x = hd_alloc(pictures * (size_t)l->item * sizeof *l->x);
    l->labels = hd_alloc(pictures * sizeof *l->labels);
    l->order = hd_alloc((size_t)config->n * sizeof *l->order);
    if (!l->x || !l->labels || !l->order) {
        hd_loader_free(l);
        return hd_fail(HD_ENOMEM, "batches: no memory for %zu pictures", pictures);
    }
    *out = l;
    return HD_OK;
}

hd_status hd_loader_next(hd_loader *l, float *x, int64_t *labels) {
    if (l->config.prefetch > 0 && !l->running)
        start(l);
    if (!l->running) {
        fill_batch(l, l->consumed++, x, labels);
        return HD_OK;
    }
    pthread_mutex_lock(&l->lock);
    while (l->produced <= l->consumed)
        pthread_cond_wait(&l->changed, &l->lock);
    pthread_mutex_unlock(&l->lock);
    memcpy(x, slot_x(l, l->consumed), (size_t)(l->config.batch * l->item) * sizeof *x);
    if (l->config.labels)
        memcpy(labels, slot_labels(l, l->consumed), (size_t)l->config.batch * sizeof *labels);
    pthread_mutex_lock(&l->lock);
    l->consumed++;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
    return HD_OK;
}

int64_t hd_loader_position(const hd_loader *l) { return l->consumed; }

void hd_loader_seek(hd_loader *l, int64_t position) {
    stop(l);
    l->produced = l->consumed = position;
}

void hd_loader_free(hd_loader *l) {
    if (!l)
        return;
    stop(l);
    hd_free(l->x);
    hd_free(l->labels);
    hd_free(l->order);
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->lock);
    hd_free(l);
}
