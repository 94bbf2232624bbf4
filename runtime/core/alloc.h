// core/alloc.h: native memory, counted. All C below app/ takes its memory here.
//  - every block is 64-byte aligned and has 64 readable bytes behind it (BLAS kernels read past the end);
//  - freed blocks are kept in a cache by size class and reused, since fresh pages cost more than a kernel's work;
//  - counters see every byte: `live` is what callers hold, `cached` what waits for reuse, `script` Lua's own heap;
//  - may be called from any thread; returns NULL when the budget or the system's memory is spent;
//  - under AddressSanitizer nothing is cached and nobody but BLAS, which it does not see, may read behind the end.
#ifndef HD_ALLOC_H
#define HD_ALLOC_H

#include <stddef.h>
#include <stdint.h>

#ifdef __SANITIZE_ADDRESS__ // gcc
#define HD_ASAN 1
#elif defined __has_feature // clang
#define HD_ASAN __has_feature(address_sanitizer)
#else
#define HD_ASAN 0
#endif

void *hd_alloc(size_t bytes);                      // contents undefined; bytes may be 0
void *hd_calloc(size_t count, size_t size);        // zeros
char *hd_strdup(const char *text);                 // a copy
char *hd_strndup(const char *text, size_t length); // of the first `length` bytes, with a zero behind
void *hd_malloc(size_t bytes);                     // malloc's own, uncounted: for libraries whose users may call free()
void hd_free(void *block);                         // NULL is allowed
void hd_alloc_trim(void);                          // give the cache back to the system
void hd_alloc_set_budget(size_t bytes);            // live + cached + script stay below; 0: no budget

typedef struct {
    size_t live, cached, peak; // bytes held, bytes waiting, highest live since the start or the last reset
    size_t script, budget;     // bytes of Lua's heap; the limit, 0: none
    size_t wanted;             // the last request that was refused
    size_t allocations;        // blocks handed out so far
} hd_memory_info;
void hd_memory(hd_memory_info *info);
void hd_memory_reset_peak(void);

// Lua's heap: a lua_Alloc over malloc that counts. Refused is what would make Lua's heap alone exceed the budget:
// tensors that nobody uses any more wait for Lua's finalizers, so they must not keep Lua from running.
void *hd_script_alloc(void *context, void *block, size_t old, size_t size);
void hd_script_adopt(size_t bytes); // so many bytes come from malloc already

// For tests: of the allocations to come, `count` fail from number `first` on (first 0: none). Returns how many were
// allowed and refused since the last call.
typedef struct {
    size_t allowed, refused;
} hd_faults;
hd_faults hd_alloc_fail(size_t first, size_t count);
hd_faults hd_script_fail(size_t first, size_t count); // the same for Lua's heap

#endif
