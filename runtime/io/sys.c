// io/sys.c: system calls with EINTR repeated, faults for tests, and a record of their order.
// Layer: io. Called by: file.c, held.c. Threads: any, but for the record.
#include "io/sys.h"
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

// Faults ---------------------------------------------------------------------

static atomic_int fault_after, fault_error;
static atomic_bool fault_done;

bool hd_sys_inject(int nth, int error) {
    const bool done = atomic_exchange(&fault_done, false);
    atomic_store(&fault_error, error);
    atomic_store(&fault_after, nth);
    return done;
}

// What a test wants of this call: 0, an errno, or HD_SHORT_COUNT.
static int fault(void) {
    if (atomic_load(&fault_after) <= 0 || atomic_fetch_sub(&fault_after, 1) != 1)
        return 0;
    atomic_store(&fault_done, true);
    return atomic_load(&fault_error);
}

// Is this call to fail? Then errno says how.
static bool fails(void) {
    const int error = fault();
    if (error > 0)
        errno = error;
    return error > 0;
}

// How many of `size` bytes a call may move; -1: it is to fail.
static ssize_t allowed(size_t size) {
    const int error = fault();
    if (error > 0)
        errno = error;
    return error > 0 ? -1 : (ssize_t)(error == HD_SHORT_COUNT && size > 1 ? size / 2 : size);
}

// Record ---------------------------------------------------------------------

static char record[8192];
static bool recording;

const char *hd_sys_record(void) {
    static char last[sizeof record];
    memcpy(last, record, sizeof last);
    record[0] = 0;
    recording = true;
    return last;
}

static void note(const char *call, const char *from, const char *to) {
    char line[1024];
    if (!recording)
        return;
    snprintf(line, sizeof line, "%s %s%s%s\n", call, from, to ? " " : "", to ? to : "");
    const size_t used = strlen(record), n = strlen(line);
    if (used + n < sizeof record && (used < n || strcmp(record + used - n, line) != 0))
        memcpy(record + used, line, n + 1);
}

static void note_fd(const char *call, int fd) {
    char link[64], path[512];
    if (!recording)
        return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const ssize_t n = readlink(link, path, sizeof path - 1);
    path[n < 0 ? 0 : n] = 0;
    note(call, path, NULL);
}

// Calls ----------------------------------------------------------------------

#define REPEAT(result, call)                                                                                           \
    do                                                                                                                 \
        (result) = fails() ? -1 : (call);                                                                              \
    while ((result) < 0 && errno == EINTR)

int hd_sys_open(const char *path, int flags) {
    int fd;
    REPEAT(fd, open(path, flags | O_CLOEXEC, 0666));
    if (fd >= 0)
        note("open", path, NULL);
    return fd;
}

int hd_sys_fchmod(int fd, mode_t mode) {
    int result;
    REPEAT(result, fchmod(fd, mode));
    return result;
}

ssize_t hd_sys_write(int fd, const void *data, size_t size) {
    ssize_t n;
    do {
        const ssize_t most = allowed(size);
        n = most < 0 ? -1 : write(fd, data, (size_t)most);
    } while (n < 0 && errno == EINTR);
    if (n > 0)
        note_fd("write", fd);
    return n;
}

ssize_t hd_sys_pread(int fd, void *data, size_t size, off_t offset) {
    ssize_t n;
    do {
        const ssize_t most = allowed(size);
        n = most < 0 ? -1 : pread(fd, data, (size_t)most, offset);
    } while (n < 0 && errno == EINTR);
    return n;
}

int hd_sys_ftruncate(int fd, off_t size) {
    int result;
    REPEAT(result, ftruncate(fd, size));
    return result;
}

int hd_sys_fsync(int fd) {
    int result;
    REPEAT(result, fsync(fd));
    if (result == 0)
        note_fd("fsync", fd);
    return result;
}

// On Linux the descriptor is closed whatever close() says, so EINTR is no reason to repeat it.
int hd_sys_close(int fd) {
    const bool failing = fails();
    const int error = errno;
    int result = close(fd);
    if (failing) {
        errno = error;
        result = -1;
    }
    return result < 0 && errno == EINTR ? 0 : result;
}

int hd_sys_link(const char *from, const char *to) {
    int result;
    REPEAT(result, link(from, to));
    if (result == 0)
        note("link", from, to);
    return result;
}

int hd_sys_rename(const char *from, const char *to) {
    int result;
    REPEAT(result, rename(from, to));
    if (result == 0)
        note("rename", from, to);
    return result;
}

int hd_sys_flock(int fd, int operation) {
    int result;
    REPEAT(result, flock(fd, operation));
    return result;
}
