// core/alloc.c: 64-byte aligned, counted blocks with a cache of freed ones.
// Layout: [header 64 bytes][block][64 bytes of padding]. Sizes are rounded up to classes, eight to each power of two,
// so a freed block serves the next tensor of nearly the same size. Large blocks ask for huge pages. The cache holds at
// most an eighth of the peak (64 MiB at least): fresh pages cost time, idle ones cost memory.
#include "core/alloc.h"
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { ALIGN = 64, PADDING = 64, MAPPED = 1 << 20, CLASSES = 8 * 64 };

typedef struct block {
    struct block *next; // in the cache
    size_t bytes;       // capacity behind the header
    int class;
} block;

static struct {
    pthread_mutex_t lock;
    block *cache[CLASSES];
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

static void unlink_block(block *b) {
    heap.cached -= b->bytes;
    if (b->bytes >= MAPPED)
        munmap(b, ALIGN + b->bytes + PADDING);
    else
        free(b);
}

// Give back cached blocks, largest first, until at most `limit` bytes are cached.
static void trim_to(size_t limit) {
    for (int c = CLASSES - 1; c >= 0 && heap.cached > limit; c--) {
        while (heap.cache[c] && heap.cached > limit) {
            block *b = heap.cache[c];
            heap.cache[c] = b->next;
            unlink_block(b);
        }
    }
}

static size_t cache_limit(void) {
    const size_t ceiling = heap.peak > (size_t)64 << 20 ? heap.peak : (size_t)64 << 20;
    return ceiling > heap.live ? ceiling - heap.live : 0;
}

static void *system_block(size_t total, bool mapped) {
    void *memory = NULL;
    if (!mapped)
        return posix_memalign(&memory, ALIGN, total) == 0 ? memory : NULL;
    memory = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    (void)madvise(memory, total, MADV_HUGEPAGE); // advice only: on failure nothing is lost
    return memory;
}

static block *fresh_block(size_t bytes, int class) {
    if (heap.cached + bytes > cache_limit()) // make room below the ceiling first
        trim_to(cache_limit() > bytes ? cache_limit() - bytes : 0);
    if (heap.budget && heap.live + heap.cached + bytes > heap.budget) {
        trim_to(0);
        if (heap.live + bytes > heap.budget)
            return NULL;
    }
    void *memory = system_block(ALIGN + bytes + PADDING, bytes >= MAPPED);
    if (!memory)
        return NULL;
    block *b = memory;
    b->bytes = bytes;
    b->class = class;
    return b;
}

void *hd_alloc(size_t bytes) {
    size_t rounded;
    if (bytes > SIZE_MAX / 4)
        return NULL;
    const int class = size_class(bytes, &rounded);
    pthread_mutex_lock(&heap.lock);
    block *b = heap.cache[class];
    if (b) {
        heap.cache[class] = b->next;
        heap.cached -= b->bytes;
    } else {
        b = fresh_block(rounded, class);
    }
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
    heap.cached += b->bytes;
    b->next = heap.cache[b->class];
    heap.cache[b->class] = b;
    if (heap.cached > cache_limit())
        trim_to(cache_limit());
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
