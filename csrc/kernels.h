// The CPU kernels on plain memory. They know nothing of torch, which keeps them quick to compile
// and easy to test.
#pragma once

#include <cstdint>

// One function is compiled for several instruction sets and the best one is picked when the library
// is loaded. Since the build forbids contraction and every sum has a written order, all of them
// return the same bits.
#if defined(__x86_64__) && defined(__linux__) && !defined(__CUDACC__) && defined(__GNUC__) && !defined(__clang__)
#define MITUNE_CLONES __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define MITUNE_CLONES
#endif

namespace mitune {

// Elements that are worked on together: four float buffers of it fit the first-level cache. Also
// the leaf of the sums' tree, so it is part of the result's definition (CHUNK in
// reference_step.py), as are the lanes that a chunk is summed in.
constexpr int64_t kChunk = 1024;
constexpr int64_t kLanes = 32;

// Philox key and the counter's upper three words; the lowest word is the block, four elements each.
struct Stream {
  uint32_t seed_lo, seed_hi, step, candidate, prompt;
};

// 4 * blocks random words, those of elements 4 * first_block onwards.
void philox_words(const Stream& stream, uint32_t first_block, int64_t blocks, uint32_t* out);

// 4 * blocks standard normals, those of elements 4 * first_block onwards.
void normals(const Stream& stream, uint32_t first_block, int64_t blocks, float* out);

// One row of the schedule's table; t is the timestep that the model is told.
struct Coefficients {
  float a, b, sigma, weight, t;
};

constexpr int64_t kColumns = 5;

// ||delta||^2 and <uncond, delta>.
struct Terms {
  float squared, cross;
};

// z_next = a z + b (uncond + guidance delta) + sigma noise for n <= kChunk elements; noise may be
// null. z_next may be z.
Terms step_chunk(const float* uncond, const float* cond, const float* z, const float* noise,
                 int64_t n, const Coefficients& row, float guidance, float* z_next);

// A row's levels of noise: those of the re-noised latent, and those of the model's target.
struct Levels {
  float signal, spread, of_noise, of_clean;
};

// z_t = signal clean + spread noise.
void renoise_chunk(const float* clean, const float* noise, int64_t n, const Levels& levels,
                   float* out);

// ||delta||^2 and <delta, (target - uncond) + (target - cond)>, target = of_noise noise + of_clean
// clean, for n <= kChunk elements.
Terms renoise_score_chunk(const float* uncond, const float* cond, const float* clean,
                          const float* noise, int64_t n, const Levels& levels);

// Sum of a power of two of numbers, in the order of the tree; overwrites x.
float fold(float* x, int64_t size);

// out[i] = float(in[i * stride]).
void load(const float* in, int64_t stride, int64_t n, float* out);
void load_bfloat16(const uint16_t* in, int64_t stride, int64_t n, float* out);
void load_half(const uint16_t* in, int64_t stride, int64_t n, float* out);

// out[i * stride] = in[i], rounded to nearest, ties to even.
void store(const float* in, int64_t n, int64_t stride, float* out);
void store_bfloat16(const float* in, int64_t n, int64_t stride, uint16_t* out);
void store_half(const float* in, int64_t n, int64_t stride, uint16_t* out);

}  // namespace mitune
