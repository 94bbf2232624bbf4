// backend/cpu/cpu.h: what the files of the cpu back end share. Compiled once per instruction set (HD_ISA_SUFFIX).
// Layer: backend. Kernels see views and sizes only: no tensors, no Lua.
#ifndef HD_CPU_H
#define HD_CPU_H

#include "backend/backend.h"
#include "backend/cpu/isa.h"
#include "core/alloc.h"
#include "core/threads.h"

#ifndef HD_ISA_SUFFIX
#define HD_ISA_SUFFIX HD_ISA_LEAST
#endif
#define CPU_PASTE_(a, b) a##_##b
#define CPU_PASTE(a, b) CPU_PASTE_(a, b)
#define CPU_NAME(name) CPU_PASTE(name, HD_ISA_SUFFIX)

// One vector of floats: as wide as the instruction set of this build, at any alignment.
#if defined(__AVX512F__)
#define VF_LANES 16
#elif defined(__AVX2__)
#define VF_LANES 8
#else
#define VF_LANES 4
#endif
typedef float vf __attribute__((vector_size(VF_LANES * 4)));
typedef float vf_mem __attribute__((vector_size(VF_LANES * 4), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(VF_LANES * 4)));

// Vector registers: a kernel's tile of sums fills three quarters of them.
#if defined(__AVX512F__) || defined(__aarch64__)
#define VF_REGISTERS 32
#else
#define VF_REGISTERS 16
#endif

// Before a loop of few, constant rounds: write them all out. Not where clang checks every access: it takes minutes.
#ifndef __has_feature
#define __has_feature(feature) 0
#endif
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define CPU_UNROLL
#elif defined __clang__
#define CPU_UNROLL _Pragma("unroll")
#else
#define CPU_UNROLL _Pragma("GCC unroll 16")
#endif

// for (int64_t i = 0; i < n; i++) over the threads. The body must write only what belongs to task i: results then do
// not depend on the number of threads. Inside, BLAS runs single-threaded. One task alone wakes nobody.
#define CPU_PRAGMA(text) _Pragma(#text)
#define CPU_PARALLEL_FOR(i, n)                                                                                         \
    CPU_PRAGMA(omp parallel for num_threads(hd_threads()) schedule(dynamic, 1) if ((n) > 1))                           \
    for (int64_t i = 0; i < (n); i++)                                                                                  \
        if (hd_threads_watched ? hd_threads_note(), true : true)

// The entries of the table, one per backend.h, each in the file of its family.
#define cpu_copy CPU_NAME(cpu_copy)
#define cpu_fill CPU_NAME(cpu_fill)
#define cpu_to_bf16 CPU_NAME(cpu_to_bf16)
#define cpu_from_bf16 CPU_NAME(cpu_from_bf16)
#define cpu_unary CPU_NAME(cpu_unary)
#define cpu_unary_back CPU_NAME(cpu_unary_back)
#define cpu_binary CPU_NAME(cpu_binary)
#define cpu_where CPU_NAME(cpu_where)
#define cpu_reduce CPU_NAME(cpu_reduce)
#define cpu_cumsum CPU_NAME(cpu_cumsum)
#define cpu_softmax CPU_NAME(cpu_softmax)
#define cpu_softmax_back CPU_NAME(cpu_softmax_back)
#define cpu_matmul CPU_NAME(cpu_matmul)
#define cpu_conv CPU_NAME(cpu_conv)
#define cpu_conv_dx CPU_NAME(cpu_conv_dx)
#define cpu_conv_dw CPU_NAME(cpu_conv_dw)
#define cpu_norm CPU_NAME(cpu_norm)
#define cpu_norm_back CPU_NAME(cpu_norm_back)
#define cpu_norm_apply CPU_NAME(cpu_norm_apply)
#define cpu_attention CPU_NAME(cpu_attention)
#define cpu_attention_back CPU_NAME(cpu_attention_back)
#define cpu_resize CPU_NAME(cpu_resize)
#define cpu_resize_back CPU_NAME(cpu_resize_back)
#define cpu_pool CPU_NAME(cpu_pool)
#define cpu_pool_back CPU_NAME(cpu_pool_back)
#define cpu_index_select CPU_NAME(cpu_index_select)
#define cpu_index_add CPU_NAME(cpu_index_add)
#define cpu_gather CPU_NAME(cpu_gather)
#define cpu_scatter_add CPU_NAME(cpu_scatter_add)
#define cpu_random CPU_NAME(cpu_random)
#define cpu_adam CPU_NAME(cpu_adam)
#define cpu_sgd CPU_NAME(cpu_sgd)
#define cpu_lerp CPU_NAME(cpu_lerp)
#define cpu_peak CPU_NAME(cpu_peak)

hd_status cpu_copy(const hd_copy_args *); // copy.c
hd_status cpu_fill(const hd_fill_args *);
hd_status cpu_to_bf16(const hd_bf16_args *);
hd_status cpu_from_bf16(const hd_bf16_args *);
hd_status cpu_unary(const hd_unary_args *); // unary.c
hd_status cpu_unary_back(const hd_unary_back_args *);
hd_status cpu_binary(const hd_binary_args *); // binary.c
hd_status cpu_where(const hd_where_args *);
hd_status cpu_reduce(const hd_reduce_args *); // reduce.c
hd_status cpu_cumsum(const hd_cumsum_args *);
hd_status cpu_softmax(const hd_softmax_args *); // softmax.c
hd_status cpu_softmax_back(const hd_softmax_back_args *);
hd_status cpu_matmul(const hd_matmul_args *); // gemm.c
hd_status cpu_conv(const hd_conv_args *);     // conv.c
hd_status cpu_conv_dx(const hd_conv_args *);
hd_status cpu_conv_dw(const hd_conv_args *);
hd_status cpu_norm(const hd_norm_args *); // norm.c
hd_status cpu_norm_back(const hd_norm_back_args *);
// y = act(x scale[i] + shift[i]) at each position for the channels i < c; xs and ys from position to position.
// Meanwhile `next` is fetched, which lies as x does (NULL: nothing).
void cpu_norm_apply(const float *x, int64_t xs, float *y, int64_t ys, const float *scale, const float *shift, int64_t c,
                    int64_t positions, hd_activation act, const float *next);
hd_status cpu_attention(const hd_attention_args *); // attention.c
hd_status cpu_attention_back(const hd_attention_back_args *);
hd_status cpu_resize(const hd_resize_args *); // resize.c
hd_status cpu_resize_back(const hd_resize_args *);
hd_status cpu_pool(const hd_pool_args *); // pool.c
hd_status cpu_pool_back(const hd_pool_args *);
hd_status cpu_index_select(const hd_index_args *); // index.c
hd_status cpu_index_add(const hd_index_args *);
hd_status cpu_gather(const hd_index_args *);
hd_status cpu_scatter_add(const hd_index_args *);
hd_status cpu_random(const hd_random_args *); // random.c
hd_status cpu_adam(const hd_adam_args *);     // optim.c
hd_status cpu_sgd(const hd_sgd_args *);
hd_status cpu_lerp(const hd_lerp_args *);
hd_status cpu_peak(const hd_peak_args *); // peak.c

#endif
