// bind/bind_create.c: new tensors: from tables and numbers, filled, counted, random.
// Layer: bind. Shapes are integers or one table; options come last: {dtype =, rng =, requires_grad =}.
#include "bind/bind.h"
#include "autograd/tape.h"
#include "ops/compose.h"
#include <math.h>
#include <string.h>

hd_status hd_conv_weight_new(hd_dtype dtype, int ndim, const int64_t *shape, hd_tensor **out); // ops/conv.c

typedef struct {
    hd_dtype dtype;
    bool requires_grad;
    int rng; // stack index of a generator, or 0
} create_options;

static void unknown_option(lua_State *L, const char *where, const char *name) {
    static const char *const known[] = {"dtype", "requires_grad", "rng"};
    for (int i = 0; i < 3; i++)
        if (hd_edit_distance(name, known[i]) < 3)
            hd_raisef(L, "%s: unknown option '%s'. did you mean '%s'? known: dtype, requires_grad, rng", where, name,
                      known[i]);
    hd_raisef(L, "%s: unknown option '%s'. known: dtype, requires_grad, rng", where, name);
}

// Read the option table at `arg` (none: defaults).
static create_options read_options(lua_State *L, int arg, const char *where, hd_dtype dtype) {
    create_options o = {.dtype = dtype};
    if (lua_isnoneornil(L, arg))
        return o;
    if (lua_type(L, arg) != LUA_TTABLE)
        hd_raisef(L, "%s: options have the wrong type: got %s, expected a table", where, luaL_typename(L, arg));
    luaL_checkstack(L, 8, NULL);
    lua_pushnil(L);
    while (lua_next(L, arg)) {
        const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "(not a name)";
        if (strcmp(name, "dtype") == 0)
            o.dtype = hd_check_dtype(L, lua_gettop(L));
        else if (strcmp(name, "requires_grad") == 0)
            o.requires_grad = lua_toboolean(L, -1);
        else if (strcmp(name, "rng") == 0)
            o.rng = -1;
        else
            unknown_option(L, where, name);
        lua_pop(L, 1);
    }
    if (o.rng) {
        lua_getfield(L, arg, "rng");
        o.rng = lua_gettop(L);
        if (!luaL_testudata(L, o.rng, HD_RNG_NAME))
            hd_raisef(L, "%s: option 'rng' has the wrong type: got %s, expected a generator (hd.rng(seed))", where,
                      luaL_typename(L, o.rng));
    }
    return o;
}

static bool is_option_table(lua_State *L, int arg) {
    if (lua_type(L, arg) != LUA_TTABLE)
        return false;
    lua_pushnil(L);
    const bool any = lua_next(L, arg);
    const bool named = any && lua_type(L, -2) == LUA_TSTRING;
    if (any)
        lua_pop(L, 2);
    return named;
}

// Extents from `arg` on: integers, or one table. Returns the first argument behind them.
static int read_shape(lua_State *L, int arg, const char *where, int *ndim, int64_t *shape) {
    int n = 0;
    const bool table = lua_type(L, arg) == LUA_TTABLE && !is_option_table(L, arg);
    const int count = table ? (int)lua_rawlen(L, arg) : 0;
    if (table) {
        for (; n < count && n < HD_MAX_DIMS; n++) {
            lua_rawgeti(L, arg, n + 1);
            shape[n] = hd_check_int_of(L, -1, where);
            lua_pop(L, 1);
        }
        arg++;
    } else {
        for (; n < HD_MAX_DIMS && lua_type(L, arg) == LUA_TNUMBER; n++)
            shape[n] = hd_check_int_of(L, arg++, where);
    }
    if (count > HD_MAX_DIMS || lua_type(L, arg) == LUA_TNUMBER)
        hd_raisef(L, "%s: too many dimensions: expected at most %d", where, HD_MAX_DIMS);
    if (!lua_isnoneornil(L, arg) && lua_type(L, arg) != LUA_TTABLE)
        hd_raisef(L, "%s: argument %d has the wrong type: got %s, expected extents, then options", where, arg,
                  luaL_typename(L, arg));
    *ndim = n;
    return arg;
}

// A new box on the stack, with `status` checked.
static int finish(lua_State *L, hd_status status, hd_tensor **box, const create_options *o) {
    if (status != HD_OK)
        return hd_raise(L);
    (*box)->requires_grad = o->requires_grad;
    if (o->requires_grad)
        hd_tensor_set_kind(*box, HD_PARAMETERS);
    return hd_box_done(L);
}

static int create_filled(lua_State *L, const char *where, int arg, const double *value) {
    int ndim;
    int64_t shape[HD_MAX_DIMS];
    arg = read_shape(L, arg, where, &ndim, shape);
    const create_options o = read_options(L, arg, where, HD_F32);
    hd_collect_if_due(L);
    hd_tensor **box = hd_push_box(L);
    hd_status status = hd_new_tensor(L, o.dtype, ndim, shape, HD_ROW_MAJOR, box);
    if (status == HD_OK && value)
        status = hd_do_fill(*box, *value);
    return finish(L, status, box, &o);
}

// hd.zeros(...) -> tensor: zeros; extents as integers or one table, then {dtype =, requires_grad =}
static int l_zeros(lua_State *L) { return create_filled(L, "zeros", 1, &(double){0}); }
// hd.ones(...) -> tensor: ones; arguments as hd.zeros
static int l_ones(lua_State *L) { return create_filled(L, "ones", 1, &(double){1}); }
// hd.empty(...) -> tensor: undefined contents; arguments as hd.zeros
static int l_empty(lua_State *L) { return create_filled(L, "empty", 1, NULL); }

// hd.full(shape, value, options) -> tensor: one value everywhere; shape is a table, or one integer
static int l_full(lua_State *L) {
    int ndim;
    int64_t shape[HD_MAX_DIMS];
    if (lua_type(L, 1) != LUA_TTABLE && lua_type(L, 1) != LUA_TNUMBER)
        return hd_raisef(L, "full: shape has the wrong type: got %s, expected a table", luaL_typename(L, 1));
    if (lua_type(L, 2) != LUA_TNUMBER)
        return hd_raisef(L, "full: value has the wrong type: got %s, expected a number", luaL_typename(L, 2));
    const double value = lua_tonumber(L, 2);
    const create_options o = read_options(L, 3, "full", HD_F32);
    lua_settop(L, 1);
    read_shape(L, 1, "full", &ndim, shape);
    hd_collect_if_due(L);
    hd_tensor **box = hd_push_box(L);
    hd_status status = hd_new_tensor(L, o.dtype, ndim, shape, HD_ROW_MAJOR, box);
    if (status == HD_OK)
        status = hd_do_fill(*box, value);
    return finish(L, status, box, &o);
}

// core.empty_weight(shape) -> tensor: an uninitialised convolution weight [k,c,...] that lies in memory as the kernels
// like it
static int l_empty_weight(lua_State *L) {
    int ndim;
    int64_t shape[HD_MAX_DIMS];
    const int arg = read_shape(L, 1, "empty_weight", &ndim, shape);
    const create_options o = read_options(L, arg, "empty_weight", HD_F32);
    if (ndim < 2)
        return hd_raisef(L, "empty_weight: got %d dimensions, expected at least 2", ndim);
    hd_tensor **box = hd_push_box(L);
    return finish(L, HD_RETRY(L, hd_conv_weight_new(o.dtype, ndim, shape, box)), box, &o);
}

// hd.tensor(nested table, number or boolean) -------------------------------------------------

// Shape by the first element of each depth.
static hd_dtype table_shape(lua_State *L, int arg, int *ndim, int64_t *shape) {
    lua_pushvalue(L, arg);
    int n = 0;
    while (lua_type(L, -1) == LUA_TTABLE) {
        if (n == HD_MAX_DIMS)
            hd_raisef(L, "tensor: table is nested too deeply: expected at most %d levels", HD_MAX_DIMS);
        shape[n++] = (int64_t)lua_rawlen(L, -1);
        lua_rawgeti(L, -1, 1);
        lua_remove(L, -2);
    }
    const hd_dtype dtype = lua_type(L, -1) == LUA_TBOOLEAN ? HD_BOOL : HD_F32;
    lua_pop(L, 1);
    *ndim = n;
    return dtype;
}

static void fill_from(lua_State *L, int depth, const hd_view *v, int64_t *at) {
    if (depth == v->ndim) {
        if (lua_type(L, -1) == LUA_TBOOLEAN)
            hd_store(v->data, v->dtype, (*at)++, lua_toboolean(L, -1));
        else if (v->dtype == HD_I64 && lua_isinteger(L, -1))
            ((int64_t *)v->data)[(*at)++] = lua_tointeger(L, -1);
        else if (lua_type(L, -1) == LUA_TNUMBER)
            hd_store(v->data, v->dtype, (*at)++, lua_tonumber(L, -1));
        else
            hd_raisef(L, "tensor: element %lld has the wrong type: got %s, expected a number", (long long)*at + 1,
                      luaL_typename(L, -1));
        return;
    }
    const int64_t have = lua_type(L, -1) == LUA_TTABLE ? (int64_t)lua_rawlen(L, -1) : -1;
    if (have < 0)
        hd_raisef(L, "tensor: ragged table: got a %s at depth %d, expected a table of %lld", luaL_typename(L, -1),
                  depth + 1, (long long)v->shape[depth]);
    if (have != v->shape[depth])
        hd_raisef(L, "tensor: ragged table: got %lld elements at depth %d, expected %lld", (long long)have, depth + 1,
                  (long long)v->shape[depth]);
    luaL_checkstack(L, 2, NULL);
    for (int64_t i = 1; i <= have; i++) {
        lua_rawgeti(L, -1, i);
        fill_from(L, depth + 1, v, at);
        lua_pop(L, 1);
    }
}

// hd.tensor(values, options) -> tensor: from a nested table, a number or a boolean; f32 unless {dtype =} says otherwise
static int l_tensor(lua_State *L) {
    int ndim;
    int64_t shape[HD_MAX_DIMS], at = 0;
    if (lua_isnone(L, 1))
        return hd_raisef(L, "tensor: there is no value: got nothing, expected a number or a nested table");
    const hd_dtype natural = table_shape(L, 1, &ndim, shape);
    const create_options o = read_options(L, 2, "tensor", natural);
    hd_collect_if_due(L);
    hd_tensor **box = hd_push_box(L);
    if (hd_new_tensor(L, o.dtype, ndim, shape, HD_ROW_MAJOR, box) != HD_OK)
        return hd_raise(L);
    const hd_view v = hd_tensor_as_view(*box);
    lua_pushvalue(L, 1);
    fill_from(L, 0, &v, &at);
    lua_pop(L, 1);
    return finish(L, HD_OK, box, &o);
}

// Ranges ---------------------------------------------------------------------------------------

static int create_range(lua_State *L, double first, double step, int64_t n, const create_options *o) {
    if (n < 0 || n > INT64_MAX / 16)
        return hd_raisef(L, "range: bad number of elements: got %lld", (long long)n);
    hd_tensor **box = hd_push_box(L);
    if (hd_new_tensor(L, o->dtype, 1, &n, HD_ROW_MAJOR, box) != HD_OK)
        return hd_raise(L);
    for (int64_t i = 0; i < n; i++)
        hd_store((*box)->storage->data, o->dtype, i, first + step * (double)i);
    return finish(L, HD_OK, box, o);
}

// hd.arange(first, last, step) -> tensor: first, first + step ... up to and including last, as Lua's numeric for; i64
// if all are integers
static int l_arange(lua_State *L) {
    int args = lua_gettop(L);
    const int options = args > 0 && lua_type(L, args) == LUA_TTABLE ? args-- : args + 1;
    const double first = args > 1 ? hd_check_number(L, 1) : 1, last = hd_check_number(L, args > 1 ? 2 : 1);
    const double step = args > 2 ? hd_check_number(L, 3) : 1;
    bool integers = true;
    for (int i = 1; i <= args; i++)
        integers = integers && lua_isinteger(L, i);
    if (step == 0)
        return hd_raisef(L, "arange: the step is wrong: got 0, expected another number");
    const create_options o = read_options(L, options, "arange", integers ? HD_I64 : HD_F32);
    const double n = floor((last - first) / step + 1e-9) + 1;
    return create_range(L, first, step, n > 0 ? (int64_t)n : 0, &o);
}

// hd.linspace(first, last, n) -> tensor: n evenly spaced numbers, both ends included
static int l_linspace(lua_State *L) {
    const double first = hd_check_number(L, 1), last = hd_check_number(L, 2);
    const int64_t n = hd_check_int(L, 3);
    const create_options o = read_options(L, 4, "linspace", HD_F32);
    return create_range(L, first, n > 1 ? (last - first) / (double)(n - 1) : 0, n, &o);
}

// hd.eye(n, m) -> tensor: ones on the diagonal of an n by m matrix (m = n by default)
static int l_eye(lua_State *L) {
    const int64_t n = hd_check_int(L, 1), m = lua_type(L, 2) == LUA_TNUMBER ? hd_check_int(L, 2) : n;
    const create_options o = read_options(L, lua_type(L, 2) == LUA_TTABLE ? 2 : 3, "eye", HD_F32);
    hd_tensor **box = hd_push_box(L);
    hd_status status = hd_new_tensor(L, o.dtype, 2, (int64_t[]){n, m}, HD_ROW_MAJOR, box);
    if (status == HD_OK)
        status = hd_do_fill(*box, 0);
    for (int64_t i = 0; status == HD_OK && i < n && i < m; i++)
        hd_store((*box)->storage->data, o.dtype, i * m + i, 1);
    return finish(L, status, box, &o);
}

// Random -----------------------------------------------------------------------------------------

// f64 numbers take two words each, so they sit at half the generator's offset; see core/rng.h.
static hd_status fill_random(hd_tensor *x, hd_random kind, double lo, double hi, hd_rng *rng) {
    const uint64_t n = (uint64_t)hd_tensor_numel(x);
    const bool two_words = x->dtype == HD_F64 && kind != HD_RANDOM_INT;
    const uint64_t first = hd_rng_take(rng, two_words ? 2 * n : n);
    return hd_be()->random(
        &(hd_random_args){kind, hd_tensor_as_view(x), rng->seed, rng->stream, two_words ? first / 2 : first, lo, hi});
}

static hd_rng *option_rng(lua_State *L, const create_options *o) {
    return hd_check_rng(L, o->rng ? o->rng : lua_gettop(L) + 1);
}

static int create_random(lua_State *L, const char *where, int arg, hd_random kind, double lo, double hi,
                         hd_dtype dtype) {
    int ndim;
    int64_t shape[HD_MAX_DIMS];
    arg = read_shape(L, arg, where, &ndim, shape);
    const create_options o = read_options(L, arg, where, dtype);
    hd_rng *rng = option_rng(L, &o);
    hd_collect_if_due(L);
    hd_tensor **box = hd_push_box(L);
    hd_status status = hd_new_tensor(L, o.dtype, ndim, shape, HD_ROW_MAJOR, box);
    if (status == HD_OK)
        status = fill_random(*box, kind, lo, hi, rng);
    return finish(L, status, box, &o);
}

// hd.rand(...) -> tensor: uniform in [0, 1); extents, then {dtype =, rng =}
static int l_rand(lua_State *L) { return create_random(L, "rand", 1, HD_RANDOM_UNIFORM, 0, 1, HD_F32); }
// hd.randn(...) -> tensor: normal, mean 0 and variance 1; extents, then {dtype =, rng =}
static int l_randn(lua_State *L) { return create_random(L, "randn", 1, HD_RANDOM_NORMAL, 0, 1, HD_F32); }
// hd.randint(lo, hi, ...) -> tensor: whole numbers lo to hi inclusive, i64; extents, then {dtype =, rng =}
static int l_randint(lua_State *L) {
    const int64_t lo = hd_check_int(L, 1), hi = hd_check_int(L, 2);
    if (hi < lo)
        return hd_raisef(L, "randint: empty range: got %lld to %lld", (long long)lo, (long long)hi);
    return create_random(L, "randint", 3, HD_RANDOM_INT, (double)lo, (double)hi, HD_I64);
}

static int create_like(lua_State *L, const char *where, hd_random kind, double lo, double hi) {
    hd_tensor *x = hd_check_tensor(L, 1);
    const create_options o = read_options(L, 2, where, x->dtype);
    hd_rng *rng = option_rng(L, &o);
    hd_collect_if_due(L);
    hd_tensor **box = hd_push_box(L);
    hd_status status = HD_RETRY(L, hd_tensor_new_like(x, o.dtype, box));
    if (status == HD_OK)
        status = fill_random(*box, kind, lo, hi, rng);
    return finish(L, status, box, &o);
}

// hd.randn_like(x, options) -> tensor: normal numbers of x's shape and type
static int l_randn_like(lua_State *L) { return create_like(L, "randn_like", HD_RANDOM_NORMAL, 0, 1); }
// hd.rand_like(x, options) -> tensor: uniform numbers in [0, 1) of x's shape and type
static int l_rand_like(lua_State *L) { return create_like(L, "rand_like", HD_RANDOM_UNIFORM, 0, 1); }

static int fill_like(lua_State *L, double value, const char *where) {
    const hd_tensor *x = hd_check_tensor(L, 1);
    const create_options o = read_options(L, 2, where, x->dtype);
    hd_collect_if_due(L);
    hd_tensor **box = hd_push_box(L);
    hd_status status = HD_RETRY(L, hd_tensor_new_like(x, o.dtype, box));
    if (status == HD_OK)
        status = hd_do_fill(*box, value);
    return finish(L, status, box, &o);
}
// hd.zeros_like(x, options) -> tensor: zeros of x's shape and type
static int l_zeros_like(lua_State *L) { return fill_like(L, 0, "zeros_like"); }
// hd.ones_like(x, options) -> tensor: ones of x's shape and type
static int l_ones_like(lua_State *L) { return fill_like(L, 1, "ones_like"); }

static int fill_method(lua_State *L, hd_random kind, const char *where, double lo, double hi) {
    hd_tensor *x = hd_check_tensor(L, 1);
    const int options =
        lua_gettop(L) > 1 && lua_type(L, lua_gettop(L)) == LUA_TTABLE ? lua_gettop(L) : lua_gettop(L) + 1;
    const create_options o = read_options(L, options, where, x->dtype);
    if (options > 2)
        lo = hd_check_number(L, 2);
    if (options > 3)
        hi = hd_check_number(L, 3);
    if (hd_grad_enabled() && x->node)
        return hd_raisef(L, "%s: in-place change of a tensor that needs a gradient\n  hint: wrap it in hd.no_grad(...)",
                         where);
    if (fill_random(x, kind, lo, hi, option_rng(L, &o)) != HD_OK)
        return hd_raise(L);
    x->storage->version++;
    lua_settop(L, 1);
    return 1;
}

// x:normal_(mean, std, options) -> x: normal numbers in place
static int l_normal_(lua_State *L) { return fill_method(L, HD_RANDOM_NORMAL, "normal_", 0, 1); }
// x:uniform_(lo, hi, options) -> x: uniform numbers in [lo, hi) in place
static int l_uniform_(lua_State *L) { return fill_method(L, HD_RANDOM_UNIFORM, "uniform_", 0, 1); }
// x:bernoulli_(p, options) -> x: 1 with chance p, else 0, in place
static int l_bernoulli_(lua_State *L) { return fill_method(L, HD_RANDOM_BERNOULLI, "bernoulli_", 0.5, 0); }

void hd_bind_create(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"tensor", l_tensor},
        {"zeros", l_zeros},
        {"ones", l_ones},
        {"empty", l_empty},
        {"full", l_full},
        {"empty_weight", l_empty_weight},
        {"arange", l_arange},
        {"linspace", l_linspace},
        {"eye", l_eye},
        {"rand", l_rand},
        {"randn", l_randn},
        {"randint", l_randint},
        {"randn_like", l_randn_like},
        {"rand_like", l_rand_like},
        {"zeros_like", l_zeros_like},
        {"ones_like", l_ones_like},
        {NULL, NULL},
    };
    static const luaL_Reg methods[] = {
        {"normal_", l_normal_}, {"uniform_", l_uniform_}, {"bernoulli_", l_bernoulli_}, {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
    lua_getfield(L, -1, "methods");
    luaL_setfuncs(L, methods, 0);
    lua_pop(L, 1);
}
