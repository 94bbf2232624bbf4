// preview/preview.h: the preview window. It is drawn by a child process (this program again, in its preview role), so a
// long training step never freezes it and a lost display never touches the training.
// Layer: preview (beside io). Calls: core. Called by: bind, app, tests.
// Pixels go through shared memory, wake-ups and events through a socket pair; nothing here ever waits for the window
// except hd_preview_open (until it stands, at most 5 s) and hd_preview_close (at most 0.3 s).
// A window that was closed, destroyed or killed is not an error: the object says so and ignores what it is given.
// Threads: one thread per object.
#ifndef HD_PREVIEW_H
#define HD_PREVIEW_H

#include "core/dtype.h"
#include "core/status.h"

#define HD_PREVIEW_COLUMNS 16 // most columns of one window

typedef struct hd_preview hd_preview;

// One column of the window: a level, or the joined result.
typedef struct {
    const char *name; // its label; cut at 31 bytes
    hd_view pictures; // [c,h,w] or [n,c,h,w]; c is 1 (grey) or 3 (RGB); u8, or f32 in [-1,1]; data NULL: none yet
} hd_preview_column;

typedef enum {
    HD_PREVIEW_OPENED,  // internal: the window stands
    HD_PREVIEW_FAILED,  // internal: it cannot open; text is the reason
    HD_PREVIEW_KEY,     // a key without meaning of its own; text is its name ("a", "return")
    HD_PREVIEW_SAVE,    // the user asks the training to save (key s)
    HD_PREVIEW_PAUSED,  // drawing stopped (space) ...
    HD_PREVIEW_RESUMED, // ... and goes on
    HD_PREVIEW_RESIZED, // width, height in pixels
    HD_PREVIEW_CLOSED,  // the window is gone; the last event
} hd_preview_kind;

typedef struct {
    int32_t kind; // hd_preview_kind
    int32_t width, height;
    char text[244];
} hd_preview_event;

// Spawn the child and wait until its window stands.
// Errors: HD_EIO with the reason (no display, SDL2 missing); *out is NULL then.
hd_status hd_preview_open(const char *title, hd_preview **out);

// Hand over a whole new picture: every column, in order. The newest one wins when the window is slower.
// Errors: HD_ESHAPE, HD_EARG; the window keeps what it shows.
hd_status hd_preview_show(hd_preview *p, const hd_preview_column *columns, int count);

// The line under the pictures (at most 4 lines of ASCII in all 511 bytes).
void hd_preview_text(hd_preview *p, const char *text);

// Take the next event, oldest first; false when there is none.
bool hd_preview_poll(hd_preview *p, hd_preview_event *out);

bool hd_preview_is_open(hd_preview *p);

// Close the window, end and reap the child, free the object. NULL is allowed.
void hd_preview_close(hd_preview *p);

// The child's whole life: main() calls this when its first argument is HD_PREVIEW_CHILD. Gives the exit status.
#define HD_PREVIEW_CHILD "--hd-preview-child"
int hd_preview_child_main(int argc, char **argv);

#endif
