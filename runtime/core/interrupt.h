// core/interrupt.h: what SIGINT, SIGTERM and SIGHUP do.
// Three states: *default* (the system's action), *hook* (app/interrupt.c: Ctrl-C raises a Lua error, as in lua5.4) and
// *claimed*: the first signal only sets a flag that the program reads at a safe place, the second one ends the process.
// Handlers touch nothing but a flag and the dispositions.
#ifndef HD_INTERRUPT_H
#define HD_INTERRUPT_H

#include <stdbool.h>

// From now on the first signal sets the flag. Calling it again changes nothing. SIGTERM and SIGHUP stay ignored where
// the process was started so (nohup).
void hd_interrupt_claim(void);

// Back to the default action of all three; the flag is cleared.
void hd_interrupt_release(void);

// True once a signal has come since the claim.
bool hd_interrupt_poll(void);

#endif
