// autograd/tape.c: recording and sweeping.
// Layer: autograd. Calls: ops. Called by: bind.
// A node keeps what backward reads (aliases of tensors, with the version of their storage at the time) and its inputs'
// nodes or leaves. Nodes are numbered as they are made, so descending numbers are a reverse topological order.
#include "autograd/tape.h"
#include "autograd/anomaly.h"
#include "core/alloc.h"
#include "ops/compose.h"
#include <stdlib.h>
#include <string.h>

typedef struct {
    struct hd_node *node; // the op that made this input, or
    hd_tensor *leaf;      // the leaf that it is; both NULL: no gradient wanted
    hd_tensor *saved;     // alias of the input, where backward reads it
    uint32_t version;     // of the saved storage
    int ndim;             // -1: the input was absent
    hd_dtype dtype;
    int64_t shape[HD_MAX_DIMS];
} node_input;

typedef struct hd_node {
    int refs;
    const hd_op *op;
    hd_op_args args;
    uint64_t number;
    uint64_t visit; // the sweep that last reached this node
    bool spent;     // swept before: what it saved is gone
    char *place;    // where the user's program called the op, in anomaly mode
    hd_tensor *dout;
    hd_tensor *saved_out;
    uint32_t out_version;
    hd_tensor *extra[HD_MAX_SAVED];
    int nin;
    node_input in[];
} hd_node;

static bool grad_enabled = true;
static uint64_t node_count, sweep_count;

bool hd_grad_enabled(void) { return grad_enabled; }
bool hd_set_grad_enabled(bool on) {
    const bool before = grad_enabled;
    grad_enabled = on;
    return before;
}
bool hd_tensor_needs_grad(const hd_tensor *x) { return x->requires_grad || x->node; }

// Letting go -----------------------------------------------------------------------

static void drop(hd_tensor **x) {
    hd_tensor_release(*x);
    *x = NULL;
}

static void drop_saved(hd_node *node) {
    for (int i = 0; i < node->nin; i++)
        drop(&node->in[i].saved);
    for (int i = 0; i < HD_MAX_SAVED; i++)
        drop(&node->extra[i]);
    drop(&node->saved_out);
    drop(&node->dout);
}

// A long graph is a long chain of nodes: released with a list of its own, not by recursion.
void hd_node_release(hd_node *node) {
    hd_node *pending = NULL; // linked through in[0].node of nodes whose turn has come; `number` no longer matters
    for (;;) {
        if (node && --node->refs == 0) {
            drop_saved(node);
            for (int i = 0; i < node->nin; i++)
                drop(&node->in[i].leaf);
            node->dout = (hd_tensor *)(void *)pending; // reuse the member as the list's link
            pending = node;
            node->visit = 0; // next input to let go
        }
        node = NULL;
        while (pending && !node) {
            if ((int)pending->visit < pending->nin) {
                node = pending->in[pending->visit++].node;
                continue;
            }
            hd_node *done = pending;
            pending = (hd_node *)(void *)done->dout;
            hd_free(done->place);
            hd_free(done);
        }
        if (!node)
            return;
    }
}

// Recording ------------------------------------------------------------------------

static hd_node *node_new(const hd_op *op, int nin, const hd_op_args *args) {
    hd_node *node = hd_calloc(1, sizeof *node + (size_t)nin * sizeof *node->in);
    if (!node)
        return NULL;
    node->refs = 1;
    node->op = op;
    node->args = *args;
    node->nin = nin;
    if (hd_anomaly_on)
        node->place = hd_anomaly_copy_place();
    return node;
}

// Remember input i before the op runs: an in-place op changes it.
static void remember_input(hd_node *node, int i, hd_tensor *x, bool want) {
    node_input *in = &node->in[i];
    in->ndim = x ? x->ndim : -1;
    if (!x)
        return;
    in->dtype = x->dtype;
    in->version = x->storage->version;
    memcpy(in->shape, x->shape, sizeof in->shape);
    if (want && x->node) {
        in->node = x->node;
        x->node->refs++;
    } else if (want) {
        in->leaf = hd_tensor_retain(x);
    }
}

static hd_status save_for_backward(hd_node *node, const hd_op_call *call) {
    for (int i = 0; i < call->nin; i++)
        if (i < 30 && call->in[i] && (call->saves >> i & 1))
            HD_CHECK(hd_tensor_detach(call->in[i], &node->in[i].saved));
    if (call->saves & HD_SAVE_OUT) {
        HD_CHECK(hd_tensor_detach(call->out, &node->saved_out));
        node->out_version = call->out->storage->version;
    }
    return HD_OK;
}

static hd_status check_inplace(const hd_op *op, const hd_tensor *x) {
    if (x->requires_grad && !x->node)
        return hd_fail(HD_EARG,
                       "%s: in-place change of a leaf that requires a gradient\n  hint: wrap it in hd.no_grad(...)",
                       op->name);
    if (x->is_view)
        return hd_fail(HD_EARG,
                       "%s: in-place change of a view inside a computation that needs gradients\n"
                       "  hint: use the form without underscore, or hd.no_grad(...)",
                       op->name);
    return HD_OK;
}

static bool shares_storage(const hd_op_call *call) {
    for (int i = 0; i < call->nin; i++)
        if (call->in[i] && call->in[i]->storage == call->out->storage)
            return true;
    return false;
}

static hd_status run(const hd_op *op, hd_op_call *call, hd_node *node) {
    bool was_finite = true;
    if (hd_anomaly_on && call->inplace)
        HD_CHECK(hd_anomaly_is_finite(call->in[0], &was_finite));
    HD_CHECK(op->forward(call));
    if (call->inplace)
        call->out->storage->version++;
    else
        call->out->is_view = shares_storage(call);
    call->out->maker = op->name;
    if (hd_anomaly_on)
        HD_CHECK(hd_anomaly_check_forward(op, call, was_finite));
    return node ? save_for_backward(node, call) : HD_OK;
}

// Hang the node on its result; the op's extra results go to it.
static void attach(hd_node *node, hd_op_call *call) {
    memcpy(node->extra, call->saved, sizeof node->extra);
    memset(call->saved, 0, sizeof call->saved);
    if (node_count++ == 0)
        hd_tensor_on_release_node(hd_node_release);
    node->number = node_count;
    if (call->out->node)
        hd_node_release(call->out->node);
    call->out->node = node;
}

hd_status hd_ad_apply(const hd_op *op, int nin, hd_tensor **in, const hd_op_args *args, bool inplace, hd_tensor **out) {
    bool want_few[8], *want = nin <= 8 ? want_few : hd_alloc((size_t)nin);
    bool any = false;
    hd_node *node = NULL;
    hd_status status = HD_OK;
    *out = NULL;
    if (!want)
        return hd_fail(HD_ENOMEM, "%s: no memory for %d inputs", op->name, nin);
    for (int i = 0; i < nin; i++) {
        want[i] = grad_enabled && op->backward && in[i] && hd_tensor_needs_grad(in[i]);
        any = any || want[i];
    }
    hd_op_call call = {
        .nin = nin, .in = in, .args = args, .want = want, .aux = op->aux, .saves = op->saves, .inplace = inplace};
    if (inplace && any)
        status = check_inplace(op, in[0]);
    if (any && status == HD_OK) {
        node = node_new(op, nin, args);
        if (!node)
            status = hd_fail(HD_ENOMEM, "%s: no memory for the tape", op->name);
        for (int i = 0; node && i < nin; i++)
            remember_input(node, i, in[i], want[i]);
    }
    if (status == HD_OK)
        status = run(op, &call, node);
    if (status == HD_OK && node)
        attach(node, &call);
    else if (node)
        hd_node_release(node);
    for (int i = 0; i < HD_MAX_SAVED; i++)
        hd_tensor_release(call.saved[i]);
    if (status != HD_OK)
        drop(&call.out);
    if (want != want_few)
        hd_free(want);
    *out = call.out;
    return status;
}

// Sweeping -------------------------------------------------------------------------

typedef struct {
    hd_node **items;
    size_t count, capacity;
} node_list;

static bool push(node_list *list, hd_node *node) {
    if (list->count == list->capacity) {
        const size_t capacity = list->capacity ? 2 * list->capacity : 256;
        hd_node **items = hd_alloc(capacity * sizeof *items);
        if (!items)
            return false;
        if (list->count)
            memcpy(items, list->items, list->count * sizeof *items);
        hd_free(list->items);
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = node;
    return true;
}

// Every node below root, each once. The list itself is the work list.
static hd_status collect(hd_node *root, node_list *list) {
    const uint64_t sweep = ++sweep_count;
    root->visit = sweep;
    bool ok = push(list, root);
    for (size_t at = 0; ok && at < list->count; at++) {
        hd_node *node = list->items[at];
        if (node->spent)
            return hd_fail(HD_EARG,
                           "backward: the graph of %s has been swept before and what it saved is gone\n"
                           "  hint: run the forward computation again before a second backward",
                           node->op->name);
        for (int i = 0; ok && i < node->nin; i++) {
            hd_node *next = node->in[i].node;
            if (!next || next->visit == sweep)
                continue;
            next->visit = sweep;
            ok = push(list, next);
        }
    }
    return ok ? HD_OK : hd_fail(HD_ENOMEM, "backward: no memory for the list of operations");
}

static int later_first(const void *a, const void *b) {
    const uint64_t na = (*(hd_node *const *)a)->number, nb = (*(hd_node *const *)b)->number;
    return na < nb ? 1 : na > nb ? -1 : 0;
}

// *slot += g; takes g's reference, also on failure.
static hd_status accumulate(hd_tensor **slot, hd_tensor *g) {
    hd_tensor *sum = NULL;
    if (!*slot) {
        *slot = g;
        return HD_OK;
    }
    hd_tensor *have = *slot;
    hd_status status;
    if (have->refs == 1 && have->storage->refs == 1 && hd_tensor_is_dense(have)) {
        status = hd_do_add_into(have, g);
    } else {
        status = hd_do_binary(HD_ADD, have, g, &sum);
        if (status == HD_OK) {
            hd_tensor_release(have);
            *slot = sum;
        }
    }
    hd_tensor_release(g);
    return status;
}

// A leaf's gradient has memory of its own, in the leaf's memory order (optimizers then run flat), and stays one object.
static hd_status accumulate_leaf(hd_tensor *leaf, hd_tensor *g) {
    hd_status status = HD_OK;
    if (leaf->grad) {
        status = hd_do_add_into(leaf->grad, g);
        leaf->grad->storage->version++;
        hd_tensor_release(g);
        return status;
    }
    const bool own = g->refs == 1 && g->storage->refs == 1;
    if (own && memcmp(g->strides, leaf->strides, (size_t)leaf->ndim * sizeof *g->strides) == 0) {
        leaf->grad = g;
        return HD_OK;
    }
    status = hd_tensor_new_like(leaf, leaf->dtype, &leaf->grad);
    if (status == HD_OK)
        status = hd_do_copy(g, leaf->grad);
    hd_tensor_release(g);
    return status;
}

static hd_status check_versions(const hd_node *node) {
    bool changed = node->saved_out && node->saved_out->storage->version != node->out_version;
    for (int i = 0; i < node->nin; i++)
        changed = changed || (node->in[i].saved && node->in[i].saved->storage->version != node->in[i].version);
    if (changed)
        return hd_fail(HD_EARG,
                       "backward: a tensor that %s needs for its gradient was changed in place afterwards\n"
                       "  hint: use the form without underscore",
                       node->op->name);
    return HD_OK;
}

// Hand one input's gradient on, converted to the input's type; takes din's reference.
static hd_status deliver(node_input *in, hd_tensor *din) {
    hd_tensor *g;
    const hd_status status = hd_do_cast(din, in->dtype, &g);
    hd_tensor_release(din);
    HD_CHECK(status);
    return in->node ? accumulate(&in->node->dout, g) : accumulate_leaf(in->leaf, g);
}

// Run one node's backward rule. Scratch arrays of node->nin entries each.
static hd_status sweep_node(hd_node *node, hd_tensor **in, hd_tensor **din, bool *want, int64_t (*shapes)[HD_MAX_DIMS],
                            int *ndims, hd_dtype *dtypes) {
    HD_CHECK(check_versions(node));
    for (int i = 0; i < node->nin; i++) {
        in[i] = node->in[i].saved;
        din[i] = NULL;
        want[i] = node->in[i].node || node->in[i].leaf;
        ndims[i] = node->in[i].ndim;
        dtypes[i] = node->in[i].dtype;
        memcpy(shapes[i], node->in[i].shape, sizeof shapes[i]);
    }
    hd_op_call call = {.nin = node->nin,
                       .in = in,
                       .args = &node->args,
                       .out = node->saved_out,
                       .dout = node->dout,
                       .din = din,
                       .want = want,
                       .in_shape = (const int64_t(*)[HD_MAX_DIMS])shapes,
                       .in_ndim = ndims,
                       .in_dtype = dtypes,
                       .aux = node->op->aux,
                       .saves = node->op->saves};
    memcpy(call.saved, node->extra, sizeof call.saved);
    bool was_finite = true;
    if (hd_anomaly_on)
        HD_CHECK(hd_anomaly_is_finite(node->dout, &was_finite));
    hd_status status = node->op->backward(&call);
    if (hd_anomaly_on && status == HD_OK)
        status = hd_anomaly_check_backward(node->op, &call, was_finite, node->place);
    drop_saved(node); // before gradients are added up, so that dout handed on has one owner
    for (int i = 0; i < node->nin; i++) {
        if (status == HD_OK && want[i])
            status = deliver(&node->in[i], din[i]);
        else
            hd_tensor_release(din[i]);
    }
    return status;
}

static hd_status sweep(node_list *list) {
    size_t widest = 1;
    for (size_t at = 0; at < list->count; at++)
        if ((size_t)list->items[at]->nin > widest)
            widest = (size_t)list->items[at]->nin;
    hd_tensor **in = hd_alloc(widest * sizeof *in), **din = hd_alloc(widest * sizeof *din);
    bool *want = hd_alloc(widest * sizeof *want);
    int64_t(*shapes)[HD_MAX_DIMS] = hd_alloc(widest * sizeof *shapes);
    int *ndims = hd_alloc(widest * sizeof *ndims);
    hd_dtype *dtypes = hd_alloc(widest * sizeof *dtypes);
    hd_status status = HD_OK;
    if (!in || !din || !want || !shapes || !ndims || !dtypes)
        status = hd_fail(HD_ENOMEM, "backward: no memory for %zu inputs", widest);
    for (size_t at = 0; at < list->count; at++) {
        hd_node *node = list->items[at];
        if (status == HD_OK && node->dout)
            status = sweep_node(node, in, din, want, shapes, ndims, dtypes);
        drop_saved(node);
        node->spent = true;
    }
    hd_free(in), hd_free(din), hd_free(want), hd_free(shapes), hd_free(ndims), hd_free(dtypes);
    return status;
}

static hd_status check_root(const hd_tensor *root, const hd_tensor *dy) {
    if (!hd_tensor_needs_grad(root))
        return hd_fail(HD_EARG, "backward: nothing was recorded: no input of this computation requires a gradient\n"
                                "  hint: call x:requires_grad_() before, outside hd.no_grad");
    if (!dy && hd_tensor_numel(root) != 1)
        return hd_fail(HD_ESHAPE,
                       "backward: a gradient is needed for a result of more than one element: got %s\n"
                       "  hint: reduce it first, as in y:sum():backward()",
                       hd_tensor_text(root));
    if (dy && (!hd_same_shape(root, dy) || dy->dtype != root->dtype))
        return hd_fail(HD_ESHAPE, "backward: gradient does not fit: got %s %s, expected %s %s",
                       hd_dtype_name(dy->dtype), hd_tensor_text(dy), hd_dtype_name(root->dtype), hd_tensor_text(root));
    return HD_OK;
}

hd_status hd_tape_backward(hd_tensor *root, hd_tensor *dy) {
    hd_tensor *seed;
    node_list list = {0};
    HD_CHECK(check_root(root, dy));
    HD_CHECK(dy ? hd_do_clone(dy, HD_ROW_MAJOR, &seed) : hd_do_full_like(root, 1, &seed));
    if (!root->node)
        return accumulate_leaf(root, seed);
    hd_status status = collect(root->node, &list);
    if (status == HD_OK) {
        qsort(list.items, list.count, sizeof *list.items, later_first);
        status = accumulate(&root->node->dout, seed);
    } else {
        hd_tensor_release(seed);
    }
    // The nodes live on their tensors and on each other; hold them all while sweeping.
    for (size_t i = 0; status == HD_OK && i < list.count; i++)
        list.items[i]->refs++;
    if (status == HD_OK) {
        status = sweep(&list);
        for (size_t i = 0; i < list.count; i++)
            hd_node_release(list.items[i]);
    }
    hd_free(list.items);
    return status;
}
