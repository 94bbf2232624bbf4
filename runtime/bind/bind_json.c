// bind/bind_json.c: Lua values to JSON text and back, by cJSON behind the limits of io/json.
// Layer: bind. Keys are written in sorted order, so that equal values give equal text.
#include "bind/bind.h"
#include "bind/resource.h"
#include "io/json.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH 64

static void delete_tree(void *p) { cJSON_Delete(*(cJSON **)p); }
static void free_text(void *p) { cJSON_free(*(char **)p); }

// Encoding -------------------------------------------------------------------
// Each node is attached to its parent as soon as it exists, so that the root owns all of them when Lua raises.

static void encode_into(lua_State *L, int index, cJSON *node, int depth);

static int out_of_memory(lua_State *L) {
    hd_fail(HD_ENOMEM, "json: out of memory");
    return hd_raise(L);
}

static cJSON *made(lua_State *L, cJSON *node) {
    if (!node)
        out_of_memory(L);
    return node;
}

// A node for the value at `index`; containers come back empty.
static cJSON *shell_of(lua_State *L, int index) {
    char digits[32];
    switch (lua_type(L, index)) {
    case LUA_TNIL:
        return made(L, cJSON_CreateNull());
    case LUA_TBOOLEAN:
        return made(L, cJSON_CreateBool(lua_toboolean(L, index)));
    case LUA_TSTRING:
        return made(L, cJSON_CreateString(lua_tostring(L, index)));
    case LUA_TNUMBER:
        if (!lua_isinteger(L, index)) // NaN and infinities become null
            return made(L, cJSON_CreateNumber(lua_tonumber(L, index)));
        snprintf(digits, sizeof digits, LUA_INTEGER_FMT, lua_tointeger(L, index)); // all 64 bits
        return made(L, cJSON_CreateRaw(digits));
    case LUA_TTABLE: {
        bool list = lua_rawgeti(L, index, 1) != LUA_TNIL;
        lua_pop(L, 1);
        return made(L, list ? cJSON_CreateArray() : cJSON_CreateObject());
    }
    default:
        hd_raisef(L, "json: wrong type: got a %s, expected nil, booleans, numbers, strings and tables of them",
                  luaL_typename(L, index));
        return NULL;
    }
}

static int by_text(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

// Push a userdata that holds the table's keys, sorted; the strings belong to the table. [-0, +1, raises]
static const char **sorted_keys(lua_State *L, int table, size_t *count) {
    size_t n = 0;
    for (lua_pushnil(L); lua_next(L, table); lua_pop(L, 1)) {
        if (lua_type(L, -2) != LUA_TSTRING)
            hd_raisef(L, "json: a table must be a list or have strings as keys: got a %s as key", luaL_typename(L, -2));
        n++;
    }
    const char **keys = lua_newuserdatauv(L, (n + 1) * sizeof *keys, 0);
    *count = 0;
    for (lua_pushnil(L); lua_next(L, table); lua_pop(L, 1))
        keys[(*count)++] = lua_tostring(L, -2);
    qsort(keys, n, sizeof *keys, by_text);
    return keys;
}

static void encode_list(lua_State *L, int index, cJSON *node, int depth) {
    lua_Integer n = (lua_Integer)lua_rawlen(L, index);
    for (lua_Integer i = 1; i <= n; i++) {
        lua_rawgeti(L, index, i);
        cJSON *item = shell_of(L, lua_gettop(L));
        cJSON_AddItemToArray(node, item);
        encode_into(L, lua_gettop(L), item, depth + 1);
        lua_pop(L, 1);
    }
}

static void encode_object(lua_State *L, int index, cJSON *node, int depth) {
    size_t n;
    const char **keys = sorted_keys(L, index, &n);
    for (size_t i = 0; i < n; i++) {
        lua_getfield(L, index, keys[i]);
        cJSON *item = shell_of(L, lua_gettop(L));
        if (!cJSON_AddItemToObject(node, keys[i], item)) {
            cJSON_Delete(item);
            out_of_memory(L);
        }
        encode_into(L, lua_gettop(L), item, depth + 1);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

static void encode_into(lua_State *L, int index, cJSON *node, int depth) {
    if (depth > DEPTH)
        hd_raisef(L, "json: nested too deeply: expected at most %d levels, and no table that contains itself", DEPTH);
    luaL_checkstack(L, 6, "json");
    if (cJSON_IsArray(node))
        encode_list(L, index, node, depth);
    else if (cJSON_IsObject(node))
        encode_object(L, index, node, depth);
}

// core.json_encode(value) -> string, on one line. A table with an element 1 is a list, any other an object.
static int l_json_encode(lua_State *L) {
    lua_settop(L, 1);
    cJSON **root = hd_push_resource(L, sizeof *root, delete_tree);
    char **text = hd_push_resource(L, sizeof *text, free_text);
    *root = shell_of(L, 1);
    encode_into(L, 1, *root, 1);
    *text = cJSON_PrintUnformatted(*root);
    if (!*text)
        return out_of_memory(L);
    lua_pushstring(L, *text);
    hd_release_resource(L, 3);
    hd_release_resource(L, 2);
    return 1;
}

// Decoding -------------------------------------------------------------------

static void push_number(lua_State *L, double v) {
    if (v == floor(v) && fabs(v) <= 0x1p53)
        lua_pushinteger(L, (lua_Integer)v);
    else
        lua_pushnumber(L, v);
}

// The depth is bounded by the parser's limits. null becomes nil.
static void push_value(lua_State *L, const cJSON *node) {
    luaL_checkstack(L, 4, "json");
    if (cJSON_IsBool(node)) {
        lua_pushboolean(L, cJSON_IsTrue(node));
    } else if (cJSON_IsNumber(node)) {
        push_number(L, node->valuedouble);
    } else if (cJSON_IsString(node)) {
        lua_pushstring(L, node->valuestring);
    } else if (cJSON_IsArray(node) || cJSON_IsObject(node)) {
        lua_newtable(L);
        lua_Integer i = 0;
        for (const cJSON *item = node->child; item; item = item->next) {
            if (cJSON_IsObject(node))
                lua_pushstring(L, item->string);
            else
                lua_pushinteger(L, ++i);
            push_value(L, item);
            lua_rawset(L, -3);
        }
    } else {
        lua_pushnil(L);
    }
}

// core.json_decode(text) -> value; nil and a message where it is no JSON.
static int l_json_decode(lua_State *L) {
    size_t length;
    const char *text = hd_check_string(L, 1, &length);
    cJSON **root = hd_push_resource(L, sizeof *root, delete_tree);
    int at = lua_gettop(L);
    if (hd_json_parse("json", text, length, &hd_json_defaults, root) != HD_OK)
        return hd_return_failure(L);
    push_value(L, *root);
    hd_release_resource(L, at);
    return 1;
}

void hd_bind_json(lua_State *L) {
    static const luaL_Reg functions[] = {{"json_encode", l_json_encode}, {"json_decode", l_json_decode}, {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
}
