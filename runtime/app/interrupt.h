// app/interrupt.h: Ctrl-C while Lua code runs, as lua5.4 does it, until a script claims it (core/interrupt.h).
#ifndef HD_APP_INTERRUPT_H
#define HD_APP_INTERRUPT_H

#include <lua.h>

// Around a protected call: between the two the first SIGINT raises "interrupted!" at the next instruction of L and the
// second one kills. The end also drops a claim that the code has made.
void hd_interrupt_begin(lua_State *L);
void hd_interrupt_end(void);

#endif
