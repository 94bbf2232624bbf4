// core/alloc.h: native memory, counted.
//  - every block is 64-byte aligned and has 64 readable bytes behind it (BLAS kernels read past the end);
//  - freed blocks are kept in a cache by size class and reused, since fresh pages cost more than a kernel's work;
//  - counters see every byte: `live` is what callers hold, `cached` what waits for reuse;
//  - may be called from any thread; returns NULL when the budget or the system's memory is spent.
#ifndef HD_ALLOC_H
#define HD_ALLOC_H

#include <stddef.h>
#include <stdint.h>

void *hd_alloc(size_t bytes);           // contents undefined; bytes may be 0
void hd_free(void *block);              // NULL is allowed
void hd_alloc_trim(void);               // give the cache back to the system
void hd_alloc_set_budget(size_t bytes); // live + cached stay below; 0: no budget

typedef struct {
    size_t live, cached, peak, allocations; // bytes held, bytes waiting, highest live, blocks handed out so far
} hd_memory_info;
void hd_memory(hd_memory_info *info);

#endif
