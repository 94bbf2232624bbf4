// autograd/segment.h: recomputation (checkpoints). Ops that are recorded while a segment is open become nodes as ever,
// but keep nothing of what they save; the segment alone keeps its inputs. When the sweep needs what such a node saves,
// the segment's function runs once more. It records the same ops in the same order, and what these save goes to the
// nodes of the first run. So the graph, the order of sums and every bit of a gradient are those without a segment.
// Inside a segment that runs for the first time a segment keeps no inputs either: it gets them when the outer one runs
// again. Source: Chen et al. 2016; the saved-tensor form is PyTorch's. Threads: the main thread only.
#ifndef HD_SEGMENT_H
#define HD_SEGMENT_H

#include "core/tensor.h"

typedef struct hd_segment hd_segment;

// What is called with a recipe that no segment needs any more, so that autograd/ needs no header of a layer above it.
void hd_segment_on_forget(void (*forget)(void *recipe));
// Open a segment whose function gets these inputs (entries may be NULL) and is known to the caller as `recipe`.
//   taken  whether a segment has the recipe now: this one, or the one of the first run that this one stands for
// HD_ENOUGH: the run that was going on may stop here.
hd_status hd_segment_begin(int nin, hd_tensor **in, void *recipe, bool *taken, hd_segment **out);
// The function has returned (ok) or failed. HD_EARG: it changed an input in place.
hd_status hd_segment_end(hd_segment *s, bool ok);

void *hd_segment_recipe(const hd_segment *s);
// Input i for the second run, a leaf of its own (on the same memory unless it was rounded); NULL where there was none.
hd_status hd_segment_input(const hd_segment *s, int i, hd_tensor **out);
bool hd_segment_is_open(void);

// For tape.c ---------------------------------------------------------------------------

struct hd_node;
struct hd_op_call;

bool hd_segment_runs_again(void);   // what is recorded now goes to nodes of the first run
hd_status hd_segment_reserve(void); // room for one more node, so that recording it cannot fail
// In a second run: is the op that is about to run the last one that matters, and for its inputs alone? Then they are
// saved for the node of the first run and the result is HD_ENOUGH.
hd_status hd_segment_stop_early(struct hd_node *node, const struct hd_op_call *call);
// An op was recorded. HD_ENOUGH as above. HD_EARG: the function does not do what it did before.
hd_status hd_segment_record(struct hd_node *node);
void hd_segment_leave(struct hd_node *node); // it needs nothing of its segment any more

typedef hd_status hd_segment_runner(void *context, hd_segment *s); // call the segment's function once more
hd_status hd_segment_fill(struct hd_node *node, hd_segment_runner *run, void *context);

#endif
