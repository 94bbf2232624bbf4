// io/npy.h: NumPy's .npy (one array) and .npz (a zip of them).
// Format: numpy.lib.format, versions 1.0 to 3.0. Element types of io/number.h, little- and big-endian, both orders.
// Object arrays (pickle) are refused: nothing in a file is ever run.
#ifndef HD_NPY_H
#define HD_NPY_H

#include "io/file.h"
#include "io/number.h"

#define HD_NPY_CAP ((size_t)16 << 30) // bytes of a file that is read

typedef struct {
    hd_number type;
    bool big_endian, fortran; // fortran: the first dimension is the fastest
    int ndim;
    int64_t shape[HD_MAX_DIMS];
    int64_t count;             // elements
    const unsigned char *data; // inside the caller's bytes
} hd_npy;

// Check the bytes of a whole file; `where` begins the message. out->data points into them.
hd_status hd_npy_parse(const char *where, const unsigned char *bytes, size_t size, hd_npy *out);

// The bytes of a .npy file with the elements of v in row-major order.
hd_status hd_npy_write(const char *path, const hd_view *v);

typedef struct {
    char *name; // without ".npy"
    uint32_t crc;
    size_t offset, packed, size; // of the packed bytes; bytes when unpacked
    int method;                  // 0 stored, 8 deflate
} hd_npz_member;

typedef struct {
    hd_bytes file;
    int count;
    hd_npz_member *members;
} hd_npz;

hd_status hd_npz_open(const char *path, hd_npz *out); // on failure *out is empty
hd_status hd_npz_parse(const char *where, hd_npz *z); // the same for z->file already there; used by tests
hd_status hd_npz_read(const char *where, const hd_npz *z, int i, hd_bytes *out);
void hd_npz_close(hd_npz *z);

// Write a .npz without compression, members in the given order.
hd_status hd_npz_write(const char *path, const char *const *names, const hd_view *views, int count);

#endif
