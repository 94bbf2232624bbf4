// core/holders.c: who holds the memory. Nothing is noted down while all is well: the list of live tensors is walked
// when memory has run out. Layer: core. Called by: bind.c.
#include "core/holders.h"
#include "core/alloc.h"
#include "core/tensor.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Tensors of one type, shape and maker. A model has some dozens of groups; where there are more than fit, the smallest
// give way.
enum { GROUPS = 256, SHOWN = 5 };

typedef struct {
    const hd_tensor *example;
    size_t count, bytes;
} group;

static group groups[GROUPS];

const char *hd_bytes_text(size_t bytes) {
    static _Thread_local char ring[4][24];
    static _Thread_local int next;
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    char *text = ring[next++ & 3];
    double value = (double)bytes;
    int unit = 0;
    while (value >= 1024 && unit < 4)
        value /= 1024, unit++;
    snprintf(text, sizeof ring[0], unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
    return text;
}

static bool alike(const hd_tensor *a, const hd_tensor *b) {
    return a->dtype == b->dtype && a->maker == b->maker && hd_same_shape(a, b);
}

// The group that x belongs to: its own, a free one, or the smallest if x alone is larger. NULL: none.
static group *group_of(const hd_tensor *x) {
    group *least = groups;
    for (group *g = groups; g < groups + GROUPS; g++) {
        if (!g->example || alike(g->example, x))
            return g;
        if (g->bytes < least->bytes)
            least = g;
    }
    if (x->storage->bytes <= least->bytes)
        return NULL;
    *least = (group){0};
    return least;
}

static int most_first(const void *a, const void *b) {
    const size_t x = ((const group *)a)->bytes, y = ((const group *)b)->bytes;
    return x < y ? 1 : x > y ? -1 : 0;
}

// Views share a storage; the oldest of them stands for it.
static void count_groups(void) {
    static uint32_t visits;
    visits++;
    memset(groups, 0, sizeof groups);
    for (const hd_tensor *x = hd_tensor_oldest(); x; x = x->newer) {
        if (x->storage->visit == visits)
            continue;
        x->storage->visit = visits;
        group *g = group_of(x);
        if (!g)
            continue;
        g->example = g->count ? g->example : x;
        g->count++;
        g->bytes += x->storage->packed ? x->storage->bytes / 2 : x->storage->bytes;
    }
    qsort(groups, GROUPS, sizeof *groups, most_first);
}

static const char *maker_of(const hd_tensor *x) { return x->maker ? x->maker : x->kept ? "kept" : NULL; }

void hd_holders_text(char *text, size_t size) {
    hd_memory_info info;
    hd_memory(&info);
    size_t at = (size_t)snprintf(text, size, "\n  wanted %s; in use %s by tensors and %s by Lua",
                                 hd_bytes_text(info.wanted), hd_bytes_text(info.live), hd_bytes_text(info.script));
    if (!info.over_budget)
        at += (size_t)snprintf(text + at, size - at, ", and the system gives no more");
    else
        at += (size_t)snprintf(text + at, size - at, ", limit %s (--memory)", hd_bytes_text(info.budget));
    count_groups();
    for (int i = 0; i < SHOWN && groups[i].count && at < size; i++) {
        const group *g = &groups[i];
        const char *maker = maker_of(g->example);
        at += (size_t)snprintf(text + at, size - at, "%s%zu x %s %s %s%s%s%s", i ? ", " : "\n  largest: ", g->count,
                               hd_dtype_name(g->example->dtype), hd_tensor_text(g->example), hd_bytes_text(g->bytes),
                               maker ? " (" : "", maker ? maker : "", maker ? ")" : "");
    }
}
