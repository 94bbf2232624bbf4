// tests/c/scratch.h: a folder of its own for a test program, and a check that no test keeps native memory.
#ifndef SCRATCH_H
#define SCRATCH_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "core/alloc.h"
#include "io/file.h"
#include "io/folder.h"

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

static char scratch[64];

// The path of a name in the folder; a ring of four.
static const char *at(const char *name) {
    static char ring[4][160];
    static int next;
    char *path = ring[next++ % 4];
    snprintf(path, sizeof ring[0], "%s/%s", scratch, name);
    return path;
}

static void spill(const char *name, const void *data, size_t size) {
    FILE *f = fopen(at(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}

static int make_scratch(void **state) {
    (void)state;
    // in memory where that is possible: the tests of saving sync often
    strcpy(scratch, access("/dev/shm", W_OK) == 0 ? "/dev/shm/hdlua-test-XXXXXX" : "/tmp/hdlua-test-XXXXXX");
    return mkdtemp(scratch) ? 0 : -1;
}

static int remove_scratch(void **state) {
    (void)state;
    hd_folder folder;
    if (hd_folder_list(scratch, &folder) != HD_OK)
        return -1;
    for (int i = 0; i < folder.count; i++)
        if (unlink(at(folder.names[i])) != 0)
            rmdir(at(folder.names[i]));
    hd_folder_free(&folder);
    return rmdir(scratch);
}

static size_t live_before;

static int note_memory(void **state) {
    (void)state;
    hd_memory_info info;
    hd_memory(&info);
    live_before = info.live;
    return 0;
}

static int check_memory(void **state) {
    (void)state;
    hd_memory_info info;
    hd_memory(&info);
    if (info.live == live_before)
        return 0;
    fprintf(stderr, "native memory is left: %zu bytes\n", info.live - live_before);
    return -1;
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, note_memory, check_memory)

// The call failed with this status, and its message says so.
#define assert_fails(call, status, words)                                                                              \
    do {                                                                                                               \
        assert_int_equal(call, status);                                                                                \
        if (!strstr(hd_message(), words))                                                                              \
            fail_msg("message '%s' lacks '%s'", hd_message(), words);                                                  \
    } while (0)

#define assert_ok(call)                                                                                                \
    do {                                                                                                               \
        if ((call) != HD_OK)                                                                                           \
            fail_msg("%s", hd_message());                                                                              \
    } while (0)

#endif
