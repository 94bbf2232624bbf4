// backend/cpu/attention.h: what the two precisions of attention share.
// Layer: backend. Called by: attention.c, attention_f64.c.
#ifndef HD_ATTENTION_H
#define HD_ATTENTION_H

#include "backend/cpu/cpu.h"

// Offset of head i (counted over n and h) of a view [n,h,...].
static inline int64_t attention_head(const hd_view *v, int64_t i) {
    return i / v->shape[1] * v->strides[0] + i % v->shape[1] * v->strides[1];
}

hd_status CPU_NAME(attention_f64)(const hd_attention_args *a);
hd_status CPU_NAME(attention_back_f64)(const hd_attention_back_args *a);
#define attention_f64 CPU_NAME(attention_f64)
#define attention_back_f64 CPU_NAME(attention_back_f64)

#endif
