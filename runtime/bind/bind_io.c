// bind/bind_io.c: files, folders, arrays and pictures for lib/hd.
// Layer: bind. Calls: io. Failures of the world give nil and a message; misuse raises.
// What a function holds in C lies in a resource on the Lua stack until it is done.
#include "bind/bind.h"
#include "bind/resource.h"
#include "core/alloc.h"
#include "io/file.h"
#include "io/folder.h"
#include "io/glyphs.h"
#include "io/held.h"
#include "io/image.h"
#include "io/npy.h"
#include "io/resample.h"
#include "io/safetensors.h"
#include "io/sys.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void free_bytes(void *p) { hd_bytes_free(p); }
static void free_image(void *p) { hd_image_free(p); }
static void free_folder(void *p) { hd_folder_free(p); }
static void free_npz(void *p) { hd_npz_close(p); }
static void free_safetensors(void *p) { hd_safetensors_close(*(hd_safetensors **)p); }
static void free_block(void *p) { hd_free(*(void **)p); }

// true, or nil and the message
static int push_done(lua_State *L, hd_status status) {
    if (status != HD_OK)
        return hd_return_failure(L);
    lua_pushboolean(L, true);
    return 1;
}

// Push a fresh row-major tensor; the data are the caller's to fill before hd_box_done. NULL: hd_message().
static hd_tensor *push_new(lua_State *L, hd_dtype dtype, int ndim, const int64_t *shape) {
    hd_collect_if_due(L);
    hd_tensor **box = hd_push_box(L);
    return hd_new_tensor(L, dtype, ndim, shape, HD_ROW_MAJOR, box) == HD_OK ? *box : NULL;
}

static void *data_of(const hd_tensor *x) { return hd_tensor_as_view(x).data; }

// Files and folders ----------------------------------------------------------

// core.file_write(path, text, keep_previous) -> true: whole or not at all
static int l_file_write(lua_State *L) {
    size_t size;
    const char *path = hd_check_string(L, 1, NULL), *text = hd_check_string(L, 2, &size);
    return push_done(L, HD_RETRY(L, hd_file_write(path, text, size, lua_toboolean(L, 3))));
}

// core.path_kind(path) -> "file", "folder", "other" or nil
static int l_path_kind(lua_State *L) {
    static const char *const names[] = {NULL, "file", "folder", "other"};
    lua_pushstring(L, names[hd_path_kind_of(hd_check_string(L, 1, NULL))]);
    return 1;
}

// core.folder_list(path) -> names, sorted, without hidden ones
static int l_folder_list(lua_State *L) {
    const char *path = hd_check_string(L, 1, NULL);
    hd_folder *folder = hd_push_resource(L, sizeof *folder, free_folder);
    int at = lua_gettop(L);
    if (HD_RETRY(L, hd_folder_list(path, folder)) != HD_OK)
        return hd_return_failure(L);
    lua_createtable(L, folder->count, 0);
    for (int i = 0; i < folder->count; i++) {
        lua_pushstring(L, folder->names[i]);
        lua_rawseti(L, -2, i + 1);
    }
    hd_release_resource(L, at);
    return 1;
}

// core.folder_make(path) -> true; makes those above it too
static int l_folder_make(lua_State *L) { return push_done(L, hd_folder_make(hd_check_string(L, 1, NULL))); }

// core.remove_stale(folder): what dead processes have left half-written there
static int l_remove_stale(lua_State *L) {
    hd_file_remove_stale(hd_check_string(L, 1, NULL), NULL);
    return 0;
}

// core.file_fault(nth, error): tests: the nth system call of saving from now on fails with ENOSPC, EIO, EINTR, ENOLCK
// or is SHORT; 0 turns it off -> did the last one come to pass?
static int l_file_fault(lua_State *L) {
    static const char *const names[] = {"ENOSPC", "EIO", "EINTR", "ENOLCK", "SHORT", NULL};
    static const int errors[] = {ENOSPC, EIO, EINTR, ENOLCK, HD_SHORT_COUNT};
    lua_pushboolean(L, hd_sys_inject((int)luaL_checkinteger(L, 1), errors[luaL_checkoption(L, 2, "EIO", names)]));
    return 1;
}

// Files that stay open -------------------------------------------------------

#define HELD_NAME "hd.Held"

static hd_held **check_held(lua_State *L) {
    hd_held **h = hd_check_object(L, 1, HELD_NAME);
    if (!*h)
        hd_raisef(L, "run: the file is closed: expected an open one");
    return h;
}

static hd_held **push_held(lua_State *L) {
    hd_held **h = lua_newuserdatauv(L, sizeof *h, 0);
    *h = NULL;
    luaL_setmetatable(L, HELD_NAME);
    return h;
}

// core.hold(path) -> file open for appending, nil and a message
static int l_hold(lua_State *L) {
    const char *path = hd_check_string(L, 1, NULL);
    return hd_held_open(path, push_held(L)) == HD_OK ? 1 : hd_return_failure(L);
}

// core.hold_folder(folder) -> its lock, why it cannot be locked or nil; nil and a message where it is in use
static int l_hold_folder(lua_State *L) {
    const char *folder = hd_check_string(L, 1, NULL), *unsupported;
    if (hd_held_lock(folder, push_held(L), &unsupported) != HD_OK)
        return hd_return_failure(L);
    lua_pushstring(L, unsupported);
    return 2;
}

// held:append(text) -> true: all of it or nothing
static int l_held_append(lua_State *L) {
    size_t size;
    const char *text = hd_check_string(L, 2, &size);
    return push_done(L, hd_held_append(*check_held(L), text, size));
}

// held:sync() -> true once it is on the disk
static int l_held_sync(lua_State *L) { return push_done(L, hd_held_sync(*check_held(L))); }

// held:read() -> all of it, also when it was removed
static int l_held_read(lua_State *L) {
    hd_held **h = check_held(L);
    hd_bytes *bytes = hd_push_resource(L, sizeof *bytes, free_bytes);
    const int at = lua_gettop(L);
    if (hd_held_read(*h, bytes) != HD_OK)
        return hd_return_failure(L);
    lua_pushlstring(L, (const char *)bytes->data, bytes->size);
    hd_release_resource(L, at);
    return 1;
}

// held:there() -> does its path still lead to it?
static int l_held_there(lua_State *L) {
    lua_pushboolean(L, hd_held_there(*check_held(L)));
    return 1;
}

// held:close(), also __gc; a lock is gone then
static int l_held_close(lua_State *L) {
    hd_held **h = hd_check_object(L, 1, HELD_NAME);
    hd_held_close(*h);
    *h = NULL;
    return 0;
}

static void make_held_class(lua_State *L) {
    static const luaL_Reg methods[] = {
        {"append", l_held_append}, {"sync", l_held_sync},  {"read", l_held_read}, {"there", l_held_there},
        {"close", l_held_close},   {"__gc", l_held_close}, {NULL, NULL}};
    luaL_newmetatable(L, HELD_NAME);
    luaL_setfuncs(L, methods, 0);
    lua_pushvalue(L, -1);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
}

// safetensors ----------------------------------------------------------------

static void push_texts(lua_State *L, const hd_safetensors *f) {
    lua_createtable(L, 0, f->ntexts);
    for (int i = 0; i < f->ntexts; i++) {
        lua_pushstring(L, f->texts[i].value);
        lua_setfield(L, -2, f->texts[i].key);
    }
}

// core.safetensors_load(path) -> {name = tensor}, {key = text}, names in the file's order, {name = count of values that
// are not finite}
static int l_safetensors_load(lua_State *L) {
    const char *path = hd_check_string(L, 1, NULL);
    hd_safetensors **f = hd_push_resource(L, sizeof *f, free_safetensors);
    int at = lua_gettop(L);
    if (HD_RETRY(L, hd_safetensors_open(path, f)) != HD_OK)
        return hd_return_failure(L);
    lua_createtable(L, 0, (*f)->count);
    push_texts(L, *f);
    lua_createtable(L, (*f)->count, 0);
    lua_newtable(L);
    for (int i = 0; i < (*f)->count; i++) {
        const hd_safetensors_entry *e = &(*f)->entries[i];
        hd_tensor *x = push_new(L, hd_numbers[e->type].dtype, e->ndim, e->shape);
        int64_t odd = 0;
        if (!x || HD_RETRY(L, hd_safetensors_read(*f, i, data_of(x), &odd)) != HD_OK)
            return hd_return_failure(L);
        hd_box_done(L);
        lua_setfield(L, at + 1, e->name);
        lua_pushstring(L, e->name);
        lua_rawseti(L, at + 3, i + 1);
        if (odd) {
            lua_pushinteger(L, odd);
            lua_setfield(L, at + 4, e->name);
        }
    }
    hd_release_resource(L, at);
    return 4;
}

// The string at position i of the list at `index`; it stays alive in the list.
static const char *list_string(lua_State *L, int index, lua_Integer i) {
    lua_rawgeti(L, index, i);
    if (lua_type(L, -1) != LUA_TSTRING)
        hd_raisef(L, "save: entry %d of a list is a %s, expected a string", (int)i, luaL_typename(L, -1));
    const char *s = lua_tostring(L, -1);
    lua_pop(L, 1);
    return s;
}

static hd_view list_view(lua_State *L, int index, lua_Integer i) {
    lua_rawgeti(L, index, i);
    hd_view v = hd_tensor_as_view(hd_check_tensor(L, lua_gettop(L)));
    lua_pop(L, 1);
    return v;
}

// core.safetensors_save(path, names, tensors, keys, texts, keep_previous) -> true
static int l_safetensors_save(lua_State *L) {
    const char *path = hd_check_string(L, 1, NULL);
    for (int i = 2; i <= 5; i++)
        hd_check_table(L, i);
    int count = (int)lua_rawlen(L, 2), ntexts = (int)lua_rawlen(L, 4);
    hd_safetensors_item *items = lua_newuserdatauv(L, ((size_t)count + 1) * sizeof *items, 0);
    hd_safetensors_text *texts = lua_newuserdatauv(L, ((size_t)ntexts + 1) * sizeof *texts, 0);
    for (int i = 0; i < count; i++)
        items[i] = (hd_safetensors_item){list_string(L, 2, i + 1), list_view(L, 3, i + 1)};
    for (int i = 0; i < ntexts; i++)
        texts[i] = (hd_safetensors_text){list_string(L, 4, i + 1), list_string(L, 5, i + 1)};
    const bool keep = lua_toboolean(L, 6);
    return push_done(L, HD_RETRY(L, hd_safetensors_write(path, items, count, texts, ntexts, keep)));
}

// npy and npz ----------------------------------------------------------------

// Push the array as a tensor. Fortran order is read as the reversed shape and shown through reversed strides.
// [-0, +1 or (failure) +any, raises]
static hd_status push_array(lua_State *L, const hd_npy *a) {
    int64_t shape[HD_MAX_DIMS], strides[HD_MAX_DIMS], odd = 0, step = 1;
    for (int d = 0; d < a->ndim; d++)
        shape[d] = a->shape[a->fortran ? a->ndim - 1 - d : d];
    hd_tensor *x = push_new(L, hd_numbers[a->type].dtype, a->ndim, shape);
    if (!x)
        return HD_ENOMEM;
    HD_CHECK(hd_number_convert(a->type, a->big_endian, a->data, a->count, data_of(x), &odd));
    if (a->fortran) {
        for (int d = 0; d < a->ndim; step *= a->shape[d++])
            strides[d] = step;
        hd_tensor **box = hd_push_box(L);
        HD_CHECK(hd_tensor_view(x, a->ndim, a->shape, strides, x->offset, box));
    }
    hd_box_done(L);
    return HD_OK;
}

// core.npy_load(path) -> tensor
static int l_npy_load(lua_State *L) {
    const char *path = hd_check_string(L, 1, NULL);
    hd_bytes *file = hd_push_resource(L, sizeof *file, free_bytes);
    int at = lua_gettop(L);
    hd_npy array;
    lua_pushfstring(L, "'%s'", path);
    if (HD_RETRY(L, hd_file_read(path, HD_NPY_CAP, file)) != HD_OK ||
        hd_npy_parse(lua_tostring(L, -1), file->data, file->size, &array) != HD_OK || push_array(L, &array) != HD_OK)
        return hd_return_failure(L);
    hd_release_resource(L, at);
    return 1;
}

// core.npy_save(path, tensor) -> true
static int l_npy_save(lua_State *L) {
    hd_view v = hd_tensor_as_view(hd_check_tensor(L, 2));
    return push_done(L, HD_RETRY(L, hd_npy_write(hd_check_string(L, 1, NULL), &v)));
}

// Member i into the table at `table`.
static hd_status load_member(lua_State *L, const hd_npz *z, int i, int table) {
    const char *name = z->members[i].name;
    lua_pushfstring(L, "array '%s'", name);
    const char *where = lua_tostring(L, -1);
    hd_bytes *member = hd_push_resource(L, sizeof *member, free_bytes);
    int at = lua_gettop(L);
    hd_npy array;
    HD_CHECK(HD_RETRY(L, hd_npz_read(where, z, i, member)));
    HD_CHECK(hd_npy_parse(where, member->data, member->size, &array));
    HD_CHECK(push_array(L, &array));
    lua_setfield(L, table, name);
    hd_release_resource(L, at);
    lua_settop(L, at - 2);
    return HD_OK;
}

// core.npz_load(path) -> {name = tensor}
static int l_npz_load(lua_State *L) {
    const char *path = hd_check_string(L, 1, NULL);
    hd_npz *z = hd_push_resource(L, sizeof *z, free_npz);
    int at = lua_gettop(L);
    if (HD_RETRY(L, hd_npz_open(path, z)) != HD_OK)
        return hd_return_failure(L);
    lua_createtable(L, 0, z->count);
    for (int i = 0; i < z->count; i++)
        if (load_member(L, z, i, at + 1) != HD_OK) {
            hd_fail(hd_message_code(), "'%s': %s", path, hd_message());
            return hd_return_failure(L);
        }
    hd_release_resource(L, at);
    return 1;
}

// core.npz_save(path, names, tensors) -> true
static int l_npz_save(lua_State *L) {
    const char *path = hd_check_string(L, 1, NULL);
    hd_check_table(L, 2);
    hd_check_table(L, 3);
    int count = (int)lua_rawlen(L, 2);
    const char **names = lua_newuserdatauv(L, ((size_t)count + 1) * sizeof *names, 0);
    hd_view *views = lua_newuserdatauv(L, ((size_t)count + 1) * sizeof *views, 0);
    for (int i = 0; i < count; i++) {
        names[i] = list_string(L, 2, i + 1);
        views[i] = list_view(L, 3, i + 1);
    }
    return push_done(L, HD_RETRY(L, hd_npz_write(path, names, views, count)));
}

// Pictures -------------------------------------------------------------------

// core.image_load(path, channels, as_f32) -> tensor [c,h,w]: bytes, or byte / 127.5 - 1; channels 0: as stored
static int l_image_load(lua_State *L) {
    const char *path = hd_check_string(L, 1, NULL);
    const int64_t channels = hd_check_int(L, 2);
    if (channels < 0 || channels > 4)
        return hd_raisef(L, "image.load: channels is wrong: got %lld, expected 0 to 4", (long long)channels);
    bool as_f32 = lua_toboolean(L, 3);
    hd_image *image = hd_push_resource(L, sizeof *image, free_image);
    int at = lua_gettop(L);
    if (HD_RETRY(L, hd_image_read(path, (int)channels, image)) != HD_OK)
        return hd_return_failure(L);
    int64_t c = image->channels, plane = (int64_t)image->width * image->height;
    const int64_t shape[3] = {c, image->height, image->width};
    hd_tensor *x = push_new(L, as_f32 ? HD_F32 : HD_U8, 3, shape);
    if (!x)
        return hd_raise(L);
    float *f = data_of(x);
    uint8_t *b = data_of(x);
    for (int64_t k = 0; k < c; k++)
        for (int64_t i = 0; i < plane; i++)
            if (as_f32)
                f[k * plane + i] = (float)(image->pixels[i * c + k] / 127.5 - 1);
            else
                b[k * plane + i] = image->pixels[i * c + k];
    hd_release_resource(L, at);
    return hd_box_done(L);
}

// Memory for a resource to own. [-0, +0, raises]
static void *room_for(lua_State *L, const char *where, size_t bytes) {
    void *block = hd_alloc(bytes);
    if (!block) {
        hd_reclaim_memory(L);
        block = hd_alloc(bytes);
    }
    if (!block) {
        hd_fail(HD_ENOMEM, "%s: out of memory", where);
        hd_raise(L);
    }
    return block;
}

// A picture tensor [c,h,w] or [h,w], packed as doubles 0 to 255 (f32 and f64: [-1,1] before).
typedef struct {
    int64_t c, h, w;
    void *packed;
    hd_dtype dtype;
} picture;

static double sample(const picture *p, int64_t i) {
    double v = hd_load(p->packed, p->dtype, i);
    return p->dtype == HD_U8 ? v : (v + 1) * 127.5;
}

// Check the tensor at `arg` and pack it into a resource. [-0, +1, raises]
static picture check_picture(lua_State *L, int arg, const char *where) {
    const hd_tensor *x = hd_check_tensor(L, arg);
    if ((x->ndim != 2 && x->ndim != 3) || (x->dtype != HD_U8 && x->dtype != HD_F32 && x->dtype != HD_F64))
        hd_raisef(L,
                  "%s: the picture is wrong: got %s %s, expected [channels,height,width] or [height,width], u8 or f32",
                  where, hd_dtype_name(x->dtype), hd_tensor_text(x));
    const int64_t *hw = x->shape + x->ndim - 2;
    picture p = {.c = x->ndim == 3 ? x->shape[0] : 1, .h = hw[0], .w = hw[1], .dtype = x->dtype};
    if (p.c < 1 || p.h < 1 || p.w < 1 || p.c > 4 || p.h > HD_IMAGE_SIDE_CAP || p.w > HD_IMAGE_SIDE_CAP)
        hd_raisef(L, "%s: the picture's size is wrong: got %s, expected 1 to 4 channels and sides of 1 to %d", where,
                  hd_tensor_text(x), HD_IMAGE_SIDE_CAP);
    int64_t n = p.c * p.h * p.w;
    void **block = hd_push_resource(L, sizeof *block, free_block);
    p.packed = *block = room_for(L, where, (size_t)n * hd_dtype_size(x->dtype));
    hd_view v = hd_tensor_as_view(x);
    hd_view_pack(&v, 0, n, p.packed);
    return p;
}

// core.image_encode(x) -> string, the bytes of a PNG file
static int l_image_encode(lua_State *L) {
    picture p = check_picture(L, 1, "image.save");
    hd_image *image = hd_push_resource(L, sizeof *image, free_image);
    hd_bytes *png = hd_push_resource(L, sizeof *png, free_bytes);
    int at = lua_gettop(L);
    *image = (hd_image){(int)p.w, (int)p.h, (int)p.c, NULL};
    image->pixels = room_for(L, "image.save", (size_t)(p.c * p.h * p.w));
    int64_t plane = p.h * p.w;
    for (int64_t k = 0; k < p.c; k++)
        for (int64_t i = 0; i < plane; i++)
            image->pixels[i * p.c + k] = hd_round_byte(sample(&p, k * plane + i));
    if (HD_RETRY(L, hd_image_encode(image, png)) != HD_OK)
        return hd_raise(L);
    lua_pushlstring(L, (const char *)png->data, png->size);
    for (int i = at; i > at - 3; i--)
        hd_release_resource(L, i);
    return 1;
}

typedef struct {
    picture in;
    hd_tensor *out;
    int64_t width;
} resizing;

static void planar_row(const void *from, int y, double *row) {
    const picture *p = &((const resizing *)from)->in;
    for (int64_t x = 0; x < p->w; x++)
        for (int64_t k = 0; k < p->c; k++)
            *row++ = hd_load(p->packed, p->dtype, (k * p->h + y) * p->w + x);
}

static void tensor_row(void *to, int y, const double *row) {
    const resizing *r = to;
    int64_t plane = hd_tensor_numel(r->out) / r->in.c;
    for (int64_t x = 0; x < r->width; x++)
        for (int64_t k = 0; k < r->in.c; k++, row++)
            hd_store(data_of(r->out), r->in.dtype, k * plane + y * r->width + x,
                     r->in.dtype == HD_U8 ? hd_round_byte(*row) : *row);
}

// core.image_resize(x, height, width) -> tensor of x's type and rank
static int l_image_resize(lua_State *L) {
    int64_t h = hd_check_int(L, 2), w = hd_check_int(L, 3);
    if (h < 1 || w < 1 || h > HD_IMAGE_SIDE_CAP || w > HD_IMAGE_SIDE_CAP)
        return hd_raisef(L, "image.resize: the size is wrong: got %dx%d, expected sides of 1 to %d", (int)h, (int)w,
                         HD_IMAGE_SIDE_CAP);
    resizing r = {.in = check_picture(L, 1, "image.resize"), .width = w};
    int at = lua_gettop(L), ndim = hd_check_tensor(L, 1)->ndim;
    const int64_t shape[3] = {r.in.c, h, w};
    r.out = push_new(L, r.in.dtype, ndim, shape + 3 - ndim);
    if (!r.out)
        return hd_raise(L);
    hd_resample_args args = {.width = (int)r.in.w,
                             .height = (int)r.in.h,
                             .channels = (int)r.in.c,
                             .out_width = (int)w,
                             .out_height = (int)h,
                             .source = planar_row,
                             .from = &r,
                             .sink = tensor_row,
                             .to = &r};
    if (HD_RETRY(L, hd_resample(&args)) != HD_OK)
        return hd_raise(L);
    hd_release_resource(L, at);
    return hd_box_done(L);
}

// core.text_boxes(text) -> {{left, top, right, bottom}, ...}, width: the strokes of a line of text, 0-based pixels
static int l_text_boxes(lua_State *L) {
    size_t length;
    int width;
    const char *text = hd_check_string(L, 1, &length);
    const size_t capacity = (length + 1) * HD_GLYPH_BOXES;
    int(*boxes)[4] = lua_newuserdatauv(L, capacity * sizeof *boxes, 0);
    const int count = hd_text_boxes(text, boxes, (int)capacity, &width);
    lua_createtable(L, count, 0);
    for (int i = 0; i < count; i++) {
        lua_createtable(L, 4, 0);
        for (int k = 0; k < 4; k++) {
            lua_pushinteger(L, boxes[i][k]);
            lua_rawseti(L, -2, k + 1);
        }
        lua_rawseti(L, -2, i + 1);
    }
    lua_pushinteger(L, width);
    return 2;
}

void hd_bind_io(lua_State *L) {
    static const luaL_Reg functions[] = {{"file_write", l_file_write},
                                         {"path_kind", l_path_kind},
                                         {"folder_list", l_folder_list},
                                         {"folder_make", l_folder_make},
                                         {"remove_stale", l_remove_stale},
                                         {"file_fault", l_file_fault},
                                         {"hold", l_hold},
                                         {"hold_folder", l_hold_folder},
                                         {"safetensors_load", l_safetensors_load},
                                         {"safetensors_save", l_safetensors_save},
                                         {"npy_load", l_npy_load},
                                         {"npy_save", l_npy_save},
                                         {"npz_load", l_npz_load},
                                         {"npz_save", l_npz_save},
                                         {"image_load", l_image_load},
                                         {"image_encode", l_image_encode},
                                         {"image_resize", l_image_resize},
                                         {"text_boxes", l_text_boxes},
                                         {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
    make_held_class(L);
    hd_bind_json(L);
}
