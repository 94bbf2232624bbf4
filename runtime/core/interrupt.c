// core/interrupt.c: the flag behind hd.interrupted(), and the signals that set it.
// Layer: core. Called by: bind (claim, poll), app (release).
#include "core/interrupt.h"

#include <signal.h>
#include <stddef.h>

static const int SIGNALS[] = {SIGINT, SIGTERM, SIGHUP};
enum { NSIGNALS = sizeof SIGNALS / sizeof SIGNALS[0] };

static volatile sig_atomic_t flag;
static bool claimed;
static bool ours[NSIGNALS]; // signals whose disposition was changed

static void set(int number, void (*handler)(int)) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(number, &action, NULL);
}

static void set_ours(void (*handler)(int)) {
    for (int i = 0; i < NSIGNALS; i++)
        if (ours[i])
            set(SIGNALS[i], handler);
}

static void on_signal(int number) {
    (void)number;
    flag = 1;
    set_ours(SIG_DFL);
}

void hd_interrupt_claim(void) {
    if (claimed)
        return;
    claimed = true;
    flag = 0;
    for (int i = 0; i < NSIGNALS; i++) {
        struct sigaction old;
        sigaction(SIGNALS[i], NULL, &old);
        ours[i] = SIGNALS[i] == SIGINT || old.sa_handler != SIG_IGN;
    }
    set_ours(on_signal);
    set(SIGXFSZ, SIG_IGN); // a limit on the size of files is an error of write() then, and the run goes on
}

void hd_interrupt_release(void) {
    if (!claimed)
        return;
    set_ours(SIG_DFL);
    claimed = false;
    flag = 0;
}

bool hd_interrupt_poll(void) { return flag; }
