// tests/crash/process.c: a Lua module that starts programs, sends them signals and tells how they ended. A shell
// cannot: it reports "exited with 130" and "killed by SIGINT" by the same number. Loaded by tests/crash/harness.lua.
#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void redirect(int to, const char *path, int flags) {
    const int fd = open(path, flags, 0644);
    if (fd < 0 || dup2(fd, to) < 0)
        _exit(127);
}

// What happens in the child: it dies with us, starts with the default signals, reads nothing, writes into `out`.
static void become(char **words, const char *out) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int i = 1; i < NSIG; i++)
        signal(i, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    redirect(STDIN_FILENO, "/dev/null", O_RDONLY);
    redirect(STDOUT_FILENO, out, O_WRONLY | O_CREAT | O_APPEND);
    dup2(STDOUT_FILENO, STDERR_FILENO);
    execvp(words[0], words);
    _exit(127);
}

// process.start(words, out) -> pid: run a command, its output appended to the file `out`
static int l_start(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTABLE);
    const char *out = luaL_checkstring(L, 2);
    const int n = (int)luaL_len(L, 1);
    char **words = lua_newuserdatauv(L, (size_t)(n + 1) * sizeof *words, 0);
    luaL_checkstack(L, n, "too many words");
    for (int i = 0; i < n; i++) {
        lua_rawgeti(L, 1, i + 1);
        words[i] = (char *)luaL_checkstring(L, -1); // stays on the stack; exec changes none of them
    }
    words[n] = NULL;
    luaL_argcheck(L, n > 0, 1, "no command");
    const pid_t pid = fork();
    if (pid == 0)
        become(words, out);
    if (pid < 0)
        return luaL_error(L, "cannot start %s: %s", words[0], strerror(errno));
    lua_pushinteger(L, pid);
    return 1;
}

// process.kill(pid, number) -> boolean: was there such a process
static int l_kill(lua_State *L) {
    lua_pushboolean(L, kill((pid_t)luaL_checkinteger(L, 1), (int)luaL_checkinteger(L, 2)) == 0);
    return 1;
}

static void nap(double seconds) {
    struct timespec left = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        ;
}

// process.sleep(seconds)
static int l_sleep(lua_State *L) {
    nap(luaL_checknumber(L, 1));
    return 0;
}

// process.wait(pid, seconds) -> "exit", code or "signal", number; nil while it still runs after that time
static int l_wait(lua_State *L) {
    const pid_t pid = (pid_t)luaL_checkinteger(L, 1);
    const double tick = 0.001;
    int status;
    pid_t ended;
    for (double left = luaL_checknumber(L, 2); (ended = waitpid(pid, &status, WNOHANG)) == 0 && left > 0; left -= tick)
        nap(tick);
    if (ended < 0)
        return luaL_error(L, "process %d is not ours: %s", (int)pid, strerror(errno));
    if (ended == 0)
        return 0;
    lua_pushstring(L, WIFSIGNALED(status) ? "signal" : "exit");
    lua_pushinteger(L, WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    return 2;
}

__attribute__((visibility("default"))) int luaopen_process(lua_State *L);
int luaopen_process(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"start", l_start}, {"kill", l_kill}, {"sleep", l_sleep}, {"wait", l_wait}, {NULL, NULL}};
    static const struct {
        const char *name;
        int number;
    } signals[] = {{"INT", SIGINT}, {"TERM", SIGTERM}, {"HUP", SIGHUP}, {"KILL", SIGKILL}, {"PIPE", SIGPIPE}};
    luaL_newlib(L, functions);
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        lua_pushinteger(L, signals[i].number);
        lua_setfield(L, -2, signals[i].name);
    }
    return 1;
}
