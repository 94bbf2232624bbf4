// io/json.c: bounds and depth checks around cJSON.
// Layer: io. Called by: safetensors.c, bind_io.c. Threads: any.
#include "io/json.h"
#include "core/alloc.h"
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

// cJSON says no more than "no" when memory runs out.
static _Thread_local bool out_of_memory;

static void *json_malloc(size_t bytes) {
    void *memory = hd_malloc(bytes);
    out_of_memory = out_of_memory || !memory;
    return memory;
}

__attribute__((constructor)) static void use_json_malloc(void) {
    cJSON_InitHooks(&(cJSON_Hooks){.malloc_fn = json_malloc, .free_fn = free});
}

const hd_json_limits hd_json_defaults = {.depth = 64, .string = (size_t)16 << 20, .values = 1 << 22};

// Length of the well-formed UTF-8 sequence at p (Unicode 15, table 3-7), 0 when there is none.
static size_t utf8_length(const unsigned char *p, size_t left) {
    if (p[0] < 0x80)
        return 1;
    size_t n = p[0] >= 0xF0 ? 4 : p[0] >= 0xE0 ? 3 : 2;
    if (p[0] < 0xC2 || p[0] > 0xF4 || left < n)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((p[i] & 0xC0) != 0x80)
            return 0;
    if ((p[0] == 0xE0 && p[1] < 0xA0) || (p[0] == 0xED && p[1] > 0x9F)) // overlong, surrogates
        return 0;
    if ((p[0] == 0xF0 && p[1] < 0x90) || (p[0] == 0xF4 && p[1] > 0x8F)) // overlong, past U+10FFFF
        return 0;
    return n;
}

typedef struct {
    const char *where;
    const unsigned char *p, *start, *end;
    const hd_json_limits *limits;
} scanner;

static hd_status bad(const scanner *s, const char *what) {
    return hd_fail(HD_EFORMAT, "%s: bad JSON at byte %zu: %s", s->where, (size_t)(s->p - s->start), what);
}

// s->p stands behind the opening quote; leaves it on the closing one.
static hd_status scan_string(scanner *s) {
    const unsigned char *begin = s->p;
    while (s->p < s->end && *s->p != '"') {
        size_t n = utf8_length(s->p, (size_t)(s->end - s->p));
        if (n == 0)
            return bad(s, "not UTF-8");
        if (*s->p < 0x20)
            return bad(s, "control character in a string");
        if (*s->p == '\\') {
            if (s->end - s->p >= 6 && memcmp(s->p, "\\u0000", 6) == 0) // would cut the C string
                return bad(s, "zero character in a string");
            n = 2;
        }
        if ((size_t)(s->end - s->p) < n)
            break;
        s->p += n;
        if ((size_t)(s->p - begin) > s->limits->string)
            return bad(s, "string too long");
    }
    return s->p < s->end && *s->p == '"' ? HD_OK : bad(s, "string without end");
}

static hd_status scan(scanner *s) {
    int depth = 0;
    size_t values = 1;
    for (; s->p < s->end; s->p++) {
        unsigned char c = *s->p;
        if (c >= 0x80 || c == 0)
            return bad(s, "not a JSON character");
        if (c == '{' || c == '[')
            depth++;
        else if (c == '}' || c == ']')
            depth--;
        if (c == '{' || c == '[' || c == ',' || c == ':')
            values++;
        if (depth > s->limits->depth)
            return bad(s, "nested too deeply");
        if (values > s->limits->values)
            return bad(s, "too many values");
        if (c == '"') {
            s->p++;
            HD_CHECK(scan_string(s));
        }
    }
    return HD_OK;
}

static bool only_space(const char *p, const char *end) {
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r'))
        p++;
    return p == end;
}

hd_status hd_json_parse(const char *where, const char *text, size_t length, const hd_json_limits *limits, cJSON **out) {
    *out = NULL;
    const unsigned char *p = (const unsigned char *)text;
    scanner s = {.where = where, .p = p, .start = p, .end = p + length, .limits = limits};
    HD_CHECK(scan(&s));
    const char *end = NULL;
    out_of_memory = false;
    cJSON *tree = cJSON_ParseWithLengthOpts(text, length, &end, false);
    if (!tree && out_of_memory)
        return hd_fail(HD_ENOMEM, "%s: no memory for a JSON value", where);
    if (!tree || !only_space(end, text + length)) {
        cJSON_Delete(tree);
        s.p = end ? (const unsigned char *)end : p;
        return bad(&s, tree ? "text behind the value" : "not a value");
    }
    *out = tree;
    return HD_OK;
}
