// io/idx.c: the IDX format.
// Layer: io. Called by: bind_data.c. Threads: any.
// Format (LeCun): two zero bytes, the type (8: unsigned bytes), the number of dimensions, big-endian u32 extents, data.
#include "io/idx.h"
#include "io/number.h"

hd_status hd_idx_parse(const char *where, const hd_bytes *file, hd_idx *out) {
    *out = (hd_idx){0};
    const unsigned char *p = file->data;
    if (file->size < 4 || p[0] != 0 || p[1] != 0)
        return hd_fail(HD_EFORMAT, "%s is no IDX file: it does not begin with its magic number", where);
    if (p[2] != 8)
        return hd_fail(HD_EFORMAT, "%s: IDX type %d is not read, expected 8 (unsigned bytes)", where, p[2]);
    int ndim = p[3];
    if (ndim < 1 || ndim > HD_MAX_DIMS || file->size < 4 + 4 * (size_t)ndim)
        return hd_fail(HD_EFORMAT, "%s: bad IDX file: %d dimensions, expected 1 to %d", where, ndim, HD_MAX_DIMS);
    for (int d = 0; d < ndim; d++) {
        const unsigned char *q = p + 4 + 4 * d;
        out->shape[d] = (int64_t)q[0] << 24 | q[1] << 16 | q[2] << 8 | q[3];
    }
    int64_t need;
    size_t have = file->size - 4 - 4 * (size_t)ndim;
    if (!hd_extent_bytes(ndim, out->shape, 1, &need) || (uint64_t)need != have)
        return hd_fail(HD_EFORMAT, "%s: its data do not fit its header, or it is cut short: got %zu bytes", where,
                       have);
    out->ndim = ndim;
    out->data = p + 4 + 4 * (size_t)ndim;
    return HD_OK;
}
