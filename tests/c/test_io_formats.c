// tests/c/test_io_formats.c: the formats of tensors: JSON limits, safetensors, npy, npz.
#include "scratch.h"

#include <math.h>

#include "io/json.h"
#include "io/npy.h"
#include "io/safetensors.h"

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
