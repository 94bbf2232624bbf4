// preview/preview_child.c: the preview role of the program: takes over the descriptors that the parent left, loads
// preview_sdl.so, which alone is linked with SDL2, and lets it run.
// Layer: preview. Calls: core, preview_sdl.so. Called by: app/main.c, before anything else.
#include "preview/preview_link.h"
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

// Signals meant for the training, often sent to the whole terminal group, are not ours. They arrive blocked.
static void ignore_signals(void) {
    const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        signal(numbers[i], SIG_IGN);
        sigaddset(&set, numbers[i]);
    }
    sigprocmask(SIG_UNBLOCK, &set, NULL);
}

// Where preview_sdl.so may lie, seen from the program's folder: beside it (build tree), above it (the test programs in
// a folder of the build tree), or where `make install` puts it.
static void *load_window(void) {
    static const char *const places[] = {"", "/..", "/../..", "/../lib/hdlua"};
    char program[2048], path[2200];
    const ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    program[length > 0 ? length : 0] = 0;
    char *slash = strrchr(program, '/');
    if (slash)
        *slash = 0;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        snprintf(path, sizeof path, "%s%s/preview_sdl.so", program, places[i]);
        if (access(path, R_OK) == 0)
            return dlopen(path, RTLD_NOW | RTLD_LOCAL);
    }
    return NULL;
}

static int fail(const char *reason) {
    hd_preview_event event = {.kind = HD_PREVIEW_FAILED};
    snprintf(event.text, sizeof event.text, "%s", reason);
    hd_preview_send(HD_PREVIEW_LINK_FD, &event);
    return 1;
}

int hd_preview_child_main(int argc, char **argv) {
    ignore_signals();
    hd_preview_memory *memory = mmap(NULL, sizeof *memory, PROT_READ | PROT_WRITE, MAP_SHARED, HD_PREVIEW_MEMORY_FD, 0);
    if (argc < 3 || memory == MAP_FAILED) { // typed by hand: there is no link to say it on
        fputs("hdlua: " HD_PREVIEW_CHILD " is for the program's own use\n", stderr);
        return 2;
    }
    void *library = load_window();
    hd_preview_window_fn *window = NULL;
    if (library)
        *(void **)&window = dlsym(library, HD_PREVIEW_WINDOW);
    if (!window) {
        const char *reason = dlerror();
        return fail(reason ? reason : "preview_sdl.so is missing: hdlua was built without SDL2");
    }
    return window(HD_PREVIEW_LINK_FD, memory, argv[2]);
}
