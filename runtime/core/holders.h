// core/holders.h: who holds the memory, for the message when there is no more of it.
#ifndef HD_HOLDERS_H
#define HD_HOLDERS_H

#include <stddef.h>

// "96.0 MiB" into a small ring of thread-local buffers (4 deep), for messages.
const char *hd_bytes_text(size_t bytes);

// Write what was wanted, what is in use, the limit, and the groups of equal live tensors that hold most of it:
//   "\n  wanted 96.0 MiB; in use 1.95 GiB by tensors and 20.1 MiB by Lua, limit 2.00 GiB (--memory)"
//   "\n  largest: 12 x f32 [16,128,32,32] 96.0 MiB (conv2d), 1 x u8 [50000,3,32,32] 146.5 MiB"
// Takes no memory; walks all tensors. The main thread only.
void hd_holders_text(char *text, size_t size);

#endif
