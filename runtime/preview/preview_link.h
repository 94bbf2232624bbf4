// preview/preview_link.h: what the two processes of the preview share. Parent: preview.c. Child: preview_child.c, which
// loads preview_sdl.c as a shared object.
// The memory holds two mailboxes, one of frames and one of texts. The socket carries a byte from parent to child when a
// mailbox has news, hd_preview_event from child to parent; it closes when either side ends, however it ends.
#ifndef HD_PREVIEW_LINK_H
#define HD_PREVIEW_LINK_H

#include "preview/preview.h"
#include <stdatomic.h>
#include <sys/socket.h>

enum {
    HD_PREVIEW_LINK_FD = 0,           // descriptors of the child: the socket ...
    HD_PREVIEW_MEMORY_FD = 3,         // ... and the shared memory
    HD_PREVIEW_NAME = 32,             // bytes with the final 0
    HD_PREVIEW_TEXT = 512,            //
    HD_PREVIEW_PIXELS = 32 * 1 << 20, // bytes of pictures in a frame: more than a 4K screen shows
};

// A mailbox hands the newest value over without a lock and never torn: of three places the writer owns one, the reader
// owns one, and `middle` names the third, with FRESH set while the reader has not seen it.
enum { HD_MAILBOX_FRESH = 4, HD_MAILBOX_WRITER = 0, HD_MAILBOX_MIDDLE = 1, HD_MAILBOX_READER = 2 };

typedef struct {
    atomic_uint middle;
} hd_mailbox;

// Publish place *mine and receive another one to write to. True when the reader must be woken: it had seen the value
// before, so no wake-up is under way. At most one wake-up per mailbox is ever in the socket.
static inline bool hd_mailbox_put(hd_mailbox *box, unsigned *mine) {
    const unsigned old = atomic_exchange(&box->middle, *mine | HD_MAILBOX_FRESH);
    *mine = old & 3;
    return !(old & HD_MAILBOX_FRESH);
}

// Exchange place *mine for the newest value; false when there is none.
static inline bool hd_mailbox_take(hd_mailbox *box, unsigned *mine) {
    if (!(atomic_load(&box->middle) & HD_MAILBOX_FRESH))
        return false;
    *mine = atomic_exchange(&box->middle, *mine) & 3;
    return true;
}

// `count` pictures of one size from `offset` on in the frame's pixels, each height x width x RGB, row-major.
typedef struct {
    char name[HD_PREVIEW_NAME];
    int32_t count, width, height;
    uint32_t offset;
} hd_preview_grid;

typedef struct {
    int32_t columns;
    hd_preview_grid grids[HD_PREVIEW_COLUMNS];
    uint8_t pixels[HD_PREVIEW_PIXELS];
} hd_preview_frame;

// Sparse: pages that no frame has used cost nothing.
typedef struct {
    hd_mailbox frames, texts;
    char text[3][HD_PREVIEW_TEXT];
    hd_preview_frame frame[3];
} hd_preview_memory;

// preview_sdl.so: open the window, draw until the link or the window closes. Gives the exit status.
int hd_preview_window(int link, hd_preview_memory *memory, const char *title);
typedef int hd_preview_window_fn(int link, hd_preview_memory *memory, const char *title);
#define HD_PREVIEW_WINDOW "hd_preview_window"

// Send an event to the parent without ever waiting; a full link drops it.
static inline void hd_preview_send(int link, const hd_preview_event *event) {
    send(link, event, sizeof *event, MSG_NOSIGNAL | MSG_DONTWAIT);
}

#endif
