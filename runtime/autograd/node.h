// autograd/node.h: a recorded op, as tape.c and segment.c know it; nobody else includes this.
#ifndef HD_NODE_H
#define HD_NODE_H

#include "ops/op.h"

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
    int layer;      // that recorded it, for the profile
    char *place;    // where the user's program called the op, in anomaly mode
    hd_tensor *dout;
    int saves; // which of the following backward reads, as hd_op_call's, and HD_SAVE_EXTRA
    hd_tensor *saved_out;
    uint32_t out_version;
    hd_tensor *extra[HD_MAX_SAVED];
    struct hd_segment *segment; // that it was recorded in, see segment.h; NULL: none
    size_t slot;                // its place there
    bool lean;                  // what it saves is to be computed again
    int nin;
    node_input in[];
} hd_node;

enum { HD_SAVE_EXTRA = INT32_MIN };

void hd_node_drop_saved(hd_node *node);
hd_status hd_node_save_inputs(hd_node *node, const hd_op_call *call, int saves);

#endif
