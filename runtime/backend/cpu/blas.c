// backend/cpu/blas.c: which kernels OpenBLAS uses, and whether it is used at all.
// Layer: backend. Called by: gemm.c, app (version line, restart). Compiled once, not per instruction set.
//
// OpenBLAS exports the functions with which it chose its kernels when it was loaded. Calling them again with
// OPENBLAS_CORETYPE set replaces the choice: measured 32 -> 152 GFLOP/s on family 6 model 207. They are declared weak,
// so that another build of OpenBLAS without them still links.
#include "backend/cpu/blas.h"

#include "backend/cpu/isa.h"

#include <cblas.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

extern void openblas_read_env(void) __attribute__((weak));
extern void gotoblas_dynamic_quit(void) __attribute__((weak));
extern void gotoblas_dynamic_init(void) __attribute__((weak));

#define CORE_VARIABLE "OPENBLAS_CORETYPE"

static bool can_correct(void) { return openblas_read_env && gotoblas_dynamic_quit && gotoblas_dynamic_init; }

static bool is_one_of(const char *name, const char *const *list) {
    for (; *list; list++)
        if (strcasecmp(name, *list) == 0)
            return true;
    return false;
}

// The core type to ask for, or NULL where the choice already fits what the processor can do or is the user's.
const char *hd_blas_wanted_core(void) {
    static const char *const avx512[] = {"SkylakeX", "Cooperlake", "SapphireRapids", NULL};
    static const char *const avx2[] = {"Haswell", "Zen", "SkylakeX", "Cooperlake", "SapphireRapids", NULL};
    const char *core = openblas_get_corename();
    const hd_isa isa = hd_isa_detect();
    if (getenv(CORE_VARIABLE) || isa == HD_ISA_BASE)
        return NULL;
    if (isa == HD_ISA_AVX512)
        return is_one_of(core, avx512) ? NULL : "SkylakeX";
    return is_one_of(core, avx2) ? NULL : "Haswell";
}

bool hd_blas_needs_restart(void) { return hd_blas_wanted_core() && !can_correct(); }

// A product that crosses the tile sizes of every kernel, against the same in double.
static hd_status check_product(void) {
    enum { M = 37, N = 35, K = 41 };
    float a[M * K], b[K * N], c[M * N];
    for (int i = 0; i < M * K; i++)
        a[i] = (float)(i * 7 % 23 - 11) / 11;
    for (int i = 0; i < K * N; i++)
        b[i] = (float)(i * 5 % 19 - 9) / 9;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, M, N, K, 1, a, K, b, N, 0, c, N);
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) {
            double sum = 0;
            for (int k = 0; k < K; k++)
                sum += (double)a[i * K + k] * b[k * N + j];
            if (!(fabs(sum - c[i * N + j]) < 1e-4))
                return hd_fail(HD_EBACKEND,
                               "blas: wrong product from OpenBLAS core %s: got %g, expected %g.\n"
                               "  hint: name another core in " CORE_VARIABLE ", or unset HDLUA_GEMM.",
                               openblas_get_corename(), (double)c[i * N + j], sum);
        }
    return HD_OK;
}

static hd_status init_status;

static void init(void) {
    const char *core = hd_blas_wanted_core();
    if (core && can_correct()) {
        setenv(CORE_VARIABLE, core, 1);
        openblas_read_env();
        gotoblas_dynamic_quit();
        gotoblas_dynamic_init();
        unsetenv(CORE_VARIABLE);
        openblas_read_env();
    }
    init_status = check_product();
}

hd_status hd_blas_init(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, init);
    return init_status;
}

const char *hd_blas_core(void) { return openblas_get_corename(); }

const char *hd_blas_version(void) {
    static char version[16];
    const char *config = openblas_get_config(); // "OpenBLAS 0.3.21 NO_LAPACKE ..."
    config += strncmp(config, "OpenBLAS ", 9) == 0 ? 9 : 0;
    const size_t length = strcspn(config, " ");
    memcpy(version, config, length < sizeof version ? length : sizeof version - 1);
    return version;
}

static bool use_blas;

static void choose(void) {
    const char *choice = getenv("HDLUA_GEMM");
    use_blas = choice && strcmp(choice, "blas") == 0 && hd_blas_init() == HD_OK;
}

bool hd_gemm_uses_blas(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, choose);
    return use_blas;
}
