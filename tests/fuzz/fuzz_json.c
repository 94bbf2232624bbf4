// tests/fuzz/fuzz_json.c: text that passes the limits must parse, print and parse again.
#include "fuzz.h"
#include "io/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cJSON *tree, *again;
    if (hd_json_parse("input", (const char *)data, size, &hd_json_defaults, &tree) == HD_OK) {
        char *text = cJSON_PrintUnformatted(tree);
        if (!text || hd_json_parse("printed", text, strlen(text), &hd_json_defaults, &again) != HD_OK)
            abort();
        cJSON_Delete(again);
        cJSON_free(text);
    }
    cJSON_Delete(tree);
    return 0;
}
