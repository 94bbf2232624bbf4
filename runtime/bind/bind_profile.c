// bind/bind_profile.c: which layer runs, and the rows of a profile as Lua tables.
// Layer: bind. Calls: core/profile, backend (counting). lib/hd/profile.lua builds hd.profile on it.
#include "bind/bind.h"
#include "backend/backend.h"
#include "core/profile.h"

static const char layer_numbers; // registry key: layer (a table) -> number of its path; weak keys

// The innermost layer that runs, as a table. [-0, +1 or nothing]
static bool push_running_layer(lua_State *L) {
    lua_Debug ar;
    lua_getfield(L, LUA_REGISTRYINDEX, "hd.module_call");
    for (int level = 0; !lua_isnil(L, -1) && lua_getstack(L, level, &ar); level++) {
        lua_getinfo(L, "f", &ar);
        const bool is_call = lua_rawequal(L, -1, -2);
        lua_pop(L, 1);
        if (!is_call || !lua_getlocal(L, &ar, 1))
            continue;
        lua_remove(L, -2);
        return true;
    }
    lua_pop(L, 1);
    return false;
}

// Its path is looked for at the first operation of each layer only. [-0, +0]
void hd_note_layer(lua_State *L) {
    const int before = hd_profile_enter("profiling", HD_OUTSIDE, 0), top = lua_gettop(L);
    int layer = 0;
    luaL_checkstack(L, 20, NULL);
    if (push_running_layer(L)) {
        lua_rawgetp(L, LUA_REGISTRYINDEX, &layer_numbers);
        lua_pushvalue(L, -2);
        if (lua_rawget(L, -2) == LUA_TNIL) {
            hd_push_layer(L);
            layer = hd_profile_layer(lua_tostring(L, -1));
            lua_pushvalue(L, top + 1);
            lua_pushinteger(L, layer);
            lua_rawset(L, top + 2);
        } else {
            layer = (int)lua_tointeger(L, -1);
        }
    }
    lua_settop(L, top);
    hd_profile_set_layer(layer);
    hd_profile_leave(before);
}

void hd_bind_profile(lua_State *L) {
    lua_newtable(L);
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "k");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &layer_numbers);
}
