// app/interrupt.c: SIGINT as a Lua error. The handler only installs a hook, the one thing Lua allows a signal to do.
// Layer: app. Called by: main.c, repl.c. See DESIGN rule 12 for the two behaviours.
#include "app/interrupt.h"

#include "core/interrupt.h"
#include <lauxlib.h>
#include <signal.h>

static lua_State *running;

static void set_sigint(void (*handler)(int)) {
    struct sigaction action = {.sa_handler = handler};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
}

static void raise_interrupted(lua_State *L, lua_Debug *ar) {
    (void)ar;
    lua_sethook(L, NULL, 0, 0);
    luaL_error(L, "interrupted!");
}

static void on_sigint(int number) {
    (void)number;
    set_sigint(SIG_DFL);
    lua_sethook(running, raise_interrupted, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
}

void hd_interrupt_begin(lua_State *L) {
    running = L;
    set_sigint(on_sigint);
}

void hd_interrupt_end(void) {
    hd_interrupt_release();
    set_sigint(SIG_DFL);
}
