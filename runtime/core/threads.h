// core/threads.h: the one place that knows how many threads compute.
// OpenMP's own default stays 1 for the life of the process, so that BLAS is single-threaded everywhere; each parallel
// region of ours says num_threads(hd_threads()). Work is cut by shape, never by thread count: same bits for any number.
#ifndef HD_THREADS_H
#define HD_THREADS_H

#include <stdbool.h>

void hd_threads_init(void); // call once at start, before any BLAS or OpenMP use
bool hd_one_openmp(void); // false: this program and OpenBLAS have an OpenMP each, and the settings here reach only one
int hd_threads(void);     // threads a parallel region asks for, >= 1
void hd_set_threads(int n); // 1 to 256; outside values are clamped
int hd_cores(void);         // processors this process may run on

// Who works: the largest team and the number of threads that had a task, counted from the first watch on. For tests.
extern bool hd_threads_watched;
void hd_threads_watch(int *team, int *workers); // tells both and begins anew
void hd_threads_note(void);                     // called in each task of a parallel region while watched

#endif
