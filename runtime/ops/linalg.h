// ops/linalg.h: decompositions of matrices. They are not recorded: their results have no gradient.
#ifndef HD_LINALG_H
#define HD_LINALG_H

#include "core/tensor.h"

// Eigenvalues and eigenvectors of a symmetric matrix: x = vectors diag(values) vectors^T, in double inside.
//   x        [n, n] f32 or f64; its lower triangle is read
//   values   receives [n], rising; vectors receives [n, n], column i belongs to values[i]; of x's type
// Errors: HD_ESHAPE; HD_EARG where x is no float or not finite; HD_ENOMEM. On error both are NULL.
hd_status hd_eigh(const hd_tensor *x, hd_tensor **values, hd_tensor **vectors);

#endif
