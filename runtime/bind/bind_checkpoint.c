// bind/bind_checkpoint.c: hd.checkpoint(): run a function again in backward instead of keeping what it computed.
// Layer: bind. Calls: autograd/segment. A recipe is a userdata with the function and its arguments; the registry has
// those that a sweep may need, under their address. Arguments that are tensors are the segment's.
#include "bind/bind.h"
#include "autograd/segment.h"
#include "autograd/tape.h"

typedef struct {
    int count;  // of arguments
    hd_rng rng; // the default generator when the function began
} recipe;

static const char recipes, stop; // keys: of the registry's table; and the error that ends a second run early

int hd_leave_run(lua_State *L) {
    lua_pushlightuserdata(L, (void *)&stop);
    return lua_error(L);
}

// Where a recipe may go at any time, the main thread's stack is there. [-0, +0]
static lua_State *main_thread;

static void forget(void *key) {
    lua_State *L = main_thread;
    if (!lua_checkstack(L, 3))
        return; // it stays until Lua closes
    lua_rawgetp(L, LUA_REGISTRYINDEX, &recipes);
    lua_pushnil(L);
    lua_rawsetp(L, -2, key);
    lua_pop(L, 1);
}

// A recipe of the function at index 1 and its `n` arguments behind it. [-0, +1, raises]
static recipe *push_recipe(lua_State *L, int n) {
    recipe *r = lua_newuserdatauv(L, sizeof *r, 1);
    *r = (recipe){n, *hd_default_rng()};
    lua_createtable(L, n + 1, 0);
    for (int i = 0; i <= n; i++) {
        if (i > 0 && hd_test_tensor(L, i + 1))
            continue;
        lua_pushvalue(L, i + 1);
        lua_rawseti(L, -2, i);
    }
    lua_setiuservalue(L, -2, 1);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &recipes);
    lua_pushvalue(L, -2);
    lua_rawsetp(L, -2, r);
    lua_pop(L, 1);
    return r;
}

// The tensors among the arguments, NULL for others, in a block that Lua owns. [-0, +1, raises]
static hd_tensor **push_inputs(lua_State *L, int n) {
    hd_tensor **in = lua_newuserdatauv(L, (size_t)(n + 1) * sizeof *in, 0);
    for (int i = 0; i < n; i++)
        in[i] = hd_test_tensor(L, i + 2);
    return in;
}

static bool is_callable(lua_State *L, int arg) {
    if (lua_type(L, arg) == LUA_TFUNCTION)
        return true;
    if (luaL_getmetafield(L, arg, "__call") == LUA_TNIL)
        return false;
    lua_pop(L, 1);
    return true;
}

// hd.checkpoint(fn, ...) -> results of fn(...): run without keeping what backward will need. Only the arguments are
// kept; backward runs fn again when its turn comes, with the same random numbers, and then has it all: less memory for
// more time, and the same bits. fn is a function or a layer; what it depends on besides its arguments (parameters,
// upvalues) must not change before backward. Tensors made inside that are not among its results are released when it
// returns, as by hd.scope(). The second run ends where backward needs no more. For whole networks:
// `nn.UNet { gradient_checkpointing = true }`.
static int l_checkpoint(lua_State *L) {
    const int n = lua_gettop(L) - 1;
    hd_segment *segment;
    bool taken;
    if (lua_isnone(L, 1) || !is_callable(L, 1))
        return hd_raisef(L, "checkpoint: argument 1: wrong type: got %s, expected a function", luaL_typename(L, 1));
    if (!hd_grad_enabled()) {
        lua_call(L, n, LUA_MULTRET);
        return lua_gettop(L);
    }
    luaL_checkstack(L, n + 20, NULL);
    hd_push_scope(L);
    const int scope = lua_gettop(L);
    lua_toclose(L, scope);
    hd_tensor **in = push_inputs(L, n);
    recipe *r = push_recipe(L, n); // from here to the segment's begin nothing may raise
    hd_status status = HD_RETRY(L, hd_segment_begin(n, in, r, &taken, &segment));
    if (!taken)
        forget(r);
    if (status != HD_OK)
        return hd_raise(L);
    for (int i = 1; i <= n + 1; i++)
        lua_pushvalue(L, i);
    const int code = lua_pcall(L, n, LUA_MULTRET, 0); // no yield: the segment would take what others record
    status = hd_segment_end(segment, code == LUA_OK);
    if (code != LUA_OK)
        return lua_error(L);
    if (status != HD_OK)
        return hd_raise(L);
    const int last = scope + 2; // inputs and recipe lie on the scope
    hd_scope_keep(L, scope, last + 1, lua_gettop(L));
    return lua_gettop(L) - last;
}

// The arguments of the second run are tensors of their own: let them go.
static void release_arguments(lua_State *L, int first, int last) {
    for (int i = first; i <= last; i++)
        if (luaL_testudata(L, i, HD_TENSOR_NAME))
            hd_box_release(L, i);
}

// segment (light) -> nothing
static int l_run_again(lua_State *L) {
    const hd_segment *s = lua_touserdata(L, 1);
    lua_rawgetp(L, LUA_REGISTRYINDEX, &recipes);
    lua_rawgetp(L, -1, hd_segment_recipe(s));
    const recipe *r = lua_touserdata(L, -1);
    luaL_checkstack(L, 2 * r->count + 20, NULL);
    lua_getiuservalue(L, -1, 1);
    const int list = lua_gettop(L);
    *hd_default_rng() = r->rng;
    hd_push_scope(L);
    lua_toclose(L, -1);
    const int first = lua_gettop(L) + 1;
    for (int i = 1; i <= r->count; i++) {
        hd_tensor **box = hd_push_box(L);
        if (HD_RETRY(L, hd_segment_input(s, i - 1, box)) != HD_OK)
            return hd_raise(L);
        if (*box) {
            hd_box_done(L);
        } else {
            lua_pop(L, 1);
            lua_rawgeti(L, list, i);
        }
    }
    lua_rawgeti(L, list, 0);
    for (int i = 0; i < r->count; i++)
        lua_pushvalue(L, first + i);
    const int code = lua_pcall(L, r->count, 0, 0);
    release_arguments(L, first, first + r->count - 1);
    return code == LUA_OK ? 0 : lua_error(L);
}

hd_status hd_run_again(lua_State *L, hd_segment *s) {
    if (!lua_checkstack(L, 4))
        return hd_fail(HD_ENOMEM, "checkpoint: out of memory");
    const hd_rng rng = *hd_default_rng();
    const bool recording = hd_set_grad_enabled(true);
    lua_pushcfunction(L, l_run_again);
    lua_pushlightuserdata(L, s);
    const int code = lua_pcall(L, 1, 0, 0);
    *hd_default_rng() = rng;
    hd_set_grad_enabled(recording);
    if (code == LUA_OK)
        return HD_OK;
    if (lua_touserdata(L, -1) != &stop)
        return hd_fail(HD_EARG, "backward: a checkpoint's function failed");
    lua_pop(L, 1);
    return HD_OK;
}

void hd_bind_checkpoint(lua_State *L) {
    lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
    main_thread = lua_tothread(L, -1);
    lua_pop(L, 1);
    hd_segment_on_forget(forget);
    lua_newtable(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &recipes);
    lua_pushcfunction(L, l_checkpoint);
    lua_setfield(L, -2, "checkpoint");
}
