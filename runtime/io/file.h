// io/file.h: whole files in, whole files out.
// Reading refuses what is not a regular file and what is larger than the caller's cap, and gives memory of hd_alloc.
// Writing replaces a file whole or not at all: a temporary in the same folder, fsync, rename, fsync of the folder.
// Messages name the path and the step that failed.
#ifndef HD_FILE_H
#define HD_FILE_H

#include "core/status.h"
#include <stdbool.h>
#include <stddef.h>

typedef struct {
    unsigned char *data; // from hd_alloc; one zero byte follows the content
    size_t size;
} hd_bytes;

void hd_bytes_free(hd_bytes *b); // leaves it empty
// Make room for `want` bytes (and the zero behind them); *capacity is what is there. Contents up to size are kept.
hd_status hd_bytes_reserve(hd_bytes *b, size_t *capacity, size_t want);

// On failure *out is empty.
hd_status hd_file_read(const char *path, size_t cap, hd_bytes *out);
// The same through gunzip; a file without gzip's magic number is read as it is. The cap counts unpacked bytes.
hd_status hd_file_read_gz(const char *path, size_t cap, hd_bytes *out);
// Open for reading, close-on-exec; regular files only. The caller closes *fd.
hd_status hd_file_open(const char *path, int *fd, size_t *size);
// Read exactly `size` bytes at `offset`; a file that has shrunk meanwhile is an error.
hd_status hd_file_pread(int fd, const char *path, void *dst, size_t size, size_t offset);

// A file being written. Nothing is seen at `path` before the commit.
typedef struct hd_writer hd_writer;
hd_status hd_writer_open(const char *path, hd_writer **out); // also removes temporaries left by dead processes
hd_status hd_writer_put(hd_writer *w, const void *data, size_t size);
// All that was put is on the disk; until the commit it can be read back under this name. A commit syncs by itself.
hd_status hd_writer_sync(hd_writer *w);
const char *hd_writer_temp(const hd_writer *w);
// Make it the file. keep_previous: what was there stays as `<path>.prev`. Frees w, also on failure.
hd_status hd_writer_commit(hd_writer *w, bool keep_previous);
void hd_writer_abort(hd_writer *w); // removes the temporary; NULL is allowed

hd_status hd_file_write(const char *path, const void *data, size_t size, bool keep_previous);

// Remove the temporaries that dead processes have left in a folder: of the file `name`, or of all files (NULL).
void hd_file_remove_stale(const char *folder, const char *name);

#endif
