// core/alloc.c: 64-byte aligned, counted blocks with a cache of freed ones.
// Layout: [header 64 bytes][block][64 bytes of padding]. Sizes are rounded up to classes, eight to each power of two,
// so a freed block serves the next tensor of nearly the same size (up to a quarter smaller). Large blocks are mapped
// one by one (malloc would keep holes between them), on huge pages. Fresh pages cost time (10 % of a training
// step, measured), idle ones cost memory: the cache may fill what the peak of live bytes (160 MiB at least) leaves
// free. Where it is full, the pages of its blocks become the new block; what is still too much goes, the oldest first.
#include "core/alloc.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#if HD_ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(start, bytes) ((void)(start), (void)(bytes))
#endif

enum { ALIGN = 64, PADDING = 64, MAPPED = 1 << 20, HUGE = 2 << 20, CLASSES = 8 * 64, NEAR_CLASSES = 2 };

typedef struct block {
    struct block *next, *previous; // cached blocks of the same class, newest first
    struct block *newer, *older;   // all cached blocks
    size_t bytes;                  // capacity behind the header
    int class;
    bool joined;  // of several mappings, which the kernel does not move as one
    uint8_t kind; // hd_memory_kind
} block;

// Simulated failure: `left` allocations succeed, then `failing` ones fail. Off: left begins out of reach.
typedef struct {
    size_t left, begun, failing, refused; // begun: what left was when it was set
} fault;

static struct {
    pthread_mutex_t lock;
    block *cache[CLASSES];
    block *newest, *oldest;
    size_t live, cached, peak, highest, budget, allocations, wanted; // highest: peak, whatever the user resets
    size_t kinds[HD_MEMORY_KINDS], peak_kinds[HD_MEMORY_KINDS];
    fault fault;
} heap = {.lock = PTHREAD_MUTEX_INITIALIZER, .fault = {.left = SIZE_MAX, .begun = SIZE_MAX}};

// Lua's heap has one thread; `bytes` is read by the others.
static struct {
    _Atomic size_t bytes;
    fault fault;
} script = {.fault = {.left = SIZE_MAX, .begun = SIZE_MAX}};

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

static bool is_mapped(size_t bytes) { return bytes >= MAPPED && !HD_ASAN; }

// Bytes of the pages of a mapped block.
static size_t mapping(size_t bytes) {
    static size_t page;
    if (page == 0)
        page = (size_t)sysconf(_SC_PAGESIZE);
    return (ALIGN + bytes + PADDING + page - 1) / page * page;
}

static void system_free(block *b) {
    if (is_mapped(b->bytes))
        munmap(b, ALIGN + b->bytes + PADDING);
    else
        free(b);
}

// Pages for `total` bytes. Where a huge page fits they begin on its border: only then does the kernel use one (of the
// 400 MiB of a U-Net 70 lay on huge pages without this, 195 with it, and a third of its page faults are gone).
static void *map_pages(size_t total) {
    const size_t size = mapping(total - ALIGN - PADDING), slack = size < HUGE ? 0 : HUGE;
    char *range = mmap(NULL, size + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (range == MAP_FAILED)
        return NULL;
    const size_t head = slack ? -(uintptr_t)range % HUGE : 0;
    if (head)
        munmap(range, head);
    if (slack > head)
        munmap(range + head + size, slack - head);
    (void)madvise(range + head, size, MADV_HUGEPAGE); // advice only: on failure nothing is lost
    return range + head;
}

static void *system_alloc(size_t total, bool mapped) {
    void *memory = NULL;
    if (mapped)
        return map_pages(total);
    return posix_memalign(&memory, ALIGN, total) == 0 ? memory : NULL;
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
    const size_t least = (size_t)160 << 20, used = heap.live + wanted;
    const size_t ceiling = heap.highest > least ? heap.highest : least;
    return ceiling > used && !HD_ASAN ? ceiling - used : 0;
}

static size_t script_bytes(void) { return atomic_load_explicit(&script.bytes, memory_order_relaxed); }

// A cached block that is large enough for a class; NULL: none.
static block *larger_block(int class) {
    for (int c = class; c < CLASSES; c++)
        if (heap.cache[c])
            return heap.cache[c];
    return NULL;
}

// The largest cached block whose pages can be moved; NULL: none.
static block *movable_block(void) {
    for (int c = CLASSES - 1; c >= 0; c--)
        for (block *b = heap.cache[c]; b; b = b->next)
            if (!is_mapped(b->bytes))
                return NULL;
            else if (!b->joined)
                return b;
    return NULL;
}

// Cache `size` bytes of pages as a block of their own, or give them back where they are too few.
static void cache_pages(void *pages, size_t size, bool joined) {
    size_t rounded;
    if (size < mapping(MAPPED)) {
        munmap(pages, size);
        return;
    }
    block *b = pages;
    b->bytes = size - ALIGN - PADDING;
    b->class = size_class(b->bytes, &rounded);
    b->class -= rounded > b->bytes; // the class that it is large enough for
    b->joined = joined;
    cache_put(b);
}

// The first pages of a cached block that has more of them.
static block *cut_block(block *old, size_t size) {
    const size_t pages = mapping(old->bytes);
    cache_remove(old);
    if (pages > size)
        cache_pages((char *)old + size, pages - size, old->joined);
    return old;
}

// The pages of cached blocks, one after the other, as one block.
static block *join_blocks(size_t size) {
    block *old = movable_block(), *b = old ? system_alloc(size, true) : NULL;
    for (size_t have = 0; b && old && have < size; old = movable_block()) {
        const size_t pages = mapping(old->bytes), part = pages < size - have ? pages : size - have;
        cache_remove(old);
        if (mremap((char *)old + (pages - part), part, part, MREMAP_MAYMOVE | MREMAP_FIXED, (char *)b + have) ==
            MAP_FAILED) {
            munmap(old, pages);
            break; // the rest of the new block are fresh pages
        }
        if (part < pages)
            cache_pages(old, pages - part, false);
        have += part;
    }
    if (b)
        b->joined = true;
    return b;
}

// Where cached blocks of other sizes would have to go: a block of their pages. These need no clearing, which costs more
// than a kernel's work. NULL where there are none.
static block *recut_block(size_t bytes, int class) {
    if (!is_mapped(bytes) || heap.cached <= cache_limit(bytes))
        return NULL;
    block *old = larger_block(class);
    return old ? cut_block(old, mapping(bytes)) : join_blocks(mapping(bytes));
}

static block *fresh_block(size_t bytes, int class) {
    const size_t held = heap.live + script_bytes() + bytes;
    if (heap.budget && held > heap.budget)
        return NULL;
    block *b = recut_block(bytes, class);
    if (heap.cached > cache_limit(bytes))
        trim_to(cache_limit(bytes));
    if (heap.budget && held + heap.cached > heap.budget)
        trim_to(heap.budget - held);
    if (!b) {
        b = system_alloc(ALIGN + bytes + PADDING, is_mapped(bytes));
        if (!b)
            return NULL;
        b->joined = false;
    }
    b->bytes = bytes;
    b->class = class;
    return b;
}

// Simulated failure -----------------------------------------------------------

static bool fails(fault *f) {
    if (f->left > 0) {
        f->left--;
        return false;
    }
    if (f->failing == 0)
        return false;
    f->failing--;
    f->refused++;
    return true;
}

static hd_faults arm(fault *f, size_t first, size_t count) {
    const hd_faults past = {.allowed = f->begun - f->left, .refused = f->refused};
    f->left = f->begun = first ? first - 1 : SIZE_MAX;
    f->failing = count;
    f->refused = 0;
    return past;
}

hd_faults hd_alloc_fail(size_t first, size_t count) {
    pthread_mutex_lock(&heap.lock);
    const hd_faults past = arm(&heap.fault, first, count);
    pthread_mutex_unlock(&heap.lock);
    return past;
}

hd_faults hd_script_fail(size_t first, size_t count) { return arm(&script.fault, first, count); }

// The interface ---------------------------------------------------------------

static block *take_block(size_t bytes) {
    size_t rounded;
    if (bytes > SIZE_MAX / 4 || fails(&heap.fault))
        return NULL;
    const int class = size_class(bytes, &rounded);
    block *b = cache_take(class);
    return b ? b : fresh_block(rounded, class);
}

static void note_peak(void) {
    heap.peak = heap.live;
    memcpy(heap.peak_kinds, heap.kinds, sizeof heap.kinds);
}

void *hd_alloc_kind(size_t bytes, hd_memory_kind kind) {
    pthread_mutex_lock(&heap.lock);
    block *b = take_block(bytes);
    if (b) {
        b->kind = (uint8_t)kind;
        heap.live += b->bytes;
        heap.kinds[kind] += b->bytes;
        heap.allocations++;
        if (heap.live > heap.peak)
            note_peak();
        if (heap.live > heap.highest)
            heap.highest = heap.live;
    } else {
        heap.wanted = bytes;
    }
    pthread_mutex_unlock(&heap.lock);
    if (!b)
        return NULL;
    char *memory = (char *)b + ALIGN;
    ASAN_POISON_MEMORY_REGION(memory + bytes, b->bytes + PADDING - bytes);
    return memory;
}

void *hd_alloc(size_t bytes) { return hd_alloc_kind(bytes, HD_WORKSPACE); }

static block *block_of(const void *memory) { return (block *)((char *)(uintptr_t)memory - ALIGN); }

void hd_alloc_move(void *memory, hd_memory_kind from, hd_memory_kind to) {
    block *b = block_of(memory);
    if (b->kind != from)
        return;
    pthread_mutex_lock(&heap.lock);
    heap.kinds[from] -= b->bytes;
    heap.kinds[to] += b->bytes;
    b->kind = (uint8_t)to;
    pthread_mutex_unlock(&heap.lock);
}

hd_memory_kind hd_alloc_kind_of(const void *memory) { return (hd_memory_kind)block_of(memory)->kind; }

const char *hd_memory_kind_name(hd_memory_kind kind) {
    static const char *const names[] = {
        [HD_WORKSPACE] = "workspace", [HD_TENSORS] = "tensors",         [HD_PARAMETERS] = "parameters",
        [HD_GRADIENTS] = "gradients", [HD_ACTIVATIONS] = "activations", [HD_OPTIMIZER] = "optimizer"};
    return names[kind];
}

void *hd_calloc(size_t count, size_t size) {
    size_t bytes;
    void *memory = __builtin_mul_overflow(count, size, &bytes) ? NULL : hd_alloc(bytes);
    return memory ? memset(memory, 0, bytes) : NULL;
}

void *hd_malloc(size_t bytes) {
    pthread_mutex_lock(&heap.lock);
    void *memory = fails(&heap.fault) ? NULL : malloc(bytes);
    if (!memory)
        heap.wanted = bytes;
    pthread_mutex_unlock(&heap.lock);
    return memory;
}

char *hd_strndup(const char *text, size_t length) {
    char *copy = hd_alloc(length + 1);
    if (!copy)
        return NULL;
    memcpy(copy, text, length);
    copy[length] = '\0';
    return copy;
}

char *hd_strdup(const char *text) { return hd_strndup(text, strlen(text)); }

void hd_free(void *memory) {
    if (!memory)
        return;
    block *b = block_of(memory);
    pthread_mutex_lock(&heap.lock);
    heap.live -= b->bytes;
    heap.kinds[b->kind] -= b->bytes;
    cache_put(b);
    if (heap.cached > cache_limit(0))
        trim_to(cache_limit(0));
    pthread_mutex_unlock(&heap.lock);
}

// Where there is no block yet, Lua passes a kind of object in `old`.
void *hd_script_alloc(void *context, void *memory, size_t old, size_t size) {
    (void)context;
    const size_t held = memory ? old : 0, bytes = script_bytes();
    if (size > held && (fails(&script.fault) || (heap.budget && bytes + size - held > heap.budget)))
        return NULL;
    void *moved = NULL;
    if (size == 0)
        free(memory);
    else
        moved = realloc(memory, size);
    if (moved || size == 0)
        atomic_store_explicit(&script.bytes, bytes + size - held, memory_order_relaxed);
    return moved;
}

void hd_script_adopt(size_t bytes) { atomic_store_explicit(&script.bytes, bytes, memory_order_relaxed); }

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
    *info = (hd_memory_info){.live = heap.live,
                             .cached = heap.cached,
                             .peak = heap.peak,
                             .script = script_bytes(),
                             .budget = heap.budget,
                             .wanted = heap.wanted,
                             .allocations = heap.allocations};
    memcpy(info->kinds, heap.kinds, sizeof heap.kinds);
    memcpy(info->peak_kinds, heap.peak_kinds, sizeof heap.peak_kinds);
    pthread_mutex_unlock(&heap.lock);
}

void hd_memory_reset_peak(void) {
    pthread_mutex_lock(&heap.lock);
    note_peak();
    pthread_mutex_unlock(&heap.lock);
}
