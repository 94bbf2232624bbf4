// core/threads.c: the number of threads, and OpenMP's own default pinned to one.
#include "core/threads.h"
#include <omp.h>
#include <sched.h>

static int threads = 1;

int hd_cores(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1;
    return CPU_COUNT(&set);
}

void hd_set_threads(int n) { threads = n < 1 ? 1 : n > 256 ? 256 : n; }

void hd_threads_init(void) {
    omp_set_num_threads(1); // OpenBLAS asks omp_get_max_threads: one thread, inside and outside parallel regions
    omp_set_dynamic(0);     // a region gets the team that it asks for
    hd_set_threads(hd_cores());
}

int hd_threads(void) { return threads; }
