// bind/resource.c: C resources on the Lua stack.
// Layer: bind.
#include "bind/resource.h"
#include <stdint.h>
#include <string.h>

#define RESOURCE_NAME "hd.Resource"

typedef struct {
    void (*release)(void *);
    int64_t bytes[]; // as strictly aligned as Lua aligns userdata
} resource;

static int l_resource_gc(lua_State *L) {
    hd_release_resource(L, 1);
    return 0;
}

void *hd_push_resource(lua_State *L, size_t size, void (*release)(void *)) {
    resource *r = lua_newuserdatauv(L, sizeof *r + size, 0);
    r->release = release;
    memset(r->bytes, 0, size);
    if (luaL_newmetatable(L, RESOURCE_NAME)) {
        lua_pushcfunction(L, l_resource_gc);
        lua_setfield(L, -2, "__gc");
    }
    lua_setmetatable(L, -2);
    return r->bytes;
}

void hd_release_resource(lua_State *L, int index) {
    resource *r = lua_touserdata(L, index);
    void (*release)(void *) = r->release;
    r->release = NULL;
    if (release)
        release(r->bytes);
}
