// bind/bind_autograd.c: requires_grad_, backward, grad, detach, no_grad.
// Layer: bind. Calls: autograd/tape.
#include "bind/bind.h"
#include "autograd/tape.h"

// x:requires_grad_(on) -> x: a leaf whose gradient backward collects (on is true by default)
static int l_requires_grad_(lua_State *L) {
    hd_tensor *x = hd_check_tensor(L, 1);
    const bool on = lua_isnoneornil(L, 2) || lua_toboolean(L, 2);
    if (!hd_dtype_is_float(x->dtype))
        return hd_raisef(L, "requires_grad_: wrong type: got %s, expected f32 or f64", hd_dtype_name(x->dtype));
    if (x->node)
        return hd_raisef(
            L, "requires_grad_: this tensor is the result of an operation\n  hint: x:detach():requires_grad_()");
    x->requires_grad = on;
    lua_settop(L, 1);
    return 1;
}

// x:requires_grad() -> boolean: true for leaves with a gradient and for results that depend on one
static int l_requires_grad(lua_State *L) {
    lua_pushboolean(L, hd_tensor_needs_grad(hd_check_tensor(L, 1)));
    return 1;
}

// x:is_leaf() -> boolean: not the recorded result of an operation
static int l_is_leaf(lua_State *L) {
    lua_pushboolean(L, hd_check_tensor(L, 1)->node == NULL);
    return 1;
}

// x:grad() -> tensor or nil: what backward collected; the same object each time
static int l_grad(lua_State *L) {
    const hd_tensor *x = hd_check_tensor(L, 1);
    if (x->grad)
        hd_push_tensor(L, x->grad);
    else
        lua_pushnil(L);
    return 1;
}

// x:set_grad(g) -> x: put a gradient in place, or with nil let it go
static int l_set_grad(lua_State *L) {
    hd_tensor *x = hd_check_tensor(L, 1), *g = lua_isnoneornil(L, 2) ? NULL : hd_check_tensor(L, 2);
    if (g && (!hd_same_shape(x, g) || x->dtype != g->dtype))
        return hd_raisef(L, "set_grad: gradient does not fit: got %s %s, expected %s %s", hd_dtype_name(g->dtype),
                         hd_tensor_text(g), hd_dtype_name(x->dtype), hd_tensor_text(x));
    if (g)
        hd_tensor_retain(g);
    hd_tensor_release(x->grad);
    x->grad = g;
    lua_settop(L, 1);
    return 1;
}

// x:detach() -> tensor: the same memory, without history
static int l_detach(lua_State *L) {
    const hd_tensor *x = hd_check_tensor(L, 1);
    hd_tensor **box = hd_push_box(L);
    if (hd_tensor_detach(x, box) != HD_OK)
        return hd_raise(L);
    return hd_box_done(L);
}

// x:backward(dx): add d x / d leaf to the gradient of every leaf that x depends on; dx, the gradient of x, is needed
// where x has more than one element. What the graph saved is released on the way.
static int l_backward(lua_State *L) {
    hd_tensor *y = hd_check_tensor(L, 1), *dy = lua_isnoneornil(L, 2) ? NULL : hd_check_tensor(L, 2);
    hd_collect_before_sweep(L);
    if (hd_tape_backward(y, dy) != HD_OK)
        return hd_raise(L);
    return 0;
}

// no_grad -------------------------------------------------------------------------------

static int restore(lua_State *L, int status, lua_KContext before) {
    hd_set_grad_enabled((bool)before);
    if (status != LUA_OK && status != LUA_YIELD)
        return lua_error(L);
    return lua_gettop(L);
}

static int l_guard_close(lua_State *L) {
    bool *before = luaL_checkudata(L, 1, "hd.GradGuard");
    hd_set_grad_enabled(*before);
    return 0;
}

// hd.no_grad(fn, ...) -> results of fn(...): run without recording. Without fn: `local _ <close> = hd.no_grad()`.
static int l_no_grad(lua_State *L) {
    if (lua_isnoneornil(L, 1)) {
        bool *before = lua_newuserdatauv(L, sizeof *before, 0);
        luaL_setmetatable(L, "hd.GradGuard");
        *before = hd_set_grad_enabled(false);
        return 1;
    }
    luaL_checktype(L, 1, LUA_TFUNCTION);
    const bool before = hd_set_grad_enabled(false);
    return restore(L, lua_pcallk(L, lua_gettop(L) - 1, LUA_MULTRET, 0, before, restore), before);
}

void hd_bind_autograd(lua_State *L) {
    static const luaL_Reg functions[] = {{"no_grad", l_no_grad}, {NULL, NULL}};
    static const luaL_Reg methods[] = {{"requires_grad_", l_requires_grad_},
                                       {"requires_grad", l_requires_grad},
                                       {"is_leaf", l_is_leaf},
                                       {"grad", l_grad},
                                       {"set_grad", l_set_grad},
                                       {"detach", l_detach},
                                       {"backward", l_backward},
                                       {NULL, NULL}};
    luaL_newmetatable(L, "hd.GradGuard");
    lua_pushcfunction(L, l_guard_close);
    lua_setfield(L, -2, "__close");
    lua_pop(L, 1);
    luaL_setfuncs(L, functions, 0);
    lua_getfield(L, -1, "methods");
    luaL_setfuncs(L, methods, 0);
    lua_pop(L, 1);
}
