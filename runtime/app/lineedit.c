// app/lineedit.c: libedit's readline interface, tamed.
// libedit gets its characters from us, one at a time and decoded, so that Ctrl-C reaches it between two characters and
// never inside its own code. Signals arrive through a pipe, since any thread of the process may be the one to get them.
// Layer: app. Called by: repl.c. The history lives in $XDG_STATE_HOME/hdlua/history, readable by its owner alone.
#include "app/lineedit.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <editline/readline.h>

enum { HISTORY_LINES = 1000 };

static lua_State *state;
static char history_file[PATH_MAX];   // empty: the history is not kept
static int signal_pipe[2] = {-1, -1}; // carries one byte for each signal: its number
static bool interrupted;              // Ctrl-C ended the line

// Characters -----------------------------------------------------------------
static void on_signal(int number) {
    const int saved = errno;
    const unsigned char byte = (unsigned char)number;
    if (write(signal_pipe[1], &byte, 1) < 0) {
        // full of signals not read yet: this one makes no difference
    }
    errno = saved;
}

// Reads what the handler has written; true when Ctrl-C was among it.
static bool take_signals(void) {
    unsigned char numbers[64];
    bool stop = false;
    ssize_t n;
    while ((n = read(signal_pipe[0], numbers, sizeof numbers)) > 0)
        for (ssize_t i = 0; i < n; i++) {
            if (numbers[i] == SIGINT)
                stop = true;
            else
                rl_resize_terminal();
        }
    return stop;
}

// The next byte of stdin; -1 at the end of the input or after Ctrl-C.
static int read_byte(void) {
    struct pollfd sources[] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = signal_pipe[0], .events = POLLIN}};
    unsigned char byte;
    for (;;) {
        if (poll(sources, 2, -1) < 0 && errno != EINTR)
            return -1;
        if ((interrupted = take_signals()))
            return -1;
        if (!sources[0].revents)
            continue;
        ssize_t n = read(STDIN_FILENO, &byte, 1);
        if (n == 1)
            return byte;
        if (n == 0 || (errno != EINTR && errno != EAGAIN))
            return -1;
    }
}

// The next character (a code point, which is glibc's wchar_t); a broken sequence becomes U+FFFD.
static int read_character(FILE *file) {
    (void)file;
    int c = read_byte();
    int more = c < 0xC0 ? 0 : c < 0xE0 ? 1 : c < 0xF0 ? 2 : 3;
    if (c < 0x80)
        return c;
    if (more == 0 || c > 0xF4)
        return 0xFFFD;
    c &= 0x3F >> more;
    for (; more > 0; more--) {
        int next = read_byte();
        if (next < 0)
            return -1;
        if ((next & 0xC0) != 0x80)
            return 0xFFFD;
        c = c << 6 | (next & 0x3F);
    }
    return c;
}

// Completion -----------------------------------------------------------------
// Leaves the list for the word at start..end of the line on the stack; false when there is none.
static bool push_candidates(const char *word, int start) {
    lua_State *L = state;
    if (lua_getfield(L, LUA_REGISTRYINDEX, "hd.repl") == LUA_TTABLE &&
        lua_getfield(L, -1, "complete") == LUA_TFUNCTION) {
        lua_pushlstring(L, rl_line_buffer, (size_t)start);
        lua_pushstring(L, word);
        if (lua_pcall(L, 2, 1, 0) == LUA_OK && lua_istable(L, -1))
            return true;
    }
    return false;
}

// libedit asks for one candidate at a time; the list is on top of the stack.
static char *next_candidate(const char *word, int index) {
    static int i;
    (void)word;
    if (index == 0)
        i = 0;
    lua_geti(state, -1, ++i);
    const char *text = lua_tostring(state, -1);
    char *copy = text ? strdup(text) : NULL;
    lua_pop(state, 1);
    return copy;
}

// No list at all (inside a string) leaves the word to libedit, which completes file names.
static char **complete(const char *word, int start, int end) {
    (void)end;
    int top = lua_gettop(state);
    char **matches = NULL;
    rl_attempted_completion_over = 0;
    if (push_candidates(word, start)) {
        rl_attempted_completion_over = 1;
        matches = rl_completion_matches(word, next_candidate);
    }
    lua_settop(state, top);
    return matches;
}

// History --------------------------------------------------------------------
// Makes every folder of the path; false when one cannot be made.
static bool make_parents(char *path) {
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        bool there = mkdir(path, 0700) == 0 || errno == EEXIST;
        *slash = '/';
        if (!there)
            return false;
    }
    return true;
}

static void open_history(void) {
    const char *base = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    using_history();
    stifle_history(HISTORY_LINES);
    if (base && base[0] == '/')
        snprintf(history_file, sizeof history_file, "%s/hdlua/history", base);
    else if (home && home[0] == '/')
        snprintf(history_file, sizeof history_file, "%s/.local/state/hdlua/history", home);
    else
        return;
    int fd = make_parents(history_file) ? open(history_file, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (fd < 0) {
        history_file[0] = '\0';
        return;
    }
    fchmod(fd, 0600);
    close(fd);
    read_history(history_file);
}

// Written after each line, so that a killed session loses nothing.
static void remember(const char *line) {
    HIST_ENTRY *last = history_length > 0 ? history_get(history_base + history_length - 1) : NULL;
    if (!line[strspn(line, " \t")] || (last && strcmp(last->line, line) == 0))
        return;
    add_history(line);
    if (history_file[0])
        write_history(history_file);
}

// Lines ----------------------------------------------------------------------
void hd_lineedit_open(lua_State *L) {
    static char word_breaks[] = " \t\n\"'><=;+-*/%^~#,(){}[]&|";
    state = L;
    setlocale(LC_CTYPE, "C.UTF-8"); // libedit counts columns by it; Lua's character classes stay those of ASCII
    rl_readline_name = "hdlua";
    rl_catch_signals = 0;
    rl_catch_sigwinch = 0;
    rl_getc_function = read_character;
    rl_attempted_completion_function = complete;
    rl_completer_word_break_characters = word_breaks;
    if (pipe2(signal_pipe, O_CLOEXEC | O_NONBLOCK) != 0)
        signal_pipe[0] = -1; // no descriptors left: Ctrl-C is not seen at the prompt
    rl_initialize();
    open_history();
}

hd_line hd_lineedit_read(const char *prompt, char **line) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART}, old_int, old_winch;
    sigemptyset(&action.sa_mask);
    take_signals();
    interrupted = false;
    rl_completion_append_character = '\0';
    sigaction(SIGINT, &action, &old_int);
    sigaction(SIGWINCH, &action, &old_winch);
    *line = readline(prompt);
    sigaction(SIGINT, &old_int, NULL);
    sigaction(SIGWINCH, &old_winch, NULL);
    if (*line) {
        remember(*line);
        return HD_LINE_READ;
    }
    return interrupted ? HD_LINE_INTERRUPTED : HD_LINE_END;
}
