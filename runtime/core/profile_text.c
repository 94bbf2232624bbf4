// core/profile_text.c: a profile as text: by operation, by layer.
#include "core/alloc.h"
#include "core/holders.h"
#include "core/profile.h"
#include "core/threads.h"
#include <stdlib.h>
#include <string.h>

// Rows that are shown as one.
typedef struct {
    const char *name, *detail;
    int64_t calls, wall, cpu, forward, backward;
    double flops, bytes;
} line;

typedef struct {
    line *lines;
    int count;
    int64_t wall, cpu;
    double flops;
} table;

typedef line naming(const hd_profile_row *row); // how a row's line is called

static line name_operation(const hd_profile_row *row) {
    static const char *const details[] = {"", " forward", " backward"};
    return (line){.name = row->what, .detail = details[row->pass]};
}

static line name_layer(const hd_profile_row *row) {
    if (row->layer)
        return (line){.name = hd_profile_layer_path(row->layer), .detail = ""};
    return (line){.name = row->pass == HD_OUTSIDE ? "(no operation)" : "(no layer)", .detail = ""};
}

static void add(line *l, const hd_profile_row *row) {
    l->calls += row->calls;
    l->wall += row->wall;
    l->cpu += row->cpu;
    l->forward += row->pass == HD_FORWARD ? row->wall : 0;
    l->backward += row->pass == HD_BACKWARD ? row->wall : 0;
    l->flops += row->flops;
    l->bytes += row->bytes;
}

static line *find_line(table *t, line wanted) {
    for (line *l = t->lines; l < t->lines + t->count; l++)
        if (strcmp(l->name, wanted.name) == 0 && strcmp(l->detail, wanted.detail) == 0)
            return l;
    t->lines[t->count] = wanted;
    return &t->lines[t->count++];
}

static int longest_first(const void *a, const void *b) {
    const int64_t x = ((const line *)a)->wall, y = ((const line *)b)->wall;
    return x < y ? 1 : x > y ? -1 : 0;
}

static void merge(table *t, const hd_profile_row *rows, int count, naming *name) {
    *t = (table){.lines = t->lines};
    for (int i = 0; i < count; i++) {
        add(find_line(t, name(&rows[i])), &rows[i]);
        t->wall += rows[i].wall;
        t->cpu += rows[i].cpu;
        t->flops += rows[i].flops;
    }
    qsort(t->lines, (size_t)t->count, sizeof *t->lines, longest_first);
}

// Lines that together are at least 99 % of the wall time; the rest are one.
static int shown(const table *t) {
    int64_t sum = 0;
    int n = 0;
    while (n < t->count && (double)sum < 0.99 * (double)t->wall)
        sum += t->lines[n++].wall;
    return n;
}

// A rate in units of 1e9 each second; blank where nothing was counted.
static void write_rate(FILE *out, double amount, int64_t wall) {
    if (amount > 0 && wall > 0)
        fprintf(out, "%9.2f", amount / (double)wall);
    else
        fprintf(out, "%9s", "");
}

static void write_line(FILE *out, const table *t, const line *l, bool by_layer) {
    fprintf(out, "%6.1f %%%10.4f", 100.0 * (double)l->wall / (double)(t->wall ? t->wall : 1), 1e-9 * (double)l->wall);
    if (by_layer)
        fprintf(out, "%10.4f%10.4f", 1e-9 * (double)l->forward, 1e-9 * (double)l->backward);
    else
        fprintf(out, "%9lld%11.1f", (long long)l->calls, 1e-3 * (double)l->wall / (double)(l->calls ? l->calls : 1));
    write_rate(out, l->flops, l->wall);
    write_rate(out, l->bytes, l->wall);
    // The kernel charges running threads every few milliseconds: of short rows it says nothing.
    const double cores = (double)l->cpu / (double)(l->wall ? l->wall : 1);
    if (cores < hd_threads() + 0.1)
        fprintf(out, "%7.2f", cores);
    else
        fprintf(out, "%7s", "");
    fprintf(out, "  %s%s\n", l->name, l->detail);
}

static void write_table(FILE *out, const table *t, bool by_layer) {
    const int n = shown(t);
    line rest = {.name = "", .detail = ""};
    char name[48];
    fprintf(out, "%8s%10s", "share", "seconds");
    fprintf(out, by_layer ? "%10s%10s" : "%9s%11s", by_layer ? "forward" : "calls", by_layer ? "backward" : "us/call");
    fprintf(out, "%9s%9s%7s  %s\n", "GFLOP/s", "GB/s", "cores", by_layer ? "layer" : "operation");
    for (int i = 0; i < t->count; i++) {
        const line *l = &t->lines[i];
        if (i < n) {
            write_line(out, t, l, by_layer);
            continue;
        }
        rest.calls += l->calls, rest.wall += l->wall, rest.cpu += l->cpu;
        rest.forward += l->forward, rest.backward += l->backward;
        rest.flops += l->flops, rest.bytes += l->bytes;
    }
    if (n == t->count)
        return;
    snprintf(name, sizeof name, "(%d more, less than 1 %% together)", t->count - n);
    rest.name = name;
    write_line(out, t, &rest, by_layer);
}

void hd_profile_write_memory(FILE *out) {
    hd_memory_info info;
    hd_memory(&info);
    fprintf(out, "memory: peak %s:", hd_bytes_text(info.peak));
    for (int k = 0; k < HD_MEMORY_KINDS; k++)
        fprintf(out, "%s %s %s", k ? "," : "", hd_memory_kind_name((hd_memory_kind)k),
                hd_bytes_text(info.peak_kinds[k]));
    fputc('\n', out);
}

void hd_profile_write(FILE *out, const hd_profile_row *rows, int count) {
    table t = {.lines = hd_alloc((size_t)count * sizeof *t.lines)};
    if (!t.lines) {
        fputs("profile: out of memory\n", out);
        return;
    }
    merge(&t, rows, count, name_operation);
    fprintf(out, "profile: %.3f s on %d thread%s, processor time %.3f s, %.2f GFLOP\n", 1e-9 * (double)t.wall,
            hd_threads(), hd_threads() == 1 ? "" : "s", 1e-9 * (double)t.cpu, 1e-9 * t.flops);
    write_table(out, &t, false);
    merge(&t, rows, count, name_layer);
    write_table(out, &t, true);
    hd_free(t.lines);
}
