// tests/fuzz/fuzz.h: what the targets share. A target is one file that defines one_input(), which hands bytes to a
// reader and lets go of all it got. It is built twice:
//  - for clang's libFuzzer with the address and undefined-behaviour sanitizers (`make fuzz`, and a short form in
//    `make test`): it passes when nothing crashes, leaks, takes longer than MAX_SECONDS or more memory than MEMORY_CAP;
//  - with FUZZ_SEEDS, the target's folder of seeds, as a plain program of `make test`: it runs every seed, and among
//    them every input that once failed, and every file of ../shared/data/robust where that is there.
// A target with checksums or lengths in its format defines FUZZ_MENDS before it includes this file, and mend(), which
// puts them right: the fuzzer does so with seven of eight inputs, or few would get past the first check.
#ifndef FUZZ_H
#define FUZZ_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/status.h"

#define MEMORY_CAP ((size_t)512 << 20)
#ifndef MAX_SECONDS
#define MAX_SECONDS 1
#endif

static void one_input(const uint8_t *data, size_t size);

static _Noreturn void complain(const char *what) {
    fprintf(stderr, "fuzz: this input %s\n", what);
    abort();
}

// The input as a file without a place on disk.
static inline const char *as_file(const uint8_t *data, size_t size) {
    static char path[64];
    static int fd = -1;
    if (fd < 0) {
        fd = memfd_create("input", 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    if (fd < 0 || ftruncate(fd, 0) != 0 || pwrite(fd, data, size, 0) != (ssize_t)size)
        abort();
    return path;
}

static double seconds_used(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    hd_memory_info before, after;
    hd_memory(&before);
    const double start = seconds_used();
    one_input(data, size);
    if (seconds_used() - start > MAX_SECONDS)
        complain("takes too long");
    hd_memory(&after);
    if (after.live != before.live)
        complain("leaves native memory behind");
    if (after.peak > MEMORY_CAP)
        complain("takes too much memory");
    hd_alloc_trim(); // so that the sanitizer sees each block's end
    return 0;
}

#ifdef FUZZ_MENDS
// Changes at most `max` bytes at data; returns the new size.
static size_t mend(uint8_t *data, size_t size, size_t max);
#endif

#ifndef FUZZ_SEEDS

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);
#ifdef FUZZ_MENDS
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed) {
    size = LLVMFuzzerMutate(data, size, max);
    return seed % 8 ? mend(data, size, max) : size;
}
#endif

#else

#include "io/file.h"
#include "io/folder.h"

// Every file of a folder; how many there were.
static int run_folder(const char *folder) {
    hd_folder list;
    int count = 0;
    if (hd_folder_list(folder, &list) != HD_OK)
        return 0;
    for (int i = 0; i < list.count; i++) {
        char path[4096];
        hd_bytes file;
        snprintf(path, sizeof path, "%s/%s", folder, list.names[i]);
        if (hd_file_read(path, (size_t)1 << 24, &file) != HD_OK)
            continue;
        fprintf(stderr, "# %s\n", path);
        LLVMFuzzerTestOneInput(file.data, file.size);
#ifdef FUZZ_MENDS
        file.size = mend(file.data, file.size, file.size);
        LLVMFuzzerTestOneInput(file.data, file.size);
#endif
        hd_bytes_free(&file);
        count++;
    }
    hd_folder_free(&list);
    return count;
}

int main(void) {
    const int seeds = run_folder(FUZZ_SEEDS), odd = run_folder("../shared/data/robust");
    printf("%s 1 - %d seeds and %d odd files are read or refused\n", seeds ? "ok" : "not ok", seeds, odd);
    return seeds ? 0 : 1;
}

#endif

#endif
