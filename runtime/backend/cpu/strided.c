// backend/cpu/strided.c: element-wise loops over views of any strides, see strided.h.
// Layer: backend. Called by the other files of this folder.
// Threads: pieces of CPU_PIECE elements; a piece is one thread's.
#include "backend/cpu/strided.h"
#include <string.h>

void cpu_loop_start(cpu_loop *loop, const hd_view *v, int ndim, cpu_access access) {
    loop->ndim = ndim;
    loop->operands = 0;
    loop->numel = 1;
    for (int d = 0; d < ndim; d++) {
        loop->shape[d] = v->shape[d];
        loop->numel *= v->shape[d];
    }
    cpu_loop_add(loop, v, access);
}

void cpu_loop_add(cpu_loop *loop, const hd_view *v, cpu_access access) {
    const int k = loop->operands++;
    loop->data[k] = v->data;
    loop->size[k] = hd_dtype_size(v->dtype);
    loop->access[k] = access;
    for (int d = 0; d < loop->ndim; d++)
        loop->strides[k][d] = v->strides[d];
}

static void move_dim(cpu_loop *loop, int to, int from) {
    loop->shape[to] = loop->shape[from];
    for (int k = 0; k < loop->operands; k++)
        loop->strides[k][to] = loop->strides[k][from];
}

static void swap_dims(cpu_loop *loop, int a, int b) {
    const int64_t shape = loop->shape[a];
    int64_t strides[CPU_OPERANDS];
    for (int k = 0; k < loop->operands; k++)
        strides[k] = loop->strides[k][a];
    move_dim(loop, a, b);
    loop->shape[b] = shape;
    for (int k = 0; k < loop->operands; k++)
        loop->strides[k][b] = strides[k];
}

// Should dimension a lie outside b? The first operand in which both move decides.
static bool outside(const cpu_loop *loop, int a, int b) {
    for (int k = 0; k < loop->operands; k++) {
        const int64_t sa = loop->strides[k][a], sb = loop->strides[k][b];
        if (sa != sb && sa != 0 && sb != 0)
            return sa > sb;
    }
    return a < b;
}

// Walk dimensions in which the first operand runs backwards from their end.
static void unflip(cpu_loop *loop) {
    for (int d = 0; d < loop->ndim; d++) {
        if (loop->strides[0][d] >= 0)
            continue;
        for (int k = 0; k < loop->operands; k++) {
            loop->data[k] += (loop->shape[d] - 1) * loop->strides[k][d] * (int64_t)loop->size[k];
            loop->strides[k][d] = -loop->strides[k][d];
        }
    }
}

static void drop_single(cpu_loop *loop) {
    int kept = 0;
    for (int d = 0; d < loop->ndim; d++)
        if (loop->shape[d] != 1)
            move_dim(loop, kept++, d);
    loop->ndim = kept;
}

static bool mergeable(const cpu_loop *loop, int outer, int inner) {
    for (int k = 0; k < loop->operands; k++)
        if (loop->strides[k][outer] != loop->strides[k][inner] * loop->shape[inner])
            return false;
    return true;
}

static void merge(cpu_loop *loop) {
    int last = 0;
    for (int d = 1; d < loop->ndim; d++) {
        if (mergeable(loop, last, d)) {
            const int64_t shape = loop->shape[last] * loop->shape[d];
            move_dim(loop, last, d);
            loop->shape[last] = shape;
        } else {
            move_dim(loop, ++last, d);
        }
    }
    loop->ndim = last + 1;
}

static bool is_flat(const cpu_loop *loop, int k) {
    int64_t expected = 1;
    for (int d = loop->ndim - 1; d >= 0; d--) {
        if (loop->strides[k][d] != expected)
            return false;
        expected *= loop->shape[d];
    }
    return true;
}

void cpu_loop_collapse(cpu_loop *loop, bool logical) {
    if (loop->numel > 0)
        drop_single(loop);
    if (loop->ndim == 0) { // a single element
        loop->ndim = 1;
        loop->shape[0] = 1;
        for (int k = 0; k < loop->operands; k++)
            loop->strides[k][0] = 1;
    }
    if (!logical) {
        unflip(loop);
        for (int d = 1; d < loop->ndim; d++)
            for (int e = d; e > 0 && outside(loop, e, e - 1); e--)
                swap_dims(loop, e, e - 1);
    }
    merge(loop);
    for (int k = 0; k < loop->operands; k++)
        loop->flat[k] = is_flat(loop, k);
}

void cpu_loop_offsets(const cpu_loop *loop, int64_t i, int64_t offsets[]) {
    for (int k = 0; k < loop->operands; k++)
        offsets[k] = 0;
    for (int d = loop->ndim - 1; d >= 0; d--) {
        const int64_t at = d > 0 ? i % loop->shape[d] : i;
        for (int k = 0; k < loop->operands; k++)
            offsets[k] += at * loop->strides[k][d];
        i /= loop->shape[d];
    }
}

// Between n elements that lie `stride` apart (0: one element, again and again) and a dense run.
#define DEFINE_MOVES(type)                                                                                             \
    static void gather_##type(type *to, const type *from, int64_t stride, int64_t n) {                                 \
        if (stride == 1) {                                                                                             \
            memcpy(to, from, (size_t)n * sizeof *to);                                                                  \
        } else if (stride == 0) {                                                                                      \
            const type value = *from;                                                                                  \
            for (int64_t i = 0; i < n; i++)                                                                            \
                to[i] = value;                                                                                         \
        } else {                                                                                                       \
            for (int64_t i = 0; i < n; i++)                                                                            \
                to[i] = from[i * stride];                                                                              \
        }                                                                                                              \
    }                                                                                                                  \
    static void scatter_##type(type *to, const type *from, int64_t stride, int64_t n) {                                \
        for (int64_t i = 0; i < n; i++)                                                                                \
            to[i * stride] = from[i];                                                                                  \
    }
DEFINE_MOVES(uint8_t)
DEFINE_MOVES(uint32_t)
DEFINE_MOVES(uint64_t)

static void gather(void *to, const void *from, int64_t stride, int64_t n, size_t size) {
    if (size == 4)
        gather_uint32_t(to, from, stride, n);
    else if (size == 8)
        gather_uint64_t(to, from, stride, n);
    else
        gather_uint8_t(to, from, stride, n);
}

static void scatter(void *to, const void *from, int64_t stride, int64_t n, size_t size) {
    if (size == 4)
        scatter_uint32_t(to, from, stride, n);
    else if (size == 8)
        scatter_uint64_t(to, from, stride, n);
    else
        scatter_uint8_t(to, from, stride, n);
}

// Where a thread stands in a loop.
typedef struct {
    int64_t at[HD_MAX_DIMS];
    char *p[CPU_OPERANDS];
} cursor;

static void cursor_set(cursor *c, const cpu_loop *loop, int64_t i) {
    for (int k = 0; k < loop->operands; k++)
        c->p[k] = loop->data[k];
    for (int d = loop->ndim - 1; d >= 0; d--) {
        c->at[d] = d > 0 ? i % loop->shape[d] : i;
        i /= loop->shape[d];
        for (int k = 0; k < loop->operands; k++)
            c->p[k] += c->at[d] * loop->strides[k][d] * (int64_t)loop->size[k];
    }
}

// n elements on, n at most to the end of the innermost dimension.
static void cursor_advance(cursor *c, const cpu_loop *loop, int64_t n) {
    int d = loop->ndim - 1;
    c->at[d] += n;
    for (int k = 0; k < loop->operands; k++)
        c->p[k] += n * loop->strides[k][d] * (int64_t)loop->size[k];
    while (d > 0 && c->at[d] == loop->shape[d]) {
        c->at[d] = 0;
        c->at[d - 1]++;
        for (int k = 0; k < loop->operands; k++)
            c->p[k] += (loop->strides[k][d - 1] - loop->shape[d] * loop->strides[k][d]) * (int64_t)loop->size[k];
        d--;
    }
}

// n elements on, whatever n.
static void cursor_skip(cursor *c, const cpu_loop *loop, int64_t n) {
    int64_t i = 0;
    for (int d = 0; d < loop->ndim; d++)
        i = i * loop->shape[d] + c->at[d];
    cursor_set(c, loop, i + n);
}

typedef struct {
    _Alignas(64) char bytes[CPU_OPERANDS][CPU_STAGE * 8];
} stage;

// A part of one innermost row. Operands of stride 1 are handed out where they lie.
static void run_row(const cpu_loop *loop, cpu_kernel *kernel, const void *context, const cursor *c, int64_t first,
                    int64_t n, stage *s) {
    const int inner = loop->ndim - 1;
    void *p[CPU_OPERANDS];
    bool dense = true;
    for (int k = 0; k < loop->operands; k++) {
        p[k] = c->p[k];
        dense = dense && loop->strides[k][inner] == 1;
    }
    if (dense) {
        kernel(context, first, n, p);
        return;
    }
    for (int64_t i = 0; i < n; i += CPU_STAGE) {
        const int64_t m = n - i < CPU_STAGE ? n - i : CPU_STAGE;
        for (int k = 0; k < loop->operands; k++) {
            const int64_t stride = loop->strides[k][inner];
            char *from = c->p[k] + i * stride * (int64_t)loop->size[k];
            p[k] = stride == 1 ? from : s->bytes[k];
            if (stride != 1 && (loop->access[k] & CPU_READ) && (stride != 0 || i == 0))
                gather(p[k], from, stride, m, loop->size[k]);
        }
        kernel(context, first + i, m, p);
        for (int k = 0; k < loop->operands; k++) {
            const int64_t stride = loop->strides[k][inner];
            if (stride != 1 && (loop->access[k] & CPU_WRITE))
                scatter(c->p[k] + i * stride * (int64_t)loop->size[k], p[k], stride, m, loop->size[k]);
        }
    }
}

// Copy the next n elements of the operands in `which` (bit k: operand k) from or back to their rows; moves the cursor.
static void stage_rows(const cpu_loop *loop, unsigned which, cursor *c, int64_t n, stage *s, cpu_access direction) {
    const int inner = loop->ndim - 1;
    if (which == 0) {
        cursor_skip(c, loop, n);
        return;
    }
    for (int64_t i = 0; i < n;) {
        const int64_t left = loop->shape[inner] - c->at[inner], m = left < n - i ? left : n - i;
        for (int k = 0; k < loop->operands; k++) {
            if (!(which >> k & 1))
                continue;
            char *staged = s->bytes[k] + (size_t)i * loop->size[k];
            if (direction == CPU_READ)
                gather(staged, c->p[k], loop->strides[k][inner], m, loop->size[k]);
            else
                scatter(c->p[k], staged, loop->strides[k][inner], m, loop->size[k]);
        }
        cursor_advance(c, loop, m);
        i += m;
    }
}

// Operands (bit k: operand k) that have to be staged for reading or writing.
static unsigned staged(const cpu_loop *loop, cpu_access direction) {
    unsigned which = 0;
    for (int k = 0; k < loop->operands; k++)
        which |= !loop->flat[k] && (loop->access[k] & direction) ? 1u << k : 0;
    return which;
}

// Of those, the ones that are the same row again and again: staged once, they serve every later stage that begins with
// a whole row, because stages are whole rows.
static unsigned repeating(const cpu_loop *loop) {
    unsigned which = 0;
    for (int k = 0; k < loop->operands; k++) {
        bool still = loop->access[k] == CPU_READ;
        for (int d = 0; d < loop->ndim - 1; d++)
            still = still && loop->strides[k][d] == 0;
        which |= still ? 1u << k : 0;
    }
    return which;
}

// Elements [first, last), many short rows at once.
static void run_short_rows(const cpu_loop *loop, cpu_kernel *kernel, const void *context, cursor *c, int64_t first,
                           int64_t last, stage *s) {
    const int inner = loop->ndim - 1;
    const int64_t whole = CPU_STAGE - CPU_STAGE % loop->shape[inner];
    const unsigned reads = staged(loop, CPU_READ), writes = staged(loop, CPU_WRITE), repeats = repeating(loop);
    bool kept = false; // the stage holds the repeating operands
    while (first < last) {
        const int64_t to_row = (loop->shape[inner] - c->at[inner]) % loop->shape[inner];
        int64_t n = to_row > 0 ? to_row : whole;
        n = n < last - first ? n : last - first;
        void *p[CPU_OPERANDS];
        for (int k = 0; k < loop->operands; k++)
            p[k] = loop->flat[k] ? c->p[k] : s->bytes[k];
        cursor back = *c;
        stage_rows(loop, kept ? reads & ~repeats : reads, c, n, s, CPU_READ);
        kernel(context, first, n, p);
        stage_rows(loop, writes, &back, n, s, CPU_WRITE);
        kept = to_row == 0;
        first += n;
    }
}

void cpu_loop_run_range(const cpu_loop *loop, cpu_kernel *kernel, const void *context, int64_t first, int64_t last) {
    enum { SHORT_ROW = 32 };
    const int inner = loop->ndim - 1;
    stage s;
    cursor c;
    if (first >= last) // an empty loop has extents of 0, which cursor_set could not divide by
        return;
    cursor_set(&c, loop, first);
    if (inner > 0 && loop->shape[inner] < SHORT_ROW) {
        run_short_rows(loop, kernel, context, &c, first, last, &s);
        return;
    }
    while (first < last) {
        const int64_t left = loop->shape[inner] - c.at[inner], n = last - first < left ? last - first : left;
        run_row(loop, kernel, context, &c, first, n, &s);
        cursor_advance(&c, loop, n);
        first += n;
    }
}

void cpu_loop_run(const cpu_loop *loop, cpu_kernel *kernel, const void *context) {
    const int64_t pieces = (loop->numel + CPU_PIECE - 1) / CPU_PIECE;
    if (pieces <= 1) { // a region costs more than a small tensor
        cpu_loop_run_range(loop, kernel, context, 0, loop->numel);
        return;
    }
    CPU_PARALLEL_FOR(i, pieces) {
        const int64_t first = i * CPU_PIECE, last = first + CPU_PIECE;
        cpu_loop_run_range(loop, kernel, context, first, last < loop->numel ? last : loop->numel);
    }
}
