// autograd/anomaly.h: anomaly mode: every result of an operation, forward and backward, is looked through for values
// that are not finite, and the first one is an error that names the operation. Costs one more pass over each result.
// An infinity that an input or a number of the call brought along is let pass (masks are made of them); a NaN never.
// Threads: the main thread only.
#ifndef HD_ANOMALY_H
#define HD_ANOMALY_H

#include "ops/op.h"

extern bool hd_anomaly_on;    // read by the tape before each op; change it by hd_set_anomaly
bool hd_set_anomaly(bool on); // returns the value before

// Where the user's program is, "train.lua:12: unet.conv1": borrowed until the next call, NULL when not known. Recorded
// nodes keep a copy.
void hd_anomaly_place(const char *place);
char *hd_anomaly_copy_place(void); // free with hd_free

// Is every value of x finite? Other types than f32 and f64 always are.
hd_status hd_anomaly_is_finite(hd_tensor *x, bool *finite);

// Look at call->out. was_finite: in[0], which an in-place op changes.
hd_status hd_anomaly_check_forward(const hd_op *op, const hd_op_call *call, bool was_finite);
// Look at call->din. was_finite: dout, whose memory a din may take; place: where the op was called.
hd_status hd_anomaly_check_backward(const hd_op *op, const hd_op_call *call, bool was_finite, const char *place);

// For tests: the next result (or gradient) that op gives has a NaN written into its first element before it is looked
// at. NULL: none.
void hd_anomaly_plant(const hd_op *op, bool backward);

#endif
