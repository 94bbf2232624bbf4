// backend/cpu/lapack.h: decompositions by LAPACK, as entries of the table.
#ifndef HD_LAPACK_H
#define HD_LAPACK_H

#include "backend/backend.h"

hd_status hd_lapack_eigh(const hd_eigh_args *);

#endif
