// io/file.c: whole files in, whole files out.
// Layer: io. Calls: sys.c. Called by: the other readers and writers of io/, bind/. Threads: any.
// The order of a save follows what databases do: write, fsync, close, rename, fsync the folder; a reader therefore sees
// the old file or the new one, after a crash too.
#include "io/file.h"
#include "core/alloc.h"
#include "io/sys.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

// Bytes ----------------------------------------------------------------------

void hd_bytes_free(hd_bytes *b) {
    hd_free(b->data);
    *b = (hd_bytes){0};
}

hd_status hd_bytes_reserve(hd_bytes *b, size_t *capacity, size_t want) {
    if (b->data && *capacity >= want)
        return HD_OK;
    size_t bigger = *capacity + *capacity / 2;
    if (bigger < want)
        bigger = want;
    unsigned char *data = hd_alloc(bigger + 1);
    if (!data)
        return hd_fail(HD_ENOMEM, "file: no memory for %zu bytes", bigger);
    if (b->size)
        memcpy(data, b->data, b->size);
    data[b->size] = 0;
    hd_free(b->data);
    b->data = data;
    *capacity = bigger;
    return HD_OK;
}

// Reading --------------------------------------------------------------------

hd_status hd_file_open(const char *path, int *fd, size_t *size) {
    *fd = hd_sys_open(path, O_RDONLY | O_NONBLOCK); // not to wait for the writer of a pipe
    if (*fd < 0)
        return hd_fail(HD_EIO, "cannot open '%s': %s", path, strerror(errno));
    struct stat st;
    const char *problem = NULL;
    if (fstat(*fd, &st) != 0)
        problem = strerror(errno);
    else if (S_ISDIR(st.st_mode))
        problem = "it is a folder";
    else if (!S_ISREG(st.st_mode))
        problem = "it is not a regular file";
    if (problem) {
        close(*fd);
        *fd = -1;
        return hd_fail(HD_EIO, "cannot read '%s': %s", path, problem);
    }
    *size = (size_t)st.st_size;
    return HD_OK;
}

hd_status hd_file_pread(int fd, const char *path, void *dst, size_t size, size_t offset) {
    size_t done = 0;
    while (done < size) {
        ssize_t n = hd_sys_pread(fd, (char *)dst + done, size - done, (off_t)(offset + done));
        if (n < 0)
            return hd_fail(HD_EIO, "cannot read '%s': %s", path, strerror(errno));
        if (n == 0)
            return hd_fail(HD_EIO, "'%s' became shorter while it was read: got %zu bytes, expected %zu", path,
                           offset + done, offset + size);
        done += (size_t)n;
    }
    return HD_OK;
}

hd_status hd_file_read(const char *path, size_t cap, hd_bytes *out) {
    *out = (hd_bytes){0};
    int fd;
    size_t size, capacity = 0;
    HD_CHECK(hd_file_open(path, &fd, &size));
    hd_status status;
    if (size > cap)
        status = hd_fail(HD_EFORMAT, "'%s' is too large: got %zu bytes, expected at most %zu", path, size, cap);
    else
        status = hd_bytes_reserve(out, &capacity, size);
    if (status == HD_OK)
        status = hd_file_pread(fd, path, out->data, size, 0);
    close(fd);
    if (status != HD_OK) {
        hd_bytes_free(out);
        return status;
    }
    out->size = size;
    out->data[size] = 0;
    return HD_OK;
}

// The buffer grows with what really comes out, so a small file cannot ask for much memory.
static hd_status gz_read_all(gzFile gz, const char *path, size_t cap, hd_bytes *out) {
    size_t capacity = 0;
    for (;;) {
        HD_CHECK(hd_bytes_reserve(out, &capacity, out->size + 65536));
        int n = gzread(gz, out->data + out->size, 65536);
        if (n < 0) {
            int code;
            return hd_fail(HD_EFORMAT, "cannot unpack '%s': %s", path, gzerror(gz, &code));
        }
        if (n == 0)
            return HD_OK;
        out->size += (size_t)n;
        if (out->size > cap)
            return hd_fail(HD_EFORMAT, "'%s' is too large: unpacks to more than %zu bytes", path, cap);
    }
}

hd_status hd_file_read_gz(const char *path, size_t cap, hd_bytes *out) {
    *out = (hd_bytes){0};
    int fd;
    size_t size;
    HD_CHECK(hd_file_open(path, &fd, &size));
    gzFile gz = gzdopen(fd, "rb");
    if (!gz) {
        close(fd);
        return hd_fail(HD_ENOMEM, "cannot unpack '%s': no memory", path);
    }
    hd_status status = gz_read_all(gz, path, cap, out);
    int end = gzclose_r(gz);
    if (status == HD_OK && end != Z_OK)
        status = hd_fail(HD_EFORMAT, "cannot unpack '%s': the file is cut short", path);
    if (status != HD_OK)
        hd_bytes_free(out);
    else
        out->data[out->size] = 0;
    return status;
}

// Writing --------------------------------------------------------------------

struct hd_writer {
    char *path, *temp;
    int fd;
    size_t used;
    unsigned char buffer[65536];
};

static hd_status failed(const hd_writer *w, const char *step) {
    return hd_fail(HD_EIO, "cannot save '%s': %s: %s", w->path, step, strerror(errno));
}

static char *joined(const char *path, const char *tail) {
    char *s = hd_alloc(strlen(path) + strlen(tail) + 1);
    if (s)
        strcat(strcpy(s, path), tail);
    return s;
}

static char *folder_of(const char *path) {
    const char *slash = strrchr(path, '/');
    if (!slash)
        return hd_strdup(".");
    return slash == path ? hd_strdup("/") : hd_strndup(path, (size_t)(slash - path));
}

// Is this the name of a temporary, `<name>.tmp.<pid>` or `<name>.tmp.<pid>.prev`, whose process is gone? One with our
// own number is a dead namesake's: one process writes one file at a time. name NULL: of any file.
static bool is_stale(const char *entry, const char *name) {
    const char *mark = NULL;
    for (const char *p = entry; (p = strstr(p, ".tmp.")); p++)
        mark = p;
    if (!mark || mark == entry)
        return false;
    const size_t n = (size_t)(mark - entry);
    if (name && (strlen(name) != n || strncmp(entry, name, n) != 0))
        return false;
    char *end;
    const long pid = strtol(mark + 5, &end, 10);
    if (pid <= 0 || (*end && strcmp(end, ".prev") != 0))
        return false;
    return pid == (long)getpid() || (kill((pid_t)pid, 0) != 0 && errno != EPERM);
}

void hd_file_remove_stale(const char *folder, const char *name) {
    DIR *dir = opendir(folder);
    struct dirent *entry;
    while (dir && (entry = readdir(dir)))
        if (is_stale(entry->d_name, name))
            unlinkat(dirfd(dir), entry->d_name, 0);
    if (dir)
        closedir(dir);
}

static void remove_stale_of(const char *path) {
    const char *slash = strrchr(path, '/');
    char *folder = folder_of(path);
    if (folder)
        hd_file_remove_stale(folder, slash ? slash + 1 : path);
    hd_free(folder);
}

static void writer_free(hd_writer *w) {
    hd_free(w->path);
    hd_free(w->temp);
    hd_free(w);
}

void hd_writer_abort(hd_writer *w) {
    if (!w)
        return;
    if (w->fd >= 0)
        close(w->fd);
    if (w->temp)
        unlink(w->temp);
    writer_free(w);
}

// Names and the mode of the new file. A link is followed, so that it stays a link; what is no file is never replaced.
static hd_status writer_prepare(hd_writer *w, const char *path, mode_t *mode) {
    struct stat st;
    *mode = 0;
    if (stat(path, &st) == 0) {
        if (!S_ISREG(st.st_mode))
            return hd_fail(HD_EIO, "cannot save '%s': it is %s", path,
                           S_ISDIR(st.st_mode) ? "a folder" : "not a regular file");
        *mode = st.st_mode & 07777;
        char target[PATH_MAX];
        w->path = realpath(path, target) ? hd_strdup(target) : NULL;
    } else {
        w->path = hd_strdup(path);
    }
    char tail[32];
    snprintf(tail, sizeof tail, ".tmp.%ld", (long)getpid());
    char *temp = w->path ? joined(w->path, tail) : NULL;
    if (!temp)
        return hd_fail(HD_ENOMEM, "cannot save '%s': no memory", path);
    remove_stale_of(w->path);
    w->fd = hd_sys_open(temp, O_WRONLY | O_CREAT | O_EXCL);
    if (w->fd < 0) {
        hd_status status = failed(w, "creating a file in its folder");
        hd_free(temp);
        return status;
    }
    w->temp = temp;
    return HD_OK;
}

hd_status hd_writer_open(const char *path, hd_writer **out) {
    *out = NULL;
    hd_writer *w = hd_alloc(sizeof *w);
    if (!w)
        return hd_fail(HD_ENOMEM, "cannot save '%s': no memory", path);
    w->path = w->temp = NULL;
    w->fd = -1;
    w->used = 0;
    mode_t mode;
    hd_status status = writer_prepare(w, path, &mode);
    if (status == HD_OK && mode && hd_sys_fchmod(w->fd, mode) != 0)
        status = failed(w, "setting its mode");
    if (status != HD_OK) {
        hd_writer_abort(w);
        return status;
    }
    *out = w;
    return HD_OK;
}

static hd_status write_all(hd_writer *w, const unsigned char *data, size_t size) {
    while (size > 0) {
        ssize_t n = hd_sys_write(w->fd, data, size);
        if (n < 0)
            return failed(w, "writing");
        data += n;
        size -= (size_t)n;
    }
    return HD_OK;
}

hd_status hd_writer_put(hd_writer *w, const void *data, size_t size) {
    if (w->used + size > sizeof w->buffer) {
        HD_CHECK(write_all(w, w->buffer, w->used));
        w->used = 0;
    }
    if (size > sizeof w->buffer)
        return write_all(w, data, size);
    if (size)
        memcpy(w->buffer + w->used, data, size);
    w->used += size;
    return HD_OK;
}

hd_status hd_writer_sync(hd_writer *w) {
    if (w->fd < 0)
        return HD_OK;
    HD_CHECK(write_all(w, w->buffer, w->used));
    w->used = 0;
    if (hd_sys_fsync(w->fd) != 0)
        return failed(w, "fsync");
    const int fd = w->fd;
    w->fd = -1;
    return hd_sys_close(fd) == 0 ? HD_OK : failed(w, "closing");
}

const char *hd_writer_temp(const hd_writer *w) { return w->temp; }

static hd_status sync_folder(const hd_writer *w) {
    char *folder = folder_of(w->path);
    if (!folder)
        return hd_fail(HD_ENOMEM, "cannot save '%s': no memory", w->path);
    const int fd = hd_sys_open(folder, O_RDONLY | O_DIRECTORY);
    hd_free(folder);
    if (fd < 0)
        return failed(w, "opening its folder");
    hd_status status = HD_OK;
    if (hd_sys_fsync(fd) != 0 && errno != EINVAL) // EINVAL: a file system without this
        status = failed(w, "fsync of its folder");
    close(fd);
    return status;
}

// Put the new file in its place.
static hd_status replace(hd_writer *w) { return hd_sys_rename(w->temp, w->path) == 0 ? HD_OK : failed(w, "renaming"); }

// The same where the file system knows no hard links: for a moment only `prev` is there.
static hd_status replace_moving(hd_writer *w, const char *prev) {
    if (hd_sys_rename(w->path, prev) != 0)
        return failed(w, "keeping the previous file");
    const hd_status status = replace(w);
    if (status != HD_OK)
        rename(prev, w->path);
    return status;
}

// The present file gets a second name first, `old`, and that becomes `prev` once the new file is in its place: at every
// moment `path` and `prev` are two whole files.
static hd_status replace_keeping(hd_writer *w, const char *old, const char *prev) {
    if (hd_sys_link(w->path, old) != 0) {
        if (errno == ENOENT) // there is none yet
            return replace(w);
        if (errno == EPERM || errno == EOPNOTSUPP || errno == ENOSYS)
            return replace_moving(w, prev);
        return failed(w, "keeping the previous file");
    }
    hd_status status = replace(w);
    if (status == HD_OK && hd_sys_rename(old, prev) != 0)
        status = failed(w, "keeping the previous file");
    unlink(old); // there after a failure; and a rename between two names of one file does nothing
    return status;
}

static hd_status replace_and_keep(hd_writer *w) {
    char *old = joined(w->temp, ".prev"), *prev = joined(w->path, ".prev");
    hd_status status;
    if (old && prev)
        status = replace_keeping(w, old, prev);
    else
        status = hd_fail(HD_ENOMEM, "cannot save '%s': no memory", w->path);
    hd_free(old);
    hd_free(prev);
    return status;
}

hd_status hd_writer_commit(hd_writer *w, bool keep_previous) {
    hd_status status = hd_writer_sync(w);
    if (status == HD_OK)
        status = keep_previous ? replace_and_keep(w) : replace(w);
    if (status == HD_OK)
        status = sync_folder(w);
    hd_writer_abort(w); // after the rename there is no temporary left to remove
    return status;
}

hd_status hd_file_write(const char *path, const void *data, size_t size, bool keep_previous) {
    hd_writer *w;
    HD_CHECK(hd_writer_open(path, &w));
    hd_status status = hd_writer_put(w, data, size);
    if (status == HD_OK)
        return hd_writer_commit(w, keep_previous);
    hd_writer_abort(w);
    return status;
}
