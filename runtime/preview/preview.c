// preview/preview.c: the parent's side of the preview window: spawns the child, fills the mailboxes, collects events.
// Layer: preview. Calls: core, the operating system. Called by: bind, tests.
// The child is spawned, never forked: OpenMP's threads and the tensors' memory stay out of it. It inherits two
// descriptors and nothing else; SIGINT, SIGTERM and SIGHUP are blocked in it until it has said that it ignores them.
#include "core/alloc.h"
#include "preview/preview_link.h"
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { QUEUE = 64, OPEN_MS = 5000, CLOSE_MS = 300 };

struct hd_preview {
    int link; // -1: the window is gone
    pid_t pid;
    hd_preview_memory *memory;
    unsigned frame, text; // the places that are ours
    hd_preview_event events[QUEUE];
    int first, count;
};

extern char **environ;

// Starting -------------------------------------------------------------------

// Move a descriptor out of the range that the child's standard ones are copied to.
static int raise_descriptor(int fd) {
    const int high = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 10);
    if (fd >= 0)
        close(fd);
    return high;
}

static int set_actions(posix_spawn_file_actions_t *actions, int link, int memory) {
    int failed = posix_spawn_file_actions_adddup2(actions, link, HD_PREVIEW_LINK_FD);
    // Silent: the X library would write of a killed window into the training's terminal.
    failed |= posix_spawn_file_actions_addopen(actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    failed |= posix_spawn_file_actions_addopen(actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    failed |= posix_spawn_file_actions_adddup2(actions, memory, HD_PREVIEW_MEMORY_FD);
    failed |= posix_spawn_file_actions_addclosefrom_np(actions, HD_PREVIEW_MEMORY_FD + 1);
    return failed;
}

static int spawn_child(const char *title, int link, int memory, pid_t *pid) {
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGINT);
    sigaddset(&blocked, SIGTERM);
    sigaddset(&blocked, SIGHUP);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigmask(&attributes, &blocked);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    char *const argv[] = {"hdlua", HD_PREVIEW_CHILD, (char *)title, NULL};
    int failed = set_actions(&actions, link, memory);
    if (!failed)
        failed = posix_spawn(pid, "/proc/self/exe", &actions, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return failed;
}

// Shared memory with empty mailboxes; *fd is its descriptor for the child.
static hd_preview_memory *new_memory(int *fd) {
    *fd = raise_descriptor(memfd_create("hdlua-preview", MFD_CLOEXEC));
    if (*fd < 0 || ftruncate(*fd, sizeof(hd_preview_memory)) != 0)
        return NULL;
    void *memory = mmap(NULL, sizeof(hd_preview_memory), PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
    if (memory == MAP_FAILED)
        return NULL;
    hd_preview_memory *m = memory;
    atomic_init(&m->frames.middle, HD_MAILBOX_MIDDLE);
    atomic_init(&m->texts.middle, HD_MAILBOX_MIDDLE);
    return m;
}

// The child's first message decides whether there is a window.
static hd_status wait_for_window(hd_preview *p) {
    struct pollfd ready = {.fd = p->link, .events = POLLIN};
    int n;
    do
        n = poll(&ready, 1, OPEN_MS);
    while (n < 0 && errno == EINTR);
    hd_preview_event event;
    if (n == 0)
        return hd_fail(HD_EIO, "preview: the window did not open within %d s", OPEN_MS / 1000);
    if (recv(p->link, &event, sizeof event, MSG_DONTWAIT) != (ssize_t)sizeof event)
        return hd_fail(HD_EIO, "preview: its process ended before the window opened");
    if (event.kind != HD_PREVIEW_OPENED)
        return hd_fail(HD_EIO, "preview: %.*s", (int)sizeof event.text - 1, event.text);
    return HD_OK;
}

hd_status hd_preview_open(const char *title, hd_preview **out) {
    *out = NULL;
    hd_preview *p = hd_calloc(1, sizeof *p);
    if (!p)
        return hd_fail(HD_ENOMEM, "preview: out of memory");
    int pair[2] = {-1, -1}, memory = -1;
    p->link = -1;
    p->frame = p->text = HD_MAILBOX_WRITER;
    p->memory = new_memory(&memory);
    int failed = p->memory ? 0 : errno;
    if (!failed && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        failed = errno;
    pair[1] = raise_descriptor(pair[1]);
    if (!failed)
        failed = spawn_child(title, pair[1], memory, &p->pid);
    if (memory >= 0)
        close(memory);
    if (pair[1] >= 0)
        close(pair[1]);
    p->link = pair[0];
    const hd_status status =
        failed ? hd_fail(HD_EIO, "preview: cannot start its process: %s", strerror(failed)) : wait_for_window(p);
    if (status == HD_OK)
        *out = p;
    else
        hd_preview_close(p);
    return status;
}

// Ending ---------------------------------------------------------------------

// Reap the child if it has ended; true when there is none any more.
static bool reap(hd_preview *p) {
    if (p->pid > 0 && waitpid(p->pid, NULL, WNOHANG) != 0)
        p->pid = 0;
    return p->pid == 0;
}

static void hang_up(hd_preview *p) {
    if (p->link >= 0)
        close(p->link);
    p->link = -1;
}

void hd_preview_close(hd_preview *p) {
    if (!p)
        return;
    hang_up(p);
    const struct timespec pause = {.tv_nsec = 2000000};
    for (int waited = 0; !reap(p) && waited < CLOSE_MS; waited += 2)
        nanosleep(&pause, NULL);
    if (p->pid > 0) { // stuck in its display server
        kill(p->pid, SIGKILL);
        waitpid(p->pid, NULL, 0);
    }
    if (p->memory)
        munmap(p->memory, sizeof *p->memory);
    hd_free(p);
}

// Events ---------------------------------------------------------------------

// Nobody polling must not hide the end of the link, so what does not fit is dropped; the last place is for CLOSED.
static void enqueue(hd_preview *p, const hd_preview_event *event) {
    if (p->count < QUEUE - (event->kind != HD_PREVIEW_CLOSED))
        p->events[(p->first + p->count++) % QUEUE] = *event;
}

static void receive(hd_preview *p) {
    while (p->link >= 0) {
        hd_preview_event event;
        const ssize_t n = recv(p->link, &event, sizeof event, MSG_DONTWAIT);
        if (n == (ssize_t)sizeof event) {
            event.text[sizeof event.text - 1] = 0;
            enqueue(p, &event);
        } else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            return;
        } else if (n >= 0 || errno != EINTR) {
            hang_up(p);
            enqueue(p, &(hd_preview_event){.kind = HD_PREVIEW_CLOSED});
        }
    }
    reap(p);
}

bool hd_preview_poll(hd_preview *p, hd_preview_event *out) {
    receive(p);
    if (p->count == 0)
        return false;
    *out = p->events[p->first];
    p->first = (p->first + 1) % QUEUE;
    p->count--;
    return true;
}

bool hd_preview_is_open(hd_preview *p) {
    receive(p);
    return p->link >= 0;
}

// Showing --------------------------------------------------------------------

static void wake(hd_preview *p) { send(p->link, "w", 1, MSG_NOSIGNAL | MSG_DONTWAIT); }

void hd_preview_text(hd_preview *p, const char *text) {
    if (!hd_preview_is_open(p))
        return;
    char *place = p->memory->text[p->text];
    const size_t length = strnlen(text, HD_PREVIEW_TEXT - 1);
    memcpy(place, text, length);
    place[length] = 0;
    if (hd_mailbox_put(&p->memory->texts, &p->text))
        wake(p);
}

// What the columns need, before a byte of the frame changes.
static hd_status check_columns(const hd_preview_column *columns, int count) {
    if (count < 0 || count > HD_PREVIEW_COLUMNS)
        return hd_fail(HD_EARG, "preview: too many columns: got %d, expected at most %d", count, HD_PREVIEW_COLUMNS);
    int64_t bytes = 0;
    for (int i = 0; i < count; i++) {
        const hd_view *v = &columns[i].pictures;
        if (!v->data)
            continue;
        if (v->dtype != HD_U8 && v->dtype != HD_F32)
            return hd_fail(HD_EARG, "preview: column '%s': got type %s, expected u8, or f32 in [-1,1]", columns[i].name,
                           hd_dtype_name(v->dtype));
        if (v->ndim != 3 && v->ndim != 4)
            return hd_fail(HD_ESHAPE, "preview: column '%s': got %d dimensions, expected [c,h,w] or [n,c,h,w]",
                           columns[i].name, v->ndim);
        const int64_t c = v->shape[v->ndim - 3];
        if (c != 1 && c != 3)
            return hd_fail(HD_ESHAPE, "preview: column '%s': got %lld channels, expected 1 (grey) or 3 (RGB)",
                           columns[i].name, (long long)c);
        bytes += hd_view_numel(v) / c * 3;
    }
    if (bytes > HD_PREVIEW_PIXELS)
        return hd_fail(HD_EARG, "preview: pictures too large: got %lld pixels, expected at most %d",
                       (long long)(bytes / 3), HD_PREVIEW_PIXELS / 3);
    return HD_OK;
}

// v [n,c,h,w] or [c,h,w] with any strides -> n*h*w RGB bytes at out; f32 is mapped from [-1,1].
static void copy_pictures(const hd_view *v, uint8_t *out) {
    const int64_t *shape = v->shape + v->ndim - 3, *strides = v->strides + v->ndim - 3;
    const int64_t n = v->ndim == 4 ? v->shape[0] : 1, next = v->ndim == 4 ? v->strides[0] : 0;
    const int64_t next_channel = shape[0] == 3 ? strides[0] : 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t y = 0; y < shape[1]; y++)
            for (int64_t x = 0; x < shape[2]; x++)
                for (int64_t c = 0; c < 3; c++) {
                    const int64_t at = i * next + c * next_channel + y * strides[1] + x * strides[2];
                    if (v->dtype == HD_U8)
                        *out++ = ((const uint8_t *)v->data)[at];
                    else // fmaxf also turns NaN into black
                        *out++ = (uint8_t)lrintf(fminf(fmaxf((((const float *)v->data)[at] + 1) * 127.5f, 0), 255));
                }
}

static void fill_grid(hd_preview_frame *frame, hd_preview_grid *grid, const hd_preview_column *column,
                      uint32_t offset) {
    const hd_view *v = &column->pictures;
    const size_t length = strnlen(column->name, HD_PREVIEW_NAME - 1);
    *grid = (hd_preview_grid){.offset = offset};
    memcpy(grid->name, column->name, length);
    if (!v->data || hd_view_numel(v) == 0)
        return;
    grid->count = v->ndim == 4 ? (int32_t)v->shape[0] : 1;
    grid->height = (int32_t)v->shape[v->ndim - 2];
    grid->width = (int32_t)v->shape[v->ndim - 1];
    copy_pictures(v, frame->pixels + offset);
}

hd_status hd_preview_show(hd_preview *p, const hd_preview_column *columns, int count) {
    HD_CHECK(check_columns(columns, count));
    if (!hd_preview_is_open(p))
        return HD_OK;
    hd_preview_frame *frame = &p->memory->frame[p->frame];
    frame->columns = count;
    uint32_t offset = 0;
    for (int i = 0; i < count; i++) {
        hd_preview_grid *grid = &frame->grids[i];
        fill_grid(frame, grid, &columns[i], offset);
        offset += 3u * (uint32_t)grid->count * (uint32_t)grid->width * (uint32_t)grid->height;
    }
    if (hd_mailbox_put(&p->memory->frames, &p->frame))
        wake(p);
    return HD_OK;
}
