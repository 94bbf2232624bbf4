// autograd/tape.h: reverse-mode differentiation. Every recorded op is a node; nodes know their inputs' nodes, so the
// graph hangs on the tensors that it made and dies with them. backward sweeps in reverse order of recording and lets
// each node's saved tensors go as soon as they were used.
// Source: the tape is micrograd's, with ops instead of scalars. Threads: the main thread only.
#ifndef HD_TAPE_H
#define HD_TAPE_H

#include "autograd/segment.h"
#include "ops/op.h"

// Run op on inputs (entries may be NULL where optional) and, when gradients are on and an input needs one, record it.
// inplace: the result is written into in[0], whose history becomes this op.
hd_status hd_ad_apply(const hd_op *op, int nin, hd_tensor **in, const hd_op_args *args, bool inplace, hd_tensor **out);

// What a sweep asks of its caller, between ops. Tests that have neither pass NULL.
typedef struct {
    void (*reclaim)(void *context); // memory has run out; then the step is tried once more
    hd_segment_runner *run_again;   // see segment.h
    void *context;
} hd_sweep_help;

// d root / d leaf is added to leaf->grad for every leaf with requires_grad. dy: gradient of root, NULL for a root of
// one element (1). The graph below root is released. HD_EARG: nothing recorded, released before, or a saved tensor
// changed in place. HD_ENOMEM: the graph is released all the same, and each gradient either has this sweep's share or
// not; inputs and parameters are untouched.
hd_status hd_tape_backward(hd_tensor *root, hd_tensor *dy, const hd_sweep_help *help);

bool hd_grad_enabled(void);
bool hd_set_grad_enabled(bool on);             // returns the value before
bool hd_tensor_needs_grad(const hd_tensor *x); // a leaf with requires_grad, or on the tape

void hd_node_release(struct hd_node *node); // called by core when a tensor goes

#endif
