// core/alloc.c: 64-byte aligned, counted blocks with a cache of freed ones.
// Layout: [header 64 bytes][block][64 bytes of padding]. Sizes are rounded up to classes, eight to each power of two,
// so a freed block serves the next tensor of nearly the same size (up to a quarter smaller). Large blocks are mapped
// one by one (malloc would keep holes between them) and ask for huge pages. Fresh pages cost time (10 % of a training
// step, measured), idle ones cost memory: the cache may fill what the peak of live bytes (160 MiB at least)
// leaves free; what was freed longest ago goes first.
#include "core/alloc.h"
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { ALIGN = 64, PADDING = 64, MAPPED = 1 << 20, CLASSES = 8 * 64, NEAR_CLASSES = 2 };

typedef struct block {
    struct block *next, *previous; // cached blocks of the same class, newest first
    struct block *newer, *older;   // all cached blocks
    size_t bytes;                  // capacity behind the header
    int class;
} block;

static struct {
    pthread_mutex_t lock;
    block *cache[CLASSES];
    block *newest, *oldest;
    size_t live, cached, peak, budget, allocations;
} heap = {.lock = PTHREAD_MUTEX_INITIALIZER};

// The class whose size is the smallest one that holds `bytes`, and that size: (8 + step) << shift.
static int size_class(size_t bytes, size_t *rounded) {
    int shift = 0;
    if (bytes < 64)
        bytes = 64;
    while ((bytes - 1) >> shift >= 16)
        shift++;
    const size_t steps = ((bytes - 1) >> shift) + 1; // 9 to 16
    *rounded = steps << shift;
    return shift * 8 + (int)steps - 9;
}

// The cache -------------------------------------------------------------------

static void cache_put(block *b) {
    block *first = heap.cache[b->class];
    b->previous = NULL;
    b->next = first;
    if (first)
        first->previous = b;
    heap.cache[b->class] = b;
    b->newer = NULL;
    b->older = heap.newest;
    if (heap.newest)
        heap.newest->newer = b;
    heap.newest = b;
    if (!heap.oldest)
        heap.oldest = b;
    heap.cached += b->bytes;
}

static void cache_remove(block *b) {
    if (b->previous)
        b->previous->next = b->next;
    else
        heap.cache[b->class] = b->next;
    if (b->next)
        b->next->previous = b->previous;
    *(b->newer ? &b->newer->older : &heap.newest) = b->older;
    *(b->older ? &b->older->newer : &heap.oldest) = b->newer;
    heap.cached -= b->bytes;
}

static block *cache_take(int class) {
    for (int c = class; c <= class + NEAR_CLASSES && c < CLASSES; c++) {
        block *b = heap.cache[c];
        if (!b)
            continue;
        cache_remove(b);
        return b;
    }
    return NULL;
}

// The system ------------------------------------------------------------------

static void system_free(block *b) {
    if (b->bytes >= MAPPED)
        munmap(b, ALIGN + b->bytes + PADDING);
    else
        free(b);
}

static void *system_alloc(size_t total, bool mapped) {
    void *memory = NULL;
    if (!mapped)
        return posix_memalign(&memory, ALIGN, total) == 0 ? memory : NULL;
    memory = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    (void)madvise(memory, total, MADV_HUGEPAGE); // advice only: on failure nothing is lost
    return memory;
}

// Give back cached blocks, oldest first, until at most `limit` bytes are cached.
static void trim_to(size_t limit) {
    while (heap.cached > limit) {
        block *b = heap.oldest;
        cache_remove(b);
        system_free(b);
    }
}

// Bytes that may wait for reuse beside what is live and `wanted` more.
static size_t cache_limit(size_t wanted) {
    const size_t least = (size_t)160 << 20, ceiling = heap.peak > least ? heap.peak : least, used = heap.live + wanted;
    return ceiling > used ? ceiling - used : 0;
}

static block *fresh_block(size_t bytes, int class) {
    if (heap.cached > cache_limit(bytes))
        trim_to(cache_limit(bytes));
    if (heap.budget && heap.live + heap.cached + bytes > heap.budget) {
        trim_to(0);
        if (heap.live + bytes > heap.budget)
            return NULL;
    }
    block *b = system_alloc(ALIGN + bytes + PADDING, bytes >= MAPPED);
    if (!b)
        return NULL;
    b->bytes = bytes;
    b->class = class;
    return b;
}

// The interface ---------------------------------------------------------------

void *hd_alloc(size_t bytes) {
    size_t rounded;
    if (bytes > SIZE_MAX / 4)
        return NULL;
    const int class = size_class(bytes, &rounded);
    pthread_mutex_lock(&heap.lock);
    block *b = cache_take(class);
    if (!b)
        b = fresh_block(rounded, class);
    if (b) {
        heap.live += b->bytes;
        heap.allocations++;
        if (heap.live > heap.peak)
            heap.peak = heap.live;
    }
    pthread_mutex_unlock(&heap.lock);
    return b ? (char *)b + ALIGN : NULL;
}

void hd_free(void *memory) {
    if (!memory)
        return;
    block *b = (block *)((char *)memory - ALIGN);
    pthread_mutex_lock(&heap.lock);
    heap.live -= b->bytes;
    cache_put(b);
    if (heap.cached > cache_limit(0))
        trim_to(cache_limit(0));
    pthread_mutex_unlock(&heap.lock);
}

void hd_alloc_trim(void) {
    pthread_mutex_lock(&heap.lock);
    trim_to(0);
    pthread_mutex_unlock(&heap.lock);
}

void hd_alloc_set_budget(size_t bytes) {
    pthread_mutex_lock(&heap.lock);
    heap.budget = bytes;
    pthread_mutex_unlock(&heap.lock);
}

void hd_memory(hd_memory_info *info) {
    pthread_mutex_lock(&heap.lock);
    *info = (hd_memory_info){heap.live, heap.cached, heap.peak, heap.allocations};
    pthread_mutex_unlock(&heap.lock);
}
