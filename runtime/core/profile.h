// core/profile.h: where the time of a run goes.
// At any moment one row is current: an operation's forward or backward in one layer, or something outside of operations
// that has a name ("Lua", "garbage collection"). Entering another row charges the time since the last change to the
// row that was current, so all rows together are the wall time, to the nanosecond.
// Off, the cost is one branch for each operation. Threads: the main thread only.
#ifndef HD_PROFILE_H
#define HD_PROFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef enum { HD_OUTSIDE, HD_FORWARD, HD_BACKWARD } hd_pass;

typedef struct {
    const char *what; // the operation, the kernel that runs outside of operations, or what else; a literal
    hd_pass pass;
    int layer;         // see hd_profile_layer_path; 0: none
    int next;          // row of the same layer; 0: the last
    int64_t calls;     // how often it was entered
    int64_t wall, cpu; // nanoseconds, without those of rows entered inside; cpu: of all threads
    double flops;      // 2 for each multiply-add of products; see backend/counted.c
    double bytes;      // read and written by kernels
} hd_profile_row;

extern bool hd_profile_on; // change it by start and stop

void hd_profile_start(void); // rows begin at zero; "Lua" is current
void hd_profile_stop(void);  // charges what is left; the rows stay readable
// Rows so far, the first is "Lua"; charges what has run until now. Valid until the next start.
const hd_profile_row *hd_profile_rows(int *count);

// Two tables, by operation and by layer: share, seconds, calls, GFLOP/s, GB/s, and cores: processor time over wall
// time.
void hd_profile_write(FILE *out, const hd_profile_row *rows, int count);
void hd_profile_write_memory(FILE *out); // a line: the peak, and what it consisted of

// Inside of operations rows are entered and left in pairs:
//   const int before = hd_profile_enter("conv2d", HD_FORWARD, layer);
//   ... the work ...
//   hd_profile_leave(before);
int hd_profile_begin(const char *what, hd_pass pass, int layer);
void hd_profile_end(int before);
static inline int hd_profile_enter(const char *what, hd_pass pass, int layer) {
    return hd_profile_on ? hd_profile_begin(what, pass, layer) : -1;
}
static inline void hd_profile_leave(int before) {
    if (before >= 0)
        hd_profile_end(before);
}

// For back ends: a kernel has a row of its own only where no operation runs around it.
int hd_profile_enter_kernel(const char *name);
void hd_profile_count(double flops, double bytes); // to the current row

// Layers: operations are charged to the layer that was named last.
int hd_profile_layer(const char *path); // the number of "unet.conv1", the same for equal paths
const char *hd_profile_layer_path(int layer);
void hd_profile_set_layer(int layer);
int hd_profile_current_layer(void);

#endif
