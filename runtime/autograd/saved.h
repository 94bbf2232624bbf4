// autograd/saved.h: what is kept for backward, as it is or as bf16.
// A tensor saved as rounded is read rounded to bf16, always, so that gradients do not depend on who else holds it. Once
// such tensors alone hold its storage, the storage keeps the rounded numbers and lets the f32 ones go; several of them,
// views among them, share it. Rounded are f32 tensors on storages of some size that are neither parameters nor the
// optimizer's, unless the op needs them exact (HD_SAVE_EXACT). Threads: the main thread only.
#ifndef HD_SAVED_H
#define HD_SAVED_H

#include "core/tensor.h"

hd_status hd_activations_select(const char *name); // "f32" (the default) or "bf16": of what is saved from now on
const char *hd_activations(void);

// An alias of x without its history, that counts as an activation; x is the caller's, alive.
hd_status hd_saved_new(const hd_tensor *x, bool exact, hd_tensor **saved);
void hd_saved_drop(hd_tensor **saved); // sets it to NULL, which is allowed
// What backward reads: the same numbers, or the rounded ones in f32 memory of their own. The caller releases it.
hd_status hd_saved_values(const hd_tensor *saved, hd_tensor **out);
// Put these in the place of *saved, where they were rounded; then it no longer is. NULL stays NULL.
hd_status hd_saved_restore(hd_tensor **saved);

#endif
