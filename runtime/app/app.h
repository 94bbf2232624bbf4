// app/app.h: what the files of app/ share: the command line, and running Lua code the way lua5.4 does.
#ifndef HD_APP_H
#define HD_APP_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Command line (options.c) ---------------------------------------------------
// What to do before the script, in the order given.
typedef struct {
    char kind; // 'e' run `text`, 'l' require it, 'W' turn warnings on
    const char *text;
} hd_action;

#define HD_MEMORY_OFF SIZE_MAX // --memory off

typedef struct {
    const char *program; // argv[0], for messages
    // lua5.4's options
    bool ignore_environment, interactive, show_lua, has_code; // -E, -i, -v, any -e
    hd_action *actions;
    int action_count;
    int script;          // place of the script (or tool) in argv; 0: none
    bool script_is_tool; // -m
    // ours; 0 and NULL mean that nothing was asked for
    bool help, version, strict, anomaly, profile, has_seed;
    int threads;
    size_t memory; // bytes, or HD_MEMORY_OFF
    int64_t seed;
    const char *view, *doc;
} hd_options;

// Reads argv. On wrong usage prints a message that names the nearest option and returns false. options->actions is
// allocated here and lives as long as the process.
bool hd_options_parse(hd_options *options, int argc, char **argv);
void hd_options_help(void); // to stdout

// The entry of names[0..n-1] nearest to `word` in edit distance, or NULL when none is near.
const char *hd_nearest(const char *word, const char *const *names, int n);

// The library (library.c) -----------------------------------------------------
// Makes `require "hd"` work without doing anything yet, and sets registry["hd.options"] (what the command line asked
// for) and registry["hd.libdir"] (the folder of hd.lua). options must outlive L. [-0, +0]
void hd_library_announce(lua_State *L, hd_options *options);
// What has to happen before hd.core is used: threads and the memory budget.
void hd_library_start(const hd_options *options);
// Pushes and returns the path of the file of `hdlua -m tool`; NULL after a message that names the tools. [-0, +1]
const char *hd_library_tool(lua_State *L, const char *program, const char *tool);

// Running Lua (main.c) -------------------------------------------------------
// Calls the function below its nargs arguments with a traceback handler and with Ctrl-C raising. [-(nargs+1), +results
// or 1 message]
int hd_call(lua_State *L, int nargs, int nresults);
// Prints the message on top of the stack to stderr when status is an error, and returns status. [-(0|1), +0]
int hd_report(lua_State *L, int status, const char *program);

// The prompt (repl.c) --------------------------------------------------------
// Reads, runs and prints until the input ends. lua5.4's own when stdin is no terminal.
void hd_repl(lua_State *L);

// --strict (strict.c) --------------------------------------------------------
// From now on reading or creating an undeclared global raises at the line that does it. script: the path of the user's
// program, or NULL. prompt: what is set at the prompt counts as declared. [-0, +0]
void hd_strict(lua_State *L, const char *script, bool prompt);

#endif
