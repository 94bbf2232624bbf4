// core/tensor.h: storages (counted buffers) and tensors (counted headers over them).
// Ownership: functions borrow their inputs and give their outputs; only _retain and _release change counts.
// A tensor is a shape, strides and an offset on a storage; views share the storage. The autograd members belong to
// autograd/; core only keeps them and lets them go.
#ifndef HD_TENSOR_H
#define HD_TENSOR_H

#include "core/alloc.h"
#include "core/dtype.h"
#include "core/status.h"

typedef struct hd_storage {
    int refs;
    int saves;        // by how many nodes of the tape it is saved for backward
    int rounded;      // by how many of them rounded to bf16, each through a tensor of its own
    void *data;       // NULL while it is packed
    void *packed;     // its f32 numbers as bf16, while none but such tensors hold it (autograd/saved.c); else NULL
    size_t bytes;     // of data, packed or not
    uint32_t version; // raised by every in-place change; the tape compares it
    uint32_t visit;   // the last count of holders.c that saw it
} hd_storage;

struct hd_node; // autograd/tape.h

// autograd/ says once how a node is let go, so that core needs no header of a layer above it.
void hd_tensor_on_release_node(void (*release)(struct hd_node *));

typedef struct hd_tensor {
    int refs;
    hd_dtype dtype;
    int ndim;
    int64_t shape[HD_MAX_DIMS];
    int64_t strides[HD_MAX_DIMS]; // in elements
    int64_t offset;               // in elements
    hd_storage *storage;
    bool requires_grad;              // a leaf that collects a gradient
    bool is_view;                    // made by a view op: in-place changes under gradients are refused
    bool rounded;                    // saved for backward, which reads its numbers rounded to bf16
    bool kept;                       // parameter, buffer or optimizer state: scopes leave it alone
    struct hd_node *node;            // the op that made it, when it is on the tape
    struct hd_tensor *grad;          // of a leaf, after backward
    const char *maker;               // the op that made it, for messages; NULL: none
    struct hd_tensor *older, *newer; // all live tensors
} hd_tensor;

hd_tensor *hd_tensor_oldest(void); // the first of all live tensors, NULL: there are none

// What a tensor's memory counts as in hd.memory(). New tensors are of the kind set last (HD_TENSORS at first).
hd_memory_kind hd_tensor_set_new_kind(hd_memory_kind kind); // returns the kind before
void hd_tensor_set_kind(const hd_tensor *x, hd_memory_kind kind);
// A storage counts as an activation while it is saved for backward, unless it is of a kind of its own.
void hd_tensor_save(const hd_tensor *x);
void hd_tensor_unsave(const hd_tensor *x);
// autograd/ says once what is done with a storage of which only tensors saved as rounded are left.
void hd_tensor_on_only_rounded(void (*pack)(hd_storage *));

// How the elements of a new tensor are laid out in memory. Never changes values, order or what the user sees.
typedef enum {
    HD_ROW_MAJOR,
    HD_CHANNELS_LAST, // dimension 1 fastest: N,H,W,C for 4-D, N,T,C for 3-D; others row-major
} hd_layout;

hd_status hd_tensor_new(hd_dtype dtype, int ndim, const int64_t *shape, hd_layout layout, hd_tensor **out);
// A tensor of x's shape and, unless x is expanded, of x's memory order; it is dense even where x has gaps.
hd_status hd_tensor_new_like(const hd_tensor *x, hd_dtype dtype, hd_tensor **out);
// A new header on the same storage with given shape and strides; checked only by assert: callers prove the range.
hd_status hd_tensor_view(const hd_tensor *x, int ndim, const int64_t *shape, const int64_t *strides, int64_t offset,
                         hd_tensor **out);
// The same view without any autograd member.
hd_status hd_tensor_detach(const hd_tensor *x, hd_tensor **out);
hd_tensor *hd_tensor_retain(hd_tensor *x);
void hd_tensor_release(hd_tensor *x); // NULL is allowed

int64_t hd_tensor_numel(const hd_tensor *x);
hd_view hd_tensor_as_view(const hd_tensor *x);       // NULL gives a view with data == NULL
bool hd_tensor_is_contiguous(const hd_tensor *x);    // row-major without gaps
bool hd_tensor_is_channels_last(const hd_tensor *x); // dense with dimension 1 fastest, ndim >= 3
bool hd_tensor_is_dense(const hd_tensor *x);         // some order of the dimensions has no gaps or overlap
bool hd_tensor_is_expanded(const hd_tensor *x);      // some elements share memory: an extent > 1 with stride 0
bool hd_same_shape(const hd_tensor *a, const hd_tensor *b);

// "[2,3,32,32]" into a small ring of thread-local buffers (8 deep), for messages.
const char *hd_shape_text(int ndim, const int64_t *shape);
const char *hd_tensor_text(const hd_tensor *x); // the shape alone

#endif
