// backend/cpu/lapack.c: decompositions by the LAPACK that OpenBLAS carries. Compiled once, not per instruction set.
// Layer: backend. OpenMP's default of one thread holds here, so the bits do not depend on hd_threads().
#include "backend/cpu/lapack.h"

#include "backend/cpu/blas.h"
#include "core/alloc.h"

// Divide and conquer (Cuppen 1981). Fortran: matrices by columns, everything by address.
extern void dsyevd_(const char *jobz, const char *uplo, const int *n, double *a, const int *lda, double *w,
                    double *work, const int *lwork, int *iwork, const int *liwork, int *info);

// The lower triangle by rows is Fortran's upper one by columns, and eigenvectors in columns are ours in rows.
hd_status hd_lapack_eigh(const hd_eigh_args *args) {
    const int n = (int)args->w.shape[0], lda = n > 0 ? n : 1;
    const int lwork = 1 + 6 * n + 2 * n * n, liwork = 3 + 5 * n;
    int info = 0;
    HD_CHECK(hd_blas_init());
    double *work = hd_alloc((size_t)lwork * sizeof *work);
    int *iwork = hd_alloc((size_t)liwork * sizeof *iwork);
    if (work && iwork && n > 0)
        dsyevd_("V", "U", &n, args->a.data, &lda, args->w.data, work, &lwork, iwork, &liwork, &info);
    const bool served = work && iwork;
    hd_free(work);
    hd_free(iwork);
    if (!served)
        return hd_fail(HD_ENOMEM, "eigh: out of memory for a workspace of %d numbers", lwork);
    return info == 0 ? HD_OK : hd_fail(HD_EBACKEND, "eigh: LAPACK's dsyevd failed: got code %d, expected 0", info);
}
