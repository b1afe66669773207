// Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) and
// Box-Muller on its words, for the CPU and for CUDA.
//
// Each line of arithmetic has its twin in kernels/mitune_kernels/reference_noise.py, in the same
// order, so that all give the same bits. Changing one without the other fails
// tests/kernels/test_noise_op.py.
#pragma once

#include "kernels.h"

#include <cmath>
#include <cstring>

#ifdef __CUDACC__
#define MITUNE_NOISE __host__ __device__ __forceinline__
#define MITUNE_UNROLL _Pragma("unroll")
#else
#define MITUNE_NOISE inline __attribute__((always_inline))
#define MITUNE_UNROLL _Pragma("GCC unroll 10")
#endif

namespace mitune {

// 32-bit words in 64-bit lanes, where the product of two needs no shuffle. What an exclusive or
// leaves in the upper halves never counts: a factor is cut to its low half, and so is the result.
struct Words {
  uint64_t x0, x1, x2, x3;
};

MITUNE_NOISE void round_of(Words& c, uint32_t k0, uint32_t k1) {
  const uint64_t p0 = (c.x0 & 0xFFFFFFFFu) * 0xD2511F53u;
  const uint64_t p1 = (c.x2 & 0xFFFFFFFFu) * 0xCD9E8D57u;
  c = {(p1 >> 32) ^ c.x1 ^ k0, p1, (p0 >> 32) ^ c.x3 ^ k1, p0};
}

MITUNE_NOISE Words philox(const Stream& s, uint32_t block) {
  Words c{block, s.step, s.candidate, s.prompt};
  uint32_t k0 = s.seed_lo, k1 = s.seed_hi;
MITUNE_UNROLL
  for (int i = 0; i < 10; ++i) {
    round_of(c, k0, k1);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

// Multiples of 2^-32 shifted by half of it, as far as float32 resolves them: in [2^-33, 1].
MITUNE_NOISE float uniform(uint32_t x) { return static_cast<float>(x) * 0x1p-32f + 0x1p-33f; }

template <class To, class From>
MITUNE_NOISE To bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// ln u: u = m 2^k with m in [sqrt(1/2), sqrt(2)); ln m = 2 atanh s, s = (m - 1)/(m + 1), by its
// series, whose first dropped term is below a tenth of a float32 rounding.
MITUNE_NOISE float log_of(float u) {
  const int32_t i = bits<int32_t>(u);
  const int32_t k = (i - 0x3F3504F3) >> 23;
  const float m = bits<float>(i - k * 0x800000);
  const float f = m - 1.0f;
  const float s = f / (f + 2.0f);
  const float w = s * s;
  const float series =
      w * (float(2. / 3) + w * (float(2. / 5) + w * (float(2. / 7) + w * float(2. / 9))));
  return static_cast<float>(k) * 0.693147180559945309f + (s * 2.0f + s * series);
}

// cos and sin of 2 pi v: v less its nearest quarter turn is exact, and |x| <= pi/4 left for the
// Taylor series.
MITUNE_NOISE void circle(float v, float& cosine, float& sine) {
  const int32_t quarter = static_cast<int32_t>(v * 4.0f + 0.5f);
  const float x = (v - static_cast<float>(quarter) * 0.25f) * 6.28318530717958648f;
  const float w = x * x;
  const float s =
      x + x * (w * (float(-1. / 6) +
                    w * (float(1. / 120) + w * (float(-1. / 5040) + w * float(1. / 362880)))));
  const float c =
      1.0f +
      w * (-0.5f + w * (float(1. / 24) + w * (float(-1. / 720) +
                                              w * (float(1. / 40320) + w * float(-1. / 3628800)))));
  const bool swap = quarter & 1;
  const float along = swap ? s : c, across = swap ? c : s;
  cosine = ((quarter + 1) & 2) ? -along : along;
  sine = (quarter & 2) ? -across : across;
}

// The four normals of a block.
MITUNE_NOISE void normals_of(const Words& w, float& n0, float& n1, float& n2, float& n3) {
  const float r0 = sqrtf(log_of(uniform(static_cast<uint32_t>(w.x0))) * -2.0f);
  const float r1 = sqrtf(log_of(uniform(static_cast<uint32_t>(w.x2))) * -2.0f);
  float c0, s0, c1, s1;
  circle(uniform(static_cast<uint32_t>(w.x1)), c0, s0);
  circle(uniform(static_cast<uint32_t>(w.x3)), c1, s1);
  n0 = r0 * c0;
  n1 = r0 * s0;
  n2 = r1 * c1;
  n3 = r1 * s1;
}

}  // namespace mitune
