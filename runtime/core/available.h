// core/available.h: how much memory this process may still take.
#ifndef HD_AVAILABLE_H
#define HD_AVAILABLE_H

#include <stddef.h>

// Bytes: what the kernel says is available, less where a control group (v1 or v2) or RLIMIT_AS allows less. 0: not
// known.
size_t hd_memory_available(void);

#endif
