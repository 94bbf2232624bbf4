// bind/bind_autograd.c: requires_grad_, backward, grad, detach, no_grad, detect_anomaly.
// Layer: bind. Calls: autograd/tape, autograd/anomaly.
#include "bind/bind.h"
#include "autograd/anomaly.h"
#include "autograd/saved.h"
#include "autograd/tape.h"
#include <math.h>

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
    if (on)
        hd_tensor_set_kind(x, HD_PARAMETERS);
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
    if (g) {
        hd_tensor_retain(g);
        hd_tensor_set_kind(g, HD_GRADIENTS);
    }
    hd_tensor_release(x->grad);
    x->grad = g;
    lua_settop(L, 1);
    return 1;
}

// x:detach() -> tensor: the same memory, without history
static int l_detach(lua_State *L) {
    const hd_tensor *x = hd_check_tensor(L, 1);
    hd_tensor **box = hd_push_box(L);
    if (HD_RETRY(L, hd_tensor_detach(x, box)) != HD_OK)
        return hd_raise(L);
    return hd_box_done(L);
}

// hd.activations(name) -> name: with "bf16" large f32 tensors that wait for backward (hd.memory() counts them as
// activations) are kept as bf16 (8 significant bits, rounded to nearest) from the moment when nobody else uses them,
// and backward reads the rounded numbers: about half the memory for little time, and gradients that differ by rounding.
// Parameters, whole numbers, what is small, and what would lose its meaning (statistics, what is compared) stay as they
// are. "f32" is the default. Holds for what is computed from now on; tells the one in use
static int l_activations(lua_State *L) {
    if (!lua_isnoneornil(L, 1) && hd_activations_select(hd_check_string(L, 1, NULL)) != HD_OK)
        return hd_raise(L);
    lua_pushstring(L, hd_activations());
    return 1;
}

static void reclaim(void *L) { hd_reclaim_memory(L); }
static hd_status run_again(void *L, hd_segment *s) { return hd_run_again(L, s); }

// What the guard of a run looks at before the optimizer's step: the value that was swept from, a loss.
static double backward_value; // one that is not finite stays until it is read
static bool has_backward_value;
static lua_Integer backward_count;

static hd_status note_value(const hd_tensor *y) {
    if (hd_tensor_numel(y) != 1 || (has_backward_value && !isfinite(backward_value)))
        return HD_OK;
    HD_CHECK(hd_be()->sync());
    backward_value = hd_load(hd_tensor_as_view(y).data, y->dtype, 0);
    has_backward_value = true;
    return HD_OK;
}

// x:backward(dx): add d x / d leaf to the gradient of every leaf that x depends on; dx, the gradient of x, is needed
// where x has more than one element. What the graph saved is released on the way.
static int l_backward(lua_State *L) {
    hd_tensor *y = hd_check_tensor(L, 1), *dy = lua_isnoneornil(L, 2) ? NULL : hd_check_tensor(L, 2);
    const int top = lua_gettop(L);
    hd_collect_before_sweep(L);
    backward_count++;
    const hd_status status = hd_tape_backward(y, dy, &(hd_sweep_help){reclaim, run_again, L});
    hd_note_sweep();
    if (lua_gettop(L) > top) // of a checkpoint's function
        return lua_error(L);
    return status == HD_OK && note_value(y) == HD_OK ? 0 : hd_raise(L);
}

// core.backward_value() -> number or nil: the value of the last result of one element that backward was called on since
// the last call of this function, or of the first that was not finite
static int l_backward_value(lua_State *L) {
    if (has_backward_value)
        lua_pushnumber(L, backward_value);
    else
        lua_pushnil(L);
    has_backward_value = false;
    return 1;
}

// core.backward_count() -> integer: how often backward was called
static int l_backward_count(lua_State *L) {
    lua_pushinteger(L, backward_count);
    return 1;
}

// no_grad, detect_anomaly -----------------------------------------------------------------

// A mode is a flag that holds while a function runs, or until a guard is closed.
typedef bool mode_setter(bool on); // returns the value before
enum { GRAD_OFF, ANOMALY };
static mode_setter *const set_mode[] = {[GRAD_OFF] = hd_set_grad_enabled, [ANOMALY] = hd_set_anomaly};

typedef struct {
    int mode;
    bool before;
} guard;

static int restore(lua_State *L, int status, lua_KContext context) {
    set_mode[context >> 1](context & 1);
    if (status != LUA_OK && status != LUA_YIELD)
        return lua_error(L);
    return lua_gettop(L);
}

static int l_guard_close(lua_State *L) {
    const guard *g = hd_check_object(L, 1, "hd.ModeGuard");
    set_mode[g->mode](g->before);
    return 0;
}

static int with_mode(lua_State *L, int mode, bool on) {
    if (lua_isnoneornil(L, 1)) {
        guard *g = lua_newuserdatauv(L, sizeof *g, 0);
        luaL_setmetatable(L, "hd.ModeGuard");
        *g = (guard){mode, set_mode[mode](on)};
        return 1;
    }
    if (lua_type(L, 1) != LUA_TFUNCTION)
        return hd_raisef(L, "%s: argument 1: wrong type: got %s, expected a function, or nothing",
                         mode == ANOMALY ? "detect_anomaly" : "no_grad", luaL_typename(L, 1));
    const lua_KContext context = mode << 1 | (int)set_mode[mode](on);
    return restore(L, lua_pcallk(L, lua_gettop(L) - 1, LUA_MULTRET, 0, context, restore), context);
}

// hd.no_grad(fn, ...) -> results of fn(...): run without recording. Without fn: `local _ <close> = hd.no_grad()`.
static int l_no_grad(lua_State *L) { return with_mode(L, GRAD_OFF, false); }

// hd.detect_anomaly(fn, ...) -> results of fn(...): the first operation, forward or backward, whose result holds a NaN,
// or an infinity that its inputs did not have, is an error. It names the operation, its layer and shapes, the line that
// called it, and which input was not finite already. For searching: each result is read once more (at most three times
// slower). Without fn: `local _ <close> = hd.detect_anomaly()`; for a whole script: `hdlua --anomaly SCRIPT`.
static int l_detect_anomaly(lua_State *L) { return with_mode(L, ANOMALY, true); }

// core.plant_nan(op, backward): for tests, see autograd/anomaly.h; without arguments nothing is planted any more
static int l_plant_nan(lua_State *L) {
    hd_anomaly_plant(lua_isnoneornil(L, 1) ? NULL : hd_op_find(hd_check_string(L, 1, NULL)), lua_toboolean(L, 2));
    return 0;
}

void hd_bind_autograd(lua_State *L) {
    static const luaL_Reg functions[] = {{"activations", l_activations},
                                         {"no_grad", l_no_grad},
                                         {"detect_anomaly", l_detect_anomaly},
                                         {"plant_nan", l_plant_nan},
                                         {"backward_value", l_backward_value},
                                         {"backward_count", l_backward_count},
                                         {NULL, NULL}};
    static const luaL_Reg methods[] = {{"requires_grad_", l_requires_grad_},
                                       {"requires_grad", l_requires_grad},
                                       {"is_leaf", l_is_leaf},
                                       {"grad", l_grad},
                                       {"set_grad", l_set_grad},
                                       {"detach", l_detach},
                                       {"backward", l_backward},
                                       {NULL, NULL}};
    luaL_newmetatable(L, "hd.ModeGuard");
    lua_pushcfunction(L, l_guard_close);
    lua_setfield(L, -2, "__close");
    lua_pop(L, 1);
    luaL_setfuncs(L, functions, 0);
    lua_getfield(L, -1, "methods");
    luaL_setfuncs(L, methods, 0);
    lua_pop(L, 1);
}
