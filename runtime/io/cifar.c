// io/cifar.c: CIFAR-10's binary files.
// Layer: io. Called by: bind_data.c. Threads: any. Format: https://www.cs.toronto.edu/~kriz/cifar.html
#include "io/cifar.h"
#include "io/file.h"
#include <string.h>
#include <unistd.h>

#define PIXELS 3072
#define RECORD (1 + PIXELS)
#define FILE_CAP ((size_t)4 << 30)

hd_status hd_cifar_count(const char *path, int64_t *count) {
    int fd;
    size_t size;
    HD_CHECK(hd_file_open(path, &fd, &size));
    close(fd);
    if (size == 0 || size % RECORD != 0)
        return hd_fail(HD_EFORMAT, "'%s' is no CIFAR-10 file, or cut short: got %zu bytes, expected a multiple of %d",
                       path, size, RECORD);
    if (size > FILE_CAP)
        return hd_fail(HD_EFORMAT, "'%s' is too large: got %zu bytes, expected at most %zu", path, size, FILE_CAP);
    *count = (int64_t)(size / RECORD);
    return HD_OK;
}

hd_status hd_cifar_read(const char *path, int64_t count, uint8_t *pixels, int64_t *labels) {
    hd_bytes file;
    HD_CHECK(hd_file_read(path, FILE_CAP, &file));
    hd_status status = HD_OK;
    if (file.size != (size_t)count * RECORD)
        status = hd_fail(HD_EIO, "'%s' changed while it was read", path);
    for (int64_t i = 0; i < count && status == HD_OK; i++) {
        const unsigned char *record = file.data + (size_t)i * RECORD;
        if (record[0] > 9)
            status = hd_fail(HD_EFORMAT, "'%s' is no CIFAR-10 file: label of record %lld is %d, expected 0 to 9", path,
                             (long long)i + 1, record[0]);
        labels[i] = record[0] + 1;
        memcpy(pixels + (size_t)i * PIXELS, record + 1, PIXELS);
    }
    hd_bytes_free(&file);
    return status;
}
