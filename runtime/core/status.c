// core/status.c: the thread-local message behind hd_status.
#include "core/status.h"
#include <stdarg.h>
#include <stdio.h>

static _Thread_local char message[2048] = "no error";
static _Thread_local hd_status last;

hd_status hd_fail(hd_status code, const char *format, ...) {
    // Arguments may point into the old message, so format aside first.
    char text[sizeof message];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    snprintf(message, sizeof message, "%s", text);
    last = code;
    return code;
}

const char *hd_message(void) { return message; }

hd_status hd_message_code(void) { return last; }
