// app/repl.c: the prompt. A terminal gets line editing (lineedit.c) and results laid out by lib/hd/repl.lua; anything
// else gets lua5.4's own dialogue, byte for byte, prompts and echoed lines included.
// Layer: app. Called by: main.c.
#include "app/app.h"

#include "app/lineedit.h"
#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool terminal; // stdin is one

// Reading --------------------------------------------------------------------
// One line of a pipe or file, echoed behind its prompt as lua5.4's readline does.
static hd_line read_plain(const char *prompt, char **line) {
    size_t size = 0;
    *line = NULL;
    fputs(prompt, stdout);
    fflush(stdout);
    ssize_t n = getline(line, &size, stdin);
    if (n < 0) {
        free(*line);
        *line = NULL;
        return HD_LINE_END;
    }
    (*line)[strcspn(*line, "\n")] = '\0';
    if (*prompt || **line)
        puts(*line);
    fflush(stdout);
    return HD_LINE_READ;
}

// Pushes the next line, unless the result says otherwise. [-0, +(0|1)]
static hd_line push_line(lua_State *L, bool first) {
    char *line;
    int top = lua_gettop(L);
    if (lua_getglobal(L, first ? "_PROMPT" : "_PROMPT2") == LUA_TNIL)
        lua_pushstring(L, first ? "> " : ">> ");
    const char *prompt = luaL_tolstring(L, -1, NULL);
    hd_line result = terminal ? hd_lineedit_read(prompt, &line) : read_plain(prompt, &line);
    lua_settop(L, top);
    if (result != HD_LINE_READ)
        return result;
    if (first && line[0] == '=')
        lua_pushfstring(L, "return %s", line + 1);
    else
        lua_pushstring(L, line);
    free(line);
    return HD_LINE_READ;
}

static bool is_incomplete(lua_State *L, int status) {
    static const char mark[] = "<eof>";
    size_t length;
    if (status != LUA_ERRSYNTAX)
        return false;
    const char *message = lua_tolstring(L, -1, &length);
    return length >= sizeof mark - 1 && strcmp(message + length - (sizeof mark - 1), mark) == 0;
}

// Loads the text on top of the stack, as an expression where that makes sense. [-0, +1 function or message]
static int load_text(lua_State *L, bool first) {
    size_t length;
    const char *text = lua_tolstring(L, -1, &length);
    if (first || terminal) {
        lua_pushfstring(L, "return %s", text);
        int status = luaL_loadbuffer(L, lua_tostring(L, -1), length + 7, "=stdin");
        lua_remove(L, -2);
        if (status == LUA_OK)
            return status;
        lua_pop(L, 1);
    }
    return luaL_loadbuffer(L, text, length, "=stdin");
}

// Reads lines until they make a chunk or an error, which is then alone on the stack. [-0, +(0|1)]
static hd_line read_chunk(lua_State *L, int *status) {
    hd_line result = push_line(L, true);
    if (result != HD_LINE_READ)
        return result;
    for (bool first = true;; first = false) {
        *status = load_text(L, first);
        if (is_incomplete(L, *status)) {
            result = push_line(L, false);
            if (result == HD_LINE_INTERRUPTED)
                return result;
            if (result == HD_LINE_READ) { // text, message, line
                lua_remove(L, -2);
                lua_pushliteral(L, "\n");
                lua_insert(L, -2);
                lua_concat(L, 3);
                continue;
            }
        }
        lua_remove(L, 1);
        return HD_LINE_READ;
    }
}

// Printing -------------------------------------------------------------------
// Keeps the first result as `_` and prints all, through the global print or, on a terminal, lib/hd/repl.lua.
static void print_results(lua_State *L) {
    int n = lua_gettop(L);
    if (n == 0)
        return;
    lua_pushglobaltable(L);
    lua_pushliteral(L, "_");
    lua_pushvalue(L, 1);
    lua_rawset(L, -3);
    lua_pop(L, 1);
    luaL_checkstack(L, LUA_MINSTACK, "too many results to print");
    bool rich = terminal && lua_getfield(L, LUA_REGISTRYINDEX, "hd.repl") == LUA_TTABLE;
    if (rich)
        lua_getfield(L, -1, "print");
    else
        lua_getglobal(L, "print");
    lua_insert(L, 1);
    lua_settop(L, n + 1);
    if (rich) {
        hd_report(L, hd_call(L, n, 0), NULL);
    } else if (lua_pcall(L, n, 0, 0) != LUA_OK) {
        fprintf(stderr, "error calling 'print' (%s)\n", lua_tostring(L, -1));
    }
}

// The loop -------------------------------------------------------------------
// require "hd.repl" into the registry, and the table of its globals on the stack. [-0, +1, raises]
static int l_load_library(lua_State *L) {
    lua_getglobal(L, "require");
    lua_pushliteral(L, "hd.repl");
    lua_call(L, 1, 1);
    lua_pushvalue(L, -1);
    lua_setfield(L, LUA_REGISTRYINDEX, "hd.repl");
    lua_getfield(L, -1, "globals");
    lua_call(L, 0, 1);
    return 1;
}

// hd, help, who, time, show: the globals of a prompt, where the program has none of these names.
static void predefine(lua_State *L) {
    lua_pushcfunction(L, l_load_library);
    int status = lua_pcall(L, 0, 1, 0);
    if (status != LUA_OK) {
        if (terminal)
            hd_report(L, status, "hdlua: the prompt knows Lua only");
        lua_settop(L, 0);
        return;
    }
    lua_pushglobaltable(L);
    for (lua_pushnil(L); lua_next(L, -3);) { // globals, _G, name, value
        lua_pushvalue(L, -2);
        if (lua_rawget(L, -4) == LUA_TNIL) {
            lua_pushvalue(L, -3);
            lua_pushvalue(L, -3);
            lua_rawset(L, -6);
        }
        lua_pop(L, 2);
    }
    lua_settop(L, 0);
}

void hd_repl(lua_State *L) {
    int status = LUA_OK;
    hd_line result;
    terminal = isatty(STDIN_FILENO);
    lua_settop(L, 0);
    lua_getfield(L, LUA_REGISTRYINDEX, "hd.options");
    lua_pushboolean(L, 1);
    lua_setfield(L, -2, "interactive"); // from here on an interrupted hd.run raises, it does not end the process
    lua_pop(L, 1);
    predefine(L);
    if (terminal)
        hd_lineedit_open(L);
    while ((result = read_chunk(L, &status)) != HD_LINE_END) {
        if (result == HD_LINE_INTERRUPTED) {
            puts("^C");
        } else {
            if (status == LUA_OK)
                status = hd_call(L, 0, LUA_MULTRET);
            if (status == LUA_OK)
                print_results(L);
            else
                hd_report(L, status, NULL);
        }
        lua_settop(L, 0);
    }
    putchar('\n');
    fflush(stdout);
}
