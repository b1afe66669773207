// One solver step on a chunk of a row, its two reductions, and the conversions to float32 in front
// of it.
//
// Each line of arithmetic has its twin in kernels/mitune_kernels/reference_step.py, in the same
// order.

#include "kernels.h"

#include <cstring>

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

namespace mitune {
namespace {

// Half of a chunk's lanes. A vector of the compiler's: it becomes one register of AVX-512, two of
// AVX2, and its arithmetic is that of its elements.
using Vector = float __attribute__((vector_size(4 * kLanes / 2)));

#define MITUNE_INLINE inline __attribute__((always_inline))

MITUNE_INLINE void read(const float* from, Vector& x) { std::memcpy(&x, from, sizeof x); }

template <int64_t N>
MITUNE_INLINE float fold_fixed(float* x) {
  if constexpr (N == 1) {
    return x[0];
  } else {
    for (int64_t i = 0; i < N / 2; ++i) {
      x[i] += x[i + N / 2];
    }
    return fold_fixed<N / 2>(x);
  }
}

// For one element, or for each of a vector; by reference, since vectors have no common way to be
// passed by value.
template <bool noisy, class T>
MITUNE_INLINE void step_elements(const T& u, const T& c, const T& z, const T& noise,
                                 const Coefficients& row, float guidance, T& squared, T& cross,
                                 T& z_next) {
  const T delta = c - u;
  squared += delta * delta;
  cross += u * delta;
  z_next = row.a * z + row.b * (u + guidance * delta);
  if constexpr (noisy) {
    z_next = z_next + row.sigma * noise;
  }
}

template <bool noisy>
MITUNE_INLINE Terms step_lanes(const float* uncond, const float* cond, const float* z,
                               const float* noise, int64_t n, const Coefficients& given,
                               float guidance, float* z_next) {
  const Coefficients row = given;
  Vector squared[2] = {}, cross[2] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
#pragma GCC unroll 2
    for (int64_t half = 0; half < 2; ++half) {
      const int64_t at = i + half * kLanes / 2;
      Vector u, c, now, w = {}, next;
      read(uncond + at, u);
      read(cond + at, c);
      read(z + at, now);
      if constexpr (noisy) {
        read(noise + at, w);
      }
      step_elements<noisy>(u, c, now, w, row, guidance, squared[half], cross[half], next);
      std::memcpy(z_next + at, &next, sizeof next);
    }
  }
  alignas(64) float lanes[2][kLanes];
  std::memcpy(lanes[0], squared, sizeof lanes[0]);
  std::memcpy(lanes[1], cross, sizeof lanes[1]);
  for (int64_t lane = 0; i < n; ++i, ++lane) {
    step_elements<noisy>(uncond[i], cond[i], z[i], noisy ? noise[i] : 0.0f, row, guidance,
                         lanes[0][lane], lanes[1][lane], z_next[i]);
  }
  return {fold_fixed<kLanes>(lanes[0]), fold_fixed<kLanes>(lanes[1])};
}

template <class T, class Bits>
MITUNE_INLINE void load_bits(const Bits* in, int64_t stride, int64_t n, float* out) {
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

template <class T, class Bits>
MITUNE_INLINE void store_bits(const float* in, int64_t n, int64_t stride, Bits* out) {
  if (stride == 1) {
    for (int64_t i = 0; i < n; ++i) {
      out[i] = T(in[i]).x;
    }
  } else {
    for (int64_t i = 0; i < n; ++i) {
      out[i * stride] = T(in[i]).x;
    }
  }
}

}  // namespace

MITUNE_CLONES Terms step_chunk(const float* uncond, const float* cond, const float* z,
                               const float* noise, int64_t n, const Coefficients& row,
                               float guidance, float* z_next) {
  return noise == nullptr
             ? step_lanes<false>(uncond, cond, z, noise, n, row, guidance, z_next)
             : step_lanes<true>(uncond, cond, z, noise, n, row, guidance, z_next);
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

MITUNE_CLONES void store(const float* in, int64_t n, int64_t stride, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    out[i * stride] = in[i];
  }
}

MITUNE_CLONES void store_bfloat16(const float* in, int64_t n, int64_t stride, uint16_t* out) {
  store_bits<c10::BFloat16>(in, n, stride, out);
}

MITUNE_CLONES void store_half(const float* in, int64_t n, int64_t stride, uint16_t* out) {
  store_bits<c10::Half>(in, n, stride, out);
}

}  // namespace mitune
