// core/threads.c: the number of threads, and OpenMP's own default pinned to one.
#include "core/threads.h"
#include <dlfcn.h>
#include <omp.h>
#include <sched.h>

static int threads = 1;

// How long libgomp's threads spin before they sleep is read from the environment when libgomp is loaded; there is no
// call for it. Its default, some milliseconds, wrecks every process that shares its cores with another one (a training
// step measured 9.6 s instead of 0.8 s beside a busy compiler). With more threads than processors it spins for
// microseconds only, which is right for us always; so libgomp is shown one processor while it starts. The loader runs
// .preinit_array before the constructors of libraries, and this program's own constructors after them.
static cpu_set_t allowed;

static void show_one_processor(void) {
    cpu_set_t one;
    int first = 0;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
        return;
    while (first < CPU_SETSIZE - 1 && !CPU_ISSET(first, &allowed))
        first++;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    sched_setaffinity(0, sizeof one, &one);
}
__attribute__((section(".preinit_array"), used)) static void (*const before_libraries)(void) = show_one_processor;

__attribute__((constructor)) static void show_all_processors(void) {
    if (CPU_COUNT(&allowed) > 0)
        sched_setaffinity(0, sizeof allowed, &allowed);
}

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

// Code from clang calls __kmpc_fork_call of libomp; OpenBLAS, built by gcc, calls GOMP_parallel, which libomp offers
// too where it comes first in the order of linking.
bool hd_one_openmp(void) {
    void *const clang = dlsym(RTLD_DEFAULT, "__kmpc_fork_call"), *const gcc = dlsym(RTLD_DEFAULT, "GOMP_parallel");
    Dl_info ours, theirs;
    return !clang || !gcc || !dladdr(clang, &ours) || !dladdr(gcc, &theirs) || ours.dli_fbase == theirs.dli_fbase;
}

int hd_threads(void) { return threads; }
