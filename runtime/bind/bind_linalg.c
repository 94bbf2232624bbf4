// bind/bind_linalg.c: decompositions of matrices, for hd.linalg. Layer: bind. Calls: ops/linalg.
#include "bind/bind.h"
#include "ops/linalg.h"

// hd.linalg.eigh(x) -> values, vectors: eigenvalues [n], rising, and eigenvectors [n, n] in columns of a symmetric
// matrix [n, n], of which the lower triangle is read: x = vectors diag(values) vectors^T. Of x's type, computed in f64
// by LAPACK's dsyevd; they have no gradient, and the sign of a vector is arbitrary
static int l_eigh(lua_State *L) {
    const hd_tensor *x = hd_check_tensor(L, 1);
    hd_collect_if_due(L);
    hd_tensor **values = hd_push_box(L);
    hd_tensor **vectors = hd_push_box(L);
    if (HD_RETRY(L, hd_eigh(x, values, vectors)) != HD_OK)
        return hd_raise(L);
    hd_box_done(L);
    lua_pushvalue(L, -2);
    hd_box_done(L);
    lua_pop(L, 1);
    return 2;
}

void hd_bind_linalg(lua_State *L) {
    static const luaL_Reg functions[] = {{"eigh", l_eigh}, {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
}
