// ops/op.h: what an operation is. One descriptor holds its forward and its backward rule; ops/op_list.def lists them
// all. Layer: ops. An op checks shapes, allocates outputs and calls the back-end table; it knows neither Lua nor the
// tape.
#ifndef HD_OP_H
#define HD_OP_H

#include "backend/backend.h"
#include "core/tensor.h"

#define HD_UNSET INT64_MIN // an integer argument that the caller left out

// Every argument that is not a tensor, for every op: one vocabulary, so that bindings and docs come from the op list.
// Dimensions are 0-based or negative (from the end) here; bind/ converts the user's 1-based ones.
typedef struct hd_op_args {
    int64_t sizes[HD_MAX_DIMS]; // a shape, or a permutation
    int nsizes;
    int64_t dims[HD_MAX_DIMS]; // dimensions to reduce or flip; ndims == 0: all
    int ndims;
    int64_t dim, dim2;
    int64_t index, start, length;
    int64_t groups; // and the heads of attention
    int64_t kernel[2], stride[2], padding[2], dilation[2], output_padding[2];
    int64_t pads[2 * HD_MAX_DIMS]; // as PyTorch's F.pad: last dimension first, before and after
    int npads;
    int64_t size[2];        // of interpolate; HD_UNSET where scale_factor rules
    double scale_factor[2]; // NaN: unset
    double value;           // the number that stands for a tensor operand which is NULL
    double alpha, beta;     // bounds of clamp, slope of leaky_relu; NaN: unset
    double eps, scale;      // scale: of attention, NaN = 1 / sqrt(d)
    int mode;               // hd_resize_mode
    int activation;         // hd_activation
    int dtype;              // hd_dtype
    bool keepdim, align_corners, unbiased;
} hd_op_args;

// Defaults: dilations and groups 1, eps 1e-5, unbiased, strides HD_UNSET, other integers HD_UNSET and numbers NaN where
// unset has a meaning.
hd_op_args hd_op_args_default(void);

#define HD_MAX_SAVED 2

// One call of an op. forward reads in and args, sets *out (and may set saved[]: extra results that only backward
// reads). backward reads in (those of op->saves), out (if op->saves has HD_SAVE_OUT), saved, dout, and sets din[i]
// wherever want[i]. A din may be `dout` retained. Absent optional inputs are NULL. so_far[i] is what input i has got
// from elsewhere, NULL if nothing; a rule that adds it into din[i] sets added[i].
typedef struct hd_op_call {
    const char *name; // the op's, for messages
    int nin;
    hd_tensor **in;
    const hd_op_args *args;
    hd_tensor *out;
    hd_tensor *saved[HD_MAX_SAVED];
    hd_tensor *dout;
    hd_tensor **din;
    hd_tensor **so_far;
    bool *added;
    const bool *want; // forward: which inputs need a gradient (so that results for backward alone can be left out)
    const int64_t (*in_shape)[HD_MAX_DIMS]; // backward: shapes and ranks of all inputs, saved or not
    const int *in_ndim;
    const hd_dtype *in_dtype;
    int aux;      // which unary, binary or reduction this op is
    int saves;    // starts as op->saves; forward may take bits away that this call does not need
    bool inplace; // write into in[0] (elementwise ops only); out is then in[0] retained
} hd_op_call;

// What is kept for backward. Bit i < HD_SAVE_INPUTS: input i; HD_SAVE_EXACT: never rounded (autograd/saved.h).
enum { HD_SAVE_INPUTS = 29, HD_SAVE_ALL = (1 << 29) - 1, HD_SAVE_EXACT = 1 << 29, HD_SAVE_OUT = 1 << 30 };

typedef struct hd_op {
    const char *name;
    const char *params; // signature, see op_list.def
    const char *forms;
    const char *doc;
    hd_status (*forward)(hd_op_call *);
    hd_status (*backward)(hd_op_call *); // NULL: not differentiable
    int saves;
    int aux;
} hd_op;

extern const hd_op hd_op_list[]; // name == NULL ends it
const hd_op *hd_op_find(const char *name);

#endif
