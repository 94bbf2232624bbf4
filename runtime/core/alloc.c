// core/alloc.c: 64-byte aligned, counted blocks.
// Layout: [header 64 bytes][block][64 bytes of padding]. Small ones are malloc's, large ones the arena's: malloc would
// keep holes between them, and take fresh pages, which the kernel clears, in every training step.
#include "core/alloc.h"
#include "core/arena.h"
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#if HD_ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(start, bytes) ((void)(start), (void)(bytes))
#endif

enum { ALIGN = 64, PADDING = 64, LARGE = 128 << 10 };

typedef struct {
    void *origin; // what malloc gave; NULL: the block is the arena's
    size_t bytes; // header and padding too
    uint8_t kind; // hd_memory_kind
} block;

// Simulated failure: `left` allocations succeed, then `failing` ones fail. Off: left begins out of reach.
typedef struct {
    size_t left, begun, failing, refused; // begun: what left was when it was set
} fault;

static struct {
    pthread_mutex_t lock;
    size_t live, peak, budget, allocations, wanted;
    size_t in_arena;  // of live
    bool over_budget; // the last refusal was the budget's
    size_t kinds[HD_MEMORY_KINDS], peak_kinds[HD_MEMORY_KINDS];
    fault fault;
} heap = {.lock = PTHREAD_MUTEX_INITIALIZER, .fault = {.left = SIZE_MAX, .begun = SIZE_MAX}};

// Lua's heap has one thread; `bytes` is read by the others.
static struct {
    _Atomic size_t bytes;
    fault fault;
} script = {.fault = {.left = SIZE_MAX, .begun = SIZE_MAX}};

static size_t script_bytes(void) { return atomic_load_explicit(&script.bytes, memory_order_relaxed); }

static size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

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

// Blocks ----------------------------------------------------------------------

// What the budget leaves for the arena beside Lua's heap, malloc's blocks and `more` bytes.
static size_t arena_limit(size_t more) {
    const size_t others = script_bytes() + heap.live - heap.in_arena + more;
    return heap.budget == 0 ? SIZE_MAX : heap.budget > others ? heap.budget - others : 0;
}

static block *arena_block(size_t bytes) {
    const size_t whole = round_up(bytes, HD_ARENA_GRAIN);
    block *b = hd_arena_alloc(whole, arena_limit(0));
    if (!b)
        return NULL;
    *b = (block){.bytes = whole};
    heap.in_arena += whole;
    return b;
}

static block *malloc_block(size_t bytes) {
    const size_t limit = arena_limit(bytes);
    hd_arena_trim(limit);
    heap.over_budget = limit == 0 || hd_arena_bytes() > limit;
    char *origin = heap.over_budget ? NULL : malloc(bytes + ALIGN);
    if (!origin)
        return NULL;
    block *b = (block *)(origin + -(uintptr_t)origin % ALIGN);
    *b = (block){.origin = origin, .bytes = bytes};
    return b;
}

// Where the arena has no room for a large block, malloc may: it needs less than whole pages.
static block *new_block(size_t bytes) {
    heap.over_budget = false;
    if (bytes > SIZE_MAX / 4 || fails(&heap.fault))
        return NULL;
    const size_t whole = ALIGN + round_up(bytes, ALIGN) + PADDING;
    block *b = whole >= LARGE && !HD_ASAN ? arena_block(whole) : NULL;
    return b ? b : malloc_block(whole);
}

static void free_block(block *b) {
    if (b->origin) {
        free(b->origin);
        return;
    }
    heap.in_arena -= b->bytes;
    hd_arena_free(b, b->bytes);
}

// The interface ---------------------------------------------------------------

static void note_peak(void) {
    heap.peak = heap.live;
    memcpy(heap.peak_kinds, heap.kinds, sizeof heap.kinds);
}

void *hd_alloc_kind(size_t bytes, hd_memory_kind kind) {
    pthread_mutex_lock(&heap.lock);
    block *b = new_block(bytes);
    if (b) {
        b->kind = (uint8_t)kind;
        heap.live += b->bytes;
        heap.kinds[kind] += b->bytes;
        heap.allocations++;
        if (heap.live > heap.peak)
            note_peak();
    } else {
        heap.wanted = bytes;
    }
    pthread_mutex_unlock(&heap.lock);
    if (!b)
        return NULL;
    char *memory = (char *)b + ALIGN;
    ASAN_POISON_MEMORY_REGION(memory + bytes, b->bytes - ALIGN - bytes);
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
    free_block(b);
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
    hd_arena_trim(0);
    malloc_trim(0);
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
                             .cached = hd_arena_bytes() - heap.in_arena,
                             .peak = heap.peak,
                             .script = script_bytes(),
                             .budget = heap.budget,
                             .wanted = heap.wanted,
                             .over_budget = heap.over_budget,
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
