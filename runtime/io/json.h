// io/json.h: cJSON behind limits. The text is checked before cJSON sees it: UTF-8, nesting, length of strings, number
// of values; so depth and memory are bounded by the limits and by the text's own size.
#ifndef HD_JSON_H
#define HD_JSON_H

#include "core/status.h"
#include <cjson/cJSON.h>
#include <stddef.h>

typedef struct {
    int depth;     // nested objects and arrays, the outermost counts 1
    size_t string; // bytes between two quotes
    size_t values; // values, keys and containers together, roughly
} hd_json_limits;

extern const hd_json_limits hd_json_defaults; // for logs and settings

// The text must be one value with nothing but white space behind it. `where` begins the message. The caller calls
// cJSON_Delete(*out); on failure *out is NULL.
hd_status hd_json_parse(const char *where, const char *text, size_t length, const hd_json_limits *limits, cJSON **out);

#endif
