// tests/fuzz/fuzz_options.c: the command line. Words are divided by zero bytes or new lines.
#include "fuzz.h"
#include "app/app.h"
#include <fcntl.h>

enum { WORDS = 64 };

static void one_input(const uint8_t *data, size_t size) {
    char *text = malloc(size + 1), *words[WORDS + 2] = {"hdlua"};
    int n = 1;
    hd_options options;
    memcpy(text, data, size);
    text[size] = 0;
    for (char *p = text, *end = text + size; p <= end && n <= WORDS; p += strlen(p) + 1) {
        words[n++] = p;
        p[strcspn(p, "\n")] = 0;
    }
    if (hd_options_parse(&options, n, words) && (options.script >= n || options.threads < 0 || options.threads > 256))
        complain("gives options out of range");
    free(options.actions);
    free(text);
}
