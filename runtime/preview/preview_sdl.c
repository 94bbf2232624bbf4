// preview/preview_sdl.c: the preview's window. Built as preview_sdl.so, the only object linked with SDL2, and loaded
// only by the preview child.
// Layer: preview. Calls: SDL2, preview_draw.c. Called by: preview_child.c through dlopen.
// Two threads: the main one waits for events and draws, at most 30 times a second and only when something changed; the
// reader waits on the link, turns a wake-up into an event, and ends the process when the link closes.
#include "preview/preview_draw.h"
#include <SDL.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    WIDTH = 1200, // at first: four columns of 4x4 pictures of 32x32, each pixel doubled
    HEIGHT = 500,
    FRAME_MS = 33, // shortest time between two drawings
    IDLE_MS = 500, // longest wait
    NOTE_MS = 1500,
    END_MS = 1000, // grace for a main thread stuck in its display server once the link has closed
};

typedef enum { NOTHING, STATUS, ALL } redraw;

typedef struct {
    int link;
    hd_preview_memory *memory;
    SDL_Window *window;
    SDL_Surface *canvas;  // XRGB8888, as large as the window
    Uint32 wake;          // event type that the reader pushes
    SDL_atomic_t waking;  // a wake event is in the queue
    unsigned frame, text; // places of the mailboxes that are ours
    bool news, paused;
    int only; // column shown alone, 0: all
    int bar;  // height of the status bar as drawn
    redraw redraw;
    Uint64 drawn, note_until; // ticks in ms
} preview;

// The link -----------------------------------------------------------------------

static int reader(void *data) {
    preview *p = data;
    char byte;
    ssize_t n;
    while ((n = recv(p->link, &byte, 1, 0)) > 0 || (n < 0 && errno == EINTR)) {
        SDL_Event event = {.type = p->wake};
        if (SDL_AtomicSet(&p->waking, 1) == 0 && SDL_PushEvent(&event) != 1)
            SDL_AtomicSet(&p->waking, 0);
    }
    SDL_Event quit = {.type = SDL_QUIT};
    SDL_PushEvent(&quit);
    SDL_Delay(END_MS);
    _exit(0);
}

static void tell(const preview *p, hd_preview_kind kind, const char *text) {
    hd_preview_event event = {.kind = kind};
    SDL_GetWindowSize(p->window, &event.width, &event.height);
    SDL_strlcpy(event.text, text, sizeof event.text);
    hd_preview_send(p->link, &event);
}

// Drawing ------------------------------------------------------------------------

static void ask(preview *p, redraw what) { p->redraw = what > p->redraw ? what : p->redraw; }

static void take_news(preview *p) {
    p->news = false;
    if (hd_mailbox_take(&p->memory->frames, &p->frame))
        ask(p, ALL);
    if (hd_mailbox_take(&p->memory->texts, &p->text))
        ask(p, STATUS);
}

static bool fit_canvas(preview *p) {
    SDL_Surface *target = SDL_GetWindowSurface(p->window);
    if (!target)
        return false;
    if (p->canvas && p->canvas->w == target->w && p->canvas->h == target->h)
        return true;
    SDL_FreeSurface(p->canvas);
    p->canvas = SDL_CreateRGBSurfaceWithFormat(0, target->w, target->h, 32, SDL_PIXELFORMAT_RGB888);
    p->redraw = ALL;
    return p->canvas != NULL;
}

static void draw(preview *p) {
    if (!fit_canvas(p))
        return;
    const hd_preview_frame *frame = &p->memory->frame[p->frame];
    const hd_canvas canvas = {p->canvas->pixels, p->canvas->w, p->canvas->h};
    const char *note = p->note_until ? "save asked for" : p->paused ? "paused" : NULL;
    const hd_preview_status status = {p->memory->text[p->text], note};
    const int bar = hd_draw_status_height(&canvas, &status);
    if (bar != p->bar)
        p->redraw = ALL;
    p->bar = bar;
    const int top = p->redraw == ALL ? 0 : canvas.height - bar;
    if (p->redraw == ALL)
        hd_draw_frame(&canvas, frame, p->only <= frame->columns ? p->only : 0, bar);
    hd_draw_status(&canvas, &status);
    SDL_Rect changed = {0, top, canvas.width, canvas.height - top};
    SDL_BlitSurface(p->canvas, &changed, SDL_GetWindowSurface(p->window), &changed);
    SDL_UpdateWindowSurfaceRects(p->window, &changed, 1);
    p->drawn = SDL_GetTicks64();
    p->redraw = NOTHING;
}

// Events -------------------------------------------------------------------------

static void press(preview *p, SDL_Keycode key) {
    char name[32];
    if (key >= SDLK_0 && key <= SDLK_9) {
        const int column = key - SDLK_0;
        p->only = column <= p->memory->frame[p->frame].columns ? column : p->only;
        ask(p, ALL);
    } else if (key == SDLK_SPACE) {
        p->paused = !p->paused;
        p->news = true;
        ask(p, STATUS);
        tell(p, p->paused ? HD_PREVIEW_PAUSED : HD_PREVIEW_RESUMED, "");
    } else if (key == SDLK_s) {
        p->note_until = SDL_GetTicks64() + NOTE_MS;
        ask(p, STATUS);
        tell(p, HD_PREVIEW_SAVE, "");
    } else {
        SDL_strlcpy(name, SDL_GetKeyName(key), sizeof name);
        tell(p, HD_PREVIEW_KEY, SDL_strlwr(name));
    }
}

// False when the window is to close.
static bool handle(preview *p, const SDL_Event *event) {
    if (event->type == p->wake) {
        SDL_AtomicSet(&p->waking, 0);
        p->news = true;
    } else if (event->type == SDL_QUIT) {
        return false;
    } else if (event->type == SDL_KEYDOWN && !event->key.repeat) {
        const SDL_Keycode key = event->key.keysym.sym;
        if (key == SDLK_q || key == SDLK_ESCAPE)
            return false;
        press(p, key);
    } else if (event->type == SDL_WINDOWEVENT) {
        if (event->window.event == SDL_WINDOWEVENT_SIZE_CHANGED)
            tell(p, HD_PREVIEW_RESIZED, "");
        if (event->window.event != SDL_WINDOWEVENT_MOVED)
            ask(p, ALL); // exposed, resized, restored; drawing into a destroyed window ends the process
        return event->window.event != SDL_WINDOWEVENT_CLOSE;
    }
    return true;
}

// How long to wait for the next event, in ms.
static int patience(const preview *p) {
    if (p->redraw == NOTHING && (p->paused || !p->news))
        return IDLE_MS;
    const Uint64 since = SDL_GetTicks64() - p->drawn;
    return since < FRAME_MS ? (int)(FRAME_MS - since) : 0;
}

static void run(preview *p) {
    SDL_Event event;
    for (;;) {
        if (SDL_WaitEventTimeout(&event, patience(p)))
            do
                if (!handle(p, &event))
                    return;
            while (SDL_PollEvent(&event));
        const Uint64 now = SDL_GetTicks64();
        if (p->note_until && now >= p->note_until) {
            p->note_until = 0;
            ask(p, STATUS);
        }
        if (now < p->drawn + FRAME_MS)
            continue;
        if (!p->paused)
            take_news(p);
        if (p->redraw != NOTHING)
            draw(p);
    }
}

// Opening ------------------------------------------------------------------------

static int fail(const preview *p, const char *what, const char *reason) {
    hd_preview_event event = {.kind = HD_PREVIEW_FAILED};
    SDL_snprintf(event.text, sizeof event.text, "%s: %s", what, reason);
    hd_preview_send(p->link, &event);
    SDL_Quit();
    return 1;
}

// Without a display SDL falls back to drivers that nobody sees, and calls that success.
static bool unseen(const char *driver) {
    const char *chosen = getenv("SDL_VIDEODRIVER");
    return (!chosen || !*chosen) && (strcmp(driver, "offscreen") == 0 || strcmp(driver, "dummy") == 0);
}

int hd_preview_window(int link, hd_preview_memory *memory, const char *title) {
    preview p = {.link = link, .memory = memory, .frame = HD_MAILBOX_READER, .text = HD_MAILBOX_READER};
    SDL_SetHint(SDL_HINT_NO_SIGNAL_HANDLERS, "1");
    SDL_SetHint(SDL_HINT_APP_NAME, "hdlua");
    SDL_SetHint(SDL_HINT_VIDEO_ALLOW_SCREENSAVER, "1");
    SDL_SetHint(SDL_HINT_VIDEO_X11_NET_WM_BYPASS_COMPOSITOR, "0");
    if (SDL_Init(SDL_INIT_VIDEO) != 0)
        return fail(&p, "no display", SDL_GetError());
    const char *driver = SDL_GetCurrentVideoDriver();
    if (unseen(driver))
        return fail(&p, "no display: SDL found only the driver", driver);
    if (strcmp(driver, "x11") == 0) // plain shared images: no OpenGL is loaded for a few pictures
        SDL_SetHint(SDL_HINT_FRAMEBUFFER_ACCELERATION, "0");
    p.window =
        SDL_CreateWindow(title, SDL_WINDOWPOS_UNDEFINED, SDL_WINDOWPOS_UNDEFINED, WIDTH, HEIGHT, SDL_WINDOW_RESIZABLE);
    if (!p.window)
        return fail(&p, "no window", SDL_GetError());
    if (!fit_canvas(&p))
        return fail(&p, "no surface to draw on", SDL_GetError());
    SDL_SetWindowMinimumSize(p.window, 240, 160);
    SDL_StopTextInput();
    p.wake = SDL_RegisterEvents(1);
    draw(&p);
    SDL_Thread *thread = SDL_CreateThread(reader, "link", &p);
    if (!thread)
        return fail(&p, "no thread", SDL_GetError());
    SDL_DetachThread(thread);
    tell(&p, HD_PREVIEW_OPENED, "");
    run(&p);
    SDL_DestroyWindow(p.window);
    _exit(0); // the reader still waits on the link
}
