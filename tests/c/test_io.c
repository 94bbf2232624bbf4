// tests/c/test_io.c: files and the formats of tensors: atomic writing, JSON limits, safetensors, npy, npz.
#include "scratch.h"

#include <errno.h>
#include <math.h>
#include <sys/stat.h>
#include <zlib.h>

#include "io/json.h"
#include "io/npy.h"
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

static hd_view view_of(void *data, hd_dtype dtype, int ndim, const int64_t *shape) {
    hd_view v = {.data = data, .dtype = dtype, .ndim = ndim};
    int64_t step = 1;
    for (int d = ndim - 1; d >= 0; d--) {
        v.shape[d] = shape[d];
        v.strides[d] = step;
        step *= shape[d];
    }
    return v;
}

enum { FLOATS = 50000 };
static float floats[FLOATS];

static hd_status save_floats(const char *name, float value, bool keep) {
    for (int i = 0; i < FLOATS; i++)
        floats[i] = value;
    const hd_safetensors_item item = {"x", view_of(floats, HD_F32, 1, (const int64_t[]){FLOATS})};
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

// JSON -----------------------------------------------------------------------

static void test_json_limits_hold_before_parsing(void **state) {
    (void)state;
    static const hd_json_limits limits = {.depth = 3, .string = 8, .values = 10};
    static const struct {
        const char *text, *words;
    } bad[] = {
        {"[[[[]]]]", "nested too deeply"},
        {"\"123456789\"", "string too long"},
        {"[1,2,3,4,5,6,7,8,9,10,11]", "too many values"},
        {"\"\x80\"", "not UTF-8"},
        {"\"\xC0\x80\"", "not UTF-8"},     // overlong
        {"\"\xED\xA0\x80\"", "not UTF-8"}, // surrogate
        {"\"\xF4\x90\x80\x80\"", "not UTF-8"},
        {"\"\xE2\x82\"", "not UTF-8"},
        {"\"a\nb\"", "control character"},
        {"\"\\u0000\"", "zero character"},
        {"\"abc", "string without end"},
        {"\"abc\\", "string without end"},
        {"{} x", "text behind"},
        {"{", "not a value"},
        {"]", "not a value"},
        {"", "not a value"},
        {"nul", "not a value"},
        {"[1,]", "not a value"},
        {"{\"a\" 1}", "not a value"},
        {"\xFF", "not a JSON character"},
    };
    for (int i = 0; i < COUNT(bad); i++) {
        cJSON *tree;
        assert_fails(hd_json_parse("t", bad[i].text, strlen(bad[i].text), &limits, &tree), HD_EFORMAT, bad[i].words);
        assert_null(tree);
    }
}

static void test_json_within_limits_parses(void **state) {
    (void)state;
    const char *text = " {\"a\": [1, 2.5, \"\xF0\x9F\x98\x80\\\"\"], \"b\": null} \r\n";
    cJSON *tree;
    assert_ok(hd_json_parse("t", text, strlen(text), &hd_json_defaults, &tree));
    assert_string_equal(cJSON_GetArrayItem(cJSON_GetObjectItem(tree, "a"), 2)->valuestring, "\xF0\x9F\x98\x80\"");
    cJSON_Delete(tree);
}

// safetensors ----------------------------------------------------------------

// A file of this header and `data` bytes of zeros.
static void spill_tensors(const char *name, const char *header, size_t data) {
    unsigned char bytes[4096] = {0};
    uint64_t length = strlen(header);
    assert_true(8 + length + data <= sizeof bytes);
    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, header, length);
    spill(name, bytes, 8 + length + data);
}

#define T(type, shape, begin, end)                                                                                     \
    "{\"dtype\":\"" type "\",\"shape\":[" shape "],\"data_offsets\":[" #begin "," #end "]}"

static void test_safetensors_refuses_what_breaks_the_format(void **state) {
    (void)state;
    static const struct {
        const char *header;
        size_t data;
        const char *words;
    } bad[] = {
        {" {}", 0, "does not begin with"},
        {"[]", 0, "does not begin with"},
        {"", 0, "does not begin with"},
        {"{", 0, "bad JSON"},
        {"{}x", 0, "text behind"},
        {"{\"\xFF\":1}", 0, "not UTF-8"},
        {"{\"a\":[[[[1]]]]}", 0, "nested too deeply"},
        {"{\"a\":1}", 0, "is not {dtype, shape, data_offsets}"},
        {"{\"a\":{}}", 0, "is not {dtype, shape, data_offsets}"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"x\":[]}}", 0, "no data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"data_offsets\":[0,0]}}", 0, "no shape"},
        {"{\"a\":{\"dtype\":1,\"shape\":[],\"data_offsets\":[0,4]}}", 4, "no dtype"},
        {"{\"a\":" T("F31", "", 0, 4) "}", 4, "unknown dtype"},
        {"{\"a\":" T("f32", "", 0, 4) "}", 4, "unknown dtype"},
        {"{\"a\":" T("F32", "1,1,1,1,1,1,1,1,1", 0, 4) "}", 4, "more than 8 dimensions"},
        {"{\"a\":" T("F32", "-1", 0, 4) "}", 4, "no whole number"},
        {"{\"a\":" T("F32", "1.5", 0, 4) "}", 4, "no whole number"},
        {"{\"a\":" T("F32", "1e300", 0, 4) "}", 4, "no whole number"},
        {"{\"a\":" T("F32", "\"1\"", 0, 4) "}", 4, "no whole number"},
        {"{\"a\":" T("F32", "4294967296,4294967296", 0, 4) "}", 4, "overflows"},
        {"{\"a\":" T("F32", "4611686018427387904", 0, 4) "}", 4, "no whole number"},
        {"{\"a\":" T("F32", "1", 4, 0) "}", 4, "ends before it begins"},
        {"{\"a\":" T("F32", "1", -4, 0) "}", 4, "no data_offsets"},
        {"{\"a\":" T("F32", "1", 0.5, 4) "}", 4, "no data_offsets"},
        {"{\"a\":" T("F32", "1", 0, 4) "}", 3, "truncated: got 65 bytes, expected at least 66"},
        {"{\"a\":" T("F32", "9000000", 0, 36000000) "}", 4, "truncated"},
        {"{\"a\":" T("F32", "2", 0, 4) "}", 4, "do not fit its shape"},
        {"{\"a\":" T("F32", "0", 0, 4) "}", 4, "do not fit its shape"},
        {"{\"a\":" T("F32", "1", 0, 4) ",\"a\":" T("F32", "1", 4, 8) "}", 8, "two tensors are named 'a'"},
        {"{\"a\":" T("F32", "1", 0, 4) ",\"b\":" T("F32", "1", 8, 12) "}", 12, "a hole"},
        {"{\"a\":" T("F32", "2", 0, 8) ",\"b\":" T("F32", "1", 4, 8) "}", 8, "an overlap"},
        {"{\"a\":" T("F32", "1", 4, 8) "}", 8, "a hole"},
        {"{\"a\":" T("F32", "1", 0, 4) "}", 5, "too long"},
        {"{}", 1, "too long"},
        {"{\"__metadata__\":1}", 0, "not an object"},
        {"{\"__metadata__\":{\"k\":1}}", 0, "not a string"},
        {"{\"__metadata__\":{\"k\":{}}}", 0, "not a string"},
        {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "two entries"},
        {"{\"__metadata__\":{\"hdlua.checksum\":\"0\"}}", 0, "damaged"},
        {"{\"a\\u0000b\":" T("F32", "1", 0, 4) "}", 4, "zero character"},
        {"{\"\\ud800\":" T("F32", "1", 0, 4) "}", 4, "bad JSON"},
    };
    hd_memory_info before, after;
    hd_memory(&before);
    hd_memory_reset_peak();
    for (int i = 0; i < COUNT(bad); i++) {
        hd_safetensors *f;
        spill_tensors("bad.safetensors", bad[i].header, bad[i].data);
        assert_fails(hd_safetensors_open(at("bad.safetensors"), &f), HD_EFORMAT, bad[i].words);
        assert_non_null(strstr(hd_message(), at("bad.safetensors")));
        assert_null(f);
    }
    hd_memory(&after);
    assert_true(COUNT(bad) >= 40 && after.peak - before.live < 16 << 20);
    unlink(at("bad.safetensors"));
}

static void test_safetensors_refuses_lengths_the_file_does_not_have(void **state) {
    (void)state;
    static const uint64_t claims[] = {3, 100000001, UINT64_C(1) << 40, UINT64_MAX, UINT64_MAX - 7};
    for (int i = 0; i < COUNT(claims); i++) {
        unsigned char bytes[10] = {0};
        memcpy(bytes, &claims[i], 8);
        memcpy(bytes + 8, "{}", 2);
        spill("claim.safetensors", bytes, sizeof bytes);
        hd_safetensors *f;
        assert_fails(hd_safetensors_open(at("claim.safetensors"), &f), HD_EFORMAT,
                     claims[i] > 100000000 ? "its header claims" : "truncated");
    }
    hd_safetensors *f;
    spill("claim.safetensors", "1234567", 7);
    assert_fails(hd_safetensors_open(at("claim.safetensors"), &f), HD_EFORMAT,
                 "truncated: got 7 bytes, expected at least 8");
    unlink(at("claim.safetensors"));
}

static void expect_entry(const hd_safetensors *f, int i, const char *name, hd_number type, uint64_t begin) {
    assert_string_equal(f->entries[i].name, name);
    assert_int_equal(f->entries[i].type, type);
    assert_int_equal(f->entries[i].begin, begin);
}

static void test_safetensors_writes_all_types_in_one_order_and_reads_them_back(void **state) {
    (void)state;
    double d[2] = {1.5, -INFINITY};
    float s[6] = {0, 1, 2, 3, NAN, 5};
    int64_t l[1] = {INT64_MIN};
    int32_t n[2] = {-7, 7};
    uint8_t b[3] = {0, 128, 255}, t[2] = {1, 0};
    const int64_t two[] = {2}, three[] = {3}, empty[] = {3, 0};
    hd_view transposed = view_of(s, HD_F32, 2, (const int64_t[]){2, 3});
    transposed.shape[0] = 3, transposed.shape[1] = 2, transposed.strides[0] = 1, transposed.strides[1] = 3;
    const hd_safetensors_item items[] = {
        {"z", view_of(t, HD_BOOL, 1, two)},  {"m", view_of(b, HD_U8, 1, three)},
        {"n", view_of(n, HD_I32, 1, two)},   {"s", transposed},
        {"l", view_of(l, HD_I64, 0, NULL)},  {"d", view_of(d, HD_F64, 1, two)},
        {"e", view_of(s, HD_F32, 2, empty)},
    };
    const hd_safetensors_text texts[] = {{"note", "a \"quoted\"\nline"}};
    assert_ok(hd_safetensors_write(at("w.safetensors"), items, COUNT(items), texts, 1, false));
    hd_safetensors *f;
    assert_ok(hd_safetensors_open(at("w.safetensors"), &f));
    assert_int_equal(f->count, 7);
    assert_int_equal(f->data_start % 8, 0);
    expect_entry(f, 0, "d", HD_NUM_F64, 0);
    expect_entry(f, 1, "l", HD_NUM_I64, 16);
    expect_entry(f, 2, "e", HD_NUM_F32, 24);
    expect_entry(f, 3, "n", HD_NUM_I32, 24);
    expect_entry(f, 4, "s", HD_NUM_F32, 32);
    expect_entry(f, 5, "m", HD_NUM_U8, 56);
    expect_entry(f, 6, "z", HD_NUM_BOOL, 59);
    assert_string_equal(f->texts[0].value, "a \"quoted\"\nline");
    float back[6];
    int64_t odd = 0;
    assert_ok(hd_safetensors_read(f, 4, back, &odd));
    assert_int_equal(odd, 1);
    const float expected[6] = {0, 3, 1, NAN, 2, 5};
    assert_memory_equal(back, expected, 2 * sizeof(float));
    assert_true(back[2] == 1 && isnan(back[3]) && back[4] == 2 && back[5] == 5);
    double doubles[2];
    assert_ok(hd_safetensors_read(f, 0, doubles, &odd));
    assert_memory_equal(doubles, d, sizeof d);
    assert_int_equal(odd, 2);
    hd_safetensors_close(f);
    unlink(at("w.safetensors"));
}

static bool carries_checksum(const hd_safetensors *f) {
    for (int i = 0; i < f->ntexts; i++)
        if (strcmp(f->texts[i].key, "hdlua.checksum") == 0)
            return true;
    return false;
}

// Every bit of a file: refused, or, where the name of the checksum was hit, seen to be without one.
static void test_safetensors_notices_a_changed_bit(void **state) {
    (void)state;
    float x[16] = {0};
    const hd_safetensors_item item = {"x", view_of(x, HD_F32, 1, (const int64_t[]){16})};
    const hd_safetensors_text text = {"x\"hdlua.checksum", "\"hdlua.checksum\":\"0123456789abcdef"};
    assert_ok(hd_safetensors_write(at("c.safetensors"), &item, 1, &text, 1, false));
    hd_bytes file;
    hd_safetensors *f;
    int refused = 0, without = 0;
    assert_ok(hd_file_read(at("c.safetensors"), 10000, &file));
    for (size_t bit = 0; bit < 8 * file.size; bit++) {
        file.data[bit / 8] ^= (unsigned char)(1 << bit % 8);
        spill("d.safetensors", file.data, file.size);
        file.data[bit / 8] ^= (unsigned char)(1 << bit % 8);
        if (hd_safetensors_open(at("d.safetensors"), &f) != HD_OK) {
            refused++;
            continue;
        }
        assert_false(carries_checksum(f));
        without++;
        hd_safetensors_close(f);
    }
    assert_true(refused + without == 8 * (int)file.size && without <= 8 * (int)strlen("hdlua.checksum"));
    print_message("count: %d bits changed\n", refused + without);
    assert_ok(hd_safetensors_open(at("c.safetensors"), &f));
    assert_true(carries_checksum(f));
    hd_safetensors_close(f);
    hd_bytes_free(&file);
    unlink(at("c.safetensors"));
    unlink(at("d.safetensors"));
}

// Numbers --------------------------------------------------------------------

static void test_half_precision_widens_exactly(void **state) {
    (void)state;
    static const struct {
        uint16_t bits;
        float value;
    } half[] = {{0, 0.0F},          {0x3C00, 1.0F},       {0xC000, -2.0F},    {0x7BFF, 65504.0F},
                {1, 0x1p-24F},      {0x03FF, 0x3FFp-24F}, {0x0400, 0x1p-14F}, {0x3555, 0.333251953125F},
                {0xFC00, -INFINITY}};
    for (int i = 0; i < COUNT(half); i++) {
        float f;
        int64_t odd = 0;
        assert_ok(hd_number_convert(HD_NUM_F16, false, (const unsigned char *)&half[i].bits, 1, &f, &odd));
        assert_true(f == half[i].value);
    }
    const uint16_t bf[] = {0x3F80, 0xC049, 0x7F80};
    float f[3];
    int64_t odd = 0;
    assert_ok(hd_number_convert(HD_NUM_BF16, false, (const unsigned char *)bf, 3, f, &odd));
    assert_true(f[0] == 1 && f[1] == -3.140625F && f[2] == INFINITY && odd == 1);
}

static void test_integers_widen_with_their_sign(void **state) {
    (void)state;
    const unsigned char bytes[8] = {0xFF, 0xFE, 0xFD, 0xFC, 0xFB, 0xFA, 0xF9, 0x78};
    int32_t i32 = 0;
    int64_t i64 = 0, odd = 0;
    assert_ok(hd_number_convert(HD_NUM_I8, false, bytes, 1, &i32, &odd));
    assert_int_equal(i32, -1);
    assert_ok(hd_number_convert(HD_NUM_I16, false, bytes, 1, &i32, &odd));
    assert_int_equal(i32, -257);
    assert_ok(hd_number_convert(HD_NUM_U16, true, bytes, 1, &i32, &odd));
    assert_int_equal(i32, 0xFFFE);
    assert_ok(hd_number_convert(HD_NUM_U32, false, bytes, 1, &i64, &odd));
    assert_true(i64 == 0xFCFDFEFF);
    assert_ok(hd_number_convert(HD_NUM_U64, false, bytes, 1, &i64, &odd));
    assert_true(i64 == 0x78F9FAFBFCFDFEFF);
    assert_fails(hd_number_convert(HD_NUM_U64, true, bytes, 1, &i64, &odd), HD_EFORMAT, "does not fit");
}

// npy and npz ----------------------------------------------------------------

// Bytes of a version 1.0 file with this dictionary and `data` bytes of zeros.
static size_t npy_bytes(const char *dictionary, size_t data, unsigned char *out) {
    size_t length = strlen(dictionary);
    memcpy(out, "\x93NUMPY\x01\x00", 8);
    out[8] = (unsigned char)length;
    out[9] = (unsigned char)(length >> 8);
    memcpy(out + 10, dictionary, length);
    memset(out + 10 + length, 0, data);
    return 10 + length + data;
}

static void test_npy_refuses_what_breaks_the_format(void **state) {
    (void)state;
    static const struct {
        const char *dictionary;
        size_t data;
        const char *words;
    } bad[] = {
        {"", 0, "not a dictionary"},
        {"{}", 0, "missing"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,)", 4, "not closed"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), } x", 4, "text behind"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': 1, }", 4, "not a tuple"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", 4, "no whole number"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1.5,), }", 4, "not closed"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }", 4, "too large"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296,4294967296), }", 4, "overflows"},
        {"{'descr': '<f4', 'fortran_order': 1, 'shape': (1,), }", 4, "neither True nor False"},
        {"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", 8, "Python objects"},
        {"{'descr': '<c8', 'fortran_order': False, 'shape': (1,), }", 8, "unknown element type"},
        {"{'descr': [('a','<f4')], 'fortran_order': False, 'shape': (1,), }", 4, "not a string"},
        {"{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", 4, "stands twice"},
        {"{'other': '<f4', 'fortran_order': False, 'shape': (1,), }", 4, "unknown key"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1), }", 4, "too many dimensions"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", 4, "cut short"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", 5, "too long"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000,), }", 4, "cut short"},
    };
    for (int i = 0; i < COUNT(bad); i++) {
        unsigned char bytes[300];
        hd_npy array;
        size_t size = npy_bytes(bad[i].dictionary, bad[i].data, bytes);
        assert_fails(hd_npy_parse("t", bytes, size, &array), HD_EFORMAT, bad[i].words);
    }
}

static void test_npy_refuses_every_cut(void **state) {
    (void)state;
    unsigned char bytes[300];
    hd_npy array;
    size_t size = npy_bytes("{\"shape\": (2, 3), 'fortran_order': True, 'descr': '>i2'}\n", 12, bytes);
    assert_ok(hd_npy_parse("t", bytes, size, &array));
    assert_true(array.fortran && array.big_endian && array.type == HD_NUM_I16 && array.ndim == 2 && array.count == 6);
    for (size_t n = 0; n < size; n++)
        assert_int_equal(hd_npy_parse("t", bytes, n, &array), HD_EFORMAT);
    bytes[6] = 4;
    assert_fails(hd_npy_parse("t", bytes, size, &array), HD_EFORMAT, "version 4");
}

static void test_npy_is_what_numpy_writes(void **state) {
    (void)state;
    float x[4] = {1, 2, 3, 4};
    hd_view v = view_of(x, HD_F32, 1, (const int64_t[]){4});
    assert_ok(hd_npy_write(at("n.npy"), &v));
    // numpy.save of array([1, 2, 3, 4], dtype=float32): 128 bytes of header
    char expected[144];
    memset(expected, ' ', sizeof expected);
    memcpy(expected, "\x93NUMPY\x01\x00\x76\x00", 10);
    static const char dictionary[] = "{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }";
    memcpy(expected + 10, dictionary, sizeof dictionary - 1);
    expected[127] = '\n';
    memcpy(expected + 128, x, sizeof x);
    hd_bytes file;
    assert_ok(hd_file_read(at("n.npy"), 1000, &file));
    assert_int_equal(file.size, sizeof expected);
    assert_memory_equal(file.data, expected, sizeof expected);
    hd_bytes_free(&file);
    unlink(at("n.npy"));
}

static void write_npz(const char *name) {
    static float x[3] = {1, 2, 3};
    static uint8_t y[2] = {4, 5};
    const char *const names[] = {"x", "long name"};
    const hd_view views[] = {view_of(x, HD_F32, 1, (const int64_t[]){3}),
                             view_of(y, HD_U8, 2, (const int64_t[]){1, 2})};
    assert_ok(hd_npz_write(at(name), names, views, 2));
}

static void test_npz_reads_back_its_members(void **state) {
    (void)state;
    write_npz("m.npz");
    hd_npz z;
    hd_bytes member;
    hd_npy array;
    assert_ok(hd_npz_open(at("m.npz"), &z));
    assert_int_equal(z.count, 2);
    assert_string_equal(z.members[1].name, "long name");
    assert_ok(hd_npz_read("t", &z, 1, &member));
    assert_ok(hd_npy_parse("t", member.data, member.size, &array));
    assert_memory_equal(array.data, "\4\5", 2);
    hd_bytes_free(&member);
    hd_npz_close(&z);
    unlink(at("m.npz"));
}

// Whatever byte changes, the file is refused or read with equal sizes; nothing is read outside (sanitizers watch).
static void test_npz_survives_any_changed_byte_and_any_cut(void **state) {
    (void)state;
    write_npz("d.npz");
    hd_bytes file;
    assert_ok(hd_file_read(at("d.npz"), 10000, &file));
    for (size_t i = 0; i < 2 * file.size; i++) {
        hd_npz z = {0};
        size_t capacity = 0;
        assert_ok(hd_bytes_reserve(&z.file, &capacity, file.size));
        memcpy(z.file.data, file.data, file.size);
        z.file.size = i < file.size ? file.size : i - file.size;
        if (i < file.size)
            z.file.data[i] ^= 0xFF;
        if (hd_npz_parse("t", &z) == HD_OK)
            for (int k = 0; k < z.count; k++) {
                hd_bytes member;
                if (hd_npz_read("t", &z, k, &member) == HD_OK)
                    assert_int_equal(member.size, z.members[k].size);
                hd_bytes_free(&member);
            }
        else
            assert_true(strlen(hd_message()) > 10);
        hd_npz_close(&z);
    }
    hd_bytes_free(&file);
    unlink(at("d.npz"));
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
        TEST(test_json_limits_hold_before_parsing),
        TEST(test_json_within_limits_parses),
        TEST(test_safetensors_refuses_what_breaks_the_format),
        TEST(test_safetensors_refuses_lengths_the_file_does_not_have),
        TEST(test_safetensors_writes_all_types_in_one_order_and_reads_them_back),
        TEST(test_safetensors_notices_a_changed_bit),
        TEST(test_half_precision_widens_exactly),
        TEST(test_integers_widen_with_their_sign),
        TEST(test_npy_refuses_what_breaks_the_format),
        TEST(test_npy_refuses_every_cut),
        TEST(test_npy_is_what_numpy_writes),
        TEST(test_npz_reads_back_its_members),
        TEST(test_npz_survives_any_changed_byte_and_any_cut),
    };
    return cmocka_run_group_tests(tests, make_scratch, remove_scratch);
}
