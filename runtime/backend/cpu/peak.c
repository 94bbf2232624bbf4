// backend/cpu/peak.c: as many multiply-adds as the cores can do, on numbers that stay in registers: the yardstick of
// `hdlua -m bench`.
// Layer: backend.
#include "backend/cpu/simd.h"

// Independent chains: more than the latency of a multiply-add (4 or 5 cycles) times the two that a core may begin in a
// cycle, and few enough for 16 registers.
enum { CHAINS = 12 };

static float chains(int64_t rounds) {
    vf sum[CHAINS], total = {0};
    const vf factor = vf_set(0.5f), term = vf_set(1.0f); // sums tend to 2
    CPU_UNROLL
    for (int i = 0; i < CHAINS; i++)
        sum[i] = vf_set((float)(i + 3)); // all different, and none 2 already: the compiler would see it
    for (int64_t r = 0; r < rounds; r++) {
        CPU_UNROLL
        for (int i = 0; i < CHAINS; i++)
            sum[i] = sum[i] * factor + term;
    }
    CPU_UNROLL
    for (int i = 0; i < CHAINS; i++)
        total += sum[i];
    return total[0];
}

hd_status cpu_peak(const hd_peak_args *a) {
    const int threads = hd_threads();
    float sum[256];
    CPU_PARALLEL_FOR(i, threads)
    sum[i] = chains(a->rounds);
    *a->flops = 2.0 * CHAINS * VF_LANES * (double)a->rounds * threads;
    *a->sum = 0;
    for (int i = 0; i < threads; i++)
        *a->sum += (double)sum[i];
    return HD_OK;
}
