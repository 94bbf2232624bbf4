// core/threads.c: the number of threads, and OpenMP's own default pinned to one.
#include "core/threads.h"
#include <dlfcn.h>
#include <omp.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

static int threads = 1;

// How long libgomp's threads spin before they sleep is read from the environment when libgomp is loaded; there is no
// call for it. Its default, some milliseconds, wrecks every process that shares its cores with another one (a training
// step measured 9.6 s instead of 0.8 s beside a busy compiler); sleeping at once costs a wake-up in each of a step's
// thousand parallel regions. So, unless the user has set one of the variables, libgomp is shown a value of ours: the
// loader runs .preinit_array before the constructors of libraries, and this program's own constructors after them, so
// one entry of the environment is exchanged for that time and put back.
// 1000 rounds are 20 to 50 microseconds: as fast as longer ones on idle cores, kinder on busy ones.
static char spin_count[] = "GOMP_SPINCOUNT=1000";
static char **exchanged, *original;

static bool starts_with(const char *text, const char *prefix) { return strncmp(text, prefix, strlen(prefix)) == 0; }

static void show_spin_count(int argc, char **argv, char **environment) {
    (void)argc, (void)argv;
    char **other = NULL;
    for (char **entry = environment; *entry; entry++) {
        if (starts_with(*entry, "GOMP_SPINCOUNT=") || starts_with(*entry, "OMP_WAIT_POLICY="))
            return;
        if (!starts_with(*entry, "OMP_") && !starts_with(*entry, "GOMP_") && !starts_with(*entry, "OPENBLAS_"))
            other = entry;
    }
    if (!other)
        return;
    exchanged = other;
    original = *other;
    *other = spin_count;
}
__attribute__((section(".preinit_array"), used)) static void (*const before_libraries)(int, char **,
                                                                                       char **) = show_spin_count;

__attribute__((constructor)) static void put_environment_back(void) {
    if (exchanged)
        *exchanged = original;
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

// Watching ---------------------------------------------------------------------
bool hd_threads_watched;
static atomic_int largest_team;
static atomic_bool worked[256]; // by the thread's number in the outermost team

void hd_threads_watch(int *team, int *workers) {
    hd_threads_watched = true;
    *team = atomic_exchange(&largest_team, 0);
    *workers = 0;
    for (int i = 0; i < (int)(sizeof worked / sizeof *worked); i++)
        *workers += atomic_exchange(&worked[i], false);
}

void hd_threads_note(void) {
    const int team = omp_get_team_size(1), number = omp_get_ancestor_thread_num(1);
    if (number < 0)
        return; // outside a region
    atomic_store(&worked[number], true);
    int largest = atomic_load(&largest_team);
    while (team > largest && !atomic_compare_exchange_weak(&largest_team, &largest, team))
        ;
}
