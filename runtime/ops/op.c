// ops/op.c: the table of operations, built from op_list.def.
#include "ops/op.h"
#include "ops/families.h"
#include <math.h>
#include <string.h>

#define BACKWARD_YES(family) hd_##family##_backward
#define BACKWARD_NO(family) NULL
#define HD_OP(name, params, family, differentiable, saves, aux, forms, doc)                                            \
    {#name, params, forms, doc, hd_##family##_forward, BACKWARD_##differentiable(family), saves, aux},
const hd_op hd_op_list[] = {
#include "ops/op_list.def"
    {0},
};

const hd_op *hd_op_find(const char *name) {
    for (const hd_op *op = hd_op_list; op->name; op++)
        if (strcmp(op->name, name) == 0)
            return op;
    return NULL;
}

hd_op_args hd_op_args_default(void) {
    return (hd_op_args){
        .dim = HD_UNSET,
        .dim2 = HD_UNSET,
        .index = HD_UNSET,
        .start = HD_UNSET,
        .length = HD_UNSET,
        .groups = 1,
        .kernel = {1, 1},
        .stride = {HD_UNSET, HD_UNSET},
        .dilation = {1, 1},
        .size = {HD_UNSET, HD_UNSET},
        .scale_factor = {NAN, NAN},
        .alpha = NAN,
        .beta = NAN,
        .scale = NAN,
        .eps = 1e-5,
        .unbiased = true,
    };
}
