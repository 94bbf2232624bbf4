// app/strict.c: hdlua --strict. A global is declared when it exists at the start, or is set by rawset, by C or at the
// prompt. Reading or creating any other one raises. Installed modules (files found under an absolute path) are left
// alone: they often look whether a global exists.
// Layer: app. Called by: main.c.
#include "app/app.h"

#include <lauxlib.h>
#include <string.h>

enum { MAX_GLOBALS = 1024 }; // most names searched for the nearest one

// Is the global used by the user's own code: the script, a module found relative to the current folder, or a chunk that
// is no file? Upvalues: the script's path, whether what is set at the prompt counts as declared.
static bool is_users_code(lua_State *L, bool writes) {
    lua_Debug ar;
    if (!lua_getstack(L, 1, &ar) || !lua_getinfo(L, "S", &ar) || *ar.what == 'C')
        return false;
    if (writes && strcmp(ar.source, "=stdin") == 0 && lua_toboolean(L, lua_upvalueindex(2)))
        return false;
    return strncmp(ar.source, "@/", 2) != 0 || strcmp(ar.source + 1, lua_tostring(L, lua_upvalueindex(1))) == 0;
}

// The global nearest to `name`; the string stays alive as a key of _G.
static const char *nearest_global(lua_State *L, const char *name) {
    const char *names[MAX_GLOBALS];
    int n = 0;
    lua_pushglobaltable(L);
    lua_pushnil(L);
    while (lua_next(L, -2)) {
        lua_pop(L, 1);
        if (lua_type(L, -1) == LUA_TSTRING && n < MAX_GLOBALS)
            names[n++] = lua_tostring(L, -1);
        else if (n == MAX_GLOBALS) {
            lua_pop(L, 1);
            break;
        }
    }
    lua_pop(L, 1);
    return hd_nearest(name, names, n);
}

// __index(_G, name)
static int l_strict_index(lua_State *L) {
    if (lua_type(L, 2) != LUA_TSTRING || !is_users_code(L, false))
        return 0;
    const char *name = lua_tostring(L, 2), *nearest = nearest_global(L, name);
    if (nearest)
        return luaL_error(L, "strict: undeclared global: got '%s'. did you mean '%s'?", name, nearest);
    return luaL_error(L, "strict: undeclared global: got '%s'", name);
}

// __newindex(_G, name, value)
static int l_strict_newindex(lua_State *L) {
    if (lua_type(L, 2) == LUA_TSTRING && is_users_code(L, true)) {
        const char *name = lua_tostring(L, 2);
        return luaL_error(L,
                          "strict: undeclared global is set: got '%s', expected a local.\n  hint: rawset(_G, \"%s\", "
                          "value) declares a global.",
                          name, name);
    }
    lua_rawset(L, 1);
    return 0;
}

void hd_strict(lua_State *L, const char *script, bool prompt) {
    static const luaL_Reg functions[] = {{"__index", l_strict_index}, {"__newindex", l_strict_newindex}, {NULL, NULL}};
    lua_pushglobaltable(L);
    luaL_newlibtable(L, functions);
    lua_pushstring(L, script ? script : "");
    lua_pushboolean(L, prompt);
    luaL_setfuncs(L, functions, 2);
    lua_setmetatable(L, -2);
    lua_pop(L, 1);
}
