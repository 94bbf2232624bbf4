// bind/resource.h: C resources on the Lua stack, so that nothing leaks when Lua raises in between.
#ifndef HD_RESOURCE_H
#define HD_RESOURCE_H

#include <lauxlib.h>
#include <lua.h>

// Push a full userdata with `size` zeroed bytes and give them back. `release` is called on them once, by the collector
// or by hd_release_resource; it must accept zeros. [-0, +1, raises]
void *hd_push_resource(lua_State *L, size_t size, void (*release)(void *));

// Release the resource at `index` now, without waiting for the collector. [-0, +0]
void hd_release_resource(lua_State *L, int index);

#endif
