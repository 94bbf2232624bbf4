// bind/bind_data.c: data sets into tensors, and the loader that makes batches of them.
// Layer: bind. Calls: io. Sets are u8 [n,c,h,w] with labels i64 [n] that count from 1.
#include "bind/bind.h"
#include "bind/resource.h"
#include "core/alloc.h"
#include "core/profile.h"
#include "io/cifar.h"
#include "io/font.h"
#include "io/idx.h"
#include "io/image.h"
#include "io/loader.h"
#include "io/shapes.h"
#include <stdlib.h>
#include <string.h>

static void free_bytes(void *p) { hd_bytes_free(p); }
static void free_image(void *p) { hd_image_free(p); }
static void free_font(void *p) { hd_font_close(p); }
static void free_text(void *p) { hd_free(*(char **)p); }

static void *data_of(const hd_tensor *x) { return hd_tensor_as_view(x).data; }

// Push a fresh tensor that is already whole for Lua; its data are undefined. Raises where memory is short.
static hd_tensor *push_new(lua_State *L, hd_dtype dtype, int ndim, const int64_t *shape, hd_layout layout) {
    hd_collect_if_due(L);
    hd_tensor **box = hd_push_box(L);
    if (hd_new_tensor(L, dtype, ndim, shape, layout, box) != HD_OK)
        hd_raise(L);
    hd_box_done(L);
    return *box;
}

// Tensors of a set outlive the scope that they were made in.
static hd_tensor *push_kept(lua_State *L, hd_dtype dtype, int ndim, const int64_t *shape) {
    hd_tensor *x = push_new(L, dtype, ndim, shape, HD_ROW_MAJOR);
    x->kept = true;
    return x;
}

static uint8_t *push_pictures(lua_State *L, int64_t n, int64_t size) {
    return data_of(push_kept(L, HD_U8, 4, (const int64_t[]){n, 3, size, size}));
}

static int64_t *push_labels(lua_State *L, int64_t n) { return data_of(push_kept(L, HD_I64, 1, &n)); }

// Sets -----------------------------------------------------------------------

// core.font_find(name) -> path
static int l_font_find(lua_State *L) {
    const char *name = hd_check_string(L, 1, NULL);
    char **path = hd_push_resource(L, sizeof *path, free_text);
    if (HD_RETRY(L, hd_font_find(name, path)) != HD_OK)
        return hd_return_failure(L);
    lua_pushstring(L, *path);
    return 1;
}

static int check_size(lua_State *L, int arg, const char *where) {
    int64_t size = hd_check_int(L, arg);
    if (size < 1 || size > 1024)
        hd_raisef(L, "%s: size is wrong: got %lld, expected 1 to 1024", where, (long long)size);
    return (int)size;
}

// core.font_load(path, size) -> x [n,3,size,size], code points i64 [n]
static int l_font_load(lua_State *L) {
    const char *path = hd_check_string(L, 1, NULL);
    int size = check_size(L, 2, "emoji");
    hd_font *font = hd_push_resource(L, sizeof *font, free_font);
    int at = lua_gettop(L);
    if (HD_RETRY(L, hd_font_open(path, font)) != HD_OK)
        return hd_return_failure(L);
    uint8_t *x = push_pictures(L, font->count, size);
    int64_t *codes = push_labels(L, font->count);
    for (int i = 0; i < font->count; i++) {
        if (HD_RETRY(L, hd_font_picture(font, i, size, x + (int64_t)i * 3 * size * size)) != HD_OK)
            return hd_return_failure(L);
        codes[i] = font->glyphs[i].code;
    }
    hd_release_resource(L, at);
    return 2;
}

// core.cifar_load({paths}) -> x [n,3,32,32], labels i64 [n]
static int l_cifar_load(lua_State *L) {
    hd_check_table(L, 1);
    lua_Integer files = (lua_Integer)lua_rawlen(L, 1);
    int64_t total = 0, done = 0, count;
    for (lua_Integer i = 1; i <= files; i++, lua_pop(L, 1)) {
        lua_rawgeti(L, 1, i);
        if (HD_RETRY(L, hd_cifar_count(hd_check_string(L, -1, NULL), &count)) != HD_OK)
            return hd_return_failure(L);
        total += count;
    }
    uint8_t *x = push_pictures(L, total, 32);
    int64_t *labels = push_labels(L, total);
    for (lua_Integer i = 1; i <= files; i++, lua_pop(L, 1), done += count) {
        lua_rawgeti(L, 1, i);
        const char *path = hd_check_string(L, -1, NULL);
        hd_status status = HD_RETRY(L, hd_cifar_count(path, &count));
        if (status == HD_OK && count > total - done)
            status = hd_fail(HD_EIO, "'%s' changed while it was read", path);
        if (status != HD_OK || HD_RETRY(L, hd_cifar_read(path, count, x + done * 3072, labels + done)) != HD_OK)
            return hd_return_failure(L);
    }
    return 2;
}

// core.idx_load(path) -> tensor u8
static int l_idx_load(lua_State *L) {
    const char *path = hd_check_string(L, 1, NULL);
    hd_bytes *file = hd_push_resource(L, sizeof *file, free_bytes);
    int at = lua_gettop(L);
    hd_idx idx;
    lua_pushfstring(L, "'%s'", path);
    if (HD_RETRY(L, hd_file_read_gz(path, (size_t)4 << 30, file)) != HD_OK ||
        hd_idx_parse(lua_tostring(L, -1), file, &idx) != HD_OK)
        return hd_return_failure(L);
    hd_tensor *x = push_kept(L, HD_U8, idx.ndim, idx.shape);
    if (hd_tensor_numel(x))
        memcpy(data_of(x), idx.data, (size_t)hd_tensor_numel(x));
    hd_release_resource(L, at);
    return 1;
}

static const hd_tensor *check_set(lua_State *L, int arg, const char *where) {
    const hd_tensor *x = hd_check_tensor(L, arg);
    if (x->dtype != HD_U8 || x->ndim != 4 || !hd_tensor_is_contiguous(x))
        hd_raisef(L, "%s: the set is wrong: got %s %s, expected u8 [n,channels,height,width], row-major", where,
                  hd_dtype_name(x->dtype), hd_tensor_text(x));
    return x;
}

// core.picture_into(x, i, path) -> true: the middle of the picture at `path`, resized, becomes x[i]
static int l_picture_into(lua_State *L) {
    const hd_tensor *x = check_set(L, 1, "folder");
    int64_t i = hd_check_int(L, 2), c = x->shape[1], h = x->shape[2], w = x->shape[3];
    const char *path = hd_check_string(L, 3, NULL);
    if (i < 1 || i > x->shape[0] || c < 1 || c > 4)
        return hd_raisef(L, "folder: there is no place for the picture: got %lld, expected 1 to %lld of %s",
                         (long long)i, (long long)x->shape[0], hd_tensor_text(x));
    hd_image *image = hd_push_resource(L, sizeof *image, free_image);
    hd_image *small = hd_push_resource(L, sizeof *small, free_image);
    int at = lua_gettop(L);
    if (HD_RETRY(L, hd_image_read(path, (int)c, image)) != HD_OK ||
        HD_RETRY(L, hd_image_cover(image, (int)w, (int)h, small)) != HD_OK)
        return hd_message_code() == HD_ENOMEM ? hd_raise(L) : hd_return_failure(L); // damaged files alone are skipped
    uint8_t *out = (uint8_t *)data_of(x) + (i - 1) * c * h * w;
    for (int64_t k = 0; k < c; k++)
        for (int64_t p = 0; p < h * w; p++)
            *out++ = small->pixels[p * c + k];
    hd_release_resource(L, at);
    hd_release_resource(L, at - 1);
    lua_pushboolean(L, true);
    return 1;
}

// core.shapes_draw(n, size, seed) -> x [n,3,size,size], labels i64 [n]
static int l_shapes_draw(lua_State *L) {
    int64_t n = hd_check_int(L, 1);
    int size = check_size(L, 2, "shapes");
    uint64_t seed = (uint64_t)hd_check_int(L, 3);
    if (n < 1 || n > 1 << 24)
        return hd_raisef(L, "shapes: n is wrong: got %lld, expected 1 to %d", (long long)n, 1 << 24);
    uint8_t *x = push_pictures(L, n, size);
    int64_t *labels = push_labels(L, n);
    for (int64_t i = 0; i < n; i++)
        labels[i] = hd_shape_draw(seed, i, size, x + i * 3 * size * size) + 1;
    return 2;
}

// core.labels(y u8 [n]) -> i64 [n], counted from 1
static int l_labels(lua_State *L) {
    const hd_tensor *y = hd_check_tensor(L, 1);
    if (y->dtype != HD_U8 || y->ndim != 1 || !hd_tensor_is_contiguous(y))
        return hd_raisef(L, "labels: the tensor is wrong: got %s %s, expected u8 [n], row-major",
                         hd_dtype_name(y->dtype), hd_tensor_text(y));
    const uint8_t *from = data_of(y);
    int64_t *to = push_labels(L, y->shape[0]);
    for (int64_t i = 0; i < y->shape[0]; i++)
        to[i] = from[i] + 1;
    return 1;
}

// core.rows(x, list) -> the elements x[i] for each i of the list, copied; x is contiguous, the list was checked
static int l_rows(lua_State *L) {
    const hd_tensor *x = hd_check_tensor(L, 1);
    hd_check_table(L, 2);
    if (x->ndim < 1 || !hd_tensor_is_contiguous(x))
        return hd_raisef(L, "subset: the tensor is wrong: got %s, expected [n,...], row-major", hd_tensor_text(x));
    int64_t shape[HD_MAX_DIMS], n = (int64_t)lua_rawlen(L, 2);
    memcpy(shape, x->shape, sizeof shape);
    shape[0] = n;
    size_t row = hd_dtype_size(x->dtype);
    for (int d = 1; d < x->ndim; d++)
        row *= (size_t)x->shape[d];
    const char *from = data_of(x);
    char *to = data_of(push_kept(L, x->dtype, x->ndim, shape));
    for (int64_t i = 0; i < n; i++, lua_pop(L, 1)) {
        lua_rawgeti(L, 2, i + 1);
        int64_t at = hd_check_int_of(L, -1, "subset");
        if (at < 1 || at > x->shape[0])
            return hd_raisef(L, "subset: an index is wrong: got %lld, expected 1 to %lld", (long long)at,
                             (long long)x->shape[0]);
        memcpy(to + (size_t)i * row, from + (size_t)(at - 1) * row, row);
    }
    return 1;
}

// core.permutation(n, seed) -> list of 1 to n in random order
static int l_permutation(lua_State *L) {
    int64_t n = hd_check_int(L, 1);
    uint64_t seed = (uint64_t)hd_check_int(L, 2);
    if (n < 0 || n > INT32_MAX)
        return hd_raisef(L, "permutation: the number is wrong: got %lld, expected 0 to %d", (long long)n, INT32_MAX);
    int64_t *order = lua_newuserdatauv(L, ((size_t)n + 1) * sizeof *order, 0);
    hd_loader_order(seed, -1, n, order); // no epoch has this number
    lua_createtable(L, (int)n, 0);
    for (int64_t i = 0; i < n; i++) {
        lua_pushinteger(L, order[i] + 1);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

// Loader ---------------------------------------------------------------------
// The object holds the set's tensors, so that the worker's pointers stay good.

#define LOADER_NAME "hd.Loader"

typedef struct {
    hd_loader *loader;
    hd_tensor *x, *labels;
    int64_t batch;
} loader_box;

static loader_box *check_loader(lua_State *L) {
    loader_box *b = hd_check_object(L, 1, LOADER_NAME);
    if (!b->loader)
        hd_raisef(L, "batches: they are closed");
    return b;
}

// core.loader_new(x, labels or nil, batch, seed, flip, shuffle, prefetch) -> loader
static int l_loader_new(lua_State *L) {
    const hd_tensor *x = check_set(L, 1, "batches"), *labels = lua_isnil(L, 2) ? NULL : hd_check_tensor(L, 2);
    if (labels && (labels->dtype != HD_I64 || labels->ndim != 1 || labels->shape[0] != x->shape[0] ||
                   !hd_tensor_is_contiguous(labels)))
        return hd_raisef(L, "batches: labels are wrong: got %s %s, expected i64 [%lld]", hd_dtype_name(labels->dtype),
                         hd_tensor_text(labels), (long long)x->shape[0]);
    int64_t prefetch = hd_check_int(L, 7);
    hd_loader_config config = {.x = data_of(x),
                               .labels = labels ? data_of(labels) : NULL,
                               .n = x->shape[0],
                               .c = x->shape[1],
                               .h = x->shape[2],
                               .w = x->shape[3],
                               .batch = hd_check_int(L, 3),
                               .seed = (uint64_t)hd_check_int(L, 4),
                               .flip = lua_toboolean(L, 5),
                               .shuffle = lua_toboolean(L, 6),
                               .prefetch = prefetch < 0 || prefetch > 64 ? -1 : (int)prefetch};
    loader_box *b = lua_newuserdatauv(L, sizeof *b, 0);
    *b = (loader_box){.batch = config.batch};
    luaL_setmetatable(L, LOADER_NAME);
    if (HD_RETRY(L, hd_loader_new(&config, &b->loader)) != HD_OK)
        return hd_raise(L);
    b->x = hd_tensor_retain((hd_tensor *)x);
    b->labels = labels ? hd_tensor_retain((hd_tensor *)labels) : NULL;
    return 1;
}

// loader:next() -> x f32 [batch,c,h,w], channels last in memory, and labels i64 [batch] where the set has them
static int l_loader_next(lua_State *L) {
    loader_box *b = check_loader(L);
    const int64_t *s = b->x->shape;
    hd_tensor *x = push_new(L, HD_F32, 4, (const int64_t[]){b->batch, s[1], s[2], s[3]}, HD_CHANNELS_LAST);
    int64_t *labels = NULL;
    if (b->labels)
        labels = data_of(push_new(L, HD_I64, 1, &b->batch, HD_ROW_MAJOR));
    const int before = hd_profile_enter("waiting for data", HD_OUTSIDE, 0);
    const hd_status status = hd_loader_next(b->loader, data_of(x), labels);
    hd_profile_leave(before);
    if (status != HD_OK)
        return hd_raise(L);
    return labels ? 2 : 1;
}

// loader:position() -> batches handed over
static int l_loader_position(lua_State *L) {
    lua_pushinteger(L, hd_loader_position(check_loader(L)->loader));
    return 1;
}

// loader:seek(position)
static int l_loader_seek(lua_State *L) {
    loader_box *b = check_loader(L);
    int64_t position = hd_check_int(L, 2);
    if (position < 0)
        return hd_raisef(L, "batches: the position is wrong: got %lld, expected 0 or more", (long long)position);
    hd_loader_seek(b->loader, position);
    return 0;
}

// loader:close(), also __gc: stops and joins the thread
static int l_loader_close(lua_State *L) {
    loader_box *b = hd_check_object(L, 1, LOADER_NAME);
    hd_loader_free(b->loader);
    hd_tensor_release(b->x);
    hd_tensor_release(b->labels);
    *b = (loader_box){0};
    return 0;
}

static void make_loader_class(lua_State *L) {
    static const luaL_Reg methods[] = {{"next", l_loader_next},  {"position", l_loader_position},
                                       {"seek", l_loader_seek},  {"close", l_loader_close},
                                       {"__gc", l_loader_close}, {NULL, NULL}};
    luaL_newmetatable(L, LOADER_NAME);
    luaL_setfuncs(L, methods, 0);
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
}

void hd_bind_data(lua_State *L) {
    static const luaL_Reg functions[] = {{"font_find", l_font_find},
                                         {"font_load", l_font_load},
                                         {"cifar_load", l_cifar_load},
                                         {"idx_load", l_idx_load},
                                         {"picture_into", l_picture_into},
                                         {"shapes_draw", l_shapes_draw},
                                         {"loader_new", l_loader_new},
                                         {"labels", l_labels},
                                         {"rows", l_rows},
                                         {"permutation", l_permutation},
                                         {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
    make_loader_class(L);
}
