// app/main.c: the interpreter. Behaves as lua5.4 for every program that is not about tensors: same options, `arg`
// table, LUA_INIT, messages and output; hd.core is a preloaded module that nothing touches until it is required.
// Layer: app. Calls: options.c, library.c, repl.c, strict.c, interrupt.c.
// Exit codes: 0 done, 1 error in the script, 2 wrong usage, 130 interrupted after saving (hd.run).
#include "app/app.h"

#include "app/interrupt.h"
#include "backend/backend.h"
#include "backend/cpu/blas.h"
#include "core/alloc.h"
#include "core/profile.h"
#include "core/threads.h"
#include "preview/preview.h"
#include <lauxlib.h>
#include <lualib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#if __has_include(<SDL2/SDL_version.h>)
#include <SDL2/SDL_version.h>
#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)
#define SDL_TEXT TEXT(SDL_MAJOR_VERSION) "." TEXT(SDL_MINOR_VERSION) "." TEXT(SDL_PATCHLEVEL)
#else
#define SDL_TEXT "not built"
#endif

enum { EXIT_USAGE = 2 };

// What l_main receives as a light userdata.
typedef struct {
    hd_options options;
    int argc;
    char **argv;
    int code; // exit code so far
} hd_app;

// Calls and messages ---------------------------------------------------------
// Turns any error value into a message with a traceback; a value with __tostring gives its own text.
static int l_traceback(lua_State *L) {
    const char *message = lua_tostring(L, 1);
    if (!message) {
        if (luaL_callmeta(L, 1, "__tostring") && lua_type(L, -1) == LUA_TSTRING)
            return 1;
        message = lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, 1));
    }
    luaL_traceback(L, L, message, 1);
    return 1;
}

int hd_call(lua_State *L, int nargs, int nresults) {
    int base = lua_gettop(L) - nargs;
    lua_pushcfunction(L, l_traceback);
    lua_insert(L, base);
    hd_interrupt_begin(L);
    int status = lua_pcall(L, nargs, nresults, base);
    hd_interrupt_end();
    lua_remove(L, base);
    return status;
}

int hd_report(lua_State *L, int status, const char *program) {
    if (status != LUA_OK) {
        const char *message = lua_tostring(L, -1);
        if (program)
            fprintf(stderr, "%s: ", program);
        fprintf(stderr, "%s\n", message ? message : "(error message is not a string)");
        lua_pop(L, 1);
    }
    return status;
}

// Reports, and notes the exit code. True when all went well.
static bool finish(lua_State *L, hd_app *app, int status) {
    if (status != LUA_OK)
        app->code = EXIT_FAILURE;
    return hd_report(L, status, app->options.program) == LUA_OK;
}

static bool run_string(lua_State *L, hd_app *app, const char *text, const char *name) {
    int status = luaL_loadbuffer(L, text, strlen(text), name);
    return finish(L, app, status == LUA_OK ? hd_call(L, 0, 0) : status);
}

// path NULL: stdin.
static bool run_file(lua_State *L, hd_app *app, const char *path) {
    int status = luaL_loadfile(L, path);
    return finish(L, app, status == LUA_OK ? hd_call(L, 0, 0) : status);
}

// What lua5.4 does, in its order ---------------------------------------------
static bool run_environment(lua_State *L, hd_app *app) {
    const char *name = "=LUA_INIT" LUA_VERSUFFIX, *init = getenv(name + 1);
    if (!init)
        init = getenv((name = "=LUA_INIT") + 1);
    if (!init)
        return true;
    return init[0] == '@' ? run_file(L, app, init + 1) : run_string(L, app, init, name);
}

// arg[0] is the script (without one, the program); its arguments follow, what came before has negative indices.
static void make_arg_table(lua_State *L, const hd_app *app) {
    lua_createtable(L, app->argc - app->options.script, app->options.script);
    for (int i = 0; i < app->argc; i++) {
        lua_pushstring(L, app->argv[i]);
        lua_rawseti(L, -2, i - app->options.script);
    }
    lua_setglobal(L, "arg");
}

static bool run_library(lua_State *L, hd_app *app, const char *text) {
    const char *equals = strchr(text, '='), *module = equals ? equals + 1 : text;
    lua_getglobal(L, "require");
    lua_pushstring(L, module);
    int status = hd_call(L, 1, 1);
    if (status == LUA_OK) {
        lua_pushlstring(L, text, equals ? (size_t)(equals - text) : strlen(text));
        lua_insert(L, -2);
        lua_pushglobaltable(L);
        lua_insert(L, -3);
        lua_settable(L, -3);
        lua_pop(L, 1);
    }
    return finish(L, app, status);
}

static bool run_actions(lua_State *L, hd_app *app) {
    for (int i = 0; i < app->options.action_count; i++) {
        hd_action action = app->options.actions[i];
        if (action.kind == 'W')
            lua_warning(L, "@on", 0);
        else if (!(action.kind == 'e' ? run_string(L, app, action.text, "=(command line)")
                                      : run_library(L, app, action.text)))
            return false;
    }
    return true;
}

// Pushes the values of arg[1], arg[2], ... and returns their number. [-0, +n, raises]
static int push_arguments(lua_State *L) {
    if (lua_getglobal(L, "arg") != LUA_TTABLE)
        luaL_error(L, "'arg' is not a table");
    int n = (int)luaL_len(L, -1), table = lua_gettop(L);
    luaL_checkstack(L, n + 3, "too many arguments to script");
    for (int i = 1; i <= n; i++)
        lua_rawgeti(L, table, i);
    lua_remove(L, table);
    return n;
}

static bool run_script(lua_State *L, hd_app *app, const char *path) {
    int status = luaL_loadfile(L, path);
    if (status == LUA_OK)
        status = hd_call(L, push_arguments(L), 0);
    return finish(L, app, status);
}

// -m TOOL: its file is arg[0].
static bool run_tool(lua_State *L, hd_app *app, const char *tool) {
    const char *path = hd_library_tool(L, app->options.program, tool);
    if (!path) {
        app->code = EXIT_USAGE;
        return false;
    }
    lua_getglobal(L, "arg");
    lua_pushstring(L, path);
    lua_rawseti(L, -2, 0);
    lua_pop(L, 1);
    return run_script(L, app, path);
}

// --doc NAME prints what help("NAME") does.
static bool run_doc(lua_State *L, hd_app *app) {
    static const char chunk[] = "local text, message = require('hd.repl').doc(...)\n"
                                "print(text or error(message, 0))";
    int status = luaL_loadbuffer(L, chunk, sizeof chunk - 1, "=--doc");
    lua_pushstring(L, app->options.doc);
    return finish(L, app, status == LUA_OK ? lua_pcall(L, 1, 0, 0) : status);
}

static void print_lua_version(void) {
    puts(LUA_COPYRIGHT);
    fflush(stdout);
}

static bool run_program(lua_State *L, hd_app *app) {
    const hd_options *o = &app->options;
    char *script = o->script ? app->argv[o->script] : NULL;
    if (!o->ignore_environment && !run_environment(L, app))
        return false;
    if (o->strict)
        hd_strict(L, script, o->interactive || (!script && isatty(STDIN_FILENO)));
    if (!run_actions(L, app))
        return false;
    if (o->doc)
        return run_doc(L, app);
    if (o->script_is_tool)
        return run_tool(L, app, script);
    if (script) {
        bool from_stdin = strcmp(script, "-") == 0 && strcmp(app->argv[o->script - 1], "--") != 0;
        if (!run_script(L, app, from_stdin ? NULL : script))
            return false;
    }
    if (o->interactive) {
        hd_repl(L);
    } else if (!script && !o->has_code && !o->show_lua) {
        if (!isatty(STDIN_FILENO))
            return run_file(L, app, NULL);
        print_lua_version();
        puts("hdlua " HD_VERSION ": help() explains, Ctrl-D ends");
        hd_repl(L);
    }
    return true;
}

// Runs protected, so that running out of memory anywhere is a message.
static int l_main(lua_State *L) {
    hd_app *app = lua_touserdata(L, 1);
    luaL_checkversion(L);
    if (app->options.show_lua)
        print_lua_version();
    if (app->options.ignore_environment) {
        lua_pushboolean(L, 1);
        lua_setfield(L, LUA_REGISTRYINDEX, "LUA_NOENV"); // where package looks
    }
    luaL_openlibs(L);
    make_arg_table(L, app);
    hd_library_announce(L, &app->options);
    lua_gc(L, LUA_GCGEN, 0, 0);
    run_program(L, app);
    return 0;
}

// --version ------------------------------------------------------------------
static void print_versions(const hd_options *options) {
    hd_library_start(options);
    printf("hdlua %s\n%s\n", HD_VERSION, LUA_RELEASE);
    if (hd_blas_init() == HD_OK)
        printf("OpenBLAS %s, core %s\n", hd_blas_version(), hd_blas_core());
    else
        printf("OpenBLAS unusable: %s\n", hd_message());
    printf("instruction set %s\nthreads %d\nSDL %s\n", hd_be()->isa, hd_threads(), SDL_TEXT);
}

// The last resort where OpenBLAS chose the wrong kernels and cannot be corrected in place (backend/cpu/blas.h): the
// same program once more with the core named. HDLUA_RESTARTED marks the second time; its children see neither variable.
static void restart_for_blas(char **argv) {
    static const char core[] = "OPENBLAS_CORETYPE", mark[] = "HDLUA_RESTARTED";
    if (getenv(mark)) {
        unsetenv(mark);
        unsetenv(core);
    } else if (hd_blas_needs_restart()) {
        setenv(core, hd_blas_wanted_core(), 1);
        setenv(mark, "1", 1);
        execv("/proc/self/exe", argv); // comes back only on failure: slower products, nothing worse
        unsetenv(mark);
        unsetenv(core);
    }
}

// lauxlib's allocator is malloc's, as ours is, so it can be exchanged under a living state.
static void count_lua_memory(lua_State *L) {
    hd_script_adopt((size_t)lua_gc(L, LUA_GCCOUNT) * 1024 + (size_t)lua_gc(L, LUA_GCCOUNTB));
    lua_setallocf(L, hd_script_alloc, NULL);
}

// At exit, with HDLUA_CHECK_LEAKS in the environment: native memory that outlived Lua's state is an error.
static void check_leaks(void) {
    hd_memory_info info;
    hd_memory(&info);
    if (info.script || info.live == 0) // os.exit without closing the state leaves all to the system
        return;
    fflush(stdout);
    fprintf(stderr, "hdlua: leaked: %zu bytes of native memory\n", info.live);
    _exit(EXIT_FAILURE);
}

// At exit, with --profile: after a script, an error, an interrupt or os.exit.
static void print_profile(void) {
    int count;
    hd_profile_stop();
    const hd_profile_row *rows = hd_profile_rows(&count);
    fflush(stdout);
    hd_profile_write(stderr, rows, count);
    hd_profile_write_memory(stderr);
}

static int run(hd_app *app) {
    if (!hd_options_parse(&app->options, app->argc, app->argv))
        return EXIT_USAGE;
    restart_for_blas(app->argv);
    if (app->options.help || app->options.version) {
        if (app->options.help)
            hd_options_help();
        else
            print_versions(&app->options);
        return 0;
    }
    if (app->options.profile) {
        atexit(print_profile);
        hd_profile_start();
    }
    lua_State *L = luaL_newstate();
    if (!L) {
        fprintf(stderr, "%s: cannot create state: not enough memory\n", app->options.program);
        return EXIT_FAILURE;
    }
    count_lua_memory(L);
    lua_pushcfunction(L, l_main);
    lua_pushlightuserdata(L, app);
    finish(L, app, lua_pcall(L, 1, 0, 0));
    hd_profile_stop();
    lua_close(L);
    return app->code;
}

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], HD_PREVIEW_CHILD) == 0)
        return hd_preview_child_main(argc, argv);
    hd_app app = {.argc = argc, .argv = argv};
    if (getenv("HDLUA_CHECK_LEAKS"))
        atexit(check_leaks);
    const int code = run(&app);
    free(app.options.actions);
    return code;
}
