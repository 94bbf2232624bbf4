// bind/bind_interrupt.c: core.interrupted and core.claim_interrupts, behind hd.interrupted() and hd.run.
// Layer: bind. Calls: core/interrupt.
#include "bind/bind.h"

#include "core/interrupt.h"

// hd.interrupted() -> boolean: has Ctrl-C, SIGTERM or SIGHUP asked the program to stop? From the first call on the
// first signal is only seen here, so that a loop can save and end; the second one ends the process.
static int l_interrupted(lua_State *L) {
    hd_interrupt_claim();
    lua_pushboolean(L, hd_interrupt_poll());
    return 1;
}

// core.claim_interrupts(): from now on the first SIGINT, SIGTERM or SIGHUP no longer raises or kills.
static int l_claim_interrupts(lua_State *L) {
    (void)L;
    hd_interrupt_claim();
    return 0;
}

void hd_bind_interrupt(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"interrupted", l_interrupted}, {"claim_interrupts", l_claim_interrupts}, {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
}
