// bind/bind_optim.c: optimizer steps, moving averages and the gradient norm, each one pass over memory.
// Layer: bind. Calls: backend adam, sgd, lerp, reduce. lib/hd/optim builds the optimizers on them.
#include "bind/bind.h"
#include "ops/compose.h"
#include <math.h>

static double option(lua_State *L, int table, const char *name, double value) {
    if (lua_getfield(L, table, name) != LUA_TNIL)
        value = lua_isboolean(L, -1) ? lua_toboolean(L, -1) : lua_tonumber(L, -1);
    lua_pop(L, 1);
    return value;
}

static hd_view check_partner(lua_State *L, int arg, const hd_tensor *p, const char *where) {
    const hd_tensor *t = hd_check_tensor(L, arg);
    if (!hd_same_shape(p, t) || p->dtype != t->dtype)
        hd_raisef(L, "%s: argument %d does not fit: got %s %s, expected %s %s", where, arg, hd_dtype_name(t->dtype),
                  hd_tensor_text(t), hd_dtype_name(p->dtype), hd_tensor_text(p));
    return hd_tensor_as_view(t);
}

static int finish(lua_State *L, hd_status status, hd_tensor *p) {
    if (status != HD_OK)
        return hd_raise(L);
    p->storage->version++;
    return 0;
}

// core.adam(p, g, m, v, step, {lr, beta1, beta2, eps, weight_decay, decoupled, grad_scale}): one step, in place
static int l_adam(lua_State *L) {
    hd_tensor *p = hd_check_tensor(L, 1);
    hd_check_table(L, 6);
    const hd_adam_args args = {.p = hd_tensor_as_view(p),
                               .g = check_partner(L, 2, p, "adam"),
                               .m = check_partner(L, 3, p, "adam"),
                               .v = check_partner(L, 4, p, "adam"),
                               .step = hd_check_int(L, 5),
                               .lr = option(L, 6, "lr", 1e-3),
                               .beta1 = option(L, 6, "beta1", 0.9),
                               .beta2 = option(L, 6, "beta2", 0.999),
                               .eps = option(L, 6, "eps", 1e-8),
                               .weight_decay = option(L, 6, "weight_decay", 0),
                               .decoupled = option(L, 6, "decoupled", 0) != 0,
                               .grad_scale = option(L, 6, "grad_scale", 1)};
    return finish(L, HD_RETRY(L, hd_be()->adam(&args)), p);
}

// core.sgd(p, g, m or nil, {lr, momentum, weight_decay, nesterov, grad_scale}): one step, in place
static int l_sgd(lua_State *L) {
    hd_tensor *p = hd_check_tensor(L, 1);
    hd_check_table(L, 4);
    hd_sgd_args args = {.p = hd_tensor_as_view(p),
                        .g = check_partner(L, 2, p, "sgd"),
                        .lr = option(L, 4, "lr", 1e-2),
                        .momentum = option(L, 4, "momentum", 0),
                        .weight_decay = option(L, 4, "weight_decay", 0),
                        .nesterov = option(L, 4, "nesterov", 0) != 0,
                        .grad_scale = option(L, 4, "grad_scale", 1)};
    if (!lua_isnoneornil(L, 3))
        args.m = check_partner(L, 3, p, "sgd");
    return finish(L, HD_RETRY(L, hd_be()->sgd(&args)), p);
}

// core.lerp_(a, b, weight): a += weight * (b - a)
static int l_lerp_(lua_State *L) {
    hd_tensor *a = hd_check_tensor(L, 1);
    const hd_lerp_args args = {hd_tensor_as_view(a), check_partner(L, 2, a, "lerp_"), hd_check_number(L, 3)};
    return finish(L, HD_RETRY(L, hd_be()->lerp(&args)), a);
}

// core.grad_norm(tensors) -> number: Euclidean norm over all elements of all tensors of the list
static int l_grad_norm(lua_State *L) {
    double sum = 0;
    hd_check_table(L, 1);
    const lua_Integer n = (lua_Integer)lua_rawlen(L, 1);
    for (lua_Integer i = 1; i <= n; i++) {
        lua_rawgeti(L, 1, i);
        if (HD_RETRY(L, hd_do_sum_of_squares(hd_check_tensor(L, lua_gettop(L)), &sum)) != HD_OK)
            return hd_raise(L);
        lua_pop(L, 1);
    }
    lua_pushnumber(L, sqrt(sum));
    return 1;
}

void hd_bind_optim(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"adam", l_adam}, {"sgd", l_sgd}, {"lerp_", l_lerp_}, {"grad_norm", l_grad_norm}, {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
}
