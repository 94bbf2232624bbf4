// io/held.h: files that stay open while a run goes on: its log, and the lock on its folder.
#ifndef HD_HELD_H
#define HD_HELD_H

#include "io/file.h"

typedef struct hd_held hd_held;

// Open or make a file for appending; close-on-exec, so that no child keeps it. On failure *out is NULL.
hd_status hd_held_open(const char *path, hd_held **out);
// Append all of it, or nothing.
hd_status hd_held_append(hd_held *h, const void *data, size_t size);
hd_status hd_held_sync(hd_held *h);
// Read all of it, also when it was removed meanwhile. On failure *out is empty.
hd_status hd_held_read(const hd_held *h, hd_bytes *out);
// Does its path still lead to it? Not so when it or its folder was removed, moved or replaced.
bool hd_held_there(const hd_held *h);
void hd_held_close(hd_held *h); // NULL is allowed; a lock's file is removed

// Lock a folder for this process by the file `run.lock` in it. The kernel's lock ends with the process, however it
// ends. Fails with "'FOLDER' is in use by process 123: what it runs" where another one (or this one) holds it already.
// *unsupported: NULL, or why the file system cannot lock; then any number of processes come through here.
hd_status hd_held_lock(const char *folder, hd_held **out, const char **unsupported);

#endif
