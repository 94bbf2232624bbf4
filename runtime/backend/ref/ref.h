// backend/ref/ref.h: what the files of the reference back end share.
// Layer: backend. The oracle of every test: one plain scalar way for each entry, written independently of backend/cpu.
// Every kernel reads its operands into dense row-major scratch, computes there in double (integers in int64_t, exactly)
// and writes the result back, so strides and element types are dealt with in ref.c alone.
#ifndef HD_REF_H
#define HD_REF_H

#include "backend/backend.h"

// The buffers of one call. Start with {0}, take any number, check `failed` once, leave by ref_end.
typedef struct {
    void *block[16];
    int n;
    bool failed; // memory ran out: nothing may be computed
} ref_scratch;

double *ref_doubles(ref_scratch *s, int64_t n);         // n zeros
int64_t *ref_ints(ref_scratch *s, int64_t n);           // n zeros
double *ref_in(ref_scratch *s, const hd_view *v);       // v's elements in row-major order; NULL when v is absent
int64_t *ref_in_ints(ref_scratch *s, const hd_view *v); // the same for an integer or bool view
void ref_out(const hd_view *v, const double *values);   // write all of v; nothing when v is absent
void ref_out_ints(const hd_view *v, const int64_t *values);
hd_status ref_end(ref_scratch *s); // frees the buffers; HD_ENOMEM when one was missing

// Offsets of v's elements in row-major order: start with {0}, read .offset, step.
typedef struct {
    int64_t index[HD_MAX_DIMS], offset;
} ref_cursor;
void ref_step(const hd_view *v, ref_cursor *cursor);

// One element between views of one type, bits unchanged.
void ref_move(const hd_view *to, int64_t to_offset, const hd_view *from, int64_t from_offset);

// Extents before and after dimension dim: the row-major index of (o, j, i) is (o * shape[dim] + j) * inner + i.
typedef struct {
    int64_t outer, n, inner;
} ref_split;
ref_split ref_split_at(const hd_view *v, int dim);

// Whether a beats b as a maximum (sign 1) or minimum (sign -1); NaN beats numbers.
bool ref_beats(double a, double b, int sign);

double ref_sigmoid(double x);

hd_status ref_copy(const hd_copy_args *); // ref_elementwise.c
hd_status ref_fill(const hd_fill_args *);
hd_status ref_to_bf16(const hd_bf16_args *);
hd_status ref_from_bf16(const hd_bf16_args *);
hd_status ref_unary(const hd_unary_args *);
hd_status ref_unary_back(const hd_unary_back_args *);
hd_status ref_binary(const hd_binary_args *);
hd_status ref_where(const hd_where_args *);
hd_status ref_reduce(const hd_reduce_args *); // ref_reduce.c
hd_status ref_cumsum(const hd_cumsum_args *);
hd_status ref_softmax(const hd_softmax_args *);
hd_status ref_softmax_back(const hd_softmax_back_args *);
hd_status ref_matmul(const hd_matmul_args *); // ref_product.c
hd_status ref_conv(const hd_conv_args *);
hd_status ref_conv_dx(const hd_conv_args *);
hd_status ref_conv_dw(const hd_conv_args *);
hd_status ref_attention(const hd_attention_args *);
hd_status ref_attention_back(const hd_attention_back_args *);
hd_status ref_norm(const hd_norm_args *); // ref_norm.c
hd_status ref_norm_back(const hd_norm_back_args *);
hd_status ref_resize(const hd_resize_args *); // ref_spatial.c
hd_status ref_resize_back(const hd_resize_args *);
hd_status ref_pool(const hd_pool_args *);
hd_status ref_pool_back(const hd_pool_args *);
hd_status ref_index_select(const hd_index_args *); // ref_index.c
hd_status ref_index_add(const hd_index_args *);
hd_status ref_gather(const hd_index_args *);
hd_status ref_scatter_add(const hd_index_args *);
hd_status ref_eigh(const hd_eigh_args *);     // ref_linalg.c
hd_status ref_random(const hd_random_args *); // ref_random.c
hd_status ref_adam(const hd_adam_args *);     // ref_optim.c
hd_status ref_sgd(const hd_sgd_args *);
hd_status ref_lerp(const hd_lerp_args *);

#endif
