// io/idx.h: the IDX format of MNIST, plain or inside gzip; unsigned bytes only.
#ifndef HD_IDX_H
#define HD_IDX_H

#include "core/dtype.h"
#include "io/file.h"

typedef struct {
    int ndim;
    int64_t shape[HD_MAX_DIMS];
    const unsigned char *data; // inside the caller's bytes, row-major
} hd_idx;

// Check the unpacked bytes of a file; `where` begins the message.
hd_status hd_idx_parse(const char *where, const hd_bytes *file, hd_idx *out);

#endif
