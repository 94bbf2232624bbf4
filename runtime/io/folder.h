// io/folder.h: what lies in a folder, and making one.
#ifndef HD_FOLDER_H
#define HD_FOLDER_H

#include "core/status.h"

typedef enum { HD_PATH_NONE, HD_PATH_FILE, HD_PATH_FOLDER, HD_PATH_OTHER } hd_path_kind;
hd_path_kind hd_path_kind_of(const char *path); // links are followed

typedef struct {
    int count;
    char **names; // sorted by bytes; without those that begin with a dot
} hd_folder;

hd_status hd_folder_list(const char *path, hd_folder *out); // on failure *out is empty
void hd_folder_free(hd_folder *f);

// Make a folder and those above it; one that is there already is fine.
hd_status hd_folder_make(const char *path);

#endif
