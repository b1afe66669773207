// One solver step on a chunk of a row, its two reductions, and the conversions to float32 in front
// of it.
//
// Each line of arithmetic has its twin in kernels/mitune_kernels/reference_step.py, in the same
// order.

#include "kernels.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

namespace mitune {
namespace {

template <int64_t N>
inline __attribute__((always_inline)) float fold_fixed(float* x) {
  if constexpr (N == 1) {
    return x[0];
  } else {
    for (int64_t i = 0; i < N / 2; ++i) {
      x[i] += x[i + N / 2];
    }
    return fold_fixed<N / 2>(x);
  }
}

template <class T, class Bits>
inline __attribute__((always_inline)) void load_bits(const Bits* in, int64_t stride, int64_t n,
                                                     float* out) {
  if (stride == 1) {
    for (int64_t i = 0; i < n; ++i) {
      out[i] = static_cast<float>(T(in[i], T::from_bits()));
    }
  } else {
    for (int64_t i = 0; i < n; ++i) {
      out[i] = static_cast<float>(T(in[i * stride], T::from_bits()));
    }
  }
}

}  // namespace

MITUNE_CLONES Terms step_chunk(const float* uncond, const float* cond, const float* z,
                               const float* noise, int64_t n, const Coefficients& row,
                               float guidance, float* z_next) {
  alignas(64) float squared[kChunk];
  alignas(64) float cross[kChunk];
  const float a = row.a, b = row.b, sigma = row.sigma;
  if (noise != nullptr) {
    MITUNE_INDEPENDENT
    for (int64_t i = 0; i < n; ++i) {
      const float delta = cond[i] - uncond[i];
      squared[i] = delta * delta;
      cross[i] = uncond[i] * delta;
      z_next[i] = (a * z[i] + b * (uncond[i] + guidance * delta)) + sigma * noise[i];
    }
  } else {
    MITUNE_INDEPENDENT
    for (int64_t i = 0; i < n; ++i) {
      const float delta = cond[i] - uncond[i];
      squared[i] = delta * delta;
      cross[i] = uncond[i] * delta;
      z_next[i] = a * z[i] + b * (uncond[i] + guidance * delta);
    }
  }
  for (int64_t i = n; i < kChunk; ++i) {
    squared[i] = 0.0f;
    cross[i] = 0.0f;
  }
  return {fold_fixed<kChunk>(squared), fold_fixed<kChunk>(cross)};
}

float fold(float* x, int64_t size) {
  for (int64_t half = size / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) {
      x[i] += x[i + half];
    }
  }
  return x[0];
}

MITUNE_CLONES void load(const float* in, int64_t stride, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    out[i] = in[i * stride];
  }
}

MITUNE_CLONES void load_bfloat16(const uint16_t* in, int64_t stride, int64_t n, float* out) {
  load_bits<c10::BFloat16>(in, stride, n, out);
}

MITUNE_CLONES void load_half(const uint16_t* in, int64_t stride, int64_t n, float* out) {
  load_bits<c10::Half>(in, stride, n, out);
}

}  // namespace mitune
