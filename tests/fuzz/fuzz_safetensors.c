// tests/fuzz/fuzz_safetensors.c: open a file and read every tensor that it names.
#include "fuzz.h"
#include "io/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    int fd;
    hd_safetensors *f;
    if (hd_safetensors_open(as_file(data, size, &fd), &f) == HD_OK)
        for (int i = 0; i < f->count; i++) {
            const hd_safetensors_entry *e = &f->entries[i];
            const hd_number_info *info = &hd_numbers[e->type];
            int64_t odd = 0;
            size_t count = (size_t)(e->end - e->begin) / info->size;
            void *values = hd_alloc(count * hd_dtype_size(info->dtype));
            if (!values)
                abort(); // the file cannot ask for more than a few times its size
            hd_safetensors_read(f, i, values, &odd);
            hd_free(values);
        }
    hd_safetensors_close(f);
    close(fd);
    expect_no_memory();
    return 0;
}
