// autograd/segment.c: recomputation of what backward reads.
// Layer: autograd. Called by: tape.c, bind.
// A segment lists its nodes and the segments inside it in the order in which they were recorded, without owning them:
// they own it. It ends with the last of them.
#include "autograd/segment.h"
#include "autograd/node.h"
#include "autograd/saved.h"
#include "core/alloc.h"
#include <string.h>

typedef struct {
    hd_node *node; // one of the two; both NULL: it was swept, or let go
    hd_segment *inner;
} entry;

typedef struct {
    hd_tensor *alias; // of the tensor, without its history
    uint32_t version; // of its storage when the segment began
    bool wants;       // it needed a gradient
} input;

struct hd_segment {
    int refs;           // its nodes', the segments' inside it, and one while it is open
    hd_segment *outer;  // the one it is inside of; owned
    size_t slot;        // its place there
    hd_segment *around; // what was open when it was opened
    void *recipe;       // the caller's name of its function; NULL: inputs and function come when `outer` runs again
    bool again;         // open for the second time
    uint64_t sweep;     // the sweep that it runs for
    size_t at, end;     // while it runs again: the next entry, and the first one that no longer matters
    size_t count, capacity;
    entry *entries;
    int nin;
    input *in;
};

static hd_segment *open;
static void (*forget)(void *recipe);

void hd_segment_on_forget(void (*function)(void *recipe)) { forget = function; }

bool hd_segment_is_open(void) { return open != NULL; }
bool hd_segment_runs_again(void) { return open && open->again; }

void *hd_segment_recipe(const hd_segment *s) { return s->recipe; }

// Inputs ---------------------------------------------------------------------------

static void drop_inputs(hd_segment *s) {
    for (int i = 0; i < s->nin; i++)
        hd_saved_drop(&s->in[i].alias);
    hd_free(s->in);
    s->in = NULL;
    s->nin = 0;
}

static hd_status keep_inputs(hd_segment *s, int nin, hd_tensor **in) {
    hd_status status = HD_OK;
    s->in = hd_calloc((size_t)nin, sizeof *s->in);
    if (!s->in)
        return hd_fail(HD_ENOMEM, "checkpoint: out of memory");
    s->nin = nin;
    for (int i = 0; i < nin && status == HD_OK; i++) {
        if (!in[i])
            continue;
        s->in[i].version = in[i]->storage->version;
        s->in[i].wants = in[i]->requires_grad || in[i]->node;
        status = hd_saved_new(in[i], hd_segment_runs_again(), &s->in[i].alias);
    }
    if (status != HD_OK)
        drop_inputs(s);
    return status;
}

static bool inputs_changed(const hd_segment *s) {
    for (int i = 0; i < s->nin; i++)
        if (s->in[i].alias && s->in[i].alias->storage->version != s->in[i].version)
            return true;
    return false;
}

hd_status hd_segment_input(const hd_segment *s, int i, hd_tensor **out) {
    *out = NULL;
    if (!s->in[i].alias)
        return HD_OK;
    HD_CHECK(hd_saved_values(s->in[i].alias, out));
    (*out)->requires_grad = s->in[i].wants;
    return HD_OK;
}

// Letting go -----------------------------------------------------------------------

static void release(hd_segment *s) {
    while (s && --s->refs == 0) {
        hd_segment *outer = s->outer;
        if (outer)
            outer->entries[s->slot].inner = NULL;
        drop_inputs(s);
        hd_free(s->entries);
        if (s->recipe)
            forget(s->recipe);
        hd_free(s);
        s = outer;
    }
}

void hd_segment_leave(hd_node *node) {
    hd_segment *s = node->segment;
    if (!s)
        return;
    node->segment = NULL;
    s->entries[node->slot].node = NULL;
    release(s);
}

// The first run --------------------------------------------------------------------

hd_status hd_segment_reserve(void) {
    if (!open || open->again || open->count < open->capacity)
        return HD_OK;
    const size_t capacity = open->capacity ? 2 * open->capacity : 32;
    entry *entries = hd_alloc(capacity * sizeof *entries);
    if (!entries)
        return hd_fail(HD_ENOMEM, "checkpoint: out of memory");
    if (open->count)
        memcpy(entries, open->entries, open->count * sizeof *entries);
    hd_free(open->entries);
    open->entries = entries;
    open->capacity = capacity;
    return HD_OK;
}

static void add_node(hd_segment *s, hd_node *node) {
    node->slot = s->count;
    node->segment = s;
    node->lean = node->saves != 0;
    s->entries[s->count++] = (entry){.node = node};
    s->refs++;
    hd_node_drop_saved(node);
}

static void add_inner(hd_segment *s, hd_segment *inner) {
    inner->slot = s->count;
    inner->outer = s;
    s->entries[s->count++] = (entry){.inner = inner};
    s->refs++;
}

// The second run -------------------------------------------------------------------

static hd_status differs(const char *got, const char *expected) {
    return hd_fail(HD_EARG,
                   "checkpoint: the function did something else when backward ran it again: got %s, expected %s\n"
                   "  hint: it may depend on its arguments, parameters and the default random generator alone",
                   got, expected);
}

static hd_status enough(void) { return hd_fail(HD_ENOUGH, "checkpoint: backward needs no more of this run"); }

static bool is_wanted(const hd_segment *s, const entry *e) {
    if (e->inner)
        return !e->inner->recipe;
    return e->node && e->node->lean && e->node->visit == s->sweep;
}

// Hand what the second run's node saves to the first run's.
static hd_status take_saved(hd_node *to, hd_node *from) {
    for (int i = 0; i < to->nin; i++)
        if (from->in[i].saved && to->in[i].version != from->in[i].version)
            return hd_fail(HD_EARG,
                           "backward: a tensor that %s needs for its gradient was changed in place after "
                           "hd.checkpoint\n  hint: use the form without underscore",
                           to->op->name);
    for (int i = 0; i < to->nin; i++) {
        to->in[i].saved = from->in[i].saved;
        from->in[i].saved = NULL;
    }
    memcpy(to->extra, from->extra, sizeof to->extra);
    memset(from->extra, 0, sizeof from->extra);
    to->saved_out = from->saved_out;
    from->saved_out = NULL;
    to->out_version = from->out_version;
    to->lean = false;
    return HD_OK;
}

static bool same_inputs(const hd_node *a, const hd_node *b) {
    bool same = a->op == b->op && a->nin == b->nin;
    for (int i = 0; same && i < a->nin; i++)
        same = a->in[i].ndim == b->in[i].ndim &&
               (a->in[i].ndim < 0 ||
                memcmp(a->in[i].shape, b->in[i].shape, (size_t)a->in[i].ndim * sizeof *a->in[i].shape) == 0);
    return same;
}

static hd_status match(hd_segment *s, hd_node *node) {
    if (s->at >= s->end)
        return enough();
    const entry *e = &s->entries[s->at++];
    if (e->inner)
        return differs(node->op->name, "hd.checkpoint");
    if (e->node && !same_inputs(e->node, node))
        return differs(node->op->name, e->node->op == node->op ? "other shapes" : e->node->op->name);
    if (is_wanted(s, e))
        HD_CHECK(take_saved(e->node, node));
    return s->at == s->end ? enough() : HD_OK;
}

hd_status hd_segment_stop_early(hd_node *node, const hd_op_call *call) {
    hd_segment *s = open;
    if (!s || !s->again || s->at + 1 < s->end)
        return HD_OK;
    if (s->at >= s->end)
        return enough();
    const hd_node *first = s->entries[s->at].node;
    if (!first || first->op != node->op || (first->saves & (HD_SAVE_OUT | HD_SAVE_EXTRA)))
        return HD_OK;
    HD_CHECK(hd_node_save_inputs(node, call, first->saves));
    return match(s, node);
}

hd_status hd_segment_record(hd_node *node) {
    if (!open)
        return HD_OK;
    if (open->again)
        return match(open, node);
    add_node(open, node);
    return HD_OK;
}

// A segment inside one that runs again: the one of the first run gets the inputs.
static hd_status match_inner(hd_segment *s, int nin, hd_tensor **in, void *recipe, bool *taken) {
    if (s->at >= s->end)
        return enough();
    const entry *e = &s->entries[s->at];
    if (e->node)
        return differs("hd.checkpoint", e->node->op->name);
    if (e->inner && !e->inner->recipe) {
        HD_CHECK(keep_inputs(e->inner, nin, in));
        e->inner->recipe = recipe;
        *taken = true;
    }
    return ++s->at == s->end ? enough() : HD_OK;
}

// Opening and closing --------------------------------------------------------------

hd_status hd_segment_begin(int nin, hd_tensor **in, void *recipe, bool *taken, hd_segment **out) {
    hd_status status = HD_OK;
    *taken = false;
    *out = NULL;
    HD_CHECK(hd_segment_reserve());
    hd_segment *s = hd_calloc(1, sizeof *s); // before anything changes
    if (!s)
        return hd_fail(HD_ENOMEM, "checkpoint: out of memory");
    s->refs = 1;
    if (open && open->again) {
        status = match_inner(open, nin, in, recipe, taken);
    } else if (open) {
        add_inner(open, s);
    } else {
        status = keep_inputs(s, nin, in);
        s->recipe = status == HD_OK ? recipe : NULL;
        *taken = status == HD_OK;
    }
    if (status != HD_OK) {
        release(s);
        return status;
    }
    s->around = open;
    open = s;
    *out = s;
    return HD_OK;
}

hd_status hd_segment_end(hd_segment *s, bool ok) {
    const bool changed = ok && inputs_changed(s);
    open = s->around;
    release(s);
    return changed ? hd_fail(HD_EARG, "checkpoint: the function changed its argument in place\n"
                                      "  hint: use the form without underscore")
                   : HD_OK;
}

// How many entries the second run must reach.
static size_t entries_needed(const hd_segment *s) {
    size_t end = s->count;
    while (end > 0 && !is_wanted(s, &s->entries[end - 1]))
        end--;
    return end;
}

static hd_status run_again(hd_segment *s, uint64_t sweep, hd_segment_runner *run, void *context) {
    if (!s->recipe && s->outer)
        HD_CHECK(run_again(s->outer, sweep, run, context));
    if (!s->recipe || inputs_changed(s))
        return hd_fail(HD_EARG, "backward: an argument of hd.checkpoint was changed in place afterwards\n"
                                "  hint: use the form without underscore");
    s->sweep = sweep;
    s->at = 0;
    s->end = entries_needed(s);
    s->again = true;
    s->around = open;
    s->refs++;
    open = s;
    hd_status status = run(context, s);
    open = s->around;
    s->again = false;
    if (status == HD_OK && s->at < s->end)
        status = differs("fewer operations", "as many as before");
    release(s);
    return status;
}

hd_status hd_segment_fill(hd_node *node, hd_segment_runner *run, void *context) {
    return run_again(node->segment, node->visit, run, context);
}
