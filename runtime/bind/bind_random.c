// bind/bind_random.c: generators: hd.rng(seed, stream), hd.seed(n), and their state.
// Layer: bind. A generator is (seed, stream, offset), see core/rng.h; its state is three integers, so checkpoints keep
// it.
#include "bind/bind.h"
#include <stdio.h>

static hd_rng default_rng;

hd_rng *hd_default_rng(void) { return &default_rng; }

hd_rng *hd_check_rng(lua_State *L, int arg) {
    if (lua_isnoneornil(L, arg))
        return &default_rng;
    hd_rng *rng = luaL_testudata(L, arg, HD_RNG_NAME);
    if (!rng)
        hd_raisef(L, "rng: wrong type: got %s, expected a generator (hd.rng(seed))", luaL_typename(L, arg));
    return rng;
}

// hd.rng(seed, stream) -> generator: its own sequence for each (seed, stream); stream is 0 by default
static int l_rng(lua_State *L) {
    const uint64_t seed = (uint64_t)hd_check_int(L, 1);
    const uint64_t stream = lua_isnoneornil(L, 2) ? 0 : (uint64_t)hd_check_int(L, 2);
    hd_rng *rng = lua_newuserdatauv(L, sizeof *rng, 0);
    *rng = (hd_rng){seed, stream, 0};
    luaL_setmetatable(L, HD_RNG_NAME);
    return 1;
}

// hd.seed(n): start the default generator again
static int l_seed(lua_State *L) {
    default_rng = (hd_rng){.seed = (uint64_t)hd_check_int(L, 1)};
    return 0;
}

// rng:state() -> table: {seed, stream, offset}; core.rng_state() tells the default generator's
static int l_state(lua_State *L) {
    const hd_rng *rng = hd_check_rng(L, 1);
    const uint64_t parts[3] = {rng->seed, rng->stream, rng->offset};
    lua_createtable(L, 3, 0);
    for (int i = 0; i < 3; i++) {
        lua_pushinteger(L, (lua_Integer)parts[i]);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

static int set_state(lua_State *L, hd_rng *rng, int table) {
    uint64_t parts[3];
    hd_check_table(L, table);
    for (int i = 0; i < 3; i++) {
        lua_rawgeti(L, table, i + 1);
        parts[i] = (uint64_t)hd_check_int_of(L, -1, "set_state");
        lua_pop(L, 1);
    }
    *rng = (hd_rng){parts[0], parts[1], parts[2]};
    return 0;
}

// rng:set_state(state): continue from what rng:state() gave
static int l_set_state(lua_State *L) { return set_state(L, hd_check_rng(L, 1), 2); }
// core.set_rng_state(state): the same for the default generator
static int l_set_default_state(lua_State *L) { return set_state(L, &default_rng, 1); }

// rng:fork(number) -> generator: another stream of the same seed, told by the number
static int l_fork(lua_State *L) {
    const hd_rng *from = hd_check_rng(L, 1);
    const uint64_t stream = hd_rng_mix(from->stream, (uint64_t)hd_check_int(L, 2));
    const uint64_t seed = from->seed;
    hd_rng *rng = lua_newuserdatauv(L, sizeof *rng, 0);
    *rng = (hd_rng){seed, stream, 0};
    luaL_setmetatable(L, HD_RNG_NAME);
    return 1;
}

// rng:number() -> number: one uniform number in [0, 1), 53 bits
static int l_number(lua_State *L) {
    hd_rng *rng = hd_check_rng(L, 1);
    uint32_t words[4];
    hd_philox(rng->seed, rng->stream, hd_rng_take(rng, 4) / 4, words);
    lua_pushnumber(L, hd_unit_f64(words[0], words[1]));
    return 1;
}

static int l_rng_tostring(lua_State *L) {
    const hd_rng *rng = hd_check_rng(L, 1);
    lua_pushfstring(L, "generator (seed %I, stream %I, offset %I)", (lua_Integer)rng->seed, (lua_Integer)rng->stream,
                    (lua_Integer)rng->offset);
    return 1;
}

void hd_bind_random(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"rng", l_rng}, {"seed", l_seed}, {"set_rng_state", l_set_default_state}, {"rng_state", l_state}, {NULL, NULL}};
    static const luaL_Reg methods[] = {
        {"state", l_state}, {"set_state", l_set_state}, {"fork", l_fork}, {"number", l_number}, {NULL, NULL}};
    luaL_newmetatable(L, HD_RNG_NAME);
    luaL_newlib(L, methods);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, l_rng_tostring);
    lua_setfield(L, -2, "__tostring");
    lua_pop(L, 1);
    luaL_setfuncs(L, functions, 0);
}
