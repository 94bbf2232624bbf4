// bind/bind_profile.c: which layer runs, and the rows of a profile as Lua tables.
// Layer: bind. Calls: core/profile, backend (counting). lib/hd/profile.lua builds hd.profile on it.
#include "bind/bind.h"
#include "backend/backend.h"
#include "core/profile.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

// Sessions --------------------------------------------------------------------
// A session is what was charged between its begin and its end; they may overlap, also with that of --profile. The first
// one turns profiling on.

#define SESSION_NAME "hd.Profile"

typedef struct {
    bool open;
    int count;
    hd_profile_row before[]; // the rows at the begin
} session;

static int sessions; // open ones
static bool turned_on;

static void close_session(session *s) {
    if (!s->open)
        return;
    s->open = false;
    if (--sessions == 0 && turned_on) {
        hd_profile_stop();
        hd_backend_count(false);
        turned_on = false;
    }
}

// core.profile_begin() -> session
static int l_profile_begin(lua_State *L) {
    int count;
    if (!hd_profile_on) {
        hd_profile_start();
        hd_backend_count(true);
        turned_on = true;
    }
    const hd_profile_row *rows = hd_profile_rows(&count);
    session *s = lua_newuserdatauv(L, sizeof *s + (size_t)count * sizeof *s->before, 0);
    s->open = true;
    s->count = count;
    memcpy(s->before, rows, (size_t)count * sizeof *rows);
    sessions++;
    luaL_setmetatable(L, SESSION_NAME);
    return 1;
}

// The rows since the begin, as a block that Lua owns. [-0, +1, raises]
static hd_profile_row *push_rows_since(lua_State *L, const session *s, int *count) {
    const hd_profile_row *now = hd_profile_rows(count);
    hd_profile_row *rows = lua_newuserdatauv(L, (size_t)*count * sizeof *rows, 0);
    memcpy(rows, now, (size_t)*count * sizeof *rows);
    for (int i = 0; i < s->count; i++) {
        rows[i].calls -= s->before[i].calls;
        rows[i].wall -= s->before[i].wall;
        rows[i].cpu -= s->before[i].cpu;
        rows[i].flops -= s->before[i].flops;
        rows[i].bytes -= s->before[i].bytes;
    }
    return rows;
}

static void set_number(lua_State *L, const char *name, double value) {
    lua_pushnumber(L, value);
    lua_setfield(L, -2, name);
}

static void push_row(lua_State *L, const hd_profile_row *row) {
    static const char *const passes[] = {"outside", "forward", "backward"};
    lua_createtable(L, 0, 8);
    lua_pushstring(L, row->what);
    lua_setfield(L, -2, "name");
    lua_pushstring(L, passes[row->pass]);
    lua_setfield(L, -2, "pass");
    if (row->layer) {
        lua_pushstring(L, hd_profile_layer_path(row->layer));
        lua_setfield(L, -2, "layer");
    }
    lua_pushinteger(L, (lua_Integer)row->calls);
    lua_setfield(L, -2, "calls");
    set_number(L, "seconds", 1e-9 * (double)row->wall);
    set_number(L, "processor_seconds", 1e-9 * (double)row->cpu);
    set_number(L, "flops", row->flops);
    set_number(L, "bytes", row->bytes);
}

// The text of a table of rows; "" where there is no memory for it. [-0, +1, raises]
static void push_text(lua_State *L, const hd_profile_row *rows, int count) {
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (out) {
        hd_profile_write(out, rows, count);
        fclose(out);
    }
    lua_pushlstring(L, text ? text : "", text ? size : 0);
    free(text);
}

// core.profile_end(session) -> list of rows, text
static int l_profile_end(lua_State *L) {
    session *s = hd_check_object(L, 1, SESSION_NAME);
    int count, n = 0;
    if (!s->open)
        return hd_raisef(L, "profile: it has ended before");
    const hd_profile_row *rows = push_rows_since(L, s, &count);
    close_session(s);
    lua_createtable(L, count, 0);
    for (int i = 0; i < count; i++) {
        if (rows[i].wall == 0 && rows[i].calls == 0)
            continue;
        push_row(L, &rows[i]);
        lua_rawseti(L, -2, ++n);
    }
    push_text(L, rows, count);
    return 2;
}

// __close and __gc: what was measured is lost.
static int l_session_close(lua_State *L) {
    close_session(hd_check_object(L, 1, SESSION_NAME));
    return 0;
}

void hd_bind_profile(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"profile_begin", l_profile_begin}, {"profile_end", l_profile_end}, {NULL, NULL}};
    static const luaL_Reg events[] = {{"__close", l_session_close}, {"__gc", l_session_close}, {NULL, NULL}};
    luaL_newmetatable(L, SESSION_NAME);
    luaL_setfuncs(L, events, 0);
    lua_pop(L, 1);
    luaL_setfuncs(L, functions, 0);
    lua_newtable(L);
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "k");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &layer_numbers);
}
