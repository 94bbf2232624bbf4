// bind/bind.c: checking arguments, pushing tensors, raising errors, and when to collect.
// Layer: bind. Stack effects are written as in the Lua manual: [-pops, +pushes, raises].
#include "bind/bind.h"
#include "core/alloc.h"
#include "core/holders.h"
#include "core/profile.h"
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

// Keys of the registry, by address.
static const char box_cache; // weak-valued: tensor address -> box

// Arguments ------------------------------------------------------------------------

typedef struct {
    hd_tensor *tensor; // NULL: not filled yet, or released
} box;

// The key in the table on top of the stack whose value is the function below it, copied to `name`. [-0, +0]
static bool find_function(lua_State *L, char *name, size_t size) {
    const int table = lua_gettop(L);
    lua_pushnil(L);
    while (lua_next(L, table)) {
        if (lua_rawequal(L, -1, table - 1) && lua_type(L, -2) == LUA_TSTRING) {
            snprintf(name, size, "%s", lua_tostring(L, -2));
            lua_settop(L, table);
            return true;
        }
        lua_pop(L, 1);
    }
    return false;
}

typedef struct {
    bool method; // called with a colon
    char text[48];
} function_name;

// The C function that runs, by its name in hd.core, hd.core.op or among the methods: the caller may have another for
// it.
static function_name running_function(lua_State *L) {
    static const char *const parts[] = {"op", "methods"};
    function_name name = {.text = "tensor"};
    lua_Debug ar;
    const int top = lua_gettop(L);
    luaL_checkstack(L, 10, NULL);
    if (!lua_getstack(L, 0, &ar) || !lua_getinfo(L, "nf", &ar))
        return name;
    name.method = ar.name && strcmp(ar.namewhat, "method") == 0;
    if (ar.name)
        snprintf(name.text, sizeof name.text, "%s", ar.name);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    const bool loaded = lua_getfield(L, -1, "hd.core") == LUA_TTABLE;
    lua_replace(L, -2);
    bool found = loaded && find_function(L, name.text, sizeof name.text);
    for (int i = 0; loaded && i < 2 && !found; i++) {
        lua_settop(L, top + 2);
        lua_pushvalue(L, top + 1);
        found = lua_getfield(L, top + 2, parts[i]) == LUA_TTABLE && find_function(L, name.text, sizeof name.text);
    }
    lua_settop(L, top);
    return name;
}

// "zeros: argument 1". Arguments of a method count from behind the colon.
typedef struct {
    char text[80];
} argument_name;

static argument_name name_argument(lua_State *L, int arg) {
    const function_name function = running_function(L);
    argument_name name;
    snprintf(name.text, sizeof name.text, "%s: argument %d", function.text, arg - function.method);
    return name;
}

hd_tensor *hd_test_tensor(lua_State *L, int arg) {
    const box *b = luaL_testudata(L, arg, HD_TENSOR_NAME);
    if (b && !b->tensor) {
        lua_getiuservalue(L, arg, 1);
        const char *scope = lua_tostring(L, -1);
        hd_raisef(L, "%s: this tensor was released%s%s", running_function(L).text,
                  scope ? " at the end of the scope opened at " : "", scope ? scope : "");
    }
    return b ? b->tensor : NULL;
}

static int wrong_type(lua_State *L, int arg, const char *expected) {
    return hd_raisef(L, "%s: wrong type: got %s, expected %s", name_argument(L, arg).text, luaL_typename(L, arg),
                     expected);
}

const char *hd_check_string(lua_State *L, int arg, size_t *length) {
    if (lua_type(L, arg) != LUA_TSTRING)
        wrong_type(L, arg, "a string");
    return lua_tolstring(L, arg, length);
}

double hd_check_number(lua_State *L, int arg) {
    if (lua_type(L, arg) != LUA_TNUMBER)
        wrong_type(L, arg, "a number");
    return lua_tonumber(L, arg);
}

void hd_check_table(lua_State *L, int arg) {
    if (lua_type(L, arg) != LUA_TTABLE)
        wrong_type(L, arg, "a table");
}

void *hd_check_object(lua_State *L, int arg, const char *name) {
    void *object = luaL_testudata(L, arg, name);
    if (!object)
        wrong_type(L, arg, name);
    return object;
}

hd_tensor *hd_check_tensor(lua_State *L, int arg) {
    hd_tensor *t = hd_test_tensor(L, arg);
    if (!t)
        wrong_type(L, arg, "a tensor");
    return t;
}

static bool exact_integer(lua_State *L, int index, lua_Integer *i) {
    int exact = 0;
    *i = lua_type(L, index) == LUA_TNUMBER ? lua_tointegerx(L, index, &exact) : 0;
    return exact;
}

int64_t hd_check_int_of(lua_State *L, int index, const char *where) {
    lua_Integer i;
    if (exact_integer(L, index, &i))
        return i;
    if (lua_type(L, index) == LUA_TNUMBER)
        return hd_raisef(L, "%s: not an integer: got %.14g", where, lua_tonumber(L, index));
    return hd_raisef(L, "%s: wrong type: got %s, expected an integer", where, luaL_typename(L, index));
}

int64_t hd_check_int(lua_State *L, int arg) {
    lua_Integer i;
    return exact_integer(L, arg, &i) ? i : hd_check_int_of(L, arg, name_argument(L, arg).text);
}

int64_t hd_check_dim(lua_State *L, int arg) {
    const int64_t d = hd_check_int(L, arg);
    if (d == 0)
        hd_raisef(L, "%s: dimensions count from 1 (or -1 for the last): got 0", name_argument(L, arg).text);
    return d > 0 ? d - 1 : d;
}

hd_dtype hd_check_dtype(lua_State *L, int arg) {
    static const struct {
        const char *name;
        hd_dtype dtype;
    } others[] = {{"float32", HD_F32}, {"float", HD_F32}, {"float64", HD_F64}, {"double", HD_F64}, {"int64", HD_I64},
                  {"long", HD_I64},    {"int32", HD_I32}, {"int", HD_I32},     {"uint8", HD_U8},   {"byte", HD_U8}};
    const char *name = lua_type(L, arg) == LUA_TSTRING ? lua_tostring(L, arg) : luaL_typename(L, arg);
    for (int t = 0; t < HD_DTYPE_COUNT; t++)
        if (strcmp(name, hd_dtype_name((hd_dtype)t)) == 0)
            return (hd_dtype)t;
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strcmp(name, others[i].name) == 0)
            return others[i].dtype;
    return (hd_dtype)hd_raisef(L, "dtype: unknown element type: got '%s', expected f32, f64, i64, i32, u8 or bool",
                               name);
}

// Results ----------------------------------------------------------------------------

hd_tensor **hd_push_box(lua_State *L) {
    box *b = lua_newuserdatauv(L, sizeof *b, 1);
    b->tensor = NULL;
    luaL_setmetatable(L, HD_TENSOR_NAME);
    return &b->tensor;
}

int hd_box_done(lua_State *L) {
    const box *b = lua_touserdata(L, -1);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &box_cache);
    lua_pushvalue(L, -2);
    lua_rawsetp(L, -2, b->tensor);
    lua_pop(L, 1);
    hd_scope_add(L);
    return 1;
}

void hd_push_tensor(lua_State *L, hd_tensor *x) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &box_cache);
    lua_rawgetp(L, -1, x);
    lua_remove(L, -2);
    if (!lua_isnil(L, -1))
        return;
    lua_pop(L, 1);
    *hd_push_box(L) = hd_tensor_retain(x);
    hd_box_done(L);
}

void hd_box_release(lua_State *L, int index) {
    box *b = lua_touserdata(L, index);
    if (!b->tensor)
        return;
    hd_tensor *t = b->tensor;
    b->tensor = NULL;
    lua_rawgetp(L, LUA_REGISTRYINDEX, &box_cache);
    lua_pushnil(L);
    lua_rawsetp(L, -2, t);
    lua_pop(L, 1);
    hd_tensor_release(t);
}

// As hd_box_release, for __gc: the cache has let the box go already.
int hd_box_collect(lua_State *L) {
    box *b = hd_check_object(L, 1, HD_TENSOR_NAME);
    hd_tensor_release(b->tensor);
    b->tensor = NULL;
    return 0;
}

void hd_bind_boxes(lua_State *L) {
    lua_newtable(L);
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "v");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &box_cache);
}

// Collecting ------------------------------------------------------------------------
// Lua sees 16 bytes of a tensor, not its megabytes. A full collection runs when live native bytes have grown since the
// last one by an eighth, but at least by 32 MiB and by eight times Lua's own heap: its cost grows with that heap, and
// so stays small beside the work that allocated so much. Before a backward sweep a quarter of that is enough: nothing
// can be collected while it runs, and it is where memory peaks. Where the forward pass has left more than 64 times
// Lua's heap, a collection (1.4 ms for each MiB of heap) is nothing beside the sweep, and always runs.

static size_t live_after_collection, live_after_sweep;

static size_t live_now(void) {
    hd_memory_info info;
    hd_memory(&info);
    return info.live;
}

static void collect(lua_State *L) {
    const int before = hd_profile_enter("garbage collection", HD_OUTSIDE, 0);
    lua_gc(L, LUA_GCCOLLECT);
    hd_profile_leave(before);
    live_after_collection = live_now();
}

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

static size_t allowed_growth(lua_State *L) {
    const size_t heap = (size_t)lua_gc(L, LUA_GCCOUNT) * 1024;
    return larger(larger(live_after_collection / 8, (size_t)32 << 20), 8 * heap);
}

void hd_reclaim_memory(lua_State *L) {
    collect(L);
    hd_alloc_trim();
}

static hd_status tried; // by HD_RETRY; Lua's thread alone uses it

bool hd_is_short(lua_State *L, hd_status status) {
    tried = status;
    if (status == HD_ENOMEM)
        hd_reclaim_memory(L);
    return status == HD_ENOMEM;
}

hd_status hd_retried(void) { return tried; }

hd_status hd_new_tensor(lua_State *L, hd_dtype dtype, int ndim, const int64_t *shape, hd_layout layout,
                        hd_tensor **out) {
    return HD_RETRY(L, hd_tensor_new(dtype, ndim, shape, layout, out));
}

void hd_collect_if_due(lua_State *L) {
    if (live_now() > live_after_collection + allowed_growth(L))
        collect(L);
}

void hd_collect_before_sweep(lua_State *L) {
    const size_t live = live_now(), heap = (size_t)lua_gc(L, LUA_GCCOUNT) * 1024;
    if (live > live_after_collection + allowed_growth(L) / 4 || live > live_after_sweep + 64 * heap)
        collect(L);
}

void hd_note_sweep(void) { live_after_sweep = live_now(); }

// Errors ----------------------------------------------------------------------------

// True when the frame belongs to a user's script: Lua code outside hdlua's own library folder.
static bool is_user_frame(lua_State *L, lua_Debug *ar) {
    if (lua_getinfo(L, "Sl", ar) == 0 || *ar->what == 'C')
        return false;
    lua_getfield(L, LUA_REGISTRYINDEX, "hd.libdir");
    const char *lib = lua_tostring(L, -1);
    const bool own = lib && ar->source[0] == '@' && strncmp(ar->source + 1, lib, strlen(lib)) == 0;
    lua_pop(L, 1);
    return !own;
}

static void push_where(lua_State *L) {
    lua_Debug ar;
    for (int level = 0; lua_getstack(L, level, &ar); level++) {
        if (!is_user_frame(L, &ar) || ar.currentline <= 0)
            continue;
        lua_pushfstring(L, "%s:%d: ", ar.short_src, ar.currentline);
        return;
    }
    lua_pushliteral(L, "");
}

// The path of the layers that are running, "unet.down[2].conv1: ", or "". lib/hd/nn/module.lua registers the function
// through which every layer is called, and one that describes a list of layers, innermost first (core.set_module_call).
static void push_layer_path(lua_State *L) {
    lua_Debug ar;
    int n = 0;
    const int top = lua_gettop(L);
    lua_newtable(L);
    lua_getfield(L, LUA_REGISTRYINDEX, "hd.module_call");
    for (int level = 0; !lua_isnil(L, -1) && lua_getstack(L, level, &ar); level++) {
        lua_getinfo(L, "f", &ar);
        const bool is_call = lua_rawequal(L, -1, -2);
        lua_pop(L, 1);
        if (is_call && lua_getlocal(L, &ar, 1))
            lua_rawseti(L, top + 1, ++n);
    }
    lua_getfield(L, LUA_REGISTRYINDEX, "hd.module_describe");
    if (n == 0 || lua_isnil(L, -1)) {
        lua_settop(L, top);
        lua_pushliteral(L, "");
        return;
    }
    lua_pushvalue(L, top + 1);
    if (lua_pcall(L, 1, 1, 0) != LUA_OK || lua_type(L, -1) != LUA_TSTRING) {
        lua_settop(L, top);
        lua_pushliteral(L, "");
        return;
    }
    lua_pushliteral(L, ": ");
    lua_concat(L, 2);
    lua_replace(L, top + 1);
    lua_settop(L, top + 1);
}

// The text on top of the stack without the ": " behind it.
static void cut_colon(lua_State *L) {
    size_t length;
    const char *text = lua_tolstring(L, -1, &length);
    lua_pushlstring(L, text, length > 2 ? length - 2 : 0);
    lua_remove(L, -2);
}

void hd_push_place(lua_State *L) {
    luaL_checkstack(L, 20, NULL);
    push_where(L);
    push_layer_path(L);
    lua_concat(L, 2);
    cut_colon(L);
}

void hd_push_layer(lua_State *L) {
    push_layer_path(L);
    cut_colon(L);
}

int hd_raise_text(lua_State *L, const char *text) {
    luaL_checkstack(L, 20, NULL);
    push_where(L);
    push_layer_path(L);
    const char *path = lua_tostring(L, -1);
    if (strncmp(path, text, strlen(path)) == 0) { // a layer alone: "conv2d: " once is enough
        lua_pop(L, 1);
        lua_pushliteral(L, "");
    }
    lua_pushstring(L, text);
    lua_concat(L, 3);
    return lua_error(L);
}

// hd_message(), and where memory ran out, who holds it.
static const char *whole_message(void) {
    static char text[4096];
    if (hd_message_code() != HD_ENOMEM)
        return hd_message();
    const int n = snprintf(text, 2048, "%s", hd_message());
    hd_holders_text(text + (n < 2047 ? n : 2047), 1536);
    strcat(text, "\n  hint: smaller batches or tensors, hd.no_grad where no gradient is needed, or a higher --memory");
    return text;
}

int hd_raise(lua_State *L) {
    if (hd_message_code() == HD_ENOUGH) // no text to make: hd_run_again takes it
        return hd_leave_run(L);
    return hd_raise_text(L, whole_message());
}

int hd_raisef(lua_State *L, const char *format, ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return hd_raise_text(L, text);
}

int hd_return_failure(lua_State *L) {
    lua_pushnil(L);
    lua_pushstring(L, whole_message());
    return 2;
}

// Nearest words, for "did you mean" ---------------------------------------------------

static int smaller(int a, int b) { return a < b ? a : b; }

int hd_edit_distance(const char *a, const char *b) {
    int row[64];
    const int n = (int)strlen(a), m = (int)strlen(b);
    if (n > 63 || m > 63)
        return INT_MAX;
    for (int j = 0; j <= m; j++)
        row[j] = j;
    for (int i = 1; i <= n; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= m; j++) {
            const int above = row[j];
            row[j] = smaller(smaller(above, row[j - 1]) + 1, diagonal + (a[i - 1] != b[j - 1]));
            diagonal = above;
        }
    }
    return row[m];
}

// hd.core ------------------------------------------------------------------------------

int luaopen_hd_core(lua_State *L) {
    hd_bind_boxes(L);
    lua_newtable(L);
    hd_bind_scope(L);
    hd_bind_tensor(L);
    hd_bind_ops(L);
    hd_bind_autograd(L);
    hd_bind_checkpoint(L);
    hd_bind_linalg(L);
    hd_bind_random(L);
    hd_bind_create(L);
    hd_bind_optim(L);
    hd_bind_profile(L);
    hd_bind_sys(L);
    hd_bind_interrupt(L);
    hd_bind_io(L);
    hd_bind_audio(L);
    hd_bind_data(L);
    hd_bind_preview(L);
    return 1;
}
