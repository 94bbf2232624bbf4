// io/folder.c: listing and making folders.
// Layer: io. Called by: bind_io.c. Threads: any.
#include "io/folder.h"
#include "core/alloc.h"
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

hd_path_kind hd_path_kind_of(const char *path) {
    struct stat st;
    if (stat(path, &st) != 0)
        return HD_PATH_NONE;
    return S_ISREG(st.st_mode) ? HD_PATH_FILE : S_ISDIR(st.st_mode) ? HD_PATH_FOLDER : HD_PATH_OTHER;
}

static int visible(const struct dirent *entry) { return entry->d_name[0] != '.'; }

// The locale must not change the order of a data set, as it does for alphasort.
static int by_bytes(const struct dirent **a, const struct dirent **b) { return strcmp((*a)->d_name, (*b)->d_name); }

hd_status hd_folder_list(const char *path, hd_folder *out) {
    *out = (hd_folder){0};
    struct dirent **entries;
    int n = scandir(path, &entries, visible, by_bytes);
    if (n < 0)
        return hd_fail(HD_EIO, "cannot list the folder '%s': %s", path, strerror(errno));
    out->names = hd_calloc((size_t)n + 1, sizeof *out->names);
    for (int i = 0; i < n; i++) {
        char *name = out->names && out->count == i ? hd_strdup(entries[i]->d_name) : NULL;
        if (name)
            out->names[out->count++] = name;
        free(entries[i]);
    }
    free(entries);
    if (out->names && out->count == n)
        return HD_OK;
    hd_folder_free(out);
    return hd_fail(HD_ENOMEM, "cannot list the folder '%s': no memory", path);
}

void hd_folder_free(hd_folder *f) {
    for (int i = 0; i < f->count; i++)
        hd_free(f->names[i]);
    hd_free(f->names);
    *f = (hd_folder){0};
}

hd_status hd_folder_make(const char *path) {
    char *part = hd_strdup(path);
    if (!part)
        return hd_fail(HD_ENOMEM, "cannot make the folder '%s': no memory", path);
    int error = 0;
    for (char *p = part; *p && !error; p++) { // each folder above it, then itself
        if (p[1] != '/' && p[1] != 0)
            continue;
        char keep = p[1];
        p[1] = 0;
        int reason = mkdir(part, 0777) == 0 ? 0 : errno;
        if (reason && hd_path_kind_of(part) != HD_PATH_FOLDER)
            error = reason;
        p[1] = keep;
    }
    hd_free(part);
    return error ? hd_fail(HD_EIO, "cannot make the folder '%s': %s", path, strerror(error)) : HD_OK;
}
