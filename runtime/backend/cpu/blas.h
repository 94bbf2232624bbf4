// backend/cpu/blas.h: OpenBLAS made to use the kernels that fit this processor.
// Layer: backend. Needed because Debian 12's OpenBLAS 0.3.21 does not know current Intel server cores, takes them for
// a Prescott and runs five times too slow; its own choice can be corrected before first use.
#ifndef HD_BLAS_H
#define HD_BLAS_H

#include "core/status.h"

#include <stdbool.h>

// Correct the choice where it is wrong, and check one product. Does its work once, in under a millisecond; called
// before the first product. A core type that the user named in OPENBLAS_CORETYPE stands.
// Errors: HD_EBACKEND when the product is wrong.
hd_status hd_blas_init(void);

// True when the choice is wrong and this OpenBLAS cannot be corrected while it runs: set OPENBLAS_CORETYPE to
// hd_blas_wanted_core() and execute the program again (only an executable may; never as a library).
bool hd_blas_needs_restart(void);
const char *hd_blas_wanted_core(void);

const char *hd_blas_core(void);    // the kernels in use: "SkylakeX", "Zen" ...
const char *hd_blas_version(void); // "0.3.21"

// Whether products go to OpenBLAS: HDLUA_GEMM=blas. Otherwise (HDLUA_GEMM=kernel or unset) to the tiles of gemm.c,
// which are as fast and do not depend on which OpenBLAS is installed. OpenBLAS chooses its kernels by the sizes and
// strides of a product, so the last bits then depend on memory order and on the size of a batch too, though never on
// threads.
bool hd_gemm_uses_blas(void);

#endif
