// core/alloc.h: native memory, counted. All C below app/ takes its memory here.
//  - every block is 64-byte aligned and has 64 readable bytes behind it (BLAS kernels read past the end);
//  - pages of large freed blocks are kept and reused (core/arena.h), since fresh ones cost more than a kernel's work;
//  - counters see every byte: `live` is what callers hold, `cached` what waits for reuse, `script` Lua's own heap;
//  - may be called from any thread; returns NULL when the budget or the system's memory is spent;
//  - under AddressSanitizer nothing is cached and nobody but BLAS, which it does not see, may read behind the end.
#ifndef HD_ALLOC_H
#define HD_ALLOC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __SANITIZE_ADDRESS__ // gcc
#define HD_ASAN 1
#elif defined __has_feature // clang
#define HD_ASAN __has_feature(address_sanitizer)
#else
#define HD_ASAN 0
#endif

// What blocks are for. Blocks are born as workspace: room that kernels take while they run, buffers of files, the tape.
// Tensors are of the other kinds, in which the tape and the optimizers move them (core/tensor.h).
typedef enum {
    HD_WORKSPACE,
    HD_TENSORS, // that are none of the following
    HD_PARAMETERS,
    HD_GRADIENTS,   // of parameters, and of what lies between while backward runs
    HD_ACTIVATIONS, // saved for backward
    HD_OPTIMIZER,   // its state
    HD_MEMORY_KINDS
} hd_memory_kind;

void *hd_alloc(size_t bytes); // contents undefined; bytes may be 0
void *hd_alloc_kind(size_t bytes, hd_memory_kind kind);
// A block of kind `from` counts as `to` from now on; one of another kind stays what it is.
void hd_alloc_move(void *block, hd_memory_kind from, hd_memory_kind to);
hd_memory_kind hd_alloc_kind_of(const void *block);
const char *hd_memory_kind_name(hd_memory_kind kind); // "parameters", as in hd.memory()
void *hd_calloc(size_t count, size_t size);           // zeros
char *hd_strdup(const char *text);                    // a copy
char *hd_strndup(const char *text, size_t length);    // of the first `length` bytes, with a zero behind
void *hd_malloc(size_t bytes);          // malloc's own, uncounted: for libraries whose users may call free()
void hd_free(void *block);              // NULL is allowed
void hd_alloc_trim(void);               // give the cache back to the system
void hd_alloc_set_budget(size_t bytes); // live + cached + script stay below; 0: no budget

typedef struct {
    size_t live, cached, peak; // bytes held, bytes waiting, highest live since the start or the last reset
    size_t script, budget;     // bytes of Lua's heap; the limit, 0: none
    size_t wanted;             // the last request that was refused,
    bool over_budget;          // by the budget rather than by the system
    size_t allocations;        // blocks handed out so far
    size_t kinds[HD_MEMORY_KINDS], peak_kinds[HD_MEMORY_KINDS]; // what live consists of, and what peak did
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
