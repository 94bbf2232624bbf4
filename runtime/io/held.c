// io/held.c: files that stay open: appending whole records, locking a folder.
// Layer: io. Calls: sys.c, file.c. Called by: bind_io.c. Threads: one.
#include "io/held.h"
#include "core/alloc.h"
#include "io/sys.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

struct hd_held {
    int fd;
    bool lock;
    char path[]; // as given when it was opened
};

static hd_status failed(const hd_held *h, const char *step) {
    return hd_fail(HD_EIO, "cannot write '%s': %s: %s", h->path, step, strerror(errno));
}

hd_status hd_held_open(const char *path, hd_held **out) {
    *out = NULL;
    hd_held *h = hd_alloc(sizeof *h + strlen(path) + 1);
    if (!h)
        return hd_fail(HD_ENOMEM, "cannot open '%s': no memory", path);
    strcpy(h->path, path);
    h->lock = false;
    h->fd = hd_sys_open(path, O_RDWR | O_CREAT | O_APPEND);
    if (h->fd < 0) {
        const hd_status status = failed(h, "opening");
        hd_free(h);
        return status;
    }
    *out = h;
    return HD_OK;
}

hd_status hd_held_append(hd_held *h, const void *data, size_t size) {
    struct stat st;
    if (fstat(h->fd, &st) != 0)
        return failed(h, "looking for its end");
    for (size_t done = 0; done < size;) {
        const ssize_t n = hd_sys_write(h->fd, (const char *)data + done, size - done);
        if (n < 0) {
            const hd_status status = failed(h, "writing");
            hd_sys_ftruncate(h->fd, st.st_size);
            return status;
        }
        done += (size_t)n;
    }
    return HD_OK;
}

hd_status hd_held_sync(hd_held *h) { return hd_sys_fsync(h->fd) == 0 ? HD_OK : failed(h, "fsync"); }

hd_status hd_held_read(const hd_held *h, hd_bytes *out) {
    *out = (hd_bytes){0};
    struct stat st;
    size_t capacity = 0;
    if (fstat(h->fd, &st) != 0)
        return failed(h, "looking for its end");
    HD_CHECK(hd_bytes_reserve(out, &capacity, (size_t)st.st_size));
    const hd_status status = hd_file_pread(h->fd, h->path, out->data, (size_t)st.st_size, 0);
    if (status == HD_OK)
        out->size = (size_t)st.st_size;
    else
        hd_bytes_free(out);
    return status;
}

bool hd_held_there(const hd_held *h) {
    struct stat own, now;
    return fstat(h->fd, &own) == 0 && stat(h->path, &now) == 0 && own.st_dev == now.st_dev && own.st_ino == now.st_ino;
}

void hd_held_close(hd_held *h) {
    if (!h)
        return;
    if (h->lock && hd_held_there(h))
        unlink(h->path);
    close(h->fd);
    hd_free(h);
}

// Locks ----------------------------------------------------------------------

// "123: hdlua train.lua --out runs/a" of this process.
static void describe_self(char *text, size_t size) {
    const int n = snprintf(text, size, "%ld: ", (long)getpid());
    const int fd = open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    const ssize_t got = fd < 0 ? 0 : read(fd, text + n, size - 1 - (size_t)n);
    if (fd >= 0)
        close(fd);
    char *end = text + n + (got > 0 ? got : 0);
    for (char *p = text + n; p < end; p++)
        if ((unsigned char)*p < ' ')
            *p = ' ';
    while (end > text && (end[-1] == ' ' || end[-1] == ':'))
        end--;
    *end = 0;
}

static hd_status in_use(const char *folder, const hd_held *h) {
    char text[300];
    const ssize_t n = pread(h->fd, text, sizeof text - 1, 0);
    text[n > 0 ? n : 0] = 0;
    return hd_fail(HD_EIO, "'%s' is in use by %s%s", folder, n > 0 ? "process " : "another process", text);
}

// Lock an open file; on success it carries our description. EAGAIN in errno: another one has it.
static bool take(hd_held *h, const char **unsupported) {
    *unsupported = NULL;
    if (hd_sys_flock(h->fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK)
            return false;
        *unsupported = strerror(errno);
    }
    char text[256];
    describe_self(text, sizeof text);
    if (hd_sys_ftruncate(h->fd, 0) == 0)
        hd_held_append(h, text, strlen(text)); // on a full disk the lock holds without it
    return true;
}

hd_status hd_held_lock(const char *folder, hd_held **out, const char **unsupported) {
    *out = NULL;
    char *path = hd_alloc(strlen(folder) + sizeof "/run.lock");
    if (!path)
        return hd_fail(HD_ENOMEM, "cannot lock '%s': no memory", folder);
    strcat(strcpy(path, folder), "/run.lock");
    hd_status status = HD_OK;
    while (status == HD_OK && !*out) {
        hd_held *h;
        status = hd_held_open(path, &h);
        if (status != HD_OK)
            break;
        if (!take(h, unsupported))
            status = in_use(folder, h);
        else if (hd_held_there(h)) // else its holder has just removed it: once more
            *out = h;
        if (*out)
            h->lock = true;
        else
            hd_held_close(h);
    }
    hd_free(path);
    return status;
}
