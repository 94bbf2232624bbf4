// io/safetensors.h: the safetensors format, every claim of the file checked before anything is believed.
// A file is: 8 bytes length of the header, the header (JSON), the data. The header names tensors with type, shape and
// byte range; ranges must fill the data exactly. Opening needs memory for the header alone; data are read tensor by
// tensor into the caller's buffers. Nothing in a file is ever run.
// Format: https://github.com/huggingface/safetensors#format
#ifndef HD_SAFETENSORS_H
#define HD_SAFETENSORS_H

#include "io/number.h"
#include <stdint.h>

typedef struct {
    const char *name;
    hd_number type;
    int ndim;
    int64_t shape[HD_MAX_DIMS];
    uint64_t begin, end; // bytes, counted from the start of the data
} hd_safetensors_entry;

typedef struct {
    const char *key, *value;
} hd_safetensors_text;

typedef struct {
    unsigned long crc, adler;
} hd_safetensors_sum;

struct cJSON;

typedef struct hd_safetensors {
    int fd;
    char *path;
    uint64_t data_start, data_size;
    int count, ntexts;
    hd_safetensors_entry *entries; // in the order of their data
    hd_safetensors_text *texts;    // __metadata__
    struct cJSON *tree;            // owns the strings
    hd_safetensors_sum sum;        // of the header
    char digits[17];               // of the checksum that the file carries
} hd_safetensors;

// Open and check everything but the data themselves; where the file carries our checksum, every byte of it.
// The caller closes; on failure *out is NULL.
hd_status hd_safetensors_open(const char *path, hd_safetensors **out);
// Read entry i as hd_numbers[type].dtype, row-major, into dst. *odd grows by the number of values that are not finite.
hd_status hd_safetensors_read(hd_safetensors *f, int i, void *dst, int64_t *odd);
void hd_safetensors_close(hd_safetensors *f); // NULL is allowed

typedef struct {
    const char *name;
    hd_view view;
} hd_safetensors_item;

// Write whole or not at all, and read it back before it takes its place. Tensors go by falling element size, then by
// name, so that data are aligned and the file depends on its content alone. A checksum of the file is added to the
// metadata as "hdlua.checksum"; a program that changes the file must drop it.
hd_status hd_safetensors_write(const char *path, const hd_safetensors_item *items, int count,
                               const hd_safetensors_text *texts, int ntexts, bool keep_previous);

#endif
