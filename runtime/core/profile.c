// core/profile.c: rows of a profile, and the one that is current.
// The tables have fixed room, so that profiling needs no memory while an operation runs; what exceeds it goes to a row
// without a layer, or to "Lua". Untouched pages of them cost nothing.
#include "core/profile.h"
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { ROWS = 16384, LAYERS = 4096, PATH = 128 };

bool hd_profile_on;

static hd_profile_row rows[ROWS];
static int row_count, current;

static struct {
    char path[PATH];
    int first; // row; 0: none
} layers[LAYERS];
static int layer_count = 1, layer; // layer 0: none

static int64_t last_wall, last_cpu;

static int64_t now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

// Charge the time since the last call to the current row.
static void charge(void) {
    const int64_t wall = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    rows[current].wall += wall - last_wall;
    rows[current].cpu += cpu - last_cpu;
    last_wall = wall;
    last_cpu = cpu;
}

void hd_profile_start(void) {
    rows[0] = (hd_profile_row){.what = "Lua", .calls = 1};
    row_count = 1;
    current = 0;
    for (int i = 0; i < layer_count; i++) // numbers of layers hold for the life of the process
        layers[i].first = 0;
    last_wall = now(CLOCK_MONOTONIC);
    last_cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    hd_profile_on = true;
}

void hd_profile_stop(void) {
    if (hd_profile_on)
        charge();
    hd_profile_on = false;
    layer = 0;
}

const hd_profile_row *hd_profile_rows(int *count) {
    if (hd_profile_on)
        charge();
    *count = row_count;
    return rows;
}

// Rows -----------------------------------------------------------------------

static int find_row(const char *what, hd_pass pass, int of) {
    int *link = &layers[of].first;
    for (; *link; link = &rows[*link].next)
        if (rows[*link].what == what && rows[*link].pass == pass)
            return *link;
    if (row_count == ROWS)
        return 0;
    rows[row_count] = (hd_profile_row){.what = what, .pass = pass, .layer = of};
    return *link = row_count++;
}

int hd_profile_begin(const char *what, hd_pass pass, int of) {
    const int before = current;
    charge();
    current = find_row(what, pass, of);
    rows[current].calls++;
    return before;
}

void hd_profile_end(int before) {
    charge();
    current = before;
}

int hd_profile_enter_kernel(const char *name) {
    return rows[current].pass == HD_OUTSIDE ? hd_profile_enter(name, HD_OUTSIDE, 0) : -1;
}

void hd_profile_count(double flops, double bytes) {
    rows[current].flops += flops;
    rows[current].bytes += bytes;
}

// Layers ---------------------------------------------------------------------

int hd_profile_layer(const char *path) {
    for (int i = 1; i < layer_count; i++)
        if (strncmp(layers[i].path, path, PATH - 1) == 0)
            return i;
    if (layer_count == LAYERS)
        return 0;
    snprintf(layers[layer_count].path, PATH, "%s", path);
    layers[layer_count].first = 0;
    return layer_count++;
}

const char *hd_profile_layer_path(int of) { return layers[of].path; }
void hd_profile_set_layer(int of) { layer = of; }
int hd_profile_current_layer(void) { return layer; }
