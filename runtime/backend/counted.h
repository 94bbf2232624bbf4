// backend/counted.h: counts the FLOPs and bytes of every kernel that runs, for core/profile.h.
#ifndef HD_COUNTED_H
#define HD_COUNTED_H

#include "backend/backend.h"

// A table whose entries count and then call those of `other`. There is one: the last call's holds.
const hd_backend *hd_backend_counted(const hd_backend *other);

#endif
