// tests/fuzz/fuzz_ops.c: the input as a program over eight tensors: any operation with any arguments, in place or not,
// gradients, views, releases. Each result is held against `ref` on the same inputs, and so is each gradient; both back
// ends must refuse the same calls. Numbers stay within +-100, tensors below 4096 elements: others are let go at once.
#define MAX_SECONDS 15 // 24 times the memory budget in single bytes, one by one through `ref` under the sanitizers
#include "fuzz.h"
#include "autograd/tape.h"
#include <float.h>
#include <math.h>

enum { REGISTERS = 8, MAX_INPUTS = 7, MAX_NUMEL = 4096, MAX_STEPS = 24 };

static struct {
    const uint8_t *at, *end;
    hd_tensor *r[REGISTERS];
} machine;

static int next(void) { return machine.at < machine.end ? *machine.at++ : 0; }
static int next_below(int n) { return next() % n; }

// Mostly near 0, rarely far away.
static int64_t next_int(void) {
    static const int64_t far[] = {INT64_MAX - 1, INT64_MIN + 1, INT64_C(1) << 32, 1 << 20, 4096, -4096, 255, 64};
    const int b = next();
    return b < 240 ? b % 12 - 4 : far[b % 8];
}

// Tensors ----------------------------------------------------------------------

static double value_at(const hd_tensor *x, int64_t i) {
    const hd_view v = hd_tensor_as_view(x);
    return hd_load(v.data, v.dtype, hd_view_offset(&v, i));
}

static hd_tensor *new_tensor(void) {
    static const int64_t extents[] = {1, 2, 3, 4, 5, 7, 8, 0};
    int64_t shape[HD_MAX_DIMS];
    const int head = next(), ndim = head % 5;
    const hd_dtype dtype = (hd_dtype[]){HD_F32, HD_F64, HD_F32, HD_F64, HD_I64, HD_I32, HD_U8, HD_BOOL}[head / 5 % 8];
    hd_tensor *x;
    for (int d = 0; d < ndim; d++)
        shape[d] = extents[next_below(8)];
    if (hd_tensor_new(dtype, ndim, shape, head & 128 ? HD_CHANNELS_LAST : HD_ROW_MAJOR, &x) != HD_OK)
        complain(hd_message());
    const int64_t n = hd_tensor_numel(x);
    uint32_t noise = (uint32_t)next();
    for (int64_t i = 0; i < n; i++) {
        noise = noise * 1664525 + 1013904223;
        hd_store(x->storage->data, dtype, i, hd_dtype_is_float(dtype) ? (noise >> 20) / 1024.0 - 2 : 1 + noise % 3);
    }
    return x;
}

static bool is_tame(const hd_tensor *x) {
    const int64_t n = hd_tensor_numel(x);
    if (n > MAX_NUMEL)
        return false;
    for (int64_t i = 0; i < n; i++)
        if (!(fabs(value_at(x, i)) <= 100))
            return false;
    return true;
}

static void set_register(int i, hd_tensor *x) {
    hd_tensor_release(machine.r[i]);
    machine.r[i] = x;
}

// Calls ------------------------------------------------------------------------

typedef struct {
    const hd_op *op;
    int nin;
    hd_tensor *in[MAX_INPUTS];
    hd_op_args args;
} call;

// The tensors of a signature (see op_list.def) are those whose type is given, or that have one of these names.
static bool is_tensor(const char *token, size_t length) {
    static const char names[] = " x y cond a b weight bias add more norm_weight norm_bias query key qkv xs ";
    char name[32];
    snprintf(name, sizeof name, " %.*s ", (int)strcspn(token, "?#*: |"), token);
    return memchr(token, ':', length) || strstr(names, name);
}

static void read_inputs(call *c) {
    for (const char *p = c->op->params; *p && *p != '|';) {
        const size_t length = strcspn(p, " ");
        const bool list = memchr(p, '*', length), absent = memchr(p, '?', length) || memchr(p, '#', length);
        for (int n = is_tensor(p, length) ? (list ? 1 + next_below(3) : 1) : 0; n > 0; n--) {
            const int b = next();
            c->in[c->nin++] = absent && b >= 192 ? NULL : machine.r[b % REGISTERS];
        }
        p += length;
        p += strspn(p, " ");
    }
}

static void read_args(hd_op_args *a) {
    *a = hd_op_args_default();
    const int given = next();
    a->nsizes = next_below(6);
    a->ndims = next_below(5);
    a->npads = next_below(9);
    for (int i = 0; i < a->nsizes; i++)
        a->sizes[i] = next_int();
    for (int i = 0; i < a->ndims; i++)
        a->dims[i] = next_int();
    for (int i = 0; i < a->npads; i++)
        a->pads[i] = next_int();
    a->value = next() / 32.0 - 4;
    a->keepdim = given & 1;
    a->unbiased = given & 2;
    a->align_corners = given & 4;
    a->mode = given >> 3 & 1;
    a->activation = given >> 4 & 1;
    a->dtype = next_below(HD_DTYPE_COUNT);
    int64_t *const ints[] = {&a->dim, &a->dim2, &a->index, &a->start, &a->length, &a->groups, &a->size[0], &a->size[1]};
    for (int i = 0; i < 8 && given & 32; i++)
        *ints[i] = next_int();
    int64_t *const pairs[] = {a->kernel, a->stride, a->padding, a->dilation, a->output_padding};
    for (int i = 0; i < 5 && given & 64; i++)
        pairs[i][0] = next_int(), pairs[i][1] = next_int();
    double *const numbers[] = {&a->alpha, &a->beta, &a->scale, &a->scale_factor[0], &a->scale_factor[1]};
    for (int i = 0; i < 5 && given & 128; i++)
        *numbers[i] = next() / 64.0 - 1;
}

static hd_status apply(const call *c, const char *backend, hd_tensor **in, bool inplace, hd_tensor **out) {
    if (hd_backend_select(backend) != HD_OK)
        abort();
    const hd_status status = hd_ad_apply(c->op, c->nin, in, &c->args, inplace, out);
    if ((status == HD_OK) != (*out != NULL))
        complain("has a result beside an error, or none");
    if (status != HD_OK && strlen(hd_message()) < 10)
        complain("is refused without a message");
    return status;
}

// Comparing ----------------------------------------------------------------------

// Rounding that a sum over all elements of products of the inputs may collect; a gradient of it has one factor more.
static double tolerance(const call *c, const hd_tensor *y) {
    double size = 1, numel = 1;
    bool f64 = y->dtype == HD_F64;
    for (int i = 0; i < c->nin; i++) {
        double largest = 1;
        const int64_t n = c->in[i] ? hd_tensor_numel(c->in[i]) : 0;
        for (int64_t k = 0; k < n; k++)
            largest = fmax(largest, fabs(value_at(c->in[i], k)));
        size *= largest;
        numel = fmax(numel, (double)n);
        f64 = f64 && (!c->in[i] || c->in[i]->dtype != HD_F32);
    }
    return (f64 ? DBL_EPSILON : FLT_EPSILON) * 1000 * size * numel;
}

static void compare(const call *c, const hd_tensor *y, const hd_tensor *want, const char *what) {
    if (y->dtype != want->dtype || !hd_same_shape(y, want))
        complain("gives other types or shapes than ref");
    const double most = tolerance(c, y), relative = y->dtype == HD_F64 ? 1e-9 : 1e-3;
    const int64_t n = hd_tensor_numel(y);
    for (int64_t i = 0; i < n && n <= MAX_NUMEL; i++) {
        const double a = value_at(y, i), b = value_at(want, i);
        if (a == b || (isnan(a) && isnan(b)) || fabs(a - b) <= most + relative * fabs(b))
            continue;
        fprintf(stderr, "%s, %s: element %lld is %.9g, ref says %.9g\n", c->op->name, what, (long long)i, a, b);
        for (int k = 0; k < c->nin; k++)
            fprintf(stderr, "  input %d: %s %s\n", k, c->in[k] ? hd_dtype_name(c->in[k]->dtype) : "number",
                    c->in[k] ? hd_tensor_text(c->in[k]) : "");
        complain("gives other numbers than ref");
    }
}

// Gradients of the op alone: leaves that show the inputs' memory.
static hd_status gradients(const call *c, const char *backend, hd_tensor **leaves) {
    hd_tensor *out = NULL;
    const bool before = hd_set_grad_enabled(true);
    hd_status status = HD_OK;
    for (int i = 0; i < c->nin; i++)
        if (c->in[i] && status == HD_OK && (status = hd_tensor_detach(c->in[i], &leaves[i])) == HD_OK)
            leaves[i]->requires_grad = hd_dtype_is_float(leaves[i]->dtype);
    if (status == HD_OK)
        status = apply(c, backend, leaves, false, &out);
    if (status == HD_OK && hd_tensor_needs_grad(out) && hd_tensor_numel(out) <= MAX_NUMEL)
        status = hd_tape_backward(out, out, NULL);
    hd_tensor_release(out);
    hd_set_grad_enabled(before);
    return status;
}

static void compare_gradients(const call *c) {
    hd_tensor *leaves[MAX_INPUTS] = {0}, *ref_leaves[MAX_INPUTS] = {0};
    const hd_status status = gradients(c, "cpu", leaves), expected = gradients(c, "ref", ref_leaves);
    if (status != expected && status != HD_ENOMEM && expected != HD_ENOMEM)
        complain("has a gradient on one back end alone");
    for (int i = 0; i < c->nin; i++) {
        if (status == HD_OK && expected == HD_OK && leaves[i] && leaves[i]->grad && ref_leaves[i]->grad)
            compare(c, leaves[i]->grad, ref_leaves[i]->grad, "gradient");
        hd_tensor_release(leaves[i]);
        hd_tensor_release(ref_leaves[i]);
    }
}

// A quotient that rounds to a whole number on one side alone is another whole number.
static bool rounds(const hd_op *op) { return strcmp(op->name, "mod") == 0 || strcmp(op->name, "floordiv") == 0; }

static void run_op(int target) {
    int count = 0;
    while (hd_op_list[count].name)
        count++;
    call c = {.op = &hd_op_list[next_below(count)]};
    const int how = next();
    const bool inplace = strchr(c.op->forms, '!') || (strchr(c.op->forms, 'I') && how < 64);
    read_inputs(&c);
    read_args(&c.args);
    hd_tensor *want = NULL, *out = NULL;
    const bool grad = hd_set_grad_enabled(false);
    const hd_status expected = strchr(c.op->forms, '!') ? HD_OK : apply(&c, "ref", c.in, false, &want);
    hd_set_grad_enabled(grad);
    if (expected == HD_OK && !rounds(c.op) && want && how & 1)
        compare_gradients(&c);
    const hd_status status = apply(&c, "cpu", c.in, inplace, &out);
    if (status != expected && !inplace && status != HD_ENOMEM && expected != HD_ENOMEM)
        complain("is refused by one back end alone");
    if (status == HD_OK && want && !rounds(c.op) && !inplace)
        compare(&c, out, want, "result");
    hd_tensor_release(want);
    if (out && is_tame(out))
        set_register(target, out);
    else
        hd_tensor_release(out);
    for (int i = 0; i < REGISTERS; i++) // in-place changes are seen through views
        if (inplace && !is_tame(machine.r[i]))
            set_register(i, new_tensor());
}

// Other steps --------------------------------------------------------------------

static void step(void) {
    const int what = next(), i = next_below(REGISTERS);
    hd_tensor *x = machine.r[i], *alias;
    if (what < 160) {
        run_op(i);
    } else if (what < 180) {
        set_register(i, new_tensor());
    } else if (what < 200) {
        if (hd_dtype_is_float(x->dtype) && !x->node)
            x->requires_grad = true;
    } else if (what < 230) {
        if (hd_tape_backward(x, hd_tensor_numel(x) == 1 ? NULL : x, NULL) != HD_OK && strlen(hd_message()) < 10)
            complain("is refused without a message");
    } else if (what < 240) {
        hd_set_grad_enabled(what & 1);
    } else if (hd_tensor_detach(x, &alias) == HD_OK) {
        set_register(i, alias);
    }
    for (int k = 0; k < REGISTERS; k++)
        if (machine.r[k]->grad && !hd_same_shape(machine.r[k], machine.r[k]->grad))
            complain("gives a gradient of another shape");
}

static void one_input(const uint8_t *data, size_t size) {
    machine.at = data;
    machine.end = data + size;
    hd_alloc_set_budget((size_t)8 << 20);
    for (int i = 0; i < REGISTERS; i++)
        machine.r[i] = new_tensor();
    for (int i = 0; i < MAX_STEPS && machine.at < machine.end; i++)
        step();
    for (int i = 0; i < REGISTERS; i++)
        set_register(i, NULL);
    hd_set_grad_enabled(true);
}
