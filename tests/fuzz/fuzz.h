// tests/fuzz/fuzz.h: what the harnesses share. Each is one LLVMFuzzerTestOneInput for clang's libFuzzer with the
// address and undefined-behaviour sanitizers; `make fuzz` builds and runs them. A harness passes when nothing crashes
// or leaks.
#ifndef FUZZ_H
#define FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/status.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// The input as a file without a place on disk. Close fd at the end.
static inline const char *as_file(const uint8_t *data, size_t size, int *fd) {
    static char path[64];
    *fd = memfd_create("input", 0);
    if (*fd < 0 || write(*fd, data, size) != (ssize_t)size)
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", *fd);
    return path;
}

// Nothing that was allocated for this input may be left.
static inline void expect_no_memory(void) {
    hd_memory_info info;
    hd_memory(&info);
    if (info.live)
        abort();
    hd_alloc_trim(); // so that the sanitizer sees each block's end
}

#endif
