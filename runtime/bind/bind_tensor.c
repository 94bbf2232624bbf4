// bind/bind_tensor.c: the tensor object: looking at it, indexing, printing, releasing.
// Layer: bind. Operations are methods too, from bind_ops.c; methods in Lua are added by lib/hd/tensor.lua.
#include "bind/bind.h"
#include "autograd/tape.h"
#include "core/profile.h"
#include "ops/compose.h"
#include <math.h>
#include <stdio.h>
#include <string.h>

// Looking ----------------------------------------------------------------------------

static int push_list(lua_State *L, int n, const int64_t *values) {
    lua_createtable(L, n, 0);
    for (int d = 0; d < n; d++) {
        lua_pushinteger(L, values[d]);
        lua_rawseti(L, -2, d + 1);
    }
    return 1;
}

// x:shape() -> table: the extents, one integer per dimension
static int l_shape(lua_State *L) {
    const hd_tensor *x = hd_check_tensor(L, 1);
    return push_list(L, x->ndim, x->shape);
}

// x:strides() -> table: steps in memory from one element to the next along each dimension, in elements
static int l_strides(lua_State *L) {
    const hd_tensor *x = hd_check_tensor(L, 1);
    return push_list(L, x->ndim, x->strides);
}

// x:size(d) -> integer: the extent of dimension d, counted from 1 or from the end with -1; without d the shape
static int l_size(lua_State *L) {
    const hd_tensor *x = hd_check_tensor(L, 1);
    int d;
    if (lua_isnoneornil(L, 2))
        return l_shape(L);
    if (hd_dim("size", hd_check_dim(L, 2), x->ndim, &d) != HD_OK)
        return hd_raise(L);
    lua_pushinteger(L, x->shape[d]);
    return 1;
}

// x:dim() -> integer: the number of dimensions
static int l_dim(lua_State *L) {
    lua_pushinteger(L, hd_check_tensor(L, 1)->ndim);
    return 1;
}

// x:numel() -> integer: the number of elements
static int l_numel(lua_State *L) {
    lua_pushinteger(L, hd_tensor_numel(hd_check_tensor(L, 1)));
    return 1;
}

// x:dtype() -> string: "f32", "f64", "i64", "i32", "u8" or "bool"
static int l_dtype(lua_State *L) {
    lua_pushstring(L, hd_dtype_name(hd_check_tensor(L, 1)->dtype));
    return 1;
}

static int l_len(lua_State *L) {
    const hd_tensor *x = hd_check_tensor(L, 1);
    if (x->ndim == 0)
        return hd_raisef(L, "#: a tensor without dimensions has no length, expected at least 1 dimension");
    lua_pushinteger(L, x->shape[0]);
    return 1;
}

// x:is_contiguous() -> boolean: do the elements follow each other in row-major order without gaps?
static int l_is_contiguous(lua_State *L) {
    lua_pushboolean(L, hd_tensor_is_contiguous(hd_check_tensor(L, 1)));
    return 1;
}

// Elements ---------------------------------------------------------------------------

static void push_element(lua_State *L, const hd_view *v, int64_t offset) {
    switch (v->dtype) {
    case HD_BOOL:
        lua_pushboolean(L, ((const uint8_t *)v->data)[offset]);
        break;
    case HD_I64:
        lua_pushinteger(L, ((const int64_t *)v->data)[offset]);
        break;
    case HD_I32:
        lua_pushinteger(L, ((const int32_t *)v->data)[offset]);
        break;
    case HD_U8:
        lua_pushinteger(L, ((const uint8_t *)v->data)[offset]);
        break;
    default:
        lua_pushnumber(L, hd_load(v->data, v->dtype, offset));
    }
}

// A Lua number or boolean at `arg` into one element.
static void store_element(lua_State *L, int arg, const hd_view *v, int64_t offset) {
    if (v->dtype == HD_BOOL && lua_type(L, arg) == LUA_TBOOLEAN)
        ((uint8_t *)v->data)[offset] = (uint8_t)lua_toboolean(L, arg);
    else if (v->dtype == HD_I64 && lua_isinteger(L, arg))
        ((int64_t *)v->data)[offset] = lua_tointeger(L, arg);
    else if (lua_type(L, arg) == LUA_TNUMBER)
        hd_store(v->data, v->dtype, offset, lua_tonumber(L, arg));
    else
        hd_raisef(L, "set: wrong type: got %s, expected a number", luaL_typename(L, arg));
}

static void sync(lua_State *L) {
    if (hd_be()->sync() != HD_OK)
        hd_raise(L);
}

// x:item() -> number: the value of a tensor of one element (a boolean for bool)
static int l_item(lua_State *L) {
    const hd_tensor *x = hd_check_tensor(L, 1);
    if (hd_tensor_numel(x) != 1)
        return hd_raisef(L, "item: not a single element: got %s", hd_tensor_text(x));
    sync(L);
    const hd_view v = hd_tensor_as_view(x);
    push_element(L, &v, 0);
    return 1;
}

// Offset of the element named by x->ndim 1-based or negative indices from `arg` on.
static int64_t check_position(lua_State *L, const hd_tensor *x, int arg) {
    int64_t offset = 0;
    for (int d = 0; d < x->ndim; d++) {
        const int64_t given = hd_check_int(L, arg + d), i = given < 0 ? given + x->shape[d] : given - 1;
        if (given == 0 || i < 0 || i >= x->shape[d])
            hd_raisef(L, "index: out of range: got %lld for dimension %d, expected 1 to %lld of %s", (long long)given,
                      d + 1, (long long)x->shape[d], hd_tensor_text(x));
        offset += i * x->strides[d];
    }
    return offset;
}

// x:get(i, ...) -> number: the element at the given position, one number per dimension
static int l_get(lua_State *L) {
    const hd_tensor *x = hd_check_tensor(L, 1);
    const int64_t offset = check_position(L, x, 2);
    sync(L);
    const hd_view v = hd_tensor_as_view(x);
    push_element(L, &v, offset);
    return 1;
}

// x:set(i, ..., value) -> x: write the element at the given position
static int l_set(lua_State *L) {
    hd_tensor *x = hd_check_tensor(L, 1);
    const int64_t offset = check_position(L, x, 2);
    if (hd_grad_enabled() && hd_tensor_needs_grad(x))
        return hd_raisef(L,
                         "set: in-place change of a tensor that needs a gradient\n  hint: wrap it in hd.no_grad(...)");
    const hd_view v = hd_tensor_as_view(x);
    store_element(L, x->ndim + 2, &v, offset);
    x->storage->version++;
    lua_settop(L, 1);
    return 1;
}

static void push_nested(lua_State *L, const hd_view *v, int d, int64_t offset) {
    if (d == v->ndim) {
        push_element(L, v, offset);
        return;
    }
    luaL_checkstack(L, 3, NULL);
    lua_createtable(L, (int)v->shape[d], 0);
    for (int64_t i = 0; i < v->shape[d]; i++) {
        push_nested(L, v, d + 1, offset + i * v->strides[d]);
        lua_rawseti(L, -2, i + 1);
    }
}

// x:totable() -> table: nested tables of numbers in logical order; a 0-d tensor gives its number
static int l_totable(lua_State *L) {
    const hd_view v = hd_tensor_as_view(hd_check_tensor(L, 1));
    sync(L);
    push_nested(L, &v, 0, 0);
    return 1;
}

// x:equal(y) -> boolean: same type, shape and values
static int l_equal(lua_State *L) {
    const hd_tensor *a = hd_check_tensor(L, 1), *b = hd_check_tensor(L, 2);
    bool equal = a->dtype == b->dtype && hd_same_shape(a, b);
    sync(L);
    const hd_view va = hd_tensor_as_view(a), vb = hd_tensor_as_view(b);
    const int64_t n = equal ? hd_view_numel(&va) : 0;
    const bool flat = hd_view_is_contiguous(&va) && hd_view_is_contiguous(&vb);
    for (int64_t i = 0; equal && i < n; i++) {
        const int64_t ia = flat ? i : hd_view_offset(&va, i), ib = flat ? i : hd_view_offset(&vb, i);
        equal = a->dtype == HD_I64 ? ((int64_t *)va.data)[ia] == ((int64_t *)vb.data)[ib]
                                   : hd_load(va.data, a->dtype, ia) == hd_load(vb.data, b->dtype, ib);
    }
    lua_pushboolean(L, equal);
    return 1;
}

// Indexing ---------------------------------------------------------------------------

static int apply_select(lua_State *L, hd_tensor *x, int64_t dim, int64_t index) {
    hd_op_args args = hd_op_args_default();
    args.dim = dim;
    args.index = index > 0 ? index - 1 : index;
    return hd_apply(L, hd_op_find("select"), 1, &x, &args);
}

// x[i]: a number for a 1-D tensor, else a view. i = #x + 1 gives nil, so that ipairs ends.
static int index_one(lua_State *L, hd_tensor *x, int64_t i) {
    if (x->ndim == 0)
        return hd_raisef(L, "index: there is nothing to index: got a tensor without dimensions\n  hint: use x:item()");
    const int64_t n = x->shape[0], at = i < 0 ? i + n : i - 1;
    if (i == n + 1) {
        lua_pushnil(L);
        return 1;
    }
    if (i == 0 || at < 0 || at >= n)
        return hd_raisef(L, "index: out of range: got %lld, expected 1 to %lld of %s", (long long)i, (long long)n,
                         hd_tensor_text(x));
    if (x->ndim > 1)
        return apply_select(L, x, 0, at + 1);
    sync(L);
    const hd_view v = hd_tensor_as_view(x);
    push_element(L, &v, at * x->strides[0]);
    return 1;
}

// One entry of x[{ ... }] at the top of the stack, for dimension d of the tensor at index `at`: {} keeps the dimension,
// {a} and {a, b} take a range, i selects. Replaces the tensor at `at`; returns whether the dimension stays.
static bool slice_dimension(lua_State *L, int at, int d) {
    hd_tensor *x = hd_check_tensor(L, at);
    const int entry = lua_gettop(L);
    bool stays = true;
    if (lua_type(L, entry) == LUA_TNUMBER) {
        const int64_t i = hd_check_int_of(L, entry, "index");
        if (i == 0)
            hd_raisef(L, "index: positions count from 1 (or from the end with -1): got 0");
        apply_select(L, x, d, i);
        lua_replace(L, at);
        stays = false;
    } else if (lua_type(L, entry) == LUA_TTABLE && lua_rawlen(L, entry) > 0) {
        lua_rawgeti(L, entry, 1);
        lua_rawgeti(L, entry, lua_rawlen(L, entry) > 1 ? 2 : 1);
        int64_t from = hd_check_int_of(L, -2, "index"), to = hd_check_int_of(L, -1, "index");
        from = from < 0 ? from + x->shape[d] + 1 : from;
        to = to < 0 ? to + x->shape[d] + 1 : to;
        if (from < 1 || to > x->shape[d] || to < from - 1)
            hd_raisef(L, "index: range outside dimension %d: got %lld to %lld, expected within 1 to %lld of %s", d + 1,
                      (long long)from, (long long)to, (long long)x->shape[d], hd_tensor_text(x));
        hd_op_args args = hd_op_args_default();
        args.dim = d;
        args.start = from - 1;
        args.length = to - from + 1;
        hd_apply(L, hd_op_find("narrow"), 1, &x, &args);
        lua_replace(L, at);
    } else if (lua_type(L, entry) != LUA_TTABLE) {
        hd_raisef(L, "index: entry %d has the wrong type: got %s, expected {}, {a, b} or an integer", d + 1,
                  luaL_typename(L, entry));
    }
    lua_settop(L, entry);
    return stays;
}

// x[{ {a,b}, {}, i }] [-0, +1, raises]
static int index_slices(lua_State *L, int table) {
    int d = 0;
    const int n = (int)lua_rawlen(L, table);
    const hd_tensor *x = hd_check_tensor(L, 1);
    if (n > x->ndim)
        hd_raisef(L, "index: too many entries: got %d for %s", n, hd_tensor_text(x));
    lua_pushvalue(L, 1);
    const int at = lua_gettop(L);
    for (int i = 1; i <= n; i++) {
        lua_rawgeti(L, table, i);
        d += slice_dimension(L, at, d);
        lua_pop(L, 1);
    }
    lua_settop(L, at);
    return 1;
}

// upvalue: the table of methods
static int l_index(lua_State *L) {
    if (lua_type(L, 2) == LUA_TSTRING) {
        lua_pushvalue(L, 2);
        lua_rawget(L, lua_upvalueindex(1));
        return 1;
    }
    hd_tensor *x = hd_check_tensor(L, 1);
    if (lua_type(L, 2) == LUA_TTABLE)
        return index_slices(L, 2);
    return index_one(L, x, hd_check_int_of(L, 2, "index"));
}

static int l_newindex(lua_State *L) {
    hd_tensor *x = hd_check_tensor(L, 1);
    if (lua_type(L, 2) == LUA_TSTRING)
        return hd_raisef(L, "tensor: field '%.40s' cannot be set: expected an index", lua_tostring(L, 2));
    if (hd_grad_enabled() && hd_tensor_needs_grad(x))
        return hd_raisef(
            L, "index: in-place change of a tensor that needs a gradient\n  hint: wrap it in hd.no_grad(...)");
    if (lua_type(L, 2) == LUA_TNUMBER && x->ndim == 1) {
        const int64_t offset = check_position(L, x, 2);
        const hd_view v = hd_tensor_as_view(x);
        store_element(L, 3, &v, offset);
        x->storage->version++;
        return 0;
    }
    if (lua_type(L, 2) == LUA_TTABLE)
        index_slices(L, 2);
    else
        index_one(L, x, hd_check_int_of(L, 2, "index"));
    if (lua_isnil(L, -1))
        return hd_raisef(L, "index: out of range: got %lld, expected 1 to %lld of %s", (long long)lua_tointeger(L, 2),
                         (long long)x->shape[0], hd_tensor_text(x));
    hd_tensor *part[2] = {hd_check_tensor(L, lua_gettop(L)), hd_test_tensor(L, 3)}, *out;
    hd_op_args args = hd_op_args_default();
    if (!part[1]) {
        if (lua_type(L, 3) != LUA_TNUMBER)
            return hd_raisef(L, "index: value has the wrong type: got %s, expected a number or a tensor",
                             luaL_typename(L, 3));
        args.value = lua_tonumber(L, 3);
    }
    if (part[1] && hd_grad_enabled() && hd_tensor_needs_grad(part[1]))
        return hd_raisef(L, "index: a value with a gradient cannot be written into a part of a tensor\n"
                            "  hint: join the parts with hd.cat or hd.where, or x:detach() the value");
    if (hd_profile_on)
        hd_note_layer(L);
    if (HD_RETRY(L, hd_ad_apply(hd_op_find("copy_"), 2, part, &args, true, &out)) != HD_OK)
        return hd_raise(L);
    hd_tensor_release(out);
    return 0;
}

// Printing ---------------------------------------------------------------------------
// f32 [2,3] min -1.2 mean 0.03 max 2.1, then the elements; long dimensions show their first and last three entries.

enum { EDGE = 3, FULL = 8 };

static void add_number(luaL_Buffer *b, const hd_view *v, int64_t offset) {
    char text[40];
    if (v->dtype == HD_BOOL)
        snprintf(text, sizeof text, "%5s", ((const uint8_t *)v->data)[offset] ? "true" : "false");
    else if (hd_dtype_is_float(v->dtype))
        snprintf(text, sizeof text, "%10.5g", hd_load(v->data, v->dtype, offset));
    else
        snprintf(text, sizeof text, "%5.0f", hd_load(v->data, v->dtype, offset));
    luaL_addstring(b, text);
}

static void add_row(luaL_Buffer *b, const hd_view *v, int64_t offset) {
    const int64_t n = v->shape[v->ndim - 1], stride = v->strides[v->ndim - 1];
    for (int64_t i = 0; i < n; i++) {
        if (n > FULL && i == EDGE) {
            luaL_addstring(b, "  ...");
            i = n - EDGE;
        }
        luaL_addchar(b, ' ');
        add_number(b, v, offset + i * stride);
    }
    luaL_addchar(b, '\n');
}

static void add_block(luaL_Buffer *b, const hd_view *v, int d, int64_t offset, int *rows) {
    if (d == v->ndim - 1) {
        if ((*rows)++ < 24)
            add_row(b, v, offset);
        else if (*rows == 25)
            luaL_addstring(b, " ...\n");
        return;
    }
    for (int64_t i = 0; i < v->shape[d]; i++) {
        if (v->shape[d] > FULL && i == EDGE) {
            luaL_addstring(b, " ...\n");
            i = v->shape[d] - EDGE;
        }
        add_block(b, v, d + 1, offset + i * v->strides[d], rows);
        if (d == v->ndim - 3 && i + 1 < v->shape[d] && *rows < 24)
            luaL_addchar(b, '\n');
    }
}

static void add_statistics(luaL_Buffer *b, const hd_view *v) {
    double low = INFINITY, high = -INFINITY, sum = 0;
    char text[100];
    const int64_t n = hd_view_numel(v);
    for (int64_t i = 0; i < n; i++) {
        const double x = hd_load(v->data, v->dtype, hd_view_offset(v, i));
        low = x < low ? x : low;
        high = x > high ? x : high;
        sum += x;
    }
    snprintf(text, sizeof text, " min %.4g mean %.4g max %.4g", low, sum / (double)n, high);
    luaL_addstring(b, text);
}

static int l_tostring(lua_State *L) {
    const hd_tensor *x = ((hd_tensor **)hd_check_object(L, 1, HD_TENSOR_NAME))[0];
    luaL_Buffer b;
    int rows = 0;
    if (!x) {
        lua_pushliteral(L, "tensor (released)");
        return 1;
    }
    sync(L);
    const hd_view v = hd_tensor_as_view(x);
    const int64_t n = hd_view_numel(&v);
    luaL_buffinit(L, &b);
    luaL_addstring(&b, hd_dtype_name(x->dtype));
    luaL_addchar(&b, ' ');
    luaL_addstring(&b, hd_tensor_text(x));
    if (x->ndim == 0)
        add_number(&b, &v, 0);
    else if (n > 0 && x->dtype != HD_BOOL)
        add_statistics(&b, &v);
    if (n > 0 && x->ndim > 0) {
        luaL_addchar(&b, '\n');
        add_block(&b, &v, 0, 0, &rows);
        luaL_buffsub(&b, 1); // the last line feed
    }
    luaL_pushresult(&b);
    return 1;
}

// Releasing --------------------------------------------------------------------------

// x:release(): give the memory back now instead of when the collector finds it; using x afterwards is an error
static int l_release(lua_State *L) {
    hd_check_object(L, 1, HD_TENSOR_NAME);
    hd_box_release(L, 1);
    return 0;
}

void hd_bind_tensor(lua_State *L) {
    static const luaL_Reg methods[] = {
        {"shape", l_shape},
        {"strides", l_strides},
        {"size", l_size},
        {"dim", l_dim},
        {"numel", l_numel},
        {"dtype", l_dtype},
        {"item", l_item},
        {"get", l_get},
        {"set", l_set},
        {"totable", l_totable},
        {"equal", l_equal},
        {"release", l_release},
        {"is_contiguous", l_is_contiguous},
        {NULL, NULL},
    };
    static const luaL_Reg events[] = {
        {"__gc", hd_box_collect},   {"__close", l_release},     {"__len", l_len},
        {"__newindex", l_newindex}, {"__tostring", l_tostring}, {NULL, NULL},
    };
    luaL_newmetatable(L, HD_TENSOR_NAME);
    luaL_setfuncs(L, events, 0);
    luaL_newlib(L, methods);
    lua_pushvalue(L, -1);
    lua_setfield(L, -4, "methods"); // hd.core.methods
    lua_pushcclosure(L, l_index, 1);
    lua_setfield(L, -2, "__index");
    lua_pop(L, 1);
}
