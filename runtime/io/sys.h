// io/sys.h: the system calls of files that must not be lost. Each is the call of its name, -1 and errno on failure,
// with EINTR repeated. In one place, so that tests can make each of them fail and see their order.
#ifndef HD_SYS_H
#define HD_SYS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

int hd_sys_open(const char *path, int flags); // O_CLOEXEC is added; new files get mode 0666
int hd_sys_fchmod(int fd, mode_t mode);
ssize_t hd_sys_write(int fd, const void *data, size_t size);         // may be short
ssize_t hd_sys_pread(int fd, void *data, size_t size, off_t offset); // may be short
int hd_sys_ftruncate(int fd, off_t size);
int hd_sys_fsync(int fd);
int hd_sys_close(int fd); // the descriptor is gone in any case
int hd_sys_link(const char *from, const char *to);
int hd_sys_rename(const char *from, const char *to);
int hd_sys_flock(int fd, int operation);

// Tests: the nth call from now on (1 = the next) fails with `error`, or, with HD_SHORT_COUNT, moves half of its bytes
// (calls that move none are left alone). 0 turns it off. True when the last one set came to pass.
#define HD_SHORT_COUNT (-1)
bool hd_sys_inject(int nth, int error);

// Tests: what succeeded since this was called last, one line each: "rename FROM TO", "fsync PATH" (of several writes in
// a row the first). The record begins with the first call.
const char *hd_sys_record(void);

#endif
