// tests/c/test_preview.c: the preview's two processes over SDL's dummy driver, which writes every drawn frame as a BMP
// file into the current folder; and its drawing, in memory. tests/lua/preview_spec.lua looks at a real window.
// This program is its own child: called with HD_PREVIEW_CHILD it becomes the window, with "orphan" a parent to kill.
#include "preview/preview_draw.c"
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

extern char **environ;

// Helpers ------------------------------------------------------------------------

static void pause_ms(int ms) {
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

// Evaluate `condition` until it holds, for at most 10 s.
#define EVENTUALLY(condition)                                                                                          \
    do {                                                                                                               \
        int left_ = 1000;                                                                                              \
        while (!(condition) && left_-- > 0)                                                                            \
            pause_ms(10);                                                                                              \
        assert_true(left_ > 0);                                                                                        \
    } while (0)

// State letter and parent of a process ("pid (name) S ppid ..."); false when there is none.
static bool look_at_process(pid_t pid, char *state, pid_t *parent) {
    char path[64], line[512] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file)
        return false;
    const bool read = fgets(line, sizeof line, file) != NULL;
    fclose(file);
    const char *end = strrchr(line, ')');
    return read && end && sscanf(end + 1, " %c %d", state, parent) == 2;
}

static bool is_alive(pid_t pid) {
    char state;
    pid_t parent;
    return look_at_process(pid, &state, &parent) && state != 'Z';
}

// The one living child of a process; 0 when there is none.
static pid_t child_of(pid_t pid) {
    pid_t found = 0;
    DIR *dir = opendir("/proc");
    for (struct dirent *entry; (entry = readdir(dir));) {
        char state;
        pid_t parent;
        if (look_at_process(atoi(entry->d_name), &state, &parent) && parent == pid && state != 'Z')
            found = atoi(entry->d_name);
    }
    closedir(dir);
    return found;
}

static char folder[256];

static void empty_folder(void) {
    DIR *dir = opendir(folder);
    for (struct dirent *entry; (entry = readdir(dir));)
        if (entry->d_name[0] != '.')
            unlink(entry->d_name);
    closedir(dir);
}

static int enter_folder(void **state) {
    (void)state;
    const char *base = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/hdlua-preview-XXXXXX", base ? base : "/tmp");
    setenv("SDL_VIDEODRIVER", "dummy", 1);
    setenv("SDL_VIDEO_DUMMY_SAVE_FRAMES", "1", 1);
    return mkdtemp(folder) ? chdir(folder) : -1;
}

static int leave_folder(void **state) {
    (void)state;
    empty_folder();
    return chdir("/") || rmdir(folder);
}

static hd_preview *open_preview(void) {
    hd_preview *p = NULL;
    if (hd_preview_open("test", &p) != HD_OK)
        fail_msg("%s", hd_message());
    return p;
}

// A picture file of the dummy driver: 24 or 32 bits a pixel, B G R first.
typedef struct {
    uint8_t *bytes;
    int width, height, depth, stride;
    size_t first;
} bitmap;

static uint32_t little(const uint8_t *b) { return b[0] | b[1] << 8 | b[2] << 16 | (uint32_t)b[3] << 24; }

// False where the file is not there, or not written to its end.
static bool read_bitmap(const char *path, bitmap *b) {
    FILE *file = fopen(path, "rb");
    if (!file)
        return false;
    enum { ROOM = 8 << 20 };
    b->bytes = malloc(ROOM);
    const size_t size = fread(b->bytes, 1, ROOM, file);
    fclose(file);
    if (size < 54 || little(b->bytes + 2) != size) { // the whole size stands at byte 2 once SDL is done, 0 until then
        free(b->bytes);
        return false;
    }
    b->first = little(b->bytes + 10);
    b->width = (int)little(b->bytes + 18);
    b->height = abs((int)little(b->bytes + 22));
    b->depth = b->bytes[28] / 8;
    b->stride = (b->width * b->depth + 3) / 4 * 4;
    return true;
}

static int count_colour(const bitmap *b, uint32_t rgb) {
    int n = 0;
    for (int y = 0; y < b->height; y++)
        for (int x = 0; x < b->width; x++)
            n += (little(b->bytes + b->first + (size_t)y * b->stride + x * b->depth - (b->depth == 3)) >>
                      (b->depth == 3 ? 8 : 0) &
                  0xffffff) == rgb;
    return n;
}

// The newest whole frame that was drawn; false when there is none.
static bool newest_frame(bitmap *b) {
    char newest[300] = "";
    DIR *dir = opendir(folder);
    for (struct dirent *entry; (entry = readdir(dir));)
        if (strstr(entry->d_name, ".bmp") && strcmp(entry->d_name, newest) > 0)
            snprintf(newest, sizeof newest, "%s", entry->d_name);
    closedir(dir);
    return newest[0] && read_bitmap(newest, b);
}

static int count_in_newest(uint32_t rgb) {
    bitmap b;
    if (!newest_frame(&b))
        return -1;
    const int n = count_colour(&b, rgb);
    free(b.bytes);
    return n;
}

// Frames -------------------------------------------------------------------------

// The colour of pixel 0..3 of the 2x2 pictures of a column (0: u8, 1: f32) in frame 0..2.
static uint32_t colour_of(int frame, int column, int pixel) {
    return (uint32_t)(20 + 70 * frame) << 16 | (uint32_t)(30 + 90 * column) << 8 | (uint32_t)(40 + 50 * pixel);
}

static void show_frame(hd_preview *p, int frame) {
    static uint8_t bytes[4][3][2][2];
    static float reals[4][3][2][2];
    for (int i = 0; i < 4 * 3 * 4; i++) {
        const int picture = i / 12, c = i / 4 % 3, pixel = i % 4, shift = 16 - 8 * c;
        bytes[picture][c][pixel / 2][pixel % 2] = (uint8_t)(colour_of(frame, 0, pixel) >> shift);
        reals[picture][c][pixel / 2][pixel % 2] = (uint8_t)(colour_of(frame, 1, pixel) >> shift) / 127.5f - 1;
    }
    const hd_view u8 = {bytes, HD_U8, 4, {4, 3, 2, 2}, {12, 4, 2, 1}};
    const hd_view f32 = {reals, HD_F32, 4, {4, 3, 2, 2}, {12, 4, 2, 1}};
    const hd_preview_column columns[] = {{"bytes", u8}, {"reals", f32}};
    assert_int_equal(hd_preview_show(p, columns, 2), HD_OK);
}

static void test_three_frames_show_their_pixels_enlarged(void **state) {
    (void)state;
    hd_preview *p = open_preview();
    for (int frame = 0; frame < 3; frame++) {
        show_frame(p, frame);
        EVENTUALLY(count_in_newest(colour_of(frame, 0, 0)) > 0);
        bitmap b;
        EVENTUALLY(newest_frame(&b));
        const int area = count_colour(&b, colour_of(frame, 0, 0)); // 4 pictures, factor x factor screen pixels each
        int factor = 1;
        while (factor * factor * 4 < area)
            factor++;
        assert_int_equal(area, 4 * factor * factor);
        assert_true(factor > 1);
        for (int column = 0; column < 2; column++)
            for (int pixel = 0; pixel < 4; pixel++) {
                assert_int_equal(count_colour(&b, colour_of(frame, column, pixel)), area);
                assert_int_equal(count_colour(&b, colour_of((frame + 1) % 3, column, pixel)), 0);
            }
        free(b.bytes);
    }
    hd_preview_close(p);
}

static void show_square(hd_preview *p, uint8_t level) {
    static uint8_t square[360 * 360];
    memset(square, level, sizeof square);
    const hd_preview_column column = {"square", {square, HD_U8, 3, {1, 360, 360}, {129600, 360, 1}}};
    assert_int_equal(hd_preview_show(p, &column, 1), HD_OK);
}

static void test_no_frame_mixes_two(void **state) {
    (void)state;
    hd_preview *p = open_preview();
    for (int i = 0; i < 1500; i++)
        show_square(p, i % 2 ? 200 : 100);
    EVENTUALLY(count_in_newest(0xc8c8c8) == 129600);
    hd_preview_close(p);
    DIR *dir = opendir(folder);
    int frames = 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        bitmap b;
        if (!strstr(entry->d_name, ".bmp") || !read_bitmap(entry->d_name, &b))
            continue;
        const int dark = count_colour(&b, 0x646464), light = count_colour(&b, 0xc8c8c8);
        assert_true((dark == 0 || dark == 129600) && (light == 0 || light == 129600) && (!dark || !light));
        frames += dark || light;
        free(b.bytes);
    }
    closedir(dir);
    assert_true(frames >= 2);
}

static void test_text_changes_the_status_bar_alone(void **state) {
    (void)state;
    hd_preview *p = open_preview();
    show_square(p, 200);
    hd_preview_text(p, "");
    EVENTUALLY(count_in_newest(0xc8c8c8) == 129600);
    const int empty = count_in_newest(BRIGHT);
    hd_preview_text(p, "step 12   loss 0.25");
    EVENTUALLY(count_in_newest(BRIGHT) > empty + 100);
    assert_int_equal(count_in_newest(0xc8c8c8), 129600);
    hd_preview_close(p);
}

// Ends ---------------------------------------------------------------------------

static void test_a_stopped_window_holds_nothing_up(void **state) {
    (void)state;
    hd_preview *p = open_preview();
    const pid_t child = child_of(getpid());
    kill(child, SIGSTOP);
    for (int i = 0; i < 3000; i++) { // far more than the link holds; would hang if it waited
        show_frame(p, i % 3);
        hd_preview_text(p, "text");
    }
    assert_true(hd_preview_is_open(p));
    show_frame(p, 1);
    kill(child, SIGCONT);
    EVENTUALLY(count_in_newest(colour_of(1, 0, 0)) > 0);
    kill(child, SIGSTOP);
    hd_preview_close(p);
    assert_false(is_alive(child));
}

static void test_a_killed_window_is_a_closed_one(void **state) {
    (void)state;
    hd_preview *p = open_preview();
    kill(child_of(getpid()), SIGKILL);
    EVENTUALLY(!hd_preview_is_open(p));
    show_frame(p, 0);
    hd_preview_text(p, "nobody reads this");
    hd_preview_event event;
    assert_true(hd_preview_poll(p, &event));
    assert_int_equal(event.kind, HD_PREVIEW_CLOSED);
    assert_false(hd_preview_poll(p, &event));
    hd_preview_close(p);
}

static void test_the_window_outlives_signals_for_the_training(void **state) {
    (void)state;
    hd_preview *p = open_preview();
    const pid_t child = child_of(getpid());
    kill(child, SIGINT);
    kill(child, SIGTERM);
    kill(child, SIGHUP);
    show_frame(p, 2);
    EVENTUALLY(count_in_newest(colour_of(2, 1, 3)) > 0);
    assert_true(hd_preview_is_open(p) && is_alive(child));
    hd_preview_close(p);
    assert_false(is_alive(child));
}

static int orphan(void) {
    hd_preview *p;
    if (hd_preview_open("orphan", &p) != HD_OK)
        return 1;
    for (;;)
        pause();
}

static void test_the_window_ends_when_the_training_is_killed(void **state) {
    (void)state;
    pid_t parent;
    char *argv[] = {"test_preview", "orphan", NULL};
    assert_int_equal(posix_spawn(&parent, "/proc/self/exe", NULL, NULL, argv, environ), 0);
    bitmap b;
    EVENTUALLY(newest_frame(&b)); // the window stands
    free(b.bytes);
    const pid_t window = child_of(parent);
    assert_true(window > 0);
    kill(parent, SIGKILL);
    waitpid(parent, NULL, 0);
    EVENTUALLY(!is_alive(window));
}

static void test_the_window_inherits_its_two_descriptors_alone(void **state) {
    (void)state;
    const int file = open("inherited", O_CREAT | O_RDWR, 0600); // not close-on-exec, like io.open's
    hd_preview *p = open_preview();
    char path[64], target[300];
    snprintf(path, sizeof path, "/proc/%d/fd", child_of(getpid()));
    DIR *dir = opendir(path);
    assert_non_null(dir);
    int seen = 0;
    for (struct dirent *entry; (entry = readdir(dir));) {
        const ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof target - 1);
        target[n > 0 ? n : 0] = 0;
        assert_null(strstr(target, "inherited"));
        seen += strstr(target, "socket:") != NULL || strstr(target, "memfd:hdlua-preview") != NULL;
    }
    closedir(dir);
    assert_true(seen >= 2);
    close(file);
    hd_preview_close(p);
}

// Refusals -----------------------------------------------------------------------

static void test_without_a_display_there_is_a_reason(void **state) {
    (void)state;
    unsetenv("SDL_VIDEODRIVER");
    unsetenv("DISPLAY");
    unsetenv("WAYLAND_DISPLAY");
    hd_preview *p = NULL;
    assert_int_equal(hd_preview_open("test", &p), HD_EIO);
    assert_null(p);
    assert_non_null(strstr(hd_message(), "preview: no display"));
    assert_int_equal(child_of(getpid()), 0);
    setenv("SDL_VIDEODRIVER", "dummy", 1);
}

static void refuses(hd_preview *p, hd_view view, int count, const char *words) {
    hd_preview_column columns[HD_PREVIEW_COLUMNS + 1] = {{"level", view}};
    assert_int_not_equal(hd_preview_show(p, columns, count), HD_OK);
    assert_non_null(strstr(hd_message(), words));
}

static void test_wrong_pictures_are_refused(void **state) {
    (void)state;
    hd_preview *p = open_preview();
    static uint8_t bytes[64];
    refuses(p, (hd_view){bytes, HD_U8, 3, {2, 2, 2}, {4, 2, 1}}, 1, "'level': got 2 channels, expected 1");
    refuses(p, (hd_view){bytes, HD_U8, 2, {2, 2}, {2, 1}}, 1, "'level': got 2 dimensions, expected [c,h,w]");
    refuses(p, (hd_view){bytes, HD_F64, 3, {1, 2, 2}, {4, 2, 1}}, 1, "'level': got type f64, expected u8");
    refuses(p, (hd_view){bytes, HD_U8, 3, {1, 5000, 5000}, {0, 0, 0}}, 1, "got 25000000 pixels, expected at most");
    refuses(p, (hd_view){0}, HD_PREVIEW_COLUMNS + 1, "got 17, expected at most 16");
    hd_preview_close(p);
}

static void test_the_program_itself_never_loads_sdl(void **state) {
    (void)state;
    hd_preview *p = open_preview();
    char line[600];
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, maps))
        assert_null(strstr(line, "libSDL"));
    fclose(maps);
    hd_preview_close(p);
}

// Drawing ------------------------------------------------------------------------

static void test_drawing_stays_on_a_canvas_of_any_size(void **state) {
    (void)state;
    hd_preview_frame *frame = calloc(1, sizeof *frame);
    frame->columns = 3;
    const int counts[] = {0, 1, 5, 64}, sizes[] = {1, 2, 3, 17, 64, 239, 560, 901};
    const hd_preview_status status = {"step 1\nloss 2\n\xc3\xa9\x01\x7f\xff", "paused"};
    for (int i = 0; i < 4 * 8 * 8 * 2; i++) {
        const int n = counts[i & 3], w = sizes[i >> 2 & 7], h = sizes[i >> 5 & 7];
        const size_t area = (size_t)w * h;
        uint32_t *pixels = malloc((area + 2) * sizeof *pixels);
        pixels[0] = pixels[area + 1] = 0xdeadbeef;
        frame->grids[0] = (hd_preview_grid){"a name that is long, but ends", n, 7, 5, 0};
        frame->grids[1] = (hd_preview_grid){"wide", 1, 1000, 30, 0};
        frame->grids[2] = (hd_preview_grid){"tall", n, 1, 100, 0};
        const hd_canvas canvas = {pixels + 1, w, h};
        hd_draw_frame(&canvas, frame, i >> 8 ? 1 : 0, hd_draw_status_height(&canvas, &status));
        hd_draw_status(&canvas, &status);
        assert_true(pixels[0] == 0xdeadbeef && pixels[area + 1] == 0xdeadbeef);
        free(pixels);
    }
    free(frame);
}

static void test_large_pictures_shrink_to_their_mean(void **state) {
    (void)state;
    hd_preview_frame *frame = calloc(1, sizeof *frame);
    frame->columns = 1;
    frame->grids[0] = (hd_preview_grid){"checks", 1, 1000, 1000, 0};
    for (int i = 0; i < 1000 * 1000 * 3; i++) // a chess board of 0 and 200
        frame->pixels[i] = (uint8_t)((i / 3 % 1000 + i / 3000) % 2 * 200);
    enum { SIZE = 600 };
    uint32_t *pixels = calloc(SIZE * SIZE, sizeof *pixels);
    const hd_canvas canvas = {pixels, SIZE, SIZE};
    hd_draw_frame(&canvas, frame, 0, 20);
    int grey = 0;
    for (int i = 0; i < SIZE * SIZE; i++)
        grey += pixels[i] == 0x646464;
    assert_int_equal(grey, 500 * 500);
    free(pixels);
    free(frame);
}

#define PREVIEW_TEST(name) cmocka_unit_test_setup_teardown(name, enter_folder, leave_folder)

int main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], HD_PREVIEW_CHILD) == 0)
        return hd_preview_child_main(argc, argv);
    if (argc > 1 && strcmp(argv[1], "orphan") == 0)
        return orphan();
    const struct CMUnitTest tests[] = {
        PREVIEW_TEST(test_three_frames_show_their_pixels_enlarged),
        PREVIEW_TEST(test_no_frame_mixes_two),
        PREVIEW_TEST(test_text_changes_the_status_bar_alone),
        PREVIEW_TEST(test_a_stopped_window_holds_nothing_up),
        PREVIEW_TEST(test_a_killed_window_is_a_closed_one),
        PREVIEW_TEST(test_the_window_outlives_signals_for_the_training),
        PREVIEW_TEST(test_the_window_ends_when_the_training_is_killed),
        PREVIEW_TEST(test_the_window_inherits_its_two_descriptors_alone),
        PREVIEW_TEST(test_without_a_display_there_is_a_reason),
        PREVIEW_TEST(test_wrong_pictures_are_refused),
        PREVIEW_TEST(test_the_program_itself_never_loads_sdl),
        cmocka_unit_test(test_drawing_stays_on_a_canvas_of_any_size),
        cmocka_unit_test(test_large_pictures_shrink_to_their_mean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
