// bind/bind_ops.c: every operation of ops/op_list.def as a Lua function, a method and an in-place method.
// Layer: bind. The signature of each op is parsed once; one C function then serves them all.
#include "bind/bind.h"
#include "autograd/anomaly.h"
#include "autograd/tape.h"
#include "core/profile.h"
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

// The vocabulary: what each value argument is and where it goes in hd_op_args ----------------------------------------

typedef enum {
    V_INT,
    V_DIM,
    V_INDEX,
    V_NUMBER,
    V_BOOL, // single values; DIM and INDEX are 1-based or negative
    V_SIZES,
    V_DIMS,
    V_ORDER,
    V_PADS, // lists
    V_PAIR,
    V_NUMBER_PAIR, // one number for both, or a table of one or two
    V_MODE,
    V_ACTIVATION,
    V_DTYPE, // words
} value_kind;

typedef struct {
    const char *name;
    value_kind kind;
    size_t offset;
} vocable;

#define AT(member) offsetof(hd_op_args, member)
static const vocable vocabulary[] = {
    {"dim", V_DIM, AT(dim)},
    {"dim2", V_DIM, AT(dim2)},
    {"dims", V_DIMS, AT(dims)},
    {"order", V_ORDER, AT(dims)},
    {"sizes", V_SIZES, AT(sizes)},
    {"start", V_INDEX, AT(start)},
    {"index", V_INDEX, AT(index)},
    {"length", V_INT, AT(length)},
    {"groups", V_INT, AT(groups)},
    {"heads", V_INT, AT(groups)},
    {"kernel", V_PAIR, AT(kernel)},
    {"stride", V_PAIR, AT(stride)},
    {"padding", V_PAIR, AT(padding)},
    {"dilation", V_PAIR, AT(dilation)},
    {"output_padding", V_PAIR, AT(output_padding)},
    {"pads", V_PADS, AT(pads)},
    {"size", V_PAIR, AT(size)},
    {"scale_factor", V_NUMBER_PAIR, AT(scale_factor)},
    {"value", V_NUMBER, AT(value)},
    {"alpha", V_NUMBER, AT(alpha)},
    {"beta", V_NUMBER, AT(beta)},
    {"eps", V_NUMBER, AT(eps)},
    {"scale", V_NUMBER, AT(scale)},
    {"mode", V_MODE, AT(mode)},
    {"activation", V_ACTIVATION, AT(activation)},
    {"dtype", V_DTYPE, AT(dtype)},
    {"keepdim", V_BOOL, AT(keepdim)},
    {"align_corners", V_BOOL, AT(align_corners)},
    {"unbiased", V_BOOL, AT(unbiased)},
};
#undef AT

// Parsed signatures --------------------------------------------------------------------------------------------------

enum { MAX_PARAMS = 13, MAX_NAME = 24 };

typedef struct {
    char name[MAX_NAME];
    bool tensor, number_too, list, optional, by_name_only;
    const vocable *value; // where not a tensor
} param;

typedef struct {
    const hd_op *op;
    int count, tensors;
    param params[MAX_PARAMS];
} signature;

static signature *signatures; // one per op, made once

static const vocable *find_vocable(const char *name) {
    for (size_t i = 0; i < sizeof vocabulary / sizeof *vocabulary; i++)
        if (strcmp(vocabulary[i].name, name) == 0)
            return &vocabulary[i];
    return NULL;
}

static void parse_param(const char *token, size_t length, bool by_name_only, param *p) {
    *p = (param){.by_name_only = by_name_only};
    const size_t name = strcspn(token, "?#*: ");
    memcpy(p->name, token, name < length ? name : length);
    for (size_t i = name; i < length; i++) {
        p->optional = p->optional || token[i] == '?';
        p->number_too = p->number_too || token[i] == '#';
        p->list = p->list || token[i] == '*';
        p->tensor = p->tensor || token[i] == ':';
    }
    p->value = p->tensor ? NULL : find_vocable(p->name);
    p->tensor = !p->value;
}

static void parse_signature(const hd_op *op, signature *s) {
    bool by_name_only = false;
    *s = (signature){.op = op};
    for (const char *at = op->params; *at;) {
        const size_t length = strcspn(at, " ");
        if (*at == '|')
            by_name_only = true;
        else {
            parse_param(at, length, by_name_only, &s->params[s->count]);
            s->tensors += s->params[s->count++].tensor;
        }
        at += length;
        at += strspn(at, " ");
    }
}

// Reading values -----------------------------------------------------------------------------------------------------

static int wrong(lua_State *L, const signature *s, const char *name, int arg, const char *expected) {
    const char *got = lua_isnone(L, arg) ? "nothing" : luaL_typename(L, arg);
    if (luaL_testudata(L, arg, HD_TENSOR_NAME))
        got = "a tensor";
    return hd_raisef(L, "%s: argument '%s' has the wrong type: got %s, expected %s", s->op->name, name, got, expected);
}

static int64_t read_int(lua_State *L, const signature *s, const char *name, int arg) {
    int exact = 0;
    const lua_Integer i = lua_type(L, arg) == LUA_TNUMBER ? lua_tointegerx(L, arg, &exact) : 0;
    if (!exact)
        wrong(L, s, name, arg, "an integer");
    return i;
}

static int64_t read_from_one(lua_State *L, const signature *s, const char *name, int arg) {
    const int64_t i = read_int(L, s, name, arg);
    if (i == 0)
        hd_raisef(L, "%s: argument '%s' counts from 1 (or from the end with -1): got 0", s->op->name, name);
    return i > 0 ? i - 1 : i;
}

// A list of integers from a table, a single number, or (sizes, order) all the numbers that follow. Returns arguments
// used.
static int read_list(lua_State *L, const signature *s, const param *p, int arg, hd_op_args *args) {
    const value_kind kind = p->value->kind;
    int64_t *out = (int64_t *)((char *)args + p->value->offset);
    const int limit = kind == V_PADS ? 2 * HD_MAX_DIMS : HD_MAX_DIMS;
    const bool table = lua_type(L, arg) == LUA_TTABLE,
               spread = !table && (kind == V_SIZES || kind == V_ORDER) && !p->by_name_only;
    int n = 0, used = 1;
    if (table) {
        n = (int)lua_rawlen(L, arg);
    } else {
        n = 1;
        while (spread && lua_type(L, arg + n) == LUA_TNUMBER)
            n++;
        used = n;
    }
    if (n > limit)
        hd_raisef(L, "%s: argument '%s' is too long: got %d numbers, expected at most %d", s->op->name, p->name, n,
                  limit);
    for (int i = 0; i < n; i++) {
        if (table)
            lua_rawgeti(L, arg, i + 1);
        const int at = table ? lua_gettop(L) : arg + i;
        out[i] = kind == V_DIMS || kind == V_ORDER ? read_from_one(L, s, p->name, at) : read_int(L, s, p->name, at);
        if (table)
            lua_pop(L, 1);
    }
    *(kind == V_SIZES ? &args->nsizes : kind == V_PADS ? &args->npads : &args->ndims) = n;
    return used;
}

static void read_pair(lua_State *L, const signature *s, const param *p, int arg, hd_op_args *args) {
    void *out = (char *)args + p->value->offset;
    const bool table = lua_type(L, arg) == LUA_TTABLE;
    for (int i = 0; i < 2; i++) {
        if (table)
            lua_rawgeti(L, arg, lua_rawlen(L, arg) > 1 ? i + 1 : 1);
        const int at = table ? lua_gettop(L) : arg;
        if (p->value->kind == V_PAIR)
            ((int64_t *)out)[i] = read_int(L, s, p->name, at);
        else if (lua_type(L, at) == LUA_TNUMBER)
            ((double *)out)[i] = lua_tonumber(L, at);
        else
            wrong(L, s, p->name, at, "a number, or a table of two");
        if (table)
            lua_pop(L, 1);
    }
}

static int read_word(lua_State *L, const signature *s, const param *p, int arg, const char *const *words,
                     const char *all) {
    const char *word = lua_type(L, arg) == LUA_TSTRING ? lua_tostring(L, arg) : NULL;
    for (int i = 0; word && words[i]; i++)
        if (strcmp(words[i], word) == 0)
            return i;
    if (!word)
        return wrong(L, s, p->name, arg, all);
    return hd_raisef(L, "%s: unknown %s: got '%s', expected %s", s->op->name, p->name, word, all);
}

// Read one value; returns the number of arguments used.
static int read_value(lua_State *L, const signature *s, const param *p, int arg, hd_op_args *args) {
    static const char *const modes[] = {"nearest", "bilinear", NULL}, *const activations[] = {"none", "silu", NULL};
    void *out = (char *)args + p->value->offset;
    switch (p->value->kind) {
    case V_INT:
        *(int64_t *)out = read_int(L, s, p->name, arg);
        return 1;
    case V_DIM:
    case V_INDEX:
        *(int64_t *)out = read_from_one(L, s, p->name, arg);
        return 1;
    case V_NUMBER:
        if (lua_type(L, arg) != LUA_TNUMBER)
            wrong(L, s, p->name, arg, "a number");
        *(double *)out = lua_tonumber(L, arg);
        return 1;
    case V_BOOL:
        if (lua_type(L, arg) != LUA_TBOOLEAN)
            wrong(L, s, p->name, arg, "true or false");
        *(bool *)out = lua_toboolean(L, arg);
        return 1;
    case V_PAIR:
    case V_NUMBER_PAIR:
        read_pair(L, s, p, arg, args);
        return 1;
    case V_MODE:
        *(int *)out = read_word(L, s, p, arg, modes, "\"nearest\" or \"bilinear\"");
        return 1;
    case V_ACTIVATION:
        *(int *)out = read_word(L, s, p, arg, activations, "\"none\" or \"silu\"");
        return 1;
    case V_DTYPE:
        *(int *)out = (int)hd_check_dtype(L, arg);
        return 1;
    default:
        return read_list(L, s, p, arg, args);
    }
}

// Options by name ----------------------------------------------------------------------------------------------------

static int unknown_option(lua_State *L, const signature *s, const char *name) {
    luaL_Buffer known;
    const char *nearest = NULL;
    int best = 4;
    luaL_buffinit(L, &known);
    for (int i = 0, n = 0; i < s->count; i++) {
        if (s->params[i].tensor)
            continue;
        luaL_addstring(&known, n++ ? ", " : "");
        luaL_addstring(&known, s->params[i].name);
        const int distance = hd_edit_distance(name, s->params[i].name);
        if (distance < best)
            best = distance, nearest = s->params[i].name;
    }
    luaL_pushresult(&known);
    return hd_raisef(L, "%s: unknown option '%s'%s%s%s known: %s", s->op->name, name,
                     nearest ? ". did you mean '" : ".", nearest ? nearest : "", nearest ? "'?" : "",
                     lua_tostring(L, -1));
}

static void read_options(lua_State *L, const signature *s, int arg, hd_op_args *args) {
    lua_pushnil(L);
    while (lua_next(L, arg)) {
        const param *found = NULL;
        const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "(not a name)";
        for (int i = 0; i < s->count && !found; i++)
            if (!s->params[i].tensor && strcmp(s->params[i].name, name) == 0)
                found = &s->params[i];
        if (!found)
            unknown_option(L, s, name);
        read_value(L, s, found, lua_gettop(L), args);
        lua_pop(L, 1);
    }
}

// A table without a first element, that is not a tensor, holds options.
static bool is_options(lua_State *L, int arg) {
    if (lua_type(L, arg) != LUA_TTABLE)
        return false;
    lua_rawgeti(L, arg, 1);
    const bool options = lua_isnil(L, -1);
    lua_pop(L, 1);
    return options;
}

// Calling ------------------------------------------------------------------------------------------------------------

// With the user's line at hand in anomaly mode.
static hd_status apply(lua_State *L, const hd_op *op, int nin, hd_tensor **in, const hd_op_args *args, bool inplace,
                       hd_tensor **out) {
    if (hd_profile_on)
        hd_note_layer(L);
    if (!hd_anomaly_on)
        return HD_RETRY(L, hd_ad_apply(op, nin, in, args, inplace, out));
    hd_push_place(L); // stays on the stack while the op runs
    hd_anomaly_place(lua_tostring(L, -1));
    const hd_status status = HD_RETRY(L, hd_ad_apply(op, nin, in, args, inplace, out));
    hd_anomaly_place(NULL);
    lua_pop(L, 1);
    return status;
}

int hd_apply(lua_State *L, const hd_op *op, int nin, hd_tensor **in, const hd_op_args *args) {
    hd_collect_if_due(L);
    hd_tensor **out = hd_push_box(L);
    if (apply(L, op, nin, in, args, false, out) != HD_OK)
        return hd_raise(L);
    return hd_box_done(L);
}

// Tensors of a table (cat) into a block that Lua owns.
static hd_tensor **read_tensor_list(lua_State *L, const signature *s, const param *p, int arg, int *count) {
    if (lua_type(L, arg) != LUA_TTABLE)
        wrong(L, s, p->name, arg, "a table of tensors");
    if (lua_rawlen(L, arg) == 0)
        hd_raisef(L, "%s: argument '%s' is an empty table, expected at least one tensor", s->op->name, p->name);
    *count = (int)lua_rawlen(L, arg);
    hd_tensor **list = lua_newuserdatauv(L, (size_t)*count * sizeof *list, 0);
    for (int i = 0; i < *count; i++) {
        lua_rawgeti(L, arg, i + 1);
        list[i] = hd_test_tensor(L, lua_gettop(L));
        if (!list[i])
            hd_raisef(L, "%s: entry %d of '%s' has the wrong type: got %s, expected a tensor", s->op->name, i + 1,
                      p->name, luaL_typename(L, -1));
        lua_pop(L, 1);
    }
    return list;
}

// upvalues: signature (light), in place (boolean)
static int l_op(lua_State *L) {
    const signature *s = lua_touserdata(L, lua_upvalueindex(1));
    const bool inplace = lua_toboolean(L, lua_upvalueindex(2));
    const int last = lua_gettop(L);
    hd_op_args args = hd_op_args_default();
    hd_tensor *few[MAX_PARAMS] = {0}, **in = few;
    int nin = 0, arg = 1;
    for (int i = 0; i < s->count; i++) {
        const param *p = &s->params[i];
        if (p->by_name_only)
            break;
        const bool sizes = p->value && p->value->kind == V_SIZES; // {} is the shape of a 0-d tensor
        const bool absent =
            arg > last || lua_isnil(L, arg) || (arg == last && !p->list && !sizes && is_options(L, arg));
        if (absent && !p->optional)
            wrong(L, s, p->name, arg, p->list ? "a table of tensors" : p->tensor ? "a tensor" : "a value");
        if (p->list) {
            in = read_tensor_list(L, s, p, arg++, &nin);
        } else if (p->tensor) {
            hd_tensor *t = absent ? NULL : hd_test_tensor(L, arg);
            if (!t && p->number_too && lua_type(L, arg) == LUA_TNUMBER)
                args.value = lua_tonumber(L, arg);
            else if (!t && !absent)
                wrong(L, s, p->name, arg, p->number_too ? "a tensor or a number" : "a tensor");
            in[nin++] = t;
            arg += !absent || (arg <= last && lua_isnil(L, arg));
        } else {
            arg += absent ? arg <= last && lua_isnil(L, arg) : read_value(L, s, p, arg, &args);
        }
    }
    if (arg == last && is_options(L, arg))
        read_options(L, s, arg++, &args);
    if (arg <= last && !lua_isnil(L, arg))
        return hd_raisef(L, "%s: too many arguments: got %d, expected at most %d", s->op->name, last, arg - 1);
    if (!inplace)
        return hd_apply(L, s->op, nin, in, &args);
    hd_tensor *out;
    if (apply(L, s->op, nin, in, &args, true, &out) != HD_OK)
        return hd_raise(L);
    hd_tensor_release(out);
    lua_pushvalue(L, 1);
    return 1;
}

// Arithmetic metamethods: either operand may be a number. upvalue: signature
static int l_arithmetic(lua_State *L) {
    const signature *s = lua_touserdata(L, lua_upvalueindex(1));
    hd_op_args args = hd_op_args_default();
    hd_tensor *in[2];
    for (int i = 0; i < 2; i++) {
        in[i] = hd_test_tensor(L, i + 1);
        if (in[i])
            continue;
        if (lua_type(L, i + 1) != LUA_TNUMBER)
            return wrong(L, s, i == 0 ? "x" : "y", i + 1, "a tensor or a number");
        args.value = lua_tonumber(L, i + 1);
    }
    if (!in[0] && !in[1])
        return wrong(L, s, "x", 1, "a tensor");
    return hd_apply(L, s->op, 2, in, &args);
}

static int l_negate(lua_State *L) {
    hd_op_args args = hd_op_args_default();
    hd_tensor *x = hd_check_tensor(L, 1);
    return hd_apply(L, hd_op_find("neg"), 1, &x, &args);
}

// Registration: hd.core.op, and the methods and metamethods of tensors -----------------------------------------------

static void push_op(lua_State *L, signature *s, bool inplace) {
    lua_pushlightuserdata(L, s);
    lua_pushboolean(L, inplace);
    lua_pushcclosure(L, l_op, 2);
}

static void register_op(lua_State *L, signature *s, int functions, int methods) {
    const hd_op *op = s->op;
    const bool only_inplace = strchr(op->forms, '!') != NULL;
    if (strchr(op->forms, 'F')) {
        push_op(L, s, false);
        lua_setfield(L, functions, op->name);
    }
    if (strchr(op->forms, 'M')) {
        push_op(L, s, only_inplace);
        lua_setfield(L, methods, op->name);
    }
    if (strchr(op->forms, 'I')) {
        push_op(L, s, true);
        lua_pushfstring(L, "%s_", op->name);
        lua_insert(L, -2);
        lua_settable(L, methods);
    }
}

static void register_arithmetic(lua_State *L, int metatable) {
    static const char *const events[][2] = {{"__add", "add"}, {"__sub", "sub"}, {"__mul", "mul"},      {"__div", "div"},
                                            {"__pow", "pow"}, {"__mod", "mod"}, {"__idiv", "floordiv"}};
    for (size_t i = 0; i < sizeof events / sizeof *events; i++) {
        lua_pushlightuserdata(L, &signatures[hd_op_find(events[i][1]) - hd_op_list]);
        lua_pushcclosure(L, l_arithmetic, 1);
        lua_setfield(L, metatable, events[i][0]);
    }
    lua_pushcfunction(L, l_negate);
    lua_setfield(L, metatable, "__unm");
}

void hd_bind_ops(lua_State *L) {
    size_t count = 0;
    while (hd_op_list[count].name)
        count++;
    if (!signatures) {
        signatures = calloc(count, sizeof *signatures);
        if (!signatures)
            luaL_error(L, "no memory for the operations");
        for (size_t i = 0; i < count; i++)
            parse_signature(&hd_op_list[i], &signatures[i]);
    }
    const int core = lua_gettop(L);
    lua_createtable(L, 0, (int)count);
    luaL_getmetatable(L, HD_TENSOR_NAME);
    lua_getfield(L, core, "methods");
    for (size_t i = 0; i < count; i++)
        register_op(L, &signatures[i], core + 1, core + 3);
    register_arithmetic(L, core + 2);
    lua_settop(L, core + 1);
    lua_setfield(L, core, "op");
}
