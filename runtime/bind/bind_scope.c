// bind/bind_scope.c: hd.scope(): tensors that ops return inside it are released at its end.
// Layer: bind. A scope's user value is a list of the boxes made while it was open, with weak references: what the
// collector takes first needs no release. Kept out: s:keep(x), parameters, buffers and optimizer state (marked), leaves
// that require a gradient, gradients (a second owner). Views and the tape own storages of their own count, so they live
// on.
#include "bind/bind.h"
#include <string.h>

#define SCOPE_NAME "hd.Scope"

typedef struct scope {
    struct scope *outer;
    lua_Integer count;
    bool open;
    char where[80]; // "script.lua:12"
} scope;

static scope *innermost; // of the open ones; the registry has each one's list under its address

// The scope is no longer open. [-0, +0]
static void leave(lua_State *L, scope *s) {
    scope **at = &innermost;
    while (*at && *at != s)
        at = &(*at)->outer;
    if (*at)
        *at = s->outer;
    s->open = false;
    lua_pushnil(L);
    lua_rawsetp(L, LUA_REGISTRYINDEX, s);
}

void hd_scope_add(lua_State *L) {
    if (!innermost)
        return;
    lua_rawgetp(L, LUA_REGISTRYINDEX, innermost);
    lua_pushvalue(L, -2);
    lua_rawseti(L, -2, ++innermost->count);
    lua_pop(L, 1);
}

void hd_push_scope(lua_State *L) {
    lua_Debug ar;
    scope *s = lua_newuserdatauv(L, sizeof *s, 1);
    memset(s, 0, sizeof *s);
    luaL_setmetatable(L, SCOPE_NAME);
    if (lua_getstack(L, 1, &ar) && lua_getinfo(L, "Sl", &ar)) {
        const char *where = lua_pushfstring(L, "%s:%d", ar.short_src, ar.currentline);
        strncpy(s->where, where, sizeof s->where - 1);
        lua_pop(L, 1);
    }
    lua_newtable(L);
    luaL_getmetatable(L, "hd.weak");
    lua_setmetatable(L, -2);
    lua_pushvalue(L, -1);
    lua_rawsetp(L, LUA_REGISTRYINDEX, s);
    lua_setiuservalue(L, -2, 1);
    s->outer = innermost;
    s->open = true;
    innermost = s;
}

// hd.scope() -> scope: use as `local s <close> = hd.scope()`.
static int l_scope(lua_State *L) {
    hd_push_scope(L);
    return 1;
}

void hd_scope_keep(lua_State *L, int at, int first, int last) {
    scope *s = lua_touserdata(L, at);
    lua_getiuservalue(L, at, 1);
    const int list = lua_gettop(L);
    for (int i = first; i <= last; i++) {
        if (!hd_test_tensor(L, i))
            continue;
        for (lua_Integer k = 1; k <= s->count; k++) {
            lua_rawgeti(L, list, k);
            const bool same = lua_rawequal(L, -1, i);
            lua_pop(L, 1);
            if (!same)
                continue;
            lua_pushnil(L);
            lua_rawseti(L, list, k);
        }
        if (s->open && s->outer) {
            lua_rawgetp(L, LUA_REGISTRYINDEX, s->outer);
            lua_pushvalue(L, i);
            lua_rawseti(L, -2, ++s->outer->count);
            lua_pop(L, 1);
        }
    }
    lua_settop(L, list - 1);
}

// s:keep(x, ...) -> x, ...: these tensors outlive the scope (an outer scope takes them over).
static int l_keep(lua_State *L) {
    hd_check_object(L, 1, SCOPE_NAME);
    const int n = lua_gettop(L);
    for (int i = 2; i <= n; i++)
        hd_check_tensor(L, i);
    hd_scope_keep(L, 1, 2, n);
    return n - 1;
}

static void release_unless_held(lua_State *L, const scope *s) {
    hd_tensor *const *held = lua_touserdata(L, -1);
    if (!held || !*held || (*held)->refs > 1 || (*held)->kept || ((*held)->requires_grad && !(*held)->node))
        return;
    hd_box_release(L, lua_gettop(L));
    lua_pushstring(L, s->where);
    lua_setiuservalue(L, -2, 1);
}

// End of a scope: scopes opened inside that were not closed end with it.
static int l_close(lua_State *L) {
    scope *s = hd_check_object(L, 1, SCOPE_NAME);
    if (!s->open)
        return 0;
    lua_settop(L, 1);
    lua_getiuservalue(L, 1, 1);
    for (lua_Integer k = 1; k <= s->count; k++) {
        lua_rawgeti(L, 2, k);
        release_unless_held(L, s);
        lua_settop(L, 2);
    }
    while (innermost != s)
        leave(L, innermost);
    leave(L, s);
    return 0;
}

// A scope that nobody closed: its tensors stay, since the collector may run in the middle of a computation with them.
static int l_collect(lua_State *L) {
    scope *s = hd_check_object(L, 1, SCOPE_NAME);
    if (s->open)
        leave(L, s);
    return 0;
}

void hd_bind_scope(lua_State *L) {
    static const luaL_Reg methods[] = {{"keep", l_keep}, {"close", l_close}, {NULL, NULL}};
    luaL_newmetatable(L, "hd.weak");
    lua_pushliteral(L, "v");
    lua_setfield(L, -2, "__mode");
    luaL_newmetatable(L, SCOPE_NAME);
    luaL_newlib(L, methods);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, l_close);
    lua_setfield(L, -2, "__close");
    lua_pushcfunction(L, l_collect);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 2);
    lua_pushcfunction(L, l_scope);
    lua_setfield(L, -2, "scope");
}
