// ops/families.h: the forward and backward rules that op_list.def names, by file.
#ifndef HD_FAMILIES_H
#define HD_FAMILIES_H

#include "ops/compose.h"

#define HD_RULE(name)                                                                                                  \
    hd_status hd_##name##_forward(hd_op_call *);                                                                       \
    hd_status hd_##name##_backward(hd_op_call *)

HD_RULE(unary); // elementwise.c
HD_RULE(binary);
HD_RULE(where);
HD_RULE(to);
HD_RULE(reduce); // reduce.c
HD_RULE(var);
HD_RULE(norm2);
HD_RULE(logsumexp);
HD_RULE(cumsum);
HD_RULE(softmax);
HD_RULE(reshape); // view.c
HD_RULE(view);
HD_RULE(permute);
HD_RULE(transpose);
HD_RULE(expand);
HD_RULE(unsqueeze);
HD_RULE(squeeze);
HD_RULE(flatten);
HD_RULE(narrow);
HD_RULE(select);
HD_RULE(flip);
HD_RULE(contiguous);
HD_RULE(clone);
HD_RULE(copy);
HD_RULE(cat); // join.c
HD_RULE(pad);
HD_RULE(matmul); // matmul.c
HD_RULE(linear);
HD_RULE(conv); // conv.c
HD_RULE(conv_transpose);
HD_RULE(norm_conv);
HD_RULE(group_norm); // norm.c
HD_RULE(layer_norm);
HD_RULE(attention); // attention.c
HD_RULE(attention_packed);
HD_RULE(interpolate); // resize.c
HD_RULE(pool);
HD_RULE(index_select); // index.c
HD_RULE(embedding);
HD_RULE(gather);
HD_RULE(mse_loss); // loss.c

// The checks and the statistics of group norm alone, to saved[], for an op whose first inputs are those of group norm.
hd_status hd_group_norm_statistics(hd_op_call *);

#endif
