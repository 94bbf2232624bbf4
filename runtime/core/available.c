// core/available.c: the memory that is left, from /proc and the control groups.
// Layer: core. Called by: app/library.c.
#include "core/available.h"
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

// The number behind `key` in a file of lines "key number", or the file's only number with key "". 0: there is none.
static size_t read_number(const char *folder, const char *name, const char *key) {
    char path[PATH_MAX], line[256];
    size_t value = 0;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file)) {
        if (strncmp(line, key, strlen(key)) != 0)
            continue;
        value = strtoull(line + strlen(key), NULL, 10); // "max" gives 0
        break;
    }
    if (file)
        fclose(file);
    return value;
}

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

// What a group may still take. Its use counts cached files, which the kernel gives up first.
static size_t left_of(size_t limit, size_t used, size_t files) {
    used -= least(used, files);
    return limit == 0 ? SIZE_MAX : limit - least(limit, used);
}

// The least of a group and all groups above it.
static size_t left_in_groups(const char *root, const char *group, const char *limit, const char *usage,
                             const char *files) {
    char folder[PATH_MAX];
    size_t left = SIZE_MAX;
    const size_t top = strlen(root);
    snprintf(folder, sizeof folder, "%s%s", root, group);
    for (;;) {
        left = least(left, left_of(read_number(folder, limit, ""), read_number(folder, usage, ""),
                                   read_number(folder, "memory.stat", files)));
        char *slash = strrchr(folder, '/');
        if ((size_t)(slash - folder) < top)
            return left;
        *slash = '\0';
    }
}

static size_t left_in_control_groups(void) {
    char line[PATH_MAX];
    size_t left = SIZE_MAX;
    FILE *file = fopen("/proc/self/cgroup", "r");
    while (file && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = '\0';
        char *group = strchr(line, '/');
        if (!group)
            continue;
        if (strncmp(line, "0::", 3) == 0)
            left =
                least(left, left_in_groups("/sys/fs/cgroup", group, "memory.max", "memory.current", "inactive_file "));
        else if (strstr(line, ":memory:"))
            left = least(left, left_in_groups("/sys/fs/cgroup/memory", group, "memory.limit_in_bytes",
                                              "memory.usage_in_bytes", "total_inactive_file "));
    }
    if (file)
        fclose(file);
    return left;
}

static size_t left_of_address_space(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
        return SIZE_MAX;
    const size_t used = 1024 * read_number("/proc/self", "status", "VmSize:");
    return (size_t)limit.rlim_cur - least((size_t)limit.rlim_cur, used);
}

size_t hd_memory_available(void) {
    const size_t kernel = 1024 * read_number("/proc", "meminfo", "MemAvailable:");
    const size_t left = least(least(left_in_control_groups(), left_of_address_space()), kernel ? kernel : SIZE_MAX);
    return left == SIZE_MAX ? 0 : left;
}
