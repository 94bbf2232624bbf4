// backend/registry.c: which back ends exist, and which one is in use.
#include "backend/backend.h"
#include "backend/counted.h"
#include "backend/cpu/isa.h"
#include <stdlib.h>
#include <string.h>

#define PASTE_(a, b) a##_##b
#define PASTE(a, b) PASTE_(a, b)
#define LEAST_BUILD PASTE(hd_backend_cpu, HD_ISA_LEAST)

extern const hd_backend LEAST_BUILD;
#if HD_HAVE_X86_BUILDS
extern const hd_backend hd_backend_cpu_avx2, hd_backend_cpu_avx512;
#endif

static const hd_backend *chosen, *current; // current: the chosen one, or what counts its work
static bool counting;

// The best build that this processor runs; HDLUA_ISA=avx512|avx2|base asks for a lower one.
static const hd_backend *cpu_backend(void) {
    const hd_isa best = hd_isa_detect();
    hd_isa isa = best;
    const char *wanted = getenv("HDLUA_ISA");
    if (wanted)
        isa = strcmp(wanted, "base") == 0 ? HD_ISA_BASE : strcmp(wanted, "avx2") == 0 ? HD_ISA_AVX2 : HD_ISA_AVX512;
    if (isa > best)
        isa = best;
#if HD_HAVE_X86_BUILDS
    if (isa == HD_ISA_AVX512)
        return &hd_backend_cpu_avx512;
    if (isa == HD_ISA_AVX2)
        return &hd_backend_cpu_avx2;
#endif
    return &LEAST_BUILD;
}

static void choose(const hd_backend *backend) {
    chosen = backend;
    current = counting ? hd_backend_counted(chosen) : chosen;
}

const hd_backend *hd_be(void) {
    if (!current)
        choose(cpu_backend());
    return current;
}

hd_status hd_backend_select(const char *name) {
    if (strcmp(name, "cpu") == 0)
        choose(cpu_backend());
    else if (strcmp(name, "ref") == 0)
        choose(&hd_backend_ref);
    else
        return hd_fail(HD_EARG, "backend: unknown back end: got '%s', expected 'cpu' or 'ref'", name);
    return HD_OK;
}

bool hd_accuracy_strict;

hd_status hd_accuracy_select(const char *name) {
    if (strcmp(name, "fast") != 0 && strcmp(name, "strict") != 0)
        return hd_fail(HD_EARG, "accuracy: unknown accuracy: got '%s', expected 'fast' or 'strict'", name);
    hd_accuracy_strict = strcmp(name, "strict") == 0;
    return HD_OK;
}

void hd_backend_count(bool on) {
    counting = on;
    choose(chosen ? chosen : cpu_backend());
}

int hd_unary_needs(hd_unary op) {
    enum { X = 1, Y = 2 };
    switch (op) {
    case HD_EXP:
    case HD_SQRT:
    case HD_RSQRT:
    case HD_TANH:
    case HD_SIGMOID:
    case HD_RECIPROCAL:
    case HD_RELU:
    case HD_EXPM1:
    case HD_SOFTPLUS:
        return Y;
    case HD_NEG:
    case HD_SCALE:
    case HD_FLOOR:
    case HD_CEIL:
    case HD_ROUND:
    case HD_SIGN:
    case HD_NOT:
    case HD_ISFINITE:
        return 0;
    default:
        return X;
    }
}
