// bind/bind.h: the border between Lua and C. Only bind/ and app/ include lua.h, and only bind/ raises, as the last act
// of a function that holds nothing. A bound function: 1. checks all arguments; 2. pushes an empty tensor box; 3. calls
// C; 4. fills the box; 5. on failure returns hd_raise(L). A box without tensor is harmless to the collector, so nothing
// leaks when Lua raises in between.
#ifndef HD_BIND_H
#define HD_BIND_H

#include "core/rng.h"
#include "core/tensor.h"
#include <lauxlib.h>
#include <lua.h>

#define HD_TENSOR_NAME "hd.Tensor" // metatable names
#define HD_RNG_NAME "hd.Generator"

// Arguments ---------------------------------------------------------------- [-0, +0, raises]
hd_tensor *hd_check_tensor(lua_State *L, int arg);                   // borrowed; a released tensor is an error
hd_tensor *hd_test_tensor(lua_State *L, int arg);                    // NULL when it is something else
int64_t hd_check_int(lua_State *L, int arg);                         // any number with an exact integer value
int64_t hd_check_int_of(lua_State *L, int index, const char *where); // the same of a value that is no argument
hd_dtype hd_check_dtype(lua_State *L, int arg);                      // "f32" ... or PyTorch's name
hd_rng *hd_check_rng(lua_State *L, int arg);                         // nil or none: the default generator
const char *hd_check_string(lua_State *L, int arg, size_t *length);  // length may be NULL
double hd_check_number(lua_State *L, int arg);
void hd_check_table(lua_State *L, int arg);
void *hd_check_object(lua_State *L, int arg, const char *name); // a userdata with this metatable
int64_t hd_check_dim(lua_State *L, int arg); // 1-based or negative -> 0-based or negative; 0 is an error

// Results ------------------------------------------------------------------
// Push an empty box and give the place to store a tensor in, which then owns the reference. [-0, +1, raises]
hd_tensor **hd_push_box(lua_State *L);
// Make the box on top of the stack the one object of its tensor (identity, scopes). Call after storing. [-0, +0,
// raises]
int hd_box_done(lua_State *L); // returns 1, so that `return hd_box_done(L)` reads well
// Push a tensor that C also holds (a gradient): the same Lua object each time. Retains. [-0, +1, raises]
void hd_push_tensor(lua_State *L, hd_tensor *x);
// Where `call`, which gives a status, runs out of memory: collect everything, empty the cache, and try once more. Only
// where a failed call has no effect, with every tensor in use on the stack. [-0, +0]
#define HD_RETRY(L, call) (hd_is_short((L), (call)) ? (call) : hd_retried())
bool hd_is_short(lua_State *L, hd_status status);
hd_status hd_retried(void);
// A row-major (or other) tensor of undefined contents into a box, tried again as above. [-0, +0]
hd_status hd_new_tensor(lua_State *L, hd_dtype dtype, int ndim, const int64_t *shape, hd_layout layout,
                        hd_tensor **box);
// Run the collector if native memory calls for it. Before allocating, with every tensor in use on the stack. [-0, +0]
void hd_collect_if_due(lua_State *L);

// Errors: misuse raises at the user's line (frames of C and of hdlua's own lib/ are skipped; the path of the nn layer
// that was running is put in front); the outside world returns nil, message. Where memory ran out both say who holds
// it.
int hd_raise(lua_State *L); // with hd_message()
int hd_raisef(lua_State *L, const char *format, ...) __attribute__((format(printf, 2, 3)));
int hd_return_failure(lua_State *L); // nil, hd_message()

// Push "train.lua:12: unet.conv1", the place that errors name. [-0, +1, raises]
void hd_push_place(lua_State *L);
void hd_push_layer(lua_State *L); // "unet.conv1", the path of the layer that runs; "": none. [-0, +1, raises]
int hd_raise_text(lua_State *L, const char *text);
int hd_edit_distance(const char *a, const char *b); // Levenshtein's; words above 63 letters are far away

// Between the files of bind/ -------------------------------------------------
struct hd_op;
struct hd_op_args;
// Run an op, push its result: collects if due, retries once after collecting when memory runs out. [-0, +1, raises]
int hd_apply(lua_State *L, const struct hd_op *op, int nin, hd_tensor **in, const struct hd_op_args *args);
void hd_reclaim_memory(lua_State *L);         // a full collection, and the cache goes back to the system
void hd_collect_before_sweep(lua_State *L);   // as hd_collect_if_due, sooner
void hd_note_sweep(void);                     // one has ended
void hd_box_release(lua_State *L, int index); // let a box's tensor go
int hd_box_collect(lua_State *L);             // its __gc
void hd_scope_add(lua_State *L);              // the box on top belongs to the open scope, if any
void hd_note_layer(lua_State *L);             // of the profile: what the operations to come are charged to
void hd_push_scope(lua_State *L);             // open a scope; its __close ends it. [-0, +1, raises]
void hd_scope_keep(lua_State *L, int scope, int first, int last); // those of these values that are tensors. [-0, +0]
hd_rng *hd_default_rng(void);
// Run a checkpoint's function once more (hd_segment_runner); an error of its own is left on the stack. [-0, +(0|1)]
struct hd_segment;
hd_status hd_run_again(lua_State *L, struct hd_segment *s);
int hd_leave_run(lua_State *L); // raise what ends a second run early

// Each file of bind/ adds its functions to the table hd.core on top of the stack. [-0, +0, raises]
void hd_bind_boxes(lua_State *L);
void hd_bind_scope(lua_State *L);
void hd_bind_tensor(lua_State *L);
void hd_bind_create(lua_State *L);
void hd_bind_ops(lua_State *L);
void hd_bind_autograd(lua_State *L);
void hd_bind_checkpoint(lua_State *L);
void hd_bind_optim(lua_State *L);
void hd_bind_linalg(lua_State *L);
void hd_bind_random(lua_State *L);
void hd_bind_sys(lua_State *L);
void hd_bind_profile(lua_State *L);
void hd_bind_io(lua_State *L);
void hd_bind_audio(lua_State *L);
void hd_bind_json(lua_State *L);
void hd_bind_data(lua_State *L);
void hd_bind_preview(lua_State *L);
void hd_bind_interrupt(lua_State *L);

int luaopen_hd_core(lua_State *L);

#endif
