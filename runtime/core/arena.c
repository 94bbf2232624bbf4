// core/arena.c: free ranges of addresses, and the huge pages of memory behind them.
#include "core/arena.h"
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HUGE = 2 << 20, MOST_PAGES = 1 << 19 }; // 1 TiB of addresses; what does not fit is malloc's

typedef struct {
    char *start;
    size_t bytes;
} range;

static struct {
    char *base;
    size_t pages;       // of addresses
    size_t full, spare; // pages with memory, and those of them without a block
    range *free;        // by address
    size_t ranges, room, blocks;
    uint8_t users[MOST_PAGES]; // blocks on each page
    bool has_memory[MOST_PAGES];
} arena;

size_t hd_arena_bytes(void) { return arena.full * HUGE; }

// Pages -----------------------------------------------------------------------

static char *address(size_t page) { return arena.base + page * HUGE; }

// The last spare page before page `end`; there must be one.
static size_t spare_before(size_t end) {
    do
        end--;
    while (!arena.has_memory[end] || arena.users[end]);
    return end;
}

static void lose_spare(size_t page) {
    arena.has_memory[page] = false;
    arena.spare--;
    arena.full--;
}

void hd_arena_trim(size_t limit) {
    for (size_t page = arena.pages; arena.spare && hd_arena_bytes() > limit;) {
        page = spare_before(page);
        madvise(address(page), HUGE, MADV_DONTNEED);
        lose_spare(page);
    }
}

// Addresses stay the arena's when their memory moves away. False: the kernel cannot; `to` may be unmapped.
static bool move_page(size_t from, size_t to) {
    return mremap(address(from), HUGE, HUGE, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, address(to)) !=
           MAP_FAILED;
}

static bool map_page(size_t page) {
    if (mmap(address(page), HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
        return false;
    (void)madvise(address(page), HUGE, MADV_HUGEPAGE); // advice only: on failure nothing is lost
    return true;
}

// Memory for the pages from `first` to `last` that have none.
static bool fill(size_t first, size_t last) {
    size_t from = arena.pages;
    for (size_t page = first; page <= last; page++) {
        if (arena.has_memory[page])
            continue;
        bool filled = false;
        if (arena.spare) {
            from = spare_before(from);
            filled = move_page(from, page);
            if (!filled)
                madvise(address(from), HUGE, MADV_DONTNEED);
            lose_spare(from);
        }
        if (!filled && !map_page(page))
            return false;
        arena.has_memory[page] = true;
        arena.full++;
    }
    return true;
}

// A block begins to lie on these pages. Returns how many of them have no memory.
static size_t enter(size_t first, size_t last) {
    size_t missing = 0;
    for (size_t page = first; page <= last; page++) {
        missing += !arena.has_memory[page];
        arena.spare -= arena.has_memory[page] && arena.users[page] == 0;
        arena.users[page]++;
    }
    return missing;
}

static void leave(size_t first, size_t last) {
    for (size_t page = first; page <= last; page++) {
        arena.users[page]--;
        arena.spare += arena.has_memory[page] && arena.users[page] == 0;
    }
}

// Whether memory for so many pages more stays within the limit, if need be without the spare pages that it leaves.
static bool afford(size_t missing, size_t limit) {
    const size_t moved = missing < arena.spare ? missing : arena.spare, taken = (missing - moved) * HUGE;
    if (taken > limit)
        return false;
    const size_t least = hd_arena_bytes() - (arena.spare - moved) * HUGE;
    if (least > limit - taken)
        return false;
    hd_arena_trim(limit - taken);
    return true;
}

// Free ranges -----------------------------------------------------------------

// The number of the first free range behind an address.
static size_t range_behind(const char *start) {
    size_t low = 0, high = arena.ranges;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if (arena.free[middle].start < start)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void remove_range(size_t i) {
    arena.ranges--;
    memmove(arena.free + i, arena.free + i + 1, (arena.ranges - i) * sizeof(range));
}

static void add_range(char *start, size_t bytes) {
    const size_t i = range_behind(start);
    const bool after = i > 0 && arena.free[i - 1].start + arena.free[i - 1].bytes == start;
    const bool before = i < arena.ranges && arena.free[i].start == start + bytes;
    if (after) {
        arena.free[i - 1].bytes += bytes + (before ? arena.free[i].bytes : 0);
        if (before)
            remove_range(i);
    } else if (before) {
        arena.free[i] = (range){start, bytes + arena.free[i].bytes};
    } else {
        memmove(arena.free + i + 1, arena.free + i, (arena.ranges - i) * sizeof(range));
        arena.free[i] = (range){start, bytes};
        arena.ranges++;
    }
}

// There are at most as many free ranges as blocks, and one behind them: room for both, so that freeing cannot fail.
static bool make_room(void) {
    if (arena.blocks + 2 <= arena.room)
        return true;
    const size_t room = arena.room ? 2 * arena.room : 256;
    range *moved = realloc(arena.free, room * sizeof(range));
    if (!moved)
        return false;
    arena.free = moved;
    arena.room = room;
    return true;
}

// The number of the smallest free range that holds so many bytes, the first of equal ones; arena.ranges: none does.
static size_t best_fit(size_t bytes) {
    size_t best = arena.ranges, least = SIZE_MAX;
    for (size_t i = 0; i < arena.ranges; i++)
        if (arena.free[i].bytes >= bytes && arena.free[i].bytes < least) {
            best = i;
            least = arena.free[i].bytes;
        }
    return best;
}

// Addresses alone, where nothing else is likely to lie: the arena shall be able to grow.
static void *map_addresses(char *where, size_t bytes) {
    void *start = mmap(where, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return start == MAP_FAILED ? NULL : start;
}

static bool begin(void) {
    char *start = arena.base ? NULL : map_addresses((char *)((uintptr_t)64 << 30), 2 * HUGE);
    if (start) {
        arena.base = start + -(uintptr_t)start % HUGE;
        arena.pages = 1;
        munmap(arena.base + HUGE, (size_t)(start + HUGE - arena.base));
        add_range(arena.base, HUGE);
    }
    return arena.base;
}

// Addresses at the end, so that the last free range holds so many bytes.
static bool grow(size_t bytes) {
    if (!begin())
        return false;
    char *end = address(arena.pages);
    const range *last = arena.ranges ? &arena.free[arena.ranges - 1] : NULL;
    const size_t there = last && last->start + last->bytes == end ? last->bytes : 0;
    if (there >= bytes)
        return true;
    const size_t pages = (bytes - there + HUGE - 1) / HUGE;
    if (pages > MOST_PAGES - arena.pages)
        return false;
    void *more = map_addresses(end, pages * HUGE);
    if (more != end) {
        if (more)
            munmap(more, pages * HUGE);
        return false;
    }
    arena.pages += pages;
    add_range(end, pages * HUGE);
    return true;
}

// The interface ---------------------------------------------------------------

static size_t page_of(const char *byte) { return (size_t)(byte - arena.base) / HUGE; }

void *hd_arena_alloc(size_t bytes, size_t limit) {
    if (!make_room())
        return NULL;
    size_t i = best_fit(bytes);
    if (i == arena.ranges) {
        if (!grow(bytes))
            return NULL;
        i = arena.ranges - 1;
    }
    range *r = &arena.free[i];
    char *block = r->start;
    const size_t first = page_of(block), last = page_of(block + bytes - 1);
    if (!afford(enter(first, last), limit) || !fill(first, last)) {
        leave(first, last);
        return NULL;
    }
    arena.blocks++;
    r->start += bytes;
    r->bytes -= bytes;
    if (r->bytes == 0)
        remove_range(i);
    return block;
}

void hd_arena_free(void *block, size_t bytes) {
    char *start = block;
    arena.blocks--;
    leave(page_of(start), page_of(start + bytes - 1));
    add_range(start, bytes);
}
