// backend/cpu/isa.h: which instruction set the kernels may use. The files of backend/cpu that are named in the Makefile
// as KERNELS are compiled once per instruction set; CPU_NAME gives their shared functions a name of their own in each
// build. The least build is what every processor of the family runs: "neon" on arm64, else "base".
#ifndef HD_ISA_H
#define HD_ISA_H

#if defined(__x86_64__)
#define HD_HAVE_X86_BUILDS 1
#else
#define HD_HAVE_X86_BUILDS 0
#endif
#if defined(__aarch64__)
#define HD_ISA_LEAST neon
#else
#define HD_ISA_LEAST base
#endif

typedef enum { HD_ISA_BASE, HD_ISA_AVX2, HD_ISA_AVX512 } hd_isa;

// Asks the processor (and the operating system, for saved registers).
static inline hd_isa hd_isa_detect(void) {
#if HD_HAVE_X86_BUILDS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"))
        return HD_ISA_AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return HD_ISA_AVX2;
#endif
    return HD_ISA_BASE;
}

#endif
