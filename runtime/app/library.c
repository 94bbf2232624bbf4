// app/library.c: hdlua's own library, as seen from a plain interpreter: where its Lua files are, how `require` finds
// them, what the command line tells it. Nothing of it runs before a program requires "hd" or a part of it.
// Layer: app. Called by: main.c. Calls: bind (luaopen_hd_core), core.
#include "app/app.h"

#include "autograd/anomaly.h"
#include "autograd/saved.h"
#include "backend/backend.h"
#include "backend/cpu/blas.h"
#include "bind/bind.h"
#include "core/alloc.h"
#include "core/available.h"
#include "core/threads.h"
#include <dirent.h>
#include <lauxlib.h>
#include <limits.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// Writes the folder that holds hd.lua, found from the program's own place: the build tree's lib/ or the installed
// share/.
static bool find_library(char folder[PATH_MAX]) {
    static const char *const places[] = {"/../lib", "/../share/hdlua"};
    char self[PATH_MAX], path[2 * PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0)
        return false;
    self[n] = '\0';
    *strrchr(self, '/') = '\0';
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        snprintf(path, sizeof path, "%s%s", self, places[i]);
        if (!realpath(path, folder))
            continue;
        snprintf(path, sizeof path, "%s/hd.lua", folder);
        if (access(path, R_OK) == 0)
            return true;
    }
    return false;
}

void hd_library_start(const hd_options *options) {
    hd_threads_init();
    if (options->threads)
        hd_set_threads(options->threads);
    hd_alloc_set_budget(options->memory == HD_MEMORY_OFF ? 0
                        : options->memory                ? options->memory
                                                         : hd_memory_available() / 10 * 9);
    hd_set_anomaly(options->anomaly);
    hd_backend_count(options->profile);
}

static void set_text(lua_State *L, const char *key, const char *value) {
    lua_pushstring(L, value);
    lua_setfield(L, -2, key);
}

// core.versions() -> {hdlua, lua, isa, gemm, accuracy, activations, openblas, core}: what results depend on; core names
// OpenBLAS's kernels in use, gemm ("kernel" or "blas") whether products go there
static int l_versions(lua_State *L) {
    lua_createtable(L, 0, 8);
    set_text(L, "hdlua", HD_VERSION);
    set_text(L, "lua", LUA_RELEASE);
    set_text(L, "isa", hd_be()->isa);
    set_text(L, "gemm", hd_gemm_uses_blas() ? "blas" : "kernel");
    set_text(L, "accuracy", hd_accuracy_strict ? "strict" : "fast");
    set_text(L, "activations", hd_activations());
    if (hd_blas_init() == HD_OK) {
        set_text(L, "openblas", hd_blas_version());
        set_text(L, "core", hd_blas_core());
    }
    return 1;
}

// package.preload["hd.core"]: whatever the library needs at start happens here, so that plain programs pay nothing.
// Upvalue: the hd_options.
static int l_open_core(lua_State *L) {
    const hd_options *options = lua_touserdata(L, lua_upvalueindex(1));
    if (!hd_one_openmp())
        return luaL_error(L,
                          "hd.core: two OpenMP run-times in one process: got libgomp under OpenBLAS and another one, "
                          "expected one\n  hint: link libomp before OpenBLAS, or build with gcc");
    hd_library_start(options);
    luaopen_hd_core(L);
    lua_pushcfunction(L, l_versions);
    lua_setfield(L, -2, "versions");
    return 1;
}

// A package searcher for "hd" and "hd.*", so that package.path stays what lua5.4 makes of it. Upvalue:
// "FOLDER/?.lua;...".
static int l_search_library(lua_State *L) {
    const char *name = luaL_checkstring(L, 1);
    if (strcmp(name, "hd") != 0 && strncmp(name, "hd.", 3) != 0)
        return 0;
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    lua_getfield(L, -1, LUA_LOADLIBNAME);
    lua_getfield(L, -1, "searchpath");
    lua_pushvalue(L, 1);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_call(L, 2, 2);
    if (lua_isnil(L, -2))
        return 1; // the list of files tried
    lua_pop(L, 1);
    const char *path = lua_tostring(L, -1);
    if (luaL_loadfile(L, path) != LUA_OK)
        return luaL_error(L, "error loading module '%s' from file '%s':\n\t%s", name, path, lua_tostring(L, -1));
    lua_insert(L, -2);
    return 2;
}

// Puts the searcher behind package.preload, or behind the user's own LUA_PATH where there is one.
static void add_searcher(lua_State *L, const char *folder, bool user_path) {
    lua_getglobal(L, LUA_LOADLIBNAME);
    lua_getfield(L, -1, "searchers");
    int place = user_path ? 3 : 2;
    for (lua_Integer i = luaL_len(L, -1); i >= place; i--) {
        lua_geti(L, -1, i);
        lua_seti(L, -2, i + 1);
    }
    lua_pushfstring(L, "%s/?.lua;%s/?/init.lua", folder, folder);
    lua_pushcclosure(L, l_search_library, 1);
    lua_seti(L, -2, place);
    lua_pop(L, 2);
}

// registry["hd.options"]: what the command line asked for, read by bind/.
static void publish_options(lua_State *L, const hd_options *o) {
    lua_newtable(L);
    if (o->threads) {
        lua_pushinteger(L, o->threads);
        lua_setfield(L, -2, "threads");
    }
    if (o->memory && o->memory != HD_MEMORY_OFF) {
        lua_pushinteger(L, (lua_Integer)o->memory);
        lua_setfield(L, -2, "memory");
    }
    if (o->has_seed) {
        lua_pushinteger(L, o->seed);
        lua_setfield(L, -2, "seed");
    }
    if (o->view)
        set_text(L, "view", o->view);
    lua_pushboolean(L, o->strict);
    lua_setfield(L, -2, "strict");
    lua_pushboolean(L, o->anomaly);
    lua_setfield(L, -2, "anomaly");
    lua_setfield(L, LUA_REGISTRYINDEX, "hd.options");
}

void hd_library_announce(lua_State *L, hd_options *options) {
    char folder[PATH_MAX];
    publish_options(L, options);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    lua_pushlightuserdata(L, options);
    lua_pushcclosure(L, l_open_core, 1);
    lua_setfield(L, -2, "hd.core");
    lua_pop(L, 1);
    if (!find_library(folder))
        return; // `require "hd"` then says where it looked
    lua_pushstring(L, folder);
    lua_setfield(L, LUA_REGISTRYINDEX, "hd.libdir");
    bool user_path = !options->ignore_environment && (getenv("LUA_PATH" LUA_VERSUFFIX) || getenv("LUA_PATH"));
    add_searcher(L, folder, user_path);
}

// Says that there is no such tool, which one may have been meant, and which there are.
static void complain_about_tool(const char *program, const char *tool, const char *folder) {
    char path[PATH_MAX];
    struct dirent **entries = NULL;
    const char *names[64];
    snprintf(path, sizeof path, "%s/hd/tool", folder);
    int count = scandir(path, &entries, NULL, alphasort), n = 0;
    for (int i = 0; i < count; i++) {
        char *dot = strrchr(entries[i]->d_name, '.');
        if (dot && strcmp(dot, ".lua") == 0 && n < 64) {
            *dot = '\0';
            names[n++] = entries[i]->d_name;
        }
    }
    const char *nearest = hd_nearest(tool, names, n);
    fprintf(stderr, "%s: -m: no such tool: got '%s'", program, tool);
    fprintf(stderr, nearest ? ". did you mean '%s'?" : ".", nearest);
    for (int i = 0; i < n; i++)
        fprintf(stderr, "%s%s", i ? ", " : " known: ", names[i]);
    fputc('\n', stderr);
    for (int i = 0; i < count; i++)
        free(entries[i]);
    free(entries);
}

const char *hd_library_tool(lua_State *L, const char *program, const char *tool) {
    lua_getfield(L, LUA_REGISTRYINDEX, "hd.libdir");
    const char *folder = lua_isstring(L, -1) ? lua_tostring(L, -1) : "lib";
    const char *path = lua_pushfstring(L, "%s/hd/tool/%s.lua", folder, tool);
    lua_remove(L, -2);
    if (strspn(tool, "abcdefghijklmnopqrstuvwxyz0123456789_") == strlen(tool) && access(path, R_OK) == 0)
        return path;
    complain_about_tool(program, tool, folder);
    return NULL;
}
