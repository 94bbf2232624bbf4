// backend/cpu/strided.h: element-wise loops over views of any strides.
// The dimensions are sorted by the first operand's strides and merged where all operands allow it, so that most layouts
// become one flat run, or a few long ones. Kernels see dense runs only: what is strided or broadcast is staged.
#ifndef HD_STRIDED_H
#define HD_STRIDED_H

#include "backend/cpu/cpu.h"

enum { CPU_OPERANDS = 5, CPU_STAGE = 1024 }; // operands of a loop at most; elements staged at a time
enum { CPU_PIECE = 32768 };                  // elements of one parallel piece; depends on nothing, so results do not

typedef enum { CPU_READ = 1, CPU_WRITE = 2, CPU_UPDATE = 3 } cpu_access;

typedef struct {
    int ndim, operands;
    int64_t numel;
    int64_t shape[HD_MAX_DIMS];                 // outermost first
    int64_t strides[CPU_OPERANDS][HD_MAX_DIMS]; // in elements
    char *data[CPU_OPERANDS];
    size_t size[CPU_OPERANDS]; // bytes of one element
    cpu_access access[CPU_OPERANDS];
    bool flat[CPU_OPERANDS]; // its elements follow each other in the loop's order
} cpu_loop;

// p[k][0 .. n) are elements first .. first + n of operand k in the loop's order. Written operands must be all written.
typedef void cpu_kernel(const void *context, int64_t first, int64_t n, void *const p[]);

// Before the loop of a kernel: its operands are the same memory or apart, so there is nothing to check for overlap.
#ifdef __clang__
#define CPU_KERNEL_LOOP
#else
#define CPU_KERNEL_LOOP _Pragma("GCC ivdep")
#endif

#define cpu_loop_start CPU_NAME(cpu_loop_start)
#define cpu_loop_add CPU_NAME(cpu_loop_add)
#define cpu_loop_collapse CPU_NAME(cpu_loop_collapse)
#define cpu_loop_run CPU_NAME(cpu_loop_run)
#define cpu_loop_run_range CPU_NAME(cpu_loop_run_range)
#define cpu_loop_offsets CPU_NAME(cpu_loop_offsets)

// A loop over the first `ndim` dimensions of v, which is operand 0: outputs come first. The others follow in order.
void cpu_loop_start(cpu_loop *loop, const hd_view *v, int ndim, cpu_access access);
void cpu_loop_add(cpu_loop *loop, const hd_view *v, cpu_access access);
// logical: keep the row-major order of the elements (merge only).
void cpu_loop_collapse(cpu_loop *loop, bool logical);
// All elements, in parallel pieces; or elements [first, last) on this thread.
void cpu_loop_run(const cpu_loop *loop, cpu_kernel *kernel, const void *context);
void cpu_loop_run_range(const cpu_loop *loop, cpu_kernel *kernel, const void *context, int64_t first, int64_t last);
// Where element i of the loop lies in each operand, in elements.
void cpu_loop_offsets(const cpu_loop *loop, int64_t i, int64_t offsets[]);

#endif
