// io/safetensors.c: read and write safetensors files.
// Layer: io. Called by: bind_io.c. Threads: any, one per open file.
// The checks are numbered as in the comment of check_entry and check_header; each has its own message.
#include "io/safetensors.h"
#include "core/alloc.h"
#include "io/file.h"
#include "io/json.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#define HEADER_CAP ((size_t)100000000)
#define TENSOR_CAP 65536
#define PIECE ((size_t)1 << 18) // bytes moved at a time
#define CHECKSUM_KEY "hdlua.checksum"

// Depth: root, tensor, shape. About 15 values describe one tensor.
static const hd_json_limits header_limits = {.depth = 4, .string = 1 << 20, .values = 16 * TENSOR_CAP};

// Header ---------------------------------------------------------------------

// A non-negative integer that a double holds exactly.
static bool whole(const cJSON *item, uint64_t *out) {
    if (!cJSON_IsNumber(item) || !(item->valuedouble >= 0 && item->valuedouble <= 0x1p53) ||
        item->valuedouble != floor(item->valuedouble))
        return false;
    *out = (uint64_t)item->valuedouble;
    return true;
}

static hd_status entry_type(const char *path, const cJSON *item, hd_safetensors_entry *e) {
    const cJSON *dtype = cJSON_GetObjectItemCaseSensitive(item, "dtype");
    if (!cJSON_IsString(dtype))
        return hd_fail(HD_EFORMAT, "'%s': tensor '%s' has no dtype", path, e->name);
    for (int t = 0; t < HD_NUM_COUNT; t++)
        if (strcmp(dtype->valuestring, hd_numbers[t].safetensors) == 0) {
            e->type = (hd_number)t;
            return HD_OK;
        }
    return hd_fail(HD_EFORMAT, "'%s': tensor '%s' has an unknown dtype: got '%.20s'", path, e->name,
                   dtype->valuestring);
}

static hd_status entry_shape(const char *path, const cJSON *item, hd_safetensors_entry *e) {
    const cJSON *shape = cJSON_GetObjectItemCaseSensitive(item, "shape"), *extent;
    if (!cJSON_IsArray(shape))
        return hd_fail(HD_EFORMAT, "'%s': tensor '%s' has no shape", path, e->name);
    cJSON_ArrayForEach(extent, shape) {
        uint64_t n;
        if (e->ndim == HD_MAX_DIMS)
            return hd_fail(HD_EFORMAT, "'%s': tensor '%s' has more than %d dimensions", path, e->name, HD_MAX_DIMS);
        if (!whole(extent, &n))
            return hd_fail(HD_EFORMAT, "'%s': tensor '%s' has an extent that is no whole number", path, e->name);
        e->shape[e->ndim++] = (int64_t)n;
    }
    return HD_OK;
}

// One tensor of the header: known dtype (7), rank (8), extents and their product (9), begin <= end (10), range =
// product x size (11).
static hd_status check_entry(const hd_safetensors *f, const cJSON *item, hd_safetensors_entry *e) {
    const char *path = f->path;
    if (!cJSON_IsObject(item) || cJSON_GetArraySize(item) != 3)
        return hd_fail(HD_EFORMAT, "'%s': tensor '%s' is not {dtype, shape, data_offsets}", path, e->name);
    HD_CHECK(entry_type(path, item, e));
    HD_CHECK(entry_shape(path, item, e));
    const cJSON *offsets = cJSON_GetObjectItemCaseSensitive(item, "data_offsets");
    if (!cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2 || !whole(offsets->child, &e->begin) ||
        !whole(offsets->child->next, &e->end))
        return hd_fail(HD_EFORMAT, "'%s': tensor '%s' has no data_offsets of two whole numbers", path, e->name);
    if (e->begin > e->end)
        return hd_fail(HD_EFORMAT, "'%s': tensor '%s' ends before it begins: got [%llu, %llu]", path, e->name,
                       (unsigned long long)e->begin, (unsigned long long)e->end);
    int64_t bytes;
    if (!hd_extent_bytes(e->ndim, e->shape, hd_numbers[e->type].size, &bytes))
        return hd_fail(HD_EFORMAT, "'%s': the shape of tensor '%s' overflows", path, e->name);
    if ((uint64_t)bytes != e->end - e->begin)
        return hd_fail(HD_EFORMAT, "'%s': the data of tensor '%s' do not fit its shape: got %llu bytes, expected %lld",
                       path, e->name, (unsigned long long)(e->end - e->begin), (long long)bytes);
    return HD_OK;
}

static hd_status read_texts(hd_safetensors *f, const cJSON *meta) {
    if (!cJSON_IsObject(meta))
        return hd_fail(HD_EFORMAT, "'%s': __metadata__ is not an object", f->path);
    f->texts = hd_calloc((size_t)cJSON_GetArraySize(meta) + 1, sizeof *f->texts);
    if (!f->texts)
        return hd_fail(HD_ENOMEM, "'%s': no memory for its metadata", f->path);
    const cJSON *item;
    cJSON_ArrayForEach(item, meta) {
        if (!cJSON_IsString(item))
            return hd_fail(HD_EFORMAT, "'%s': metadata value '%s' is not a string", f->path, item->string);
        f->texts[f->ntexts++] = (hd_safetensors_text){item->string, item->valuestring};
    }
    return HD_OK;
}

static hd_status truncated(const hd_safetensors *f, uint64_t got, uint64_t expected) {
    return hd_fail(HD_EFORMAT, "'%s' is truncated: got %llu bytes, expected at least %llu", f->path,
                   (unsigned long long)got, (unsigned long long)expected);
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const hd_safetensors_entry *)a)->name, ((const hd_safetensors_entry *)b)->name);
}

static int by_range(const void *a, const void *b) {
    const hd_safetensors_entry *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end)
        return x->end < y->end ? -1 : 1;
    return strcmp(x->name, y->name);
}

// Duplicate names (6); ranges within the file (10) that fill the data without hole or overlap (12). Leaves the entries
// by range.
static hd_status check_together(hd_safetensors *f) {
    size_t n = (size_t)f->count;
    qsort(f->entries, n, sizeof *f->entries, by_name);
    for (int i = 1; i < f->count; i++)
        if (strcmp(f->entries[i - 1].name, f->entries[i].name) == 0)
            return hd_fail(HD_EFORMAT, "'%s': two tensors are named '%s'", f->path, f->entries[i].name);
    qsort(f->entries, n, sizeof *f->entries, by_range);
    uint64_t at = 0;
    for (int i = 0; i < f->count; i++)
        at = f->entries[i].end > at ? f->entries[i].end : at;
    if (at > f->data_size)
        return truncated(f, f->data_start + f->data_size, f->data_start + at);
    at = 0;
    for (int i = 0; i < f->count; i++) {
        const hd_safetensors_entry *e = &f->entries[i];
        if (e->begin != at)
            return hd_fail(HD_EFORMAT, "'%s': the data have %s before tensor '%s': it begins at %llu, expected %llu",
                           f->path, e->begin < at ? "an overlap" : "a hole", e->name, (unsigned long long)e->begin,
                           (unsigned long long)at);
        at = e->end;
    }
    if (at != f->data_size)
        return hd_fail(HD_EFORMAT, "'%s': the file is too long: tensors need %llu bytes of data, got %llu", f->path,
                       (unsigned long long)at, (unsigned long long)f->data_size);
    return HD_OK;
}

// Names, number of tensors (5), metadata of strings only (13), every entry, and the entries together.
static hd_status check_header(hd_safetensors *f) {
    int n = cJSON_GetArraySize(f->tree);
    if (n > TENSOR_CAP + 1)
        return hd_fail(HD_EFORMAT, "'%s': too many tensors: got %d, expected at most %d", f->path, n, TENSOR_CAP);
    f->entries = hd_calloc((size_t)n + 1, sizeof *f->entries);
    if (!f->entries)
        return hd_fail(HD_ENOMEM, "'%s': no memory for its header", f->path);
    const cJSON *item;
    cJSON_ArrayForEach(item, f->tree) {
        if (strcmp(item->string, "__metadata__") == 0) {
            if (f->texts)
                return hd_fail(HD_EFORMAT, "'%s': two entries are named '__metadata__'", f->path);
            HD_CHECK(read_texts(f, item));
            continue;
        }
        hd_safetensors_entry *e = &f->entries[f->count++];
        e->name = item->string;
        HD_CHECK(check_entry(f, item, e));
    }
    return check_together(f);
}

// Checksum -------------------------------------------------------------------
// CRC-32 and Adler-32 (zlib) of every byte of the file, its own digits read as zeros, as 16 hexadecimal digits.

enum { DIGITS = 16 };

static void sum_start(hd_safetensors_sum *s) { *s = (hd_safetensors_sum){crc32(0, NULL, 0), adler32(0, NULL, 0)}; }

static void sum_add(hd_safetensors_sum *s, const void *data, size_t n) {
    s->crc = crc32(s->crc, data, (uInt)n);
    s->adler = adler32(s->adler, data, (uInt)n);
}

static void sum_text(const hd_safetensors_sum *s, char text[DIGITS + 1]) {
    snprintf(text, DIGITS + 1, "%08lx%08lx", s->crc & 0xFFFFFFFF, s->adler & 0xFFFFFFFF);
}

// The checksum's digits in the text of a header, NULL where there are none. We write them as the last of the metadata;
// a quote inside a string has a backslash, so nothing behind them looks like this.
static char *find_digits(char *header) {
    static const char key[] = "\"" CHECKSUM_KEY "\":\"";
    char *found = NULL;
    for (char *p = header; (p = strstr(p, key)); p++)
        found = p + strlen(key);
    return found && strnlen(found, DIGITS) == DIGITS ? found : NULL;
}

// Begin the sum with the length and the text of the header, whose digits are kept aside.
static void sum_header(hd_safetensors *f, const unsigned char head[8], char *text, size_t length) {
    char *digits = find_digits(text);
    if (digits) {
        memcpy(f->digits, digits, DIGITS);
        memset(digits, '0', DIGITS);
    }
    sum_start(&f->sum);
    sum_add(&f->sum, head, 8);
    sum_add(&f->sum, text, length);
}

static hd_status verify(hd_safetensors *f) {
    const char *expected = NULL;
    for (int i = 0; i < f->ntexts; i++)
        if (strcmp(f->texts[i].key, CHECKSUM_KEY) == 0)
            expected = f->texts[i].value;
    if (!expected)
        return HD_OK;
    unsigned char *piece = hd_alloc(PIECE);
    if (!piece)
        return hd_fail(HD_ENOMEM, "'%s': no memory to check it", f->path);
    hd_safetensors_sum sum = f->sum;
    hd_status status = HD_OK;
    for (uint64_t at = 0; at < f->data_size && status == HD_OK; at += PIECE) {
        size_t n = f->data_size - at < PIECE ? (size_t)(f->data_size - at) : PIECE;
        status = hd_file_pread(f->fd, f->path, piece, n, f->data_start + at);
        sum_add(&sum, piece, n);
    }
    hd_free(piece);
    char got[DIGITS + 1];
    sum_text(&sum, got);
    if (status == HD_OK && strcmp(got, f->digits) != 0)
        return hd_fail(HD_EFORMAT, "'%s' is damaged: its checksum is %s, expected %.16s", f->path, got, expected);
    return status;
}

// Reading --------------------------------------------------------------------

// The header's text, its nesting and strings (5), UTF-8 (4), first byte (3).
static hd_status parse_header(hd_safetensors *f, const unsigned char head[8], char *text, size_t length) {
    HD_CHECK(hd_file_pread(f->fd, f->path, text, length, 8));
    text[length] = 0;
    if (text[0] != '{')
        return hd_fail(HD_EFORMAT, "'%s' is no safetensors file: its header does not begin with '{'", f->path);
    HD_CHECK(hd_json_parse(f->path, text, length, &header_limits, &f->tree));
    sum_header(f, head, text, length);
    return HD_OK;
}

// File size (1), length of the header (2), and the header.
static hd_status read_header(hd_safetensors *f, size_t size) {
    unsigned char head[8];
    if (size < 8)
        return truncated(f, size, 8);
    HD_CHECK(hd_file_pread(f->fd, f->path, head, 8, 0));
    uint64_t length;
    memcpy(&length, head, 8);
    if (length > HEADER_CAP)
        return hd_fail(HD_EFORMAT, "'%s' is no safetensors file: its header claims %llu bytes, expected at most %zu",
                       f->path, (unsigned long long)length, HEADER_CAP);
    if (length > size - 8)
        return truncated(f, size, 8 + length);
    f->data_start = 8 + length;
    f->data_size = size - f->data_start;
    char *text = hd_alloc(length + 1);
    if (!text)
        return hd_fail(HD_ENOMEM, "'%s': no memory for its header of %llu bytes", f->path, (unsigned long long)length);
    const hd_status status = parse_header(f, head, text, length);
    hd_free(text);
    return status;
}

hd_status hd_safetensors_open(const char *path, hd_safetensors **out) {
    *out = NULL;
    hd_safetensors *f = hd_calloc(1, sizeof *f);
    if (!f || !(f->path = hd_strdup(path))) {
        hd_free(f);
        return hd_fail(HD_ENOMEM, "'%s': no memory to open it", path);
    }
    size_t size;
    hd_status status = hd_file_open(path, &f->fd, &size);
    if (status == HD_OK)
        status = read_header(f, size);
    if (status == HD_OK)
        status = check_header(f);
    if (status == HD_OK)
        status = verify(f);
    if (status != HD_OK) {
        hd_safetensors_close(f);
        return status;
    }
    *out = f;
    return HD_OK;
}

hd_status hd_safetensors_read(hd_safetensors *f, int i, void *dst, int64_t *odd) {
    const hd_safetensors_entry *e = &f->entries[i];
    const hd_number_info *info = &hd_numbers[e->type];
    unsigned char *piece = hd_alloc(PIECE);
    if (!piece)
        return hd_fail(HD_ENOMEM, "'%s': no memory to read it", f->path);
    hd_status status = HD_OK;
    for (uint64_t at = e->begin; at < e->end && status == HD_OK; at += PIECE) {
        size_t n = e->end - at < PIECE ? (size_t)(e->end - at) : PIECE;
        char *to = (char *)dst + (at - e->begin) / info->size * hd_dtype_size(info->dtype);
        status = hd_file_pread(f->fd, f->path, piece, n, f->data_start + at);
        if (status == HD_OK)
            status = hd_number_convert(e->type, false, piece, (int64_t)(n / info->size), to, odd);
    }
    hd_free(piece);
    return status;
}

void hd_safetensors_close(hd_safetensors *f) {
    if (!f)
        return;
    if (f->fd >= 0)
        close(f->fd);
    cJSON_Delete(f->tree);
    hd_free(f->texts);
    hd_free(f->entries);
    hd_free(f->path);
    hd_free(f);
}

// Writing --------------------------------------------------------------------

static int by_size_and_name(const void *a, const void *b) {
    const hd_safetensors_item *x = *(const hd_safetensors_item *const *)a, *y = *(const hd_safetensors_item *const *)b;
    size_t sx = hd_dtype_size(x->view.dtype), sy = hd_dtype_size(y->view.dtype);
    if (sx != sy)
        return sx > sy ? -1 : 1;
    return strcmp(x->name, y->name);
}

// Hand the data of all items, in order, to the writer (if there is one) or to the checksum.
static hd_status pass_data(const hd_safetensors_item **order, int count, hd_writer *w, hd_safetensors_sum *sum) {
    unsigned char *piece = hd_alloc(PIECE);
    if (!piece)
        return hd_fail(HD_ENOMEM, "save: no memory for a buffer of %zu bytes", PIECE);
    hd_status status = HD_OK;
    for (int i = 0; i < count; i++) {
        const hd_view *v = &order[i]->view;
        int64_t n = hd_view_numel(v), step = (int64_t)(PIECE / hd_dtype_size(v->dtype));
        for (int64_t at = 0; at < n && status == HD_OK; at += step) {
            int64_t count_now = n - at < step ? n - at : step;
            size_t bytes = (size_t)count_now * hd_dtype_size(v->dtype);
            hd_view_pack(v, at, count_now, piece);
            if (w)
                status = hd_writer_put(w, piece, bytes);
            else
                sum_add(sum, piece, bytes);
        }
    }
    hd_free(piece);
    return status;
}

static bool add_texts(cJSON *root, const hd_safetensors_text *texts, int ntexts) {
    cJSON *meta = cJSON_AddObjectToObject(root, "__metadata__");
    bool ok = meta != NULL;
    for (int i = 0; i < ntexts && ok; i++)
        if (strcmp(texts[i].key, CHECKSUM_KEY) != 0)
            ok = cJSON_AddStringToObject(meta, texts[i].key, texts[i].value) != NULL;
    return ok && cJSON_AddStringToObject(meta, CHECKSUM_KEY, "0000000000000000") != NULL;
}

static bool add_numbers(cJSON *object, const char *key, int n, const double *values) {
    cJSON *array = cJSON_AddArrayToObject(object, key);
    bool ok = array != NULL;
    for (int i = 0; i < n && ok; i++)
        ok = cJSON_AddItemToArray(array, cJSON_CreateNumber(values[i]));
    return ok;
}

static bool add_entry(cJSON *root, const hd_safetensors_item *item, double *at) {
    const hd_view *v = &item->view;
    double shape[HD_MAX_DIMS], end = *at + (double)hd_view_numel(v) * (double)hd_dtype_size(v->dtype);
    for (int d = 0; d < v->ndim; d++)
        shape[d] = (double)v->shape[d];
    cJSON *entry = cJSON_AddObjectToObject(root, item->name);
    bool ok = entry && cJSON_AddStringToObject(entry, "dtype", hd_numbers[hd_number_of(v->dtype)].safetensors) &&
              add_numbers(entry, "shape", v->ndim, shape) &&
              add_numbers(entry, "data_offsets", 2, (const double[]){*at, end});
    *at = end;
    return ok;
}

// The header's text, with zeros as checksum; free with cJSON_free. NULL: no memory.
static char *make_header(const hd_safetensors_item **order, int count, const hd_safetensors_text *texts, int ntexts) {
    cJSON *root = cJSON_CreateObject();
    double at = 0;
    bool ok = root && add_texts(root, texts, ntexts);
    for (int i = 0; i < count && ok; i++)
        ok = add_entry(root, order[i], &at);
    char *text = ok ? cJSON_PrintUnformatted(root) : NULL;
    cJSON_Delete(root);
    return text;
}

static hd_status check_items(const char *path, const hd_safetensors_item **order, int count) {
    if (count > TENSOR_CAP)
        return hd_fail(HD_EARG, "save '%s': too many tensors: got %d, expected at most %d", path, count, TENSOR_CAP);
    for (int i = 0; i < count; i++)
        if (strcmp(order[i]->name, "__metadata__") == 0)
            return hd_fail(HD_EARG, "save '%s': a tensor cannot be named '__metadata__'", path);
    return HD_OK;
}

// The file before its data: the length of the header and the header, padded with spaces to a multiple of 8.
static const char padding[8] = "       ";

static uint64_t padded(const char *header) { return (strlen(header) + 7) / 8 * 8; }

// Put the checksum of the file to come into its header.
static hd_status sign(char *header, const hd_safetensors_item **order, int count) {
    const uint64_t length = padded(header);
    hd_safetensors_sum sum;
    sum_start(&sum);
    sum_add(&sum, &length, 8);
    sum_add(&sum, header, strlen(header));
    sum_add(&sum, padding, length - strlen(header));
    HD_CHECK(pass_data(order, count, NULL, &sum));
    char digits[DIGITS + 1];
    sum_text(&sum, digits);
    memcpy(find_digits(header), digits, DIGITS);
    return HD_OK;
}

// Read back what was written: its header is as it should be, and so is the checksum of all of it.
static hd_status check_written(const char *path, hd_writer *w) {
    HD_CHECK(hd_writer_sync(w));
    hd_safetensors *f;
    const hd_status status = hd_safetensors_open(hd_writer_temp(w), &f);
    hd_safetensors_close(f);
    return status == HD_OK ? HD_OK : hd_fail(status, "cannot save '%s': reading it back: %s", path, hd_message());
}

static hd_status write_file(const char *path, const hd_safetensors_item **order, int count, const char *header,
                            bool keep_previous) {
    hd_writer *w;
    HD_CHECK(hd_writer_open(path, &w));
    const uint64_t length = padded(header);
    hd_status status = hd_writer_put(w, &length, 8);
    if (status == HD_OK)
        status = hd_writer_put(w, header, strlen(header));
    if (status == HD_OK)
        status = hd_writer_put(w, padding, length - strlen(header));
    if (status == HD_OK)
        status = pass_data(order, count, w, NULL);
    if (status == HD_OK)
        status = check_written(path, w);
    if (status == HD_OK)
        return hd_writer_commit(w, keep_previous);
    hd_writer_abort(w);
    return status;
}

hd_status hd_safetensors_write(const char *path, const hd_safetensors_item *items, int count,
                               const hd_safetensors_text *texts, int ntexts, bool keep_previous) {
    const hd_safetensors_item **order = hd_alloc(((size_t)count + 1) * sizeof *order);
    if (!order)
        return hd_fail(HD_ENOMEM, "save '%s': no memory for its header", path);
    for (int i = 0; i < count; i++)
        order[i] = &items[i];
    qsort(order, (size_t)count, sizeof *order, by_size_and_name);
    char *header = NULL;
    hd_status status = check_items(path, order, count);
    if (status == HD_OK && !(header = make_header(order, count, texts, ntexts)))
        status = hd_fail(HD_ENOMEM, "save '%s': no memory for its header", path);
    if (status == HD_OK)
        status = sign(header, order, count);
    if (status == HD_OK)
        status = write_file(path, order, count, header, keep_previous);
    cJSON_free(header);
    hd_free(order);
    return status;
}
