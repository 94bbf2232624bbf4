// core/rng.h: counter-based random numbers, Philox 4x32-10 (Salmon et al., SC 2011).
// A value depends on (seed, stream, index) alone: never on threads, layout or batch size.
// Block j (4 words) of a stream: key = (seed low, seed high), counter = (j low, j high, stream low, stream high).
// Element i of a fill reads: f32/ints: word i%4 of block i/4; normal f32: Box-Muller on words (0,1) and (2,3) of block
// i/4 -> elements 4k..4k+3; f64: two words per element, block i/2. `index` below is the first element's number.
#ifndef HD_RNG_H
#define HD_RNG_H

#include <stdint.h>

typedef struct hd_rng {
    uint64_t seed, stream; // which sequence
    uint64_t offset;       // next unused element; every fill starts at a multiple of 4
} hd_rng;

void hd_philox(uint64_t seed, uint64_t stream, uint64_t block, uint32_t out[4]);

// Take n elements (rounded up to a multiple of 4) from the generator: returns the first one's index.
uint64_t hd_rng_take(hd_rng *rng, uint64_t n);

// A new stream number from a name or number, for generators derived from one seed.
uint64_t hd_rng_mix(uint64_t a, uint64_t b);

// word -> [0,1) with 24 bits; two words -> [0,1) with 53 bits
static inline float hd_unit_f32(uint32_t w) { return (float)(w >> 8) * 0x1p-24f; }
static inline double hd_unit_f64(uint32_t lo, uint32_t hi) {
    return (double)((((uint64_t)hi << 32) | lo) >> 11) * 0x1p-53;
}

#endif
