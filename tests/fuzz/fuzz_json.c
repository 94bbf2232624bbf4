// tests/fuzz/fuzz_json.c: text that passes the limits must parse, print and parse again.
#include "fuzz.h"
#include "io/json.h"

static void one_input(const uint8_t *data, size_t size) {
    cJSON *tree, *again;
    if (hd_json_parse("input", (const char *)data, size, &hd_json_defaults, &tree) == HD_OK) {
        char *text = cJSON_PrintUnformatted(tree);
        if (!text || hd_json_parse("printed", text, strlen(text), &hd_json_defaults, &again) != HD_OK)
            complain("does not parse again as it was printed");
        cJSON_Delete(again);
        cJSON_free(text);
    }
    cJSON_Delete(tree);
}
