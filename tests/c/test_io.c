// tests/c/test_io.c: files: atomic writing, links, folders, gzip.
#include "scratch.h"

#include <errno.h>
#include <sys/stat.h>
#include <zlib.h>

#include "io/safetensors.h"
#include "io/sys.h"

// Files ----------------------------------------------------------------------

static void expect_content(const char *name, const char *text) {
    hd_bytes file;
    assert_ok(hd_file_read(at(name), 1000, &file));
    assert_int_equal(file.size, strlen(text));
    assert_memory_equal(file.data, text, file.size + 1); // with the zero behind it
    hd_bytes_free(&file);
}

static int files_here(void) {
    hd_folder folder;
    assert_ok(hd_folder_list(scratch, &folder));
    int n = folder.count;
    hd_folder_free(&folder);
    return n;
}

static void test_written_files_read_back_and_keep_their_mode(void **state) {
    (void)state;
    assert_ok(hd_file_write(at("a"), "one", 3, false));
    expect_content("a", "one");
    assert_int_equal(chmod(at("a"), 0640), 0);
    assert_ok(hd_file_write(at("a"), "", 0, false));
    expect_content("a", "");
    struct stat st;
    assert_int_equal(stat(at("a"), &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640);
    unlink(at("a"));
}

static void test_previous_file_is_kept_on_wish(void **state) {
    (void)state;
    assert_ok(hd_file_write(at("k"), "one", 3, true));
    assert_int_equal(access(at("k.prev"), F_OK), -1);
    assert_ok(hd_file_write(at("k"), "two", 3, true));
    assert_ok(hd_file_write(at("k"), "three", 5, true));
    expect_content("k", "three");
    expect_content("k.prev", "two");
    assert_int_equal(files_here(), 2);
    unlink(at("k"));
    unlink(at("k.prev"));
}

enum { FLOATS = 50000 };
static float floats[FLOATS];

static hd_status save_floats(const char *name, float value, bool keep) {
    for (int i = 0; i < FLOATS; i++)
        floats[i] = value;
    const hd_safetensors_item item = {"x",
                                      {.data = floats, .dtype = HD_F32, .ndim = 1, .shape = {FLOATS}, .strides = {1}}};
    const hd_safetensors_text text = {"note", "a \"text\""};
    return hd_safetensors_write(at(name), &item, 1, &text, 1, keep);
}

// The value in a file of save_floats, whose checksum and header are right.
static float saved_value(const char *name) {
    hd_safetensors *f;
    int64_t odd = 0;
    assert_ok(hd_safetensors_open(at(name), &f));
    assert_ok(hd_safetensors_read(f, 0, floats, &odd));
    hd_safetensors_close(f);
    return floats[FLOATS - 1];
}

static hd_status save_text(const char *name, float value, bool keep) {
    char text[100000];
    memset(text, '0' + (int)value, sizeof text);
    return hd_file_write(at(name), text, sizeof text, keep);
}

static float saved_text(const char *name) {
    hd_bytes file;
    assert_ok(hd_file_read(at(name), 100000, &file));
    assert_int_equal(file.size, 100000);
    const float value = (float)(file.data[99999] - '0');
    hd_bytes_free(&file);
    return value;
}

static int descriptors(void) {
    hd_folder folder;
    assert_ok(hd_folder_list("/proc/self/fd", &folder));
    const int n = folder.count;
    hd_folder_free(&folder);
    return n;
}

typedef struct {
    hd_status (*save)(const char *name, float value, bool keep);
    float (*value)(const char *name);
} saving;

// Two versions are there, the nth call of saving a third fails: what is there stays loadable and nothing else is left.
// True when the save came to its end.
static bool survives(const saving *way, bool keep, int nth, int error) {
    assert_ok(way->save("f", 1, false));
    assert_ok(way->save("f", 2, true));
    const int before = descriptors();
    hd_sys_inject(nth, error);
    const hd_status status = way->save("f", 3, keep);
    const bool failed = hd_sys_inject(0, 0);
    assert_int_equal(descriptors(), before);
    assert_int_equal(files_here(), 2);
    const float now = way->value("f"), previous = way->value("f.prev");
    if (status == HD_OK) {
        assert_true(now == 3 && previous == (keep ? 2 : 1));
    } else {
        assert_true(now == 2 || now == 3); // 3: all but the order to keep it through a loss of power was done
        assert_true(previous == 1 || previous == now - 1);
        assert_true(failed && error > 0 && error != EINTR);
        if (!strstr(hd_message(), strerror(error)) || !strstr(hd_message(), "cannot save") ||
            !strchr(hd_message(), ':'))
            fail_msg("message '%s' names neither step nor reason", hd_message());
    }
    return !failed;
}

// Every system call of a save fails once, in every way.
static void test_any_failing_call_leaves_whole_files(void **state) {
    (void)state;
    static const saving ways[] = {{save_text, saved_text}, {save_floats, saved_value}};
    static const int errors[] = {ENOSPC, EIO, EDQUOT, EINTR, EPERM, HD_SHORT_COUNT};
    int cases = 0;
    for (int w = 0; w < COUNT(ways); w++)
        for (int e = 0; e < COUNT(errors); e++)
            for (int keep = 0; keep < 2; keep++) {
                int nth = 1;
                while (!survives(&ways[w], keep, nth, errors[e]))
                    nth++;
                assert_true(nth > 8 + 2 * keep); // open, mode, write, fsync, close, (link), rename, (rename), folder
                cases += nth - 1;
            }
    print_message("count: %d faults of saves\n", cases);
    unlink(at("f"));
    unlink(at("f.prev"));
}

static void test_a_failed_save_names_its_step(void **state) {
    (void)state;
    static const char *const steps[] = {
        "creating",           "setting its mode",    "writing", "fsync", "closing", "keeping", "renaming", "keeping",
        "opening its folder", "fsync of its folder",
    };
    for (int i = 0; i < COUNT(steps); i++) {
        assert_ok(save_text("n", 1, false));
        hd_sys_inject(i + 1, EIO);
        assert_fails(save_text("n", 2, true), HD_EIO, steps[i]);
        hd_sys_inject(0, 0);
    }
    unlink(at("n"));
    unlink(at("n.prev"));
}

static void test_previous_file_is_kept_without_hard_links(void **state) {
    (void)state;
    for (int broken = 0; broken < 2; broken++) {
        assert_ok(hd_file_write(at("h"), "one", 3, false));
        hd_sys_inject(6, EPERM); // the link: after create, mode, write, fsync, close
        assert_ok(hd_file_write(at("h"), "two", 3, true));
        assert_true(hd_sys_inject(0, 0));
        expect_content("h", "two");
        expect_content("h.prev", "one");
    }
    unlink(at("h"));
    unlink(at("h.prev"));
}

// Loss of power ---------------------------------------------------------------
// The calls of a save are replayed on a model of a disk that forgets what was not synced: the bytes of a file, and any
// of the changes of names in a folder.

enum { NAMES = 8, LINES = 16 };
typedef char line[200];

typedef struct {
    line name[NAMES];
    int file[NAMES]; // what the name stands for: 1, 2 (old versions), 3 (the new one); 0: nothing
} disk;

static int *entry_of(disk *d, const char *name) {
    int i = 0;
    while (i < NAMES - 1 && d->name[i][0] && strcmp(d->name[i], name) != 0)
        i++;
    snprintf(d->name[i], sizeof(line), "%s", name);
    return &d->file[i];
}

// Do one call; true when it made the bytes of the new file safe.
static bool replay(disk *d, const line call, bool forgotten) {
    line verb, from, to = "";
    assert_true(sscanf(call, "%199s %199s %199s", verb, from, to) >= 2);
    const bool temporary = strstr(from, ".tmp.") != NULL;
    if (strcmp(verb, "open") == 0 && temporary)
        *entry_of(d, from) = 3;
    if (to[0] && !forgotten && *entry_of(d, from)) { // link or rename, unless the call before it was forgotten
        *entry_of(d, to) = *entry_of(d, from);
        if (strcmp(verb, "rename") == 0)
            *entry_of(d, from) = 0;
    }
    return strcmp(verb, "fsync") == 0 && temporary;
}

static int read_calls(line calls[LINES]) {
    int n = 0;
    for (const char *p = hd_sys_record(); *p && n < LINES; p = strchr(p, '\n') + 1)
        snprintf(calls[n++], sizeof(line), "%.*s", (int)strcspn(p, "\n"), p);
    return n;
}

// The first `count` calls, without the changes of names in `forgotten` (bits); false where it forgets what is none.
static bool lose_power(line calls[LINES], int count, unsigned forgotten) {
    disk d = {0};
    *entry_of(&d, at("p")) = 2;
    *entry_of(&d, at("p.prev")) = 1;
    bool safe = false;
    for (int i = 0; i < count; i++) {
        const bool forget = forgotten >> i & 1;
        if (forget && strncmp(calls[i], "link", 4) != 0 && strncmp(calls[i], "rename", 6) != 0)
            return false;
        safe |= replay(&d, calls[i], forget);
    }
    const int now = *entry_of(&d, at("p")), before = *entry_of(&d, at("p.prev"));
    assert_true(now == 2 || (now == 3 && safe));
    assert_true(before == 1 || before == 2);
    return true;
}

static void test_a_loss_of_power_leaves_whole_files(void **state) {
    (void)state;
    assert_ok(save_floats("p", 1, false));
    assert_ok(save_floats("p", 2, true));
    hd_sys_record();
    assert_ok(save_floats("p", 3, true));
    line calls[LINES], folder;
    const int n = read_calls(calls);
    int cases = 0;
    for (int count = 0; count <= n; count++)
        for (unsigned forgotten = 0; forgotten < 1U << count; forgotten++)
            cases += lose_power(calls, count, forgotten);
    print_message("count: %d losses of power\n", cases);
    assert_true(cases > n + 8);
    // Once the save has returned, nothing is forgotten: after the last change the folder is synced.
    snprintf(folder, sizeof folder, "fsync %s", scratch);
    assert_string_equal(calls[n - 1], folder);
    assert_memory_equal(calls[n - 3], "rename", 6);
    unlink(at("p"));
    unlink(at("p.prev"));
}

static void test_temporaries_of_dead_processes_go(void **state) {
    (void)state;
    spill("s.tmp.999999999", "x", 1); // above any process number
    spill("s.tmp.1", "x", 1);         // alive
    spill("s.tmp.abc", "x", 1);       // not ours
    spill("s.tmp.999999999.prev", "x", 1);
    spill("other.tmp.999999999", "x", 1);
    assert_ok(hd_file_write(at("s"), "one", 3, false));
    assert_int_equal(access(at("s.tmp.999999999"), F_OK), -1);
    assert_int_equal(access(at("s.tmp.1"), F_OK), 0);
    assert_int_equal(access(at("s.tmp.abc"), F_OK), 0);
    assert_int_equal(access(at("s.tmp.999999999.prev"), F_OK), -1);
    assert_int_equal(access(at("other.tmp.999999999"), F_OK), 0);
    hd_file_remove_stale(scratch, NULL);
    assert_int_equal(access(at("other.tmp.999999999"), F_OK), -1);
    assert_int_equal(files_here(), 3);
    unlink(at("s.tmp.1"));
    unlink(at("s.tmp.abc"));
    unlink(at("s"));
}

static void test_what_is_no_file_is_refused(void **state) {
    (void)state;
    hd_bytes file;
    assert_fails(hd_file_read(at("none"), 10, &file), HD_EIO, "No such file");
    assert_fails(hd_file_read(scratch, 10, &file), HD_EIO, "folder");
    assert_fails(hd_file_read("/dev/null", 10, &file), HD_EIO, "not a regular file");
    assert_fails(hd_file_write(scratch, "x", 1, false), HD_EIO, "folder");
    assert_fails(hd_file_write("/dev/null", "x", 1, false), HD_EIO, "not a regular file");
    assert_fails(hd_file_write(at("no/where"), "x", 1, false), HD_EIO, "creating");
    spill("big", "0123456789", 10);
    assert_fails(hd_file_read(at("big"), 9, &file), HD_EFORMAT, "too large");
    assert_null(file.data);
    unlink(at("big"));
}

static void test_links_stay_links(void **state) {
    (void)state;
    spill("target", "old", 3);
    assert_int_equal(symlink("target", at("link")), 0);
    assert_ok(hd_file_write(at("link"), "new", 3, false));
    expect_content("target", "new");
    struct stat st;
    assert_int_equal(lstat(at("link"), &st), 0);
    assert_true(S_ISLNK(st.st_mode));
    unlink(at("link"));
    unlink(at("target"));
}

static void test_gzip_is_unpacked_up_to_the_cap(void **state) {
    (void)state;
    static char zeros[300000];
    gzFile gz = gzopen(at("z.gz"), "wb");
    assert_int_equal(gzwrite(gz, zeros, sizeof zeros), sizeof zeros);
    gzclose(gz);
    hd_bytes file;
    assert_ok(hd_file_read_gz(at("z.gz"), sizeof zeros, &file));
    assert_int_equal(file.size, sizeof zeros);
    hd_bytes_free(&file);
    assert_fails(hd_file_read_gz(at("z.gz"), sizeof zeros - 1, &file), HD_EFORMAT, "too large");
    assert_ok(hd_file_read(at("z.gz"), 100000, &file));
    spill("cut.gz", file.data, file.size - 9);
    hd_bytes_free(&file);
    assert_int_equal(hd_file_read_gz(at("cut.gz"), sizeof zeros, &file), HD_EFORMAT);
    spill("plain", "text", 4);
    assert_ok(hd_file_read_gz(at("plain"), 100, &file));
    assert_string_equal((char *)file.data, "text");
    hd_bytes_free(&file);
    unlink(at("z.gz"));
    unlink(at("cut.gz"));
    unlink(at("plain"));
}

static void test_folders_are_made_with_those_above(void **state) {
    (void)state;
    assert_ok(hd_folder_make(at("p/q/")));
    assert_ok(hd_folder_make(at("p/q")));
    assert_int_equal(hd_path_kind_of(at("p/q")), HD_PATH_FOLDER);
    spill("p/file", "x", 1);
    assert_fails(hd_folder_make(at("p/file/r")), HD_EIO, "cannot make");
    assert_int_equal(hd_path_kind_of(at("p/file")), HD_PATH_FILE);
    unlink(at("p/file"));
    rmdir(at("p/q"));
    rmdir(at("p"));
    assert_int_equal(hd_path_kind_of(at("p")), HD_PATH_NONE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_written_files_read_back_and_keep_their_mode),
        TEST(test_previous_file_is_kept_on_wish),
        TEST(test_any_failing_call_leaves_whole_files),
        TEST(test_a_failed_save_names_its_step),
        TEST(test_previous_file_is_kept_without_hard_links),
        TEST(test_a_loss_of_power_leaves_whole_files),
        TEST(test_temporaries_of_dead_processes_go),
        TEST(test_what_is_no_file_is_refused),
        TEST(test_links_stay_links),
        TEST(test_gzip_is_unpacked_up_to_the_cap),
        TEST(test_folders_are_made_with_those_above),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
