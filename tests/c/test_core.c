// tests/c/test_core.c: element types, allocator, tensors and the generator.
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "core/alloc.h"
#include "core/rng.h"
#include "core/status.h"
#include "core/tensor.h"
#include "core/threads.h"

// Known answers of the Random123 distribution (Salmon et al., SC 2011): zeros, ones, digits of pi.
static void test_philox_gives_the_known_answers(void **state) {
    static const struct {
        uint64_t seed, stream, block;
        uint32_t words[4];
    } known[] = {
        {0, 0, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {UINT64_MAX, UINT64_MAX, UINT64_MAX, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {0x299f31d0a4093822, 0x0370734413198a2e, 0x85a308d3243f6a88, {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    (void)state;
    for (int i = 0; i < 3; i++) {
        uint32_t words[4];
        hd_philox(known[i].seed, known[i].stream, known[i].block, words);
        assert_memory_equal(words, known[i].words, sizeof words);
    }
}

static void test_units_stay_below_one(void **state) {
    (void)state;
    assert_true(hd_unit_f32(0) == 0.0F);
    assert_true(hd_unit_f32(UINT32_MAX) == 1 - 0x1p-24F);
    assert_true(hd_unit_f64(0, 0) == 0.0);
    assert_true(hd_unit_f64(UINT32_MAX, UINT32_MAX) == 1 - 0x1p-53);
}

static void test_rng_fills_start_at_multiples_of_four(void **state) {
    hd_rng rng = {.seed = 1};
    (void)state;
    assert_int_equal(hd_rng_take(&rng, 5), 0);
    assert_int_equal(hd_rng_take(&rng, 0), 8);
    assert_int_equal(hd_rng_take(&rng, 4), 8);
    assert_int_equal(hd_rng_take(&rng, 1), 12);
}

static void test_rng_mix_gives_other_streams_for_other_names(void **state) {
    enum { N = 50 };
    uint64_t seen[N * N];
    (void)state;
    for (uint64_t i = 0; i < (uint64_t)N * N; i++) {
        seen[i] = hd_rng_mix(i / N, i % N);
        for (uint64_t j = 0; j < i; j++)
            assert_true(seen[i] != seen[j]);
    }
}

static void test_blocks_are_aligned_and_readable_behind_their_end(void **state) {
    (void)state;
    for (size_t bytes = 0; bytes < 5000000; bytes = bytes * 3 / 2 + 1) {
        unsigned char *block = hd_alloc(bytes);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % 64, 0);
        memset(block, 0xa5, HD_ASAN ? bytes : bytes + 64);
        hd_free(block);
    }
    hd_free(NULL);
}

static void test_memory_counts_what_callers_hold(void **state) {
    hd_memory_info before, during, after;
    (void)state;
    hd_alloc_trim();
    hd_memory(&before);
    void *block = hd_alloc(3000000);
    hd_memory(&during);
    hd_free(block);
    hd_memory(&after);
    assert_in_range(during.live - before.live, 3000000, 3010000);
    assert_int_equal(during.allocations, before.allocations + 1);
    assert_true(during.peak >= during.live);
    assert_int_equal(after.live, before.live);
    assert_true(HD_ASAN ? after.cached == 0 : after.cached >= during.live - before.live);
    hd_alloc_trim();
    hd_memory(&after);
    assert_int_equal(after.cached, 0);
}

static void test_freed_blocks_serve_again(void **state) {
    hd_memory_info before, after;
    (void)state;
    if (HD_ASAN)
        skip();
    void *first = hd_alloc(1234567);
    hd_free(first);
    hd_memory(&before);
    void *second = hd_alloc(1234000);
    hd_memory(&after);
    assert_ptr_equal(first, second);
    assert_true(after.cached < before.cached);
    hd_free(second);
}

#ifdef __has_feature
#define TSAN __has_feature(thread_sanitizer)
#else
#define TSAN 0
#endif

// Bytes of memory that the process has, from /proc; 0 where it cannot be told.
static size_t resident_bytes(void) {
    size_t pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file && fscanf(file, "%*s %zu", &pages) != 1)
        pages = 0;
    if (file)
        fclose(file);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

// Blocks of changing sizes, whose pages go from one to the other: what is held keeps its contents, and all in all
// little more memory is taken than the peak of what was held.
static void test_pages_go_from_block_to_block(void **state) {
    enum { HELD = 24, ROUNDS = 4000 };
    struct {
        unsigned char *block;
        size_t bytes;
    } held[HELD] = {{0}};
    hd_memory_info info;
    (void)state;
    hd_alloc_trim();
    const size_t before = resident_bytes();
    for (int round = 0; round < ROUNDS; round++) {
        uint32_t bits[4];
        hd_philox(1, 0, (uint64_t)round, bits);
        const int i = (int)(bits[0] % HELD);
        for (size_t at = 0; held[i].block && at < held[i].bytes; at += 4096)
            assert_int_equal(held[i].block[at], i);
        hd_free(held[i].block);
        held[i].bytes = bits[1] % 4 == 0 ? bits[2] % (1 << 20) + 1 : bits[2] % (20 << 20) + 1;
        held[i].block = hd_alloc(held[i].bytes);
        assert_non_null(held[i].block);
        memset(held[i].block, i, held[i].bytes);
    }
    hd_memory(&info);
    const size_t most = info.peak + info.peak / 8;
    assert_true(info.live + info.cached <= most);
    if (before && !HD_ASAN && !TSAN) // these have memory of their own
        assert_true(resident_bytes() < before + most);
    for (int i = 0; i < HELD; i++)
        hd_free(held[i].block);
    hd_alloc_trim();
}

static void test_budget_refuses_and_counts_stay_right(void **state) {
    hd_memory_info before, after;
    (void)state;
    hd_alloc_trim();
    hd_memory(&before);
    hd_alloc_set_budget(before.live + 10000000);
    assert_null(hd_alloc(20000000));
    void *block = hd_alloc(5000000);
    assert_non_null(block);
    assert_null(hd_alloc(6000000));
    hd_free(block);
    void *other = hd_alloc(7000000); // the cached block makes room
    assert_non_null(other);
    hd_free(other);
    hd_alloc_set_budget(0);
    hd_alloc_trim();
    hd_memory(&after);
    assert_int_equal(after.live, before.live);
}

static void test_absurd_sizes_are_refused(void **state) {
    (void)state;
    for (int shift = 46; shift < 64; shift++)
        assert_null(hd_alloc((size_t)1 << shift));
    assert_null(hd_alloc(SIZE_MAX));
}

static hd_tensor *tensor(hd_layout layout, int ndim, const int64_t *shape) {
    hd_tensor *x = NULL;
    assert_int_equal(hd_tensor_new(HD_F32, ndim, shape, layout, &x), HD_OK);
    return x;
}

static void test_new_tensors_are_dense_in_their_layout(void **state) {
    const int64_t shape[] = {2, 3, 4, 5}, row[] = {60, 20, 5, 1}, last[] = {60, 1, 15, 3};
    (void)state;
    hd_tensor *x = tensor(HD_ROW_MAJOR, 4, shape), *y = tensor(HD_CHANNELS_LAST, 4, shape);
    assert_memory_equal(x->strides, row, sizeof row);
    assert_memory_equal(y->strides, last, sizeof last);
    assert_true(hd_tensor_is_contiguous(x) && !hd_tensor_is_channels_last(x) && hd_tensor_is_dense(x));
    assert_true(!hd_tensor_is_contiguous(y) && hd_tensor_is_channels_last(y) && hd_tensor_is_dense(y));
    assert_true(hd_same_shape(x, y));
    assert_int_equal(hd_tensor_numel(y), 120);
    hd_tensor_release(x);
    hd_tensor_release(y);
}

static void test_channels_last_of_three_dims_is_n_t_c(void **state) {
    const int64_t shape[] = {2, 3, 7}, last[] = {21, 1, 3};
    (void)state;
    hd_tensor *x = tensor(HD_CHANNELS_LAST, 3, shape);
    assert_memory_equal(x->strides, last, sizeof last);
    hd_tensor_release(x);
}

static void test_new_like_keeps_memory_order_of_dense_tensors(void **state) {
    const int64_t shape[] = {2, 3, 4, 5}, swapped[] = {5, 4, 3, 2}, swapped_strides[] = {1, 5, 20, 60};
    hd_tensor *like, *view;
    (void)state;
    hd_tensor *x = tensor(HD_CHANNELS_LAST, 4, shape), *y = tensor(HD_ROW_MAJOR, 4, shape);
    assert_int_equal(hd_tensor_new_like(x, HD_F64, &like), HD_OK);
    assert_int_equal(like->dtype, HD_F64);
    assert_memory_equal(like->strides, x->strides, sizeof shape);
    hd_tensor_release(like);
    assert_int_equal(hd_tensor_view(y, 4, swapped, swapped_strides, 0, &view), HD_OK);
    assert_int_equal(hd_tensor_new_like(view, HD_F32, &like), HD_OK);
    assert_memory_equal(like->strides, swapped_strides, sizeof swapped_strides);
    hd_tensor_release(like);
    view->strides[1] = 0; // broadcast: no dense order to keep
    assert_false(hd_tensor_is_dense(view));
    assert_int_equal(hd_tensor_new_like(view, HD_F32, &like), HD_OK);
    assert_true(hd_tensor_is_contiguous(like));
    hd_tensor_release(like);
    hd_tensor_release(view);
    hd_tensor_release(x);
    hd_tensor_release(y);
}

static void test_views_share_their_storage_and_keep_it_alive(void **state) {
    const int64_t shape[] = {4, 6}, column[] = {4}, stride[] = {6};
    hd_memory_info before, after;
    hd_tensor *view;
    (void)state;
    hd_memory(&before);
    hd_tensor *x = tensor(HD_ROW_MAJOR, 2, shape);
    for (int i = 0; i < 24; i++)
        ((float *)x->storage->data)[i] = (float)i;
    assert_int_equal(hd_tensor_view(x, 1, column, stride, 2, &view), HD_OK);
    assert_ptr_equal(view->storage, x->storage);
    hd_tensor_release(x);
    const hd_view v = hd_tensor_as_view(view);
    for (int i = 0; i < 4; i++)
        assert_true(hd_load(v.data, v.dtype, hd_view_offset(&v, i)) == 6.0 * i + 2);
    hd_tensor_release(view);
    hd_memory(&after);
    assert_int_equal(after.live, before.live);
}

static void test_detach_drops_autograd_members_alone(void **state) {
    const int64_t shape[] = {3};
    hd_tensor *y;
    (void)state;
    hd_tensor *x = tensor(HD_ROW_MAJOR, 1, shape);
    x->requires_grad = true;
    x->grad = tensor(HD_ROW_MAJOR, 1, shape);
    assert_int_equal(hd_tensor_detach(x, &y), HD_OK);
    assert_ptr_equal(y->storage, x->storage);
    assert_true(!y->requires_grad && !y->grad && !y->node);
    hd_tensor_release(x);
    hd_tensor_release(y);
}

static void test_allocations_fail_on_request(void **state) {
    (void)state;
    hd_alloc_fail(2, 2);
    char *first = hd_strdup("abc"), *fourth;
    assert_string_equal(first, "abc");
    assert_null(hd_alloc(10));
    assert_null(hd_malloc(10));
    assert_non_null(fourth = hd_calloc(2, 5));
    const hd_faults past = hd_alloc_fail(0, 0);
    assert_int_equal(past.allowed, 1); // before the first refusal
    assert_int_equal(past.refused, 2);
    hd_free(first);
    hd_free(fourth);
    assert_null(hd_calloc(SIZE_MAX / 2, 3));
}

static void test_lua_memory_counts_and_is_limited_alone(void **state) {
    hd_memory_info before, now;
    (void)state;
    hd_memory(&before);
    char *block = hd_script_alloc(NULL, NULL, 5, 1000); // 5: a kind of object
    hd_memory(&now);
    assert_int_equal(now.script, before.script + 1000);
    hd_alloc_set_budget(now.script + 500);
    assert_null(hd_script_alloc(NULL, block, 1000, 2000));
    assert_non_null(block = hd_script_alloc(NULL, block, 1000, 400));
    hd_alloc_set_budget(0);
    assert_null(hd_script_alloc(NULL, block, 400, 0));
    hd_memory(&now);
    assert_int_equal(now.script, before.script);
}

static void test_retain_and_release_count_references(void **state) {
    const int64_t shape[] = {3};
    hd_memory_info before, after;
    (void)state;
    hd_memory(&before);
    hd_tensor *x = tensor(HD_ROW_MAJOR, 1, shape);
    assert_ptr_equal(hd_tensor_retain(x), x);
    hd_tensor_release(x);
    ((float *)x->storage->data)[2] = 1; // still ours
    hd_tensor_release(x);
    hd_tensor_release(NULL);
    hd_memory(&after);
    assert_int_equal(after.live, before.live);
}

static void test_impossible_shapes_are_refused_with_a_reason(void **state) {
    const int64_t negative[] = {2, -1}, huge[] = {INT64_C(1) << 40, INT64_C(1) << 40}, large[] = {INT64_C(1) << 50};
    const int64_t nine[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
    hd_tensor *x = (hd_tensor *)1;
    (void)state;
    assert_int_equal(hd_tensor_new(HD_F32, 2, negative, HD_ROW_MAJOR, &x), HD_ESHAPE);
    assert_null(x);
    assert_non_null(strstr(hd_message(), "[2,-1]"));
    assert_int_equal(hd_tensor_new(HD_F32, 9, nine, HD_ROW_MAJOR, &x), HD_ESHAPE);
    assert_int_equal(hd_tensor_new(HD_F32, 2, huge, HD_ROW_MAJOR, &x), HD_ESHAPE);
    assert_int_equal(hd_tensor_new(HD_F64, 1, large, HD_ROW_MAJOR, &x), HD_ENOMEM);
    assert_null(x);
}

static void test_empty_and_zero_rank_tensors_exist(void **state) {
    const int64_t empty[] = {3, 0, 2};
    (void)state;
    hd_tensor *x = tensor(HD_ROW_MAJOR, 3, empty), *y = tensor(HD_ROW_MAJOR, 0, empty);
    assert_int_equal(hd_tensor_numel(x), 0);
    assert_int_equal(hd_tensor_numel(y), 1);
    assert_string_equal(hd_tensor_text(x), "[3,0,2]");
    assert_string_equal(hd_tensor_text(y), "[]");
    hd_tensor_release(x);
    hd_tensor_release(y);
}

static void test_absent_tensor_is_an_absent_view(void **state) {
    (void)state;
    assert_null(hd_tensor_as_view(NULL).data);
}

static void test_elements_load_and_store_in_every_type(void **state) {
    static const struct {
        hd_dtype type;
        const char *name;
        size_t size;
        double in, out;
    } types[] = {
        {HD_F32, "f32", 4, 0.1, 0.1F}, {HD_F64, "f64", 8, 0.1, 0.1}, {HD_I64, "i64", 8, -1e15, -1e15},
        {HD_I32, "i32", 4, -7, -7},    {HD_U8, "u8", 1, 255, 255},   {HD_BOOL, "bool", 1, 0.5, 1},
    };
    (void)state;
    for (int i = 0; i < HD_DTYPE_COUNT; i++) {
        uint64_t memory[3] = {0};
        assert_string_equal(hd_dtype_name(types[i].type), types[i].name);
        assert_int_equal(hd_dtype_size(types[i].type), types[i].size);
        assert_int_equal(hd_dtype_is_float(types[i].type), i < 2);
        hd_store(memory, types[i].type, 1, types[i].in);
        assert_true(hd_load(memory, types[i].type, 1) == types[i].out);
        assert_true(hd_load(memory, types[i].type, 0) == 0 && hd_load(memory, types[i].type, 2) == 0);
    }
}

static void test_offsets_follow_strides_in_logical_order(void **state) {
    const hd_view v = {.ndim = 2, .shape = {2, 3}, .strides = {-10, 4}};
    const int64_t want[] = {0, 4, 8, -10, -6, -2};
    (void)state;
    for (int i = 0; i < 6; i++)
        assert_int_equal(hd_view_offset(&v, i), want[i]);
}

static void test_messages_may_quote_the_message_before(void **state) {
    (void)state;
    assert_int_equal(hd_fail(HD_EARG, "inner: got %d", 3), HD_EARG);
    hd_fail(HD_EIO, "outer: %s", hd_message());
    assert_string_equal(hd_message(), "outer: inner: got 3");
}

static void test_threads_are_clamped_to_sense(void **state) {
    (void)state;
    assert_true(hd_cores() >= 1);
    hd_set_threads(0);
    assert_int_equal(hd_threads(), 1);
    hd_set_threads(1000);
    assert_int_equal(hd_threads(), 256);
    hd_set_threads(3);
    assert_int_equal(hd_threads(), 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_philox_gives_the_known_answers),
        cmocka_unit_test(test_units_stay_below_one),
        cmocka_unit_test(test_rng_fills_start_at_multiples_of_four),
        cmocka_unit_test(test_rng_mix_gives_other_streams_for_other_names),
        cmocka_unit_test(test_blocks_are_aligned_and_readable_behind_their_end),
        cmocka_unit_test(test_memory_counts_what_callers_hold),
        cmocka_unit_test(test_freed_blocks_serve_again),
        cmocka_unit_test(test_pages_go_from_block_to_block),
        cmocka_unit_test(test_budget_refuses_and_counts_stay_right),
        cmocka_unit_test(test_absurd_sizes_are_refused),
        cmocka_unit_test(test_new_tensors_are_dense_in_their_layout),
        cmocka_unit_test(test_channels_last_of_three_dims_is_n_t_c),
        cmocka_unit_test(test_new_like_keeps_memory_order_of_dense_tensors),
        cmocka_unit_test(test_views_share_their_storage_and_keep_it_alive),
        cmocka_unit_test(test_detach_drops_autograd_members_alone),
        cmocka_unit_test(test_allocations_fail_on_request),
        cmocka_unit_test(test_lua_memory_counts_and_is_limited_alone),
        cmocka_unit_test(test_retain_and_release_count_references),
        cmocka_unit_test(test_impossible_shapes_are_refused_with_a_reason),
        cmocka_unit_test(test_empty_and_zero_rank_tensors_exist),
        cmocka_unit_test(test_absent_tensor_is_an_absent_view),
        cmocka_unit_test(test_elements_load_and_store_in_every_type),
        cmocka_unit_test(test_offsets_follow_strides_in_logical_order),
        cmocka_unit_test(test_messages_may_quote_the_message_before),
        cmocka_unit_test(test_threads_are_clamped_to_sense),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
