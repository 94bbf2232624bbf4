// bind/bind_sys.c: back end, threads, clock, memory, and what the Lua library needs from C: errors at the user's line.
// Layer: bind.
#include "bind/bind.h"
#include "backend/backend.h"
#include "core/alloc.h"
#include "core/threads.h"
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

// hd.backend(name) -> name: with "cpu" or "ref" choose the back end; tells the one in use
static int l_backend(lua_State *L) {
    if (!lua_isnoneornil(L, 1) && hd_backend_select(hd_check_string(L, 1, NULL)) != HD_OK)
        return hd_raise(L);
    lua_pushstring(L, hd_be()->name);
    lua_pushstring(L, hd_be()->isa);
    return 2;
}

// hd.accuracy(name) -> name: with "strict" convolutions are as exact as all else (relative L2 error below 5e-7); with
// "fast", the default, they may take quicker methods (below 2e-6). Holds for the whole process; tells the one in use.
// Results differ in their last bits
static int l_accuracy(lua_State *L) {
    if (!lua_isnoneornil(L, 1) && hd_accuracy_select(hd_check_string(L, 1, NULL)) != HD_OK)
        return hd_raise(L);
    lua_pushstring(L, hd_accuracy_strict ? "strict" : "fast");
    return 1;
}

// hd.threads(n) -> n: with a number set the threads that compute; tells how many
static int l_threads(lua_State *L) {
    if (!lua_isnoneornil(L, 1)) {
        const int64_t n = hd_check_int(L, 1);
        if (n < 1 || n > 256)
            return hd_raisef(L, "threads: wrong number: got %lld, expected 1 to 256", (long long)n);
        hd_set_threads((int)n);
    }
    lua_pushinteger(L, hd_threads());
    return 1;
}

// core.watch_threads() -> team, workers: the largest team and how many threads had work since the last call; counting
// begins with the first one
static int l_watch_threads(lua_State *L) {
    int team, workers;
    hd_threads_watch(&team, &workers);
    lua_pushinteger(L, team);
    lua_pushinteger(L, workers);
    return 2;
}

// core.multiply_add(rounds) -> flops, sum: keep every thread busy with multiply-adds on numbers in registers; how many
// operations that was, and what came of them (near 24 for each thread); nothing where the back end has no such measure.
// At most 10^8 rounds, well below a second: nothing interrupts it.
static int l_multiply_add(lua_State *L) {
    const int64_t rounds = hd_check_int(L, 1);
    double flops, sum;
    if (rounds < 1 || rounds > 100000000)
        return hd_raisef(L, "multiply_add: bad number of rounds: got %lld, expected 1 to 100000000", (long long)rounds);
    if (!hd_be()->peak)
        return 0;
    if (hd_be()->peak(&(hd_peak_args){rounds, &flops, &sum}) != HD_OK)
        return hd_raise(L);
    lua_pushnumber(L, flops);
    lua_pushnumber(L, sum);
    return 2;
}

// hd.clock() -> seconds: monotonic wall clock
static int l_clock(lua_State *L) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    lua_pushnumber(L, (double)now.tv_sec + 1e-9 * (double)now.tv_nsec);
    return 1;
}

static void set_size(lua_State *L, const char *name, size_t bytes) {
    lua_pushinteger(L, (lua_Integer)bytes);
    lua_setfield(L, -2, name);
}

static void set_kinds(lua_State *L, const char *name, const size_t *kinds) {
    lua_createtable(L, 0, HD_MEMORY_KINDS);
    for (int k = 0; k < HD_MEMORY_KINDS; k++)
        set_size(L, hd_memory_kind_name((hd_memory_kind)k), kinds[k]);
    lua_setfield(L, -2, name);
}

// hd.memory() -> {live, cached, peak, kinds, peak_kinds, lua, budget, allocations}: bytes of native memory held (by
// tensors above all), waiting for reuse, and held at most so far; what `live` consists of, and what `peak` did, as
// {parameters, gradients, activations, optimizer, tensors, workspace}: gradients of parameters and, while backward
// runs, of what lies between; activations are what backward will read; tensors are all others; workspace is what
// kernels take while they run, and whatever else is no tensor. Bytes of Lua's heap; what `live`, `cached` and `lua` may
// be together (--memory; without a limit nil); blocks handed out since the start
static int l_memory(lua_State *L) {
    hd_memory_info info;
    hd_memory(&info);
    lua_createtable(L, 0, 8);
    set_size(L, "live", info.live);
    set_size(L, "cached", info.cached);
    set_size(L, "peak", info.peak);
    set_kinds(L, "kinds", info.kinds);
    set_kinds(L, "peak_kinds", info.peak_kinds);
    set_size(L, "lua", info.script);
    if (info.budget)
        set_size(L, "budget", info.budget);
    set_size(L, "allocations", info.allocations);
    return 1;
}

// hd.reset_peak_memory(): hd.memory().peak starts again from what is held now
static int l_reset_peak_memory(lua_State *L) {
    (void)L;
    hd_memory_reset_peak();
    return 0;
}

// core.fail_allocations("native" or "lua", first, count) -> refused, allowed: for tests: of the allocations to come,
// `count` fail from number `first` on; without numbers none. Tells how many were refused and allowed since the last
// call. Takes no memory.
static int l_fail_allocations(lua_State *L) {
    const bool native = strcmp(hd_check_string(L, 1, NULL), "native") == 0;
    const size_t first = (size_t)luaL_optinteger(L, 2, 0), count = (size_t)luaL_optinteger(L, 3, 0);
    const hd_faults past = native ? hd_alloc_fail(first, count) : hd_script_fail(first, count);
    lua_pushinteger(L, (lua_Integer)past.refused);
    lua_pushinteger(L, (lua_Integer)past.allowed);
    return 2;
}

// core.limit_memory(bytes or nil): the budget, as of --memory; nil: none
static int l_limit_memory(lua_State *L) {
    hd_alloc_set_budget((size_t)luaL_optinteger(L, 1, 0));
    return 0;
}

// core.raise(message): misuse, reported at the user's line
static int l_raise(lua_State *L) { return hd_raise_text(L, hd_check_string(L, 1, NULL)); }

// core.set_module_call(call, describe): call is the function every layer runs through; describe(list) tells their path
static int l_set_module_call(lua_State *L) {
    lua_settop(L, 2);
    lua_setfield(L, LUA_REGISTRYINDEX, "hd.module_describe");
    lua_setfield(L, LUA_REGISTRYINDEX, "hd.module_call");
    return 0;
}

// core.keep(x, of_optimizer) -> x: scopes leave this tensor alone (parameters, buffers, optimizer state)
static int l_keep(lua_State *L) {
    hd_tensor *x = hd_check_tensor(L, 1);
    x->kept = true;
    if (lua_toboolean(L, 2))
        hd_tensor_set_kind(x, HD_OPTIMIZER);
    lua_settop(L, 1);
    return 1;
}

// core.edit_distance(a, b) -> integer: Levenshtein's distance of two words
static int l_edit_distance(lua_State *L) {
    lua_pushinteger(L, hd_edit_distance(hd_check_string(L, 1, NULL), hd_check_string(L, 2, NULL)));
    return 1;
}

// core.terminal_width() -> columns of the terminal that standard output is; nil where it is none
static int l_terminal_width(lua_State *L) {
    struct winsize size = {0};
    if (!isatty(STDOUT_FILENO)) {
        lua_pushnil(L);
        return 1;
    }
    ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
    lua_pushinteger(L, size.ws_col ? size.ws_col : 80);
    return 1;
}

void hd_bind_sys(lua_State *L) {
    static const luaL_Reg functions[] = {{"backend", l_backend},
                                         {"accuracy", l_accuracy},
                                         {"threads", l_threads},
                                         {"watch_threads", l_watch_threads},
                                         {"clock", l_clock},
                                         {"multiply_add", l_multiply_add},
                                         {"memory", l_memory},
                                         {"reset_peak_memory", l_reset_peak_memory},
                                         {"fail_allocations", l_fail_allocations},
                                         {"limit_memory", l_limit_memory},
                                         {"raise", l_raise},
                                         {"set_module_call", l_set_module_call},
                                         {"keep", l_keep},
                                         {"edit_distance", l_edit_distance},
                                         {"terminal_width", l_terminal_width},
                                         {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
    if (lua_getfield(L, LUA_REGISTRYINDEX, "hd.options") == LUA_TNIL) { // not run by hdlua's main
        lua_pop(L, 1);
        lua_newtable(L);
    }
    lua_setfield(L, -2, "options");
    lua_pushinteger(L, hd_cores());
    lua_setfield(L, -2, "cores");
    lua_pushliteral(L, HD_VERSION);
    lua_setfield(L, -2, "version");
}
