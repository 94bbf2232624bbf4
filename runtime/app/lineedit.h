// app/lineedit.h: one line from a terminal, with editing, history and completion (libedit).
#ifndef HD_LINEEDIT_H
#define HD_LINEEDIT_H

#include <lua.h>

typedef enum { HD_LINE_READ, HD_LINE_INTERRUPTED, HD_LINE_END } hd_line;

// L serves completion: registry["hd.repl"].complete(text before the cursor, word) gives a list of words.
void hd_lineedit_open(lua_State *L);
// *line is allocated; the caller frees it. Ctrl-C gives HD_LINE_INTERRUPTED.
hd_line hd_lineedit_read(const char *prompt, char **line);

#endif
