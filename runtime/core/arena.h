// core/arena.h: memory of large blocks, for core/alloc.c alone, whose lock is held by every caller.
// One range of addresses that grows at its end. Its free ranges are joined with their neighbours as they arise; a block
// takes the first part of the smallest that holds it. Addresses cost nothing, memory does: the arena has it by huge
// pages. A page on which no block lies is spare, and its memory goes wherever a block comes to lie on addresses that
// have none: the kernel moves it in 4 to 8 us, while a fresh page has to be cleared (2 MiB at some GB/s). So memory is
// taken from the system only when all that is there is in use: seldom, in a training step like the one before.
#ifndef HD_ARENA_H
#define HD_ARENA_H

#include <stddef.h>

enum { HD_ARENA_GRAIN = 4096 };

// `bytes` is a multiple of HD_ARENA_GRAIN, on whose border the block begins. NULL: the system gives no more, or the
// arena's memory would exceed `limit` bytes even without its spare pages.
void *hd_arena_alloc(size_t bytes, size_t limit);
void hd_arena_free(void *block, size_t bytes);
size_t hd_arena_bytes(void);      // of its memory, in use or not
void hd_arena_trim(size_t limit); // give spare pages back while its memory exceeds `limit`

#endif
