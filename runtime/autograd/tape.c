// autograd/tape.c: recording and sweeping.
// Layer: autograd. Calls: ops. Called by: bind.
// A node keeps what backward reads (aliases of tensors, with the version of their storage at the time) and its inputs'
// nodes or leaves. Nodes are numbered as they are made, so descending numbers are a reverse topological order.
#include "autograd/tape.h"
#include "autograd/anomaly.h"
#include "autograd/node.h"
#include "autograd/saved.h"
#include "autograd/segment.h"
#include "core/alloc.h"
#include "core/profile.h"
#include "ops/compose.h"
#include <stdlib.h>
#include <string.h>

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

void hd_node_drop_saved(hd_node *node) {
    for (int i = 0; i < node->nin; i++)
        hd_saved_drop(&node->in[i].saved);
    for (int i = 0; i < HD_MAX_SAVED; i++)
        hd_saved_drop(&node->extra[i]);
    hd_saved_drop(&node->saved_out);
    drop(&node->dout);
}

// A long graph is a long chain of nodes: released with a list of its own, not by recursion.
void hd_node_release(hd_node *node) {
    hd_node *pending = NULL; // linked through in[0].node of nodes whose turn has come; `number` no longer matters
    for (;;) {
        if (node && --node->refs == 0) {
            hd_node_drop_saved(node);
            hd_segment_leave(node);
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
    node->layer = hd_profile_current_layer();
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

// What a checkpoint computes again is read at once.
static bool needs_exact(const hd_node *node) { return (node->op->saves & HD_SAVE_EXACT) || hd_segment_runs_again(); }

hd_status hd_node_save_inputs(hd_node *node, const hd_op_call *call, int saves) {
    for (int i = 0; i < call->nin; i++)
        if (i < HD_SAVE_INPUTS && call->in[i] && (saves >> i & 1))
            HD_CHECK(hd_saved_new(call->in[i], needs_exact(node), &node->in[i].saved));
    return HD_OK;
}

// What backward reads: `saves` of the op's inputs and of its result.
static hd_status save_for_backward(hd_node *node, const hd_op_call *call, int saves, hd_tensor *out) {
    HD_CHECK(hd_node_save_inputs(node, call, saves));
    return saves & HD_SAVE_OUT ? hd_saved_new(out, needs_exact(node), &node->saved_out) : HD_OK;
}

static void drop_needless(hd_node *node, int saves) {
    for (int i = 0; i < node->nin && i < HD_SAVE_INPUTS; i++)
        if (!(saves >> i & 1))
            hd_saved_drop(&node->in[i].saved);
    if (!(saves & HD_SAVE_OUT))
        hd_saved_drop(&node->saved_out);
}

static hd_status check_inplace(const hd_op *op, const hd_tensor *x) {
    const char *mark = op->name[strlen(op->name) - 1] == '_' ? "" : "_";
    if (x->requires_grad && !x->node)
        return hd_fail(HD_EARG,
                       "%s%s: in-place change of a leaf that requires a gradient\n  hint: wrap it in hd.no_grad(...)",
                       op->name, mark);
    if (x->is_view)
        return hd_fail(HD_EARG,
                       "%s%s: in-place change of a view inside a computation that needs gradients\n"
                       "  hint: use the form without underscore, or hd.no_grad(...)",
                       op->name, mark);
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
    if (node && call->inplace) // before the op: once it has changed its operand, nothing may fail
        HD_CHECK(save_for_backward(node, call, HD_SAVE_ALL | HD_SAVE_OUT, call->in[0]));
    const int before = hd_profile_enter(op->name, HD_FORWARD, hd_profile_current_layer());
    const hd_status status = op->forward(call);
    hd_profile_leave(before);
    HD_CHECK(status);
    if (call->inplace) {
        call->out->storage->version++;
    } else {
        call->out->is_view = shares_storage(call);
        call->out->maker = op->name;
    }
    if (hd_anomaly_on)
        HD_CHECK(hd_anomaly_check_forward(op, call, was_finite));
    if (node && !call->inplace)
        HD_CHECK(save_for_backward(node, call, call->saves, call->out));
    if (node) {
        drop_needless(node, call->saves);
        node->saves = call->saves | (call->saved[0] ? HD_SAVE_EXTRA : 0);
        node->out_version = call->out->storage->version;
    }
    return HD_OK;
}

// Hang the node on its result; the op's extra results go to it.
static hd_status attach(hd_node *node, hd_op_call *call) {
    memcpy(node->extra, call->saved, sizeof node->extra);
    memset(call->saved, 0, sizeof call->saved);
    for (int i = 0; i < HD_MAX_SAVED; i++)
        if (node->extra[i])
            hd_tensor_save(node->extra[i]);
    HD_CHECK(hd_segment_record(node));
    if (node_count++ == 0)
        hd_tensor_on_release_node(hd_node_release);
    node->number = node_count;
    if (call->out->node)
        hd_node_release(call->out->node);
    call->out->node = node;
    return HD_OK;
}

hd_status hd_ad_apply(const hd_op *op, int nin, hd_tensor **in, const hd_op_args *args, bool inplace, hd_tensor **out) {
    bool want_few[8], *want = nin <= 8 ? want_few : hd_alloc((size_t)nin);
    bool any = false;
    hd_node *node = NULL;
    hd_status status = HD_OK;
    *out = NULL;
    if (!want)
        return hd_fail(HD_ENOMEM, "%s: out of memory", op->name);
    for (int i = 0; i < nin; i++) {
        want[i] = grad_enabled && op->backward && in[i] && hd_tensor_needs_grad(in[i]);
        any = any || want[i];
    }
    hd_op_call call = {.name = op->name,
                       .nin = nin,
                       .in = in,
                       .args = args,
                       .want = want,
                       .aux = op->aux,
                       .saves = op->saves,
                       .inplace = inplace};
    if (inplace && any)
        status = check_inplace(op, in[0]);
    if (any && status == HD_OK) {
        node = node_new(op, nin, args);
        status = node ? hd_segment_reserve() : hd_fail(HD_ENOMEM, "%s: out of memory", op->name);
        for (int i = 0; node && i < nin; i++)
            remember_input(node, i, in[i], want[i]);
    }
    if (node && status == HD_OK)
        status = hd_segment_stop_early(node, &call);
    if (status == HD_OK)
        status = run(op, &call, node);
    if (node && status == HD_OK)
        status = attach(node, &call);
    if (node && status != HD_OK)
        hd_node_release(node);
    for (int i = 0; i < HD_MAX_SAVED; i++)
        hd_tensor_release(call.saved[i]);
    if (status != HD_OK)
        drop(&call.out);
    if (status == HD_ENOMEM)
        hd_fail(HD_ENOMEM, "%s: out of memory", op->name);
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
    return ok ? HD_OK : hd_fail(HD_ENOMEM, "backward: out of memory");
}

static int later_first(const void *a, const void *b) {
    const uint64_t na = (*(hd_node *const *)a)->number, nb = (*(hd_node *const *)b)->number;
    return na < nb ? 1 : na > nb ? -1 : 0;
}

// *slot += g. Takes g's reference; on failure nothing has changed.
static hd_status accumulate(hd_tensor **slot, hd_tensor *g) {
    hd_tensor *have = *slot, *sum;
    if (!have) {
        *slot = g;
        return HD_OK;
    }
    if (have->refs == 1 && have->storage->refs == 1 && hd_tensor_is_dense(have)) {
        HD_CHECK(hd_do_add_into(have, g));
    } else {
        HD_CHECK(hd_do_binary(HD_ADD, have, g, &sum));
        hd_tensor_release(have);
        *slot = sum;
    }
    hd_tensor_release(g);
    return HD_OK;
}

// The same for a leaf, whose gradient has memory of its own, in the leaf's memory order (optimizers then run flat), and
// stays one object.
static hd_status accumulate_leaf(hd_tensor *leaf, hd_tensor *g) {
    hd_tensor *own = NULL;
    if (leaf->grad) {
        HD_CHECK(hd_do_add_into(leaf->grad, g));
        leaf->grad->storage->version++;
        hd_tensor_release(g);
        return HD_OK;
    }
    const bool alone = g->refs == 1 && g->storage->refs == 1;
    if (alone && memcmp(g->strides, leaf->strides, (size_t)leaf->ndim * sizeof *g->strides) == 0) {
        leaf->grad = g;
        return HD_OK;
    }
    hd_status status = hd_tensor_new_like(leaf, leaf->dtype, &own);
    if (status == HD_OK)
        status = hd_do_copy(g, own);
    hd_tensor_release(status == HD_OK ? g : own);
    leaf->grad = status == HD_OK ? own : NULL;
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

// Hand one input's gradient on, converted to the input's type. Takes din's reference; on failure nothing has changed.
static hd_status deliver(node_input *in, hd_tensor *din) {
    hd_tensor *g = din;
    if (din->dtype != in->dtype)
        HD_CHECK(hd_do_cast(din, in->dtype, &g));
    const hd_status status = in->node ? accumulate(&in->node->dout, g) : accumulate_leaf(in->leaf, g);
    if (g != din)
        hd_tensor_release(status == HD_OK ? din : g);
    return status;
}

// Arrays that hd_op_call points to, of as many entries as the widest node has inputs; one block.
typedef struct {
    int64_t (*shapes)[HD_MAX_DIMS];
    hd_tensor **in, **din, **so_far;
    int *ndims;
    hd_dtype *dtypes;
    bool *want, *added;
} call_room;

static hd_status room_new(size_t widest, call_room *room) {
    char *block = hd_alloc(widest * (sizeof *room->shapes + 3 * sizeof *room->in + sizeof *room->ndims +
                                     sizeof *room->dtypes + 2 * sizeof *room->want));
    room->shapes = (void *)block;
    if (!block)
        return hd_fail(HD_ENOMEM, "backward: out of memory");
    room->in = (void *)(room->shapes + widest);
    room->din = room->in + widest;
    room->so_far = (void *)(room->din + widest);
    room->ndims = (void *)(room->so_far + widest);
    room->dtypes = (void *)(room->ndims + widest);
    room->want = (void *)(room->dtypes + widest);
    room->added = room->want + widest;
    return HD_OK;
}

// After a failure for want of memory: may the step be tried again?
static bool may_retry(hd_status status, const hd_sweep_help *help) {
    if (status != HD_ENOMEM || !help)
        return false;
    help->reclaim(help->context);
    return true;
}

// What was rounded is f32 again from here on.
static hd_status restore_saved(hd_node *node, hd_op_call *call) {
    for (int i = 0; i < node->nin; i++) {
        HD_CHECK(hd_saved_restore(&node->in[i].saved));
        call->in[i] = node->in[i].saved;
    }
    HD_CHECK(hd_saved_restore(&node->saved_out));
    call->out = node->saved_out;
    return HD_OK;
}

static hd_status run_rule(hd_node *node, hd_op_call *call) {
    HD_CHECK(restore_saved(node, call));
    return node->op->backward(call);
}

static hd_status run_rule_or_retry(hd_node *node, hd_op_call *call, const hd_sweep_help *help) {
    const hd_status status = run_rule(node, call);
    if (!may_retry(status, help))
        return status;
    for (int i = 0; i < node->nin; i++)
        drop(&call->din[i]);
    return run_rule(node, call);
}

// What input i has got already, for the rule to add to. Where an input appears twice, the first takes it.
static hd_tensor *gradient_so_far(const hd_node *node, int i) {
    for (int k = 0; k < i; k++)
        if (node->in[k].node == node->in[i].node)
            return NULL;
    return node->in[i].node ? node->in[i].node->dout : NULL;
}

// What a checkpoint did not keep: its function runs again, as in a forward pass.
static hd_status recompute(hd_node *node, const hd_sweep_help *help) {
    const int before = hd_profile_enter("recomputation", HD_OUTSIDE, 0);
    const hd_memory_kind kind = hd_tensor_set_new_kind(HD_TENSORS);
    const hd_status status = hd_segment_fill(node, help->run_again, help->context);
    hd_tensor_set_new_kind(kind);
    hd_profile_leave(before);
    return status;
}

// Run one node's backward rule and hand its results on.
static hd_status sweep_node(hd_node *node, const call_room *room, const hd_sweep_help *help) {
    if (node->lean)
        HD_CHECK(recompute(node, help));
    HD_CHECK(check_versions(node));
    for (int i = 0; i < node->nin; i++) {
        room->din[i] = NULL;
        room->so_far[i] = gradient_so_far(node, i);
        room->added[i] = false;
        room->want[i] = node->in[i].node || node->in[i].leaf;
        room->ndims[i] = node->in[i].ndim;
        room->dtypes[i] = node->in[i].dtype;
        memcpy(room->shapes[i], node->in[i].shape, sizeof room->shapes[i]);
    }
    hd_op_call call = {.name = node->op->name,
                       .nin = node->nin,
                       .in = room->in,
                       .args = &node->args,
                       .dout = node->dout,
                       .din = room->din,
                       .so_far = room->so_far,
                       .added = room->added,
                       .want = room->want,
                       .in_shape = (const int64_t(*)[HD_MAX_DIMS])room->shapes,
                       .in_ndim = room->ndims,
                       .in_dtype = room->dtypes,
                       .aux = node->op->aux,
                       .saves = node->op->saves};
    memcpy(call.saved, node->extra, sizeof call.saved);
    bool was_finite = true;
    if (hd_anomaly_on)
        HD_CHECK(hd_anomaly_is_finite(node->dout, &was_finite));
    int before = hd_profile_enter(node->op->name, HD_BACKWARD, node->layer);
    hd_status status = run_rule_or_retry(node, &call, help);
    hd_profile_leave(before);
    if (hd_anomaly_on && status == HD_OK)
        status = hd_anomaly_check_backward(node->op, &call, was_finite, node->place);
    hd_node_drop_saved(node); // before gradients are added up, so that dout handed on has one owner
    before = hd_profile_enter("adding gradients", HD_BACKWARD, node->layer);
    for (int i = 0; i < node->nin; i++) {
        hd_tensor *din = room->din[i];
        if (status == HD_OK && room->want[i]) {
            if (room->added[i])
                drop(&node->in[i].node->dout);
            status = deliver(&node->in[i], din);
            if (may_retry(status, help))
                status = deliver(&node->in[i], din);
            din = status == HD_OK ? NULL : din;
        }
        hd_tensor_release(din);
    }
    hd_profile_leave(before);
    if (status == HD_ENOMEM)
        hd_fail(HD_ENOMEM, "backward of %s: out of memory", node->op->name);
    return status;
}

static hd_status sweep(const node_list *list, const call_room *room, const hd_sweep_help *help) {
    hd_status status = HD_OK;
    for (size_t at = 0; at < list->count; at++) {
        hd_node *node = list->items[at];
        if (status == HD_OK && node->dout)
            status = sweep_node(node, room, help);
        hd_node_drop_saved(node);
        hd_segment_leave(node);
        node->spent = true;
    }
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

// What a sweep needs; nothing of the graph has changed when this fails.
typedef struct {
    hd_tensor *seed;
    node_list list;
    call_room room;
} preparation;

static void preparation_free(preparation *p) {
    hd_tensor_release(p->seed);
    hd_free(p->list.items);
    hd_free(p->room.shapes);
}

static hd_status prepare(hd_tensor *root, hd_tensor *dy, preparation *p) {
    size_t widest = 1;
    *p = (preparation){0};
    if (!dy) {
        HD_CHECK(hd_do_full_like(root, 1, &p->seed));
    } else if (hd_tensor_is_dense(dy) &&
               memcmp(dy->strides, root->strides, (size_t)root->ndim * sizeof *dy->strides) == 0) {
        HD_CHECK(hd_tensor_detach(dy, &p->seed)); // shared with the caller, so no rule writes into it
    } else {                                      // in the root's memory order, which its backward rule wants
        HD_CHECK(hd_tensor_new_like(root, root->dtype, &p->seed));
        HD_CHECK(hd_do_copy(dy, p->seed));
    }
    if (!root->node)
        return HD_OK;
    HD_CHECK(collect(root->node, &p->list));
    for (size_t at = 0; at < p->list.count; at++)
        if ((size_t)p->list.items[at]->nin > widest)
            widest = (size_t)p->list.items[at]->nin;
    return room_new(widest, &p->room);
}

static hd_status backward(hd_tensor *root, preparation *p, const hd_sweep_help *help) {
    hd_status status;
    node_list *list = &p->list;
    if (!root->node) {
        status = accumulate_leaf(root, p->seed);
        p->seed = status == HD_OK ? NULL : p->seed;
        return status;
    }
    qsort(list->items, list->count, sizeof *list->items, later_first);
    root->node->dout = p->seed;
    p->seed = NULL;
    // The nodes live on their tensors and on each other; hold them all while sweeping.
    for (size_t i = 0; i < list->count; i++)
        list->items[i]->refs++;
    status = sweep(list, &p->room, help);
    for (size_t i = 0; i < list->count; i++)
        hd_node_release(list->items[i]);
    return status;
}

hd_status hd_tape_backward(hd_tensor *root, hd_tensor *dy, const hd_sweep_help *help) {
    static bool sweeping;
    preparation p;
    if (sweeping) // a finalizer that `help` runs
        return hd_fail(HD_EARG, "backward: called while another backward runs\n  hint: not from a finalizer");
    if (hd_segment_is_open())
        return hd_fail(HD_EARG, "backward: called inside hd.checkpoint\n  hint: return the loss and call it outside");
    HD_CHECK(check_root(root, dy));
    sweeping = true;
    const int before = hd_profile_enter("graph of backward", HD_OUTSIDE, 0);
    const hd_memory_kind kind = hd_tensor_set_new_kind(HD_GRADIENTS);
    hd_status status = prepare(root, dy, &p);
    if (may_retry(status, help)) {
        preparation_free(&p);
        status = prepare(root, dy, &p);
    }
    if (status == HD_OK)
        status = backward(root, &p, help);
    preparation_free(&p);
    hd_tensor_set_new_kind(kind);
    hd_profile_leave(before);
    sweeping = false;
    return status;
}
