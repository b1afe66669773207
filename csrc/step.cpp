// One solver step on a chunk of a row, the re-noising of one, their reductions, and the conversions
// from and to float32 around them.
//
// Each line of arithmetic has its twin in kernels/mitune_kernels/reference_step.py or
// reference_renoise.py, in the same order.

#include "kernels.h"

#include <cstring>
#include <type_traits>

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

namespace mitune {
namespace {

// Half of a chunk's lanes. A vector of the compiler's: it becomes one register of AVX-512, two of
// AVX2, and its arithmetic is that of its elements.
using Vector = float __attribute__((vector_size(4 * kLanes / 2)));

#define MITUNE_ALWAYS __attribute__((always_inline))
#define MITUNE_INLINE inline MITUNE_ALWAYS

// One element or a vector of them; by reference, since vectors have no common way to be passed by
// value.
template <class T>
MITUNE_INLINE void read(const float* from, T& x) {
  std::memcpy(&x, from, sizeof x);
}

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

// Sums f's two terms over a chunk, in the order of reference_step.py's row_sum; f(at, terms...)
// adds those of a vector's worth of elements, or of one, from `at`.
template <class F>
MITUNE_INLINE Terms sum_lanes(int64_t n, const F& f) {
  Vector squared[2] = {}, cross[2] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    f(i, squared[0], cross[0]);
    f(i + kLanes / 2, squared[1], cross[1]);
  }
  alignas(64) float lanes[2][kLanes];
  std::memcpy(lanes[0], squared, sizeof lanes[0]);
  std::memcpy(lanes[1], cross, sizeof lanes[1]);
  for (int64_t lane = 0; i < n; ++i, ++lane) {
    f(i, lanes[0][lane], lanes[1][lane]);
  }
  return {fold_fixed<kLanes>(lanes[0]), fold_fixed<kLanes>(lanes[1])};
}

template <bool noisy>
MITUNE_INLINE Terms step_lanes(const float* uncond, const float* cond, const float* z,
                               const float* noise, int64_t n, const Coefficients& given,
                               float guidance, float* z_next) {
  const Coefficients row = given;
  return sum_lanes(n, [=](int64_t at, auto& squared, auto& cross) MITUNE_ALWAYS {
    using T = std::remove_reference_t<decltype(squared)>;
    T u, c, now, w, next;
    read(uncond + at, u);
    read(cond + at, c);
    read(z + at, now);
    const T delta = c - u;
    squared += delta * delta;
    cross += u * delta;
    next = row.a * now + row.b * (u + guidance * delta);
    if constexpr (noisy) {
      read(noise + at, w);
      next = next + row.sigma * w;
    }
    std::memcpy(z_next + at, &next, sizeof next);
  });
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

MITUNE_CLONES void renoise_chunk(const float* clean, const float* noise, int64_t n,
                                 const Levels& levels, float* out) {
  const float signal = levels.signal, spread = levels.spread;
  for (int64_t i = 0; i < n; ++i) {
    out[i] = signal * clean[i] + spread * noise[i];
  }
}

MITUNE_CLONES Terms renoise_score_chunk(const float* uncond, const float* cond, const float* clean,
                                        const float* noise, int64_t n, const Levels& given) {
  const Levels levels = given;
  return sum_lanes(n, [=](int64_t at, auto& squared, auto& gap) MITUNE_ALWAYS {
    using T = std::remove_reference_t<decltype(squared)>;
    T u, c, x, w;
    read(uncond + at, u);
    read(cond + at, c);
    read(clean + at, x);
    read(noise + at, w);
    const T target = levels.of_noise * w + levels.of_clean * x;
    const T delta = c - u;
    squared += delta * delta;
    gap += delta * ((target - u) + (target - c));
  });
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
