// backend/cpu/cpu.c: the table of the cpu back end, one per instruction set.
#include "backend/cpu/cpu.h"
#include "backend/cpu/lapack.h"

static hd_status cpu_sync(void) { return HD_OK; } // every entry is done when it returns

#define STRING_(x) #x
#define STRING(x) STRING_(x)

const hd_backend CPU_NAME(hd_backend_cpu) = {
    .api_version = HD_BACKEND_API,
    .name = "cpu",
    .isa = STRING(HD_ISA_SUFFIX),
    .host_visible = true,
    .alloc = hd_alloc,
    .free = hd_free,
    .sync = cpu_sync,
    .copy = cpu_copy,
    .fill = cpu_fill,
    .to_bf16 = cpu_to_bf16,
    .from_bf16 = cpu_from_bf16,
    .unary = cpu_unary,
    .unary_back = cpu_unary_back,
    .binary = cpu_binary,
    .where = cpu_where,
    .reduce = cpu_reduce,
    .cumsum = cpu_cumsum,
    .softmax = cpu_softmax,
    .softmax_back = cpu_softmax_back,
    .matmul = cpu_matmul,
    .conv = cpu_conv,
    .conv_dx = cpu_conv_dx,
    .conv_dw = cpu_conv_dw,
    .norm = cpu_norm,
    .norm_back = cpu_norm_back,
    .attention = cpu_attention,
    .attention_back = cpu_attention_back,
    .resize = cpu_resize,
    .resize_back = cpu_resize_back,
    .pool = cpu_pool,
    .pool_back = cpu_pool_back,
    .index_select = cpu_index_select,
    .index_add = cpu_index_add,
    .gather = cpu_gather,
    .scatter_add = cpu_scatter_add,
    .eigh = hd_lapack_eigh,
    .random = cpu_random,
    .adam = cpu_adam,
    .sgd = cpu_sgd,
    .lerp = cpu_lerp,
    .peak = cpu_peak,
};
