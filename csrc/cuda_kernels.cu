// The operations for NVIDIA GPUs, without Triton.
//
// A thread works on eight neighbouring elements at a time: 16 bytes of half precision, two blocks
// of Philox. One thread block has a row, so that nothing a row sums depends on the batch: each of
// 2048 lanes (256 threads of 8) adds its element of every stretch of 2048, then the lanes are added
// in a tree. No atomics. Compiled without contraction, which would change the noise.

#include "cuda_kernels.h"
#include "noise.h"

#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace mitune::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kEach = 8;
constexpr int64_t kStretch = kThreads * kEach;

__device__ float from_bfloat16(uint16_t x) { return bits<float>(static_cast<uint32_t>(x) << 16); }

// To nearest, ties to even.
__device__ uint16_t to_bfloat16(float x) {
  const uint32_t i = bits<uint32_t>(x);
  return x == x ? static_cast<uint16_t>((i + 0x7FFFu + ((i >> 16) & 1u)) >> 16) : uint16_t{0x7FC0};
}

template <Type type>
__device__ float from(uint16_t x) {
  return type == Type::kBFloat16 ? from_bfloat16(x) : __half2float(__ushort_as_half(x));
}

__device__ uint16_t to(Type type, float x) {
  return type == Type::kBFloat16 ? to_bfloat16(x) : __half_as_ushort(__float2half_rn(x));
}

// Where a row's elements lie: rows of `count` elements, their channels last or in logical order.
struct Place {
  int64_t row, count, channels;

  __device__ int64_t of(const View& view, int64_t at) const {
    if (!view.last) {
      return row * count + at;
    }
    const int64_t plane = count / channels;
    return row * count + (at % plane) * channels + at / plane;
  }
};

// Eight elements from `at`, 0 beyond the row's end. `wide`: all rows begin and end at 16 bytes.
template <Type type, bool wide>
__device__ void load(const View& view, const Place& place, int64_t at, float (&x)[kEach]) {
  if constexpr (wide && type == Type::kFloat) {
    const float4* in = reinterpret_cast<const float4*>(static_cast<const float*>(view.data) +
                                                       place.row * place.count + at);
    const float4 a = in[0], b = in[1];
    x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w;
    x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
  } else if constexpr (wide) {
    const uint4 v = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(view.data) +
                                                    place.row * place.count + at);
    const uint32_t pairs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      x[k] = from<type>(static_cast<uint16_t>(pairs[k / 2] >> (16 * (k % 2))));
    }
  } else {
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      x[k] = 0.0f;
      if (at + k < place.count) {
        const int64_t i = place.of(view, at + k);
        if constexpr (type == Type::kFloat) {
          x[k] = static_cast<const float*>(view.data)[i];
        } else {
          x[k] = from<type>(static_cast<const uint16_t*>(view.data)[i]);
        }
      }
    }
  }
}

template <bool wide>
__device__ void store(const View& view, const Place& place, int64_t at, const float (&x)[kEach]) {
  if constexpr (wide) {
    const int64_t i = place.row * place.count + at;
    if (view.type == Type::kFloat) {
      float4* out = reinterpret_cast<float4*>(static_cast<float*>(view.data) + i);
      out[0] = float4{x[0], x[1], x[2], x[3]};
      out[1] = float4{x[4], x[5], x[6], x[7]};
    } else {
      uint32_t pairs[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        pairs[k] = to(view.type, x[2 * k]) |
                   static_cast<uint32_t>(to(view.type, x[2 * k + 1])) << 16;
      }
      *reinterpret_cast<uint4*>(static_cast<uint16_t*>(view.data) + i) =
          uint4{pairs[0], pairs[1], pairs[2], pairs[3]};
    }
  } else {
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      if (at + k < place.count) {
        const int64_t i = place.of(view, at + k);
        if (view.type == Type::kFloat) {
          static_cast<float*>(view.data)[i] = x[k];
        } else {
          static_cast<uint16_t*>(view.data)[i] = to(view.type, x[k]);
        }
      }
    }
  }
}

__device__ Stream stream_of(const int64_t* key, int64_t row, int64_t step) {
  return {static_cast<uint32_t>(key[4 * row]), static_cast<uint32_t>(key[4 * row + 1]),
          static_cast<uint32_t>(step), static_cast<uint32_t>(key[4 * row + 2]),
          static_cast<uint32_t>(key[4 * row + 3])};
}

__device__ void draw(const Stream& stream, int64_t at, float (&x)[kEach]) {
  const uint32_t block = static_cast<uint32_t>(at / 4);
  normals_of(philox(stream, block), x[0], x[1], x[2], x[3]);
  normals_of(philox(stream, block + 1), x[4], x[5], x[6], x[7]);
}

// Sum of all lanes of the thread block, for thread 0. Every thread calls it.
__device__ float sum_lanes(float (&x)[kEach]) {
  __shared__ float partial[kThreads];
  float sum = ((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7]));
  __syncthreads();  // before what an earlier sum left there is overwritten
  partial[threadIdx.x] = sum;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) {
      sum += partial[threadIdx.x + half];
      partial[threadIdx.x] = sum;
    }
  }
  return sum;
}

template <bool wide>
__device__ void store_next(const Step& s, const Place& place, int64_t at, const float (&x)[kEach]) {
  store<wide>(s.z_next, place, at, x);
  for (int copy = 0; copy < s.copies; ++copy) {
    store<wide>(s.input, {copy * s.rows + place.row, place.count, place.channels}, at, x);
  }
}

template <Type type, bool wide>
__global__ void __launch_bounds__(kThreads) step_kernel(Step s) {
  const int64_t row = blockIdx.x;
  const Place place{row, s.count, s.channels};
  const int64_t i = s.index[row];
  const int64_t begin = static_cast<int64_t>(threadIdx.x) * kEach;
  if (i == -1) {
    if (!s.in_place) {
      for (int64_t at = begin; at < s.count; at += kStretch) {
        float now[kEach];
        load<Type::kFloat, wide>(s.z, place, at, now);
        store_next<wide>(s, place, at, now);
      }
    }
    if (threadIdx.x == 0) {
      s.score_next[row] = s.score[row];
      if (!s.history) {
        s.terms[2 * row] = 0.0f;
        s.terms[2 * row + 1] = 0.0f;
      }
      if (s.index_next != nullptr) {
        s.index_next[row] = -1;
      }
    }
    return;
  }
  // The host does not wait to see an index outside the table: its row becomes NaN.
  const bool known = i >= 0 && i < s.table_rows;
  const float nan = bits<float>(0x7FC00000u);
  const float* const c = s.table + kColumns * (known ? i : 0);
  const float a = known ? c[0] : nan, b = c[1], sigma = c[2], weight = known ? c[3] : nan;
  const Stream stream = stream_of(s.key, row, i + 1);
  float squared[kEach] = {}, cross[kEach] = {};
  for (int64_t at = begin; at < s.count; at += kStretch) {
    float u[kEach], cond[kEach], now[kEach], noise[kEach], next[kEach];
    load<type, wide>(s.uncond, place, at, u);
    load<type, wide>(s.cond, place, at, cond);
    load<Type::kFloat, wide>(s.z, place, at, now);
    if (sigma != 0.0f) {
      draw(stream, at, noise);
    }
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      const float delta = cond[k] - u[k];
      squared[k] += delta * delta;
      cross[k] += u[k] * delta;
      next[k] = a * now[k] + b * (u[k] + s.guidance * delta);
      if (sigma != 0.0f) {
        next[k] = next[k] + sigma * noise[k];
      }
    }
    store_next<wide>(s, place, at, next);
  }
  const float total = sum_lanes(squared), product = sum_lanes(cross);
  if (threadIdx.x == 0) {
    if (known || !s.history) {
      float* const terms = s.terms + 2 * (s.history ? row * s.table_rows + i : row);
      terms[0] = known ? total : nan;
      terms[1] = known ? product : nan;
    }
    s.score_next[row] = s.score[row] + weight * total;
    const int64_t next = known && i + 1 < s.table_rows ? i + 1 : -1;
    if (s.index_next != nullptr) {
      s.index_next[row] = next;
    }
    for (int copy = 0; copy < s.t_copies && next >= 0; ++copy) {
      s.t_next[copy * s.rows + row] = s.table[kColumns * next + 4];
    }
  }
}

// The level, or NaN where the latent does not exist.
__device__ float level(const Renoise& r, int64_t row, int column, bool known) {
  return known ? r.levels[4 * row + column] : bits<float>(0x7FC00000u);
}

__device__ Place given(const Renoise& r, int64_t row, bool& known) {
  const int64_t source = r.row[row];
  known = source >= 0 && source < r.given;
  return {known ? source : 0, r.count, 1};
}

template <bool wide>
__global__ void __launch_bounds__(kThreads) renoise_kernel(Renoise r) {
  const int64_t row = blockIdx.x;
  bool known;
  const Place source = given(r, row, known);
  const float signal = level(r, row, 0, known), spread = level(r, row, 1, known);
  const Stream stream = stream_of(r.key, row, r.draw[row]);
  const int64_t begin = blockIdx.y * kStretch + static_cast<int64_t>(threadIdx.x) * kEach;
  for (int64_t at = begin; at < r.count; at += gridDim.y * kStretch) {
    float clean[kEach], noise[kEach];
    load<Type::kFloat, wide>(r.z0, source, at, clean);
    draw(stream, at, noise);
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      noise[k] = signal * clean[k] + spread * noise[k];
    }
    for (int copy = 0; copy < r.copies; ++copy) {
      store<wide>(r.out, {copy * r.rows + row, r.count, 1}, at, noise);
    }
  }
}

template <Type type, bool wide>
__global__ void __launch_bounds__(kThreads) renoise_score_kernel(Renoise r) {
  const int64_t row = blockIdx.x;
  bool known;
  const Place source = given(r, row, known), place{row, r.count, 1};
  const float of_noise = level(r, row, 2, known), of_clean = level(r, row, 3, known);
  const Stream stream = stream_of(r.key, row, r.draw[row]);
  float squared[kEach] = {}, gap[kEach] = {};
  for (int64_t at = static_cast<int64_t>(threadIdx.x) * kEach; at < r.count; at += kStretch) {
    float u[kEach], c[kEach], clean[kEach], noise[kEach];
    load<type, wide>(r.uncond, place, at, u);
    load<type, wide>(r.cond, place, at, c);
    load<Type::kFloat, wide>(r.z0, source, at, clean);
    draw(stream, at, noise);
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      const float target = of_noise * noise[k] + of_clean * clean[k];
      const float delta = c[k] - u[k];  // 0 beyond the row's end, and so is all that is summed
      squared[k] += delta * delta;
      gap[k] += delta * ((target - u[k]) + (target - c[k]));
    }
  }
  const float total = sum_lanes(squared), difference = sum_lanes(gap);
  if (threadIdx.x == 0) {
    r.terms[2 * row] = total;
    r.terms[2 * row + 1] = difference;
  }
}

__global__ void __launch_bounds__(kThreads) noise_kernel(Noise n) {
  const int64_t row = blockIdx.x;
  const Stream stream = stream_of(n.key, row, n.step[row]);
  const int64_t begin = (static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x) * 4;
  for (int64_t at = begin; at < n.count; at += static_cast<int64_t>(gridDim.y) * kThreads * 4) {
    const Words w = philox(stream, static_cast<uint32_t>(at / 4));
    const uint64_t words[4] = {w.x0, w.x1, w.x2, w.x3};
    float values[4];
    normals_of(w, values[0], values[1], values[2], values[3]);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if (at + k < n.count) {
        if (n.words != nullptr) {
          n.words[row * n.count + at + k] = static_cast<uint32_t>(words[k]);
        } else {
          n.values[row * n.count + at + k] = values[k];
        }
      }
    }
  }
}

// Whether rows of a tensor begin and end at 16 bytes.
bool is_wide(const View& view) {
  return view.data == nullptr || (!view.last && reinterpret_cast<uintptr_t>(view.data) % 16 == 0);
}

template <class Arguments>
const char* launch(void (*kernel)(Arguments), const Arguments& arguments, int64_t rows,
                   int64_t stretches, void* stream) {
  if (rows == 0 || stretches == 0) {
    return nullptr;
  }
  if (rows > 0x7FFFFFFF) {
    return "more rows than a grid has blocks";
  }
  const dim3 grid(static_cast<unsigned>(rows),
                  static_cast<unsigned>(stretches < 65535 ? stretches : 65535));
  Arguments copy = arguments;
  void* pointers[] = {&copy};
  const cudaError_t error =
      cudaLaunchKernel(kernel, grid, dim3(kThreads), pointers, 0, static_cast<cudaStream_t>(stream));
  // Also what an earlier kernel left, which would otherwise show somewhere else.
  const cudaError_t last = cudaGetLastError();
  const cudaError_t first = error != cudaSuccess ? error : last;
  return first == cudaSuccess ? nullptr : cudaGetErrorString(first);
}

// The kernel for a prediction's type, with wide loads or without.
#define MITUNE_PICK(kernel, type, wide)                                              \
  ((type) == Type::kFloat ? ((wide) ? kernel<Type::kFloat, true> : kernel<Type::kFloat, false>)  \
   : (type) == Type::kBFloat16                                                       \
       ? ((wide) ? kernel<Type::kBFloat16, true> : kernel<Type::kBFloat16, false>)   \
       : ((wide) ? kernel<Type::kHalf, true> : kernel<Type::kHalf, false>))

}  // namespace

const char* launch_step(const Step& s, void* stream) {
  const bool wide = s.count % kEach == 0 && is_wide(s.uncond) && is_wide(s.cond) && is_wide(s.z) &&
                    is_wide(s.z_next) && is_wide(s.input);
  return launch(MITUNE_PICK(step_kernel, s.uncond.type, wide), s, s.rows, 1, stream);
}

const char* launch_renoise(const Renoise& r, void* stream) {
  const bool wide = r.count % kEach == 0 && is_wide(r.z0) && is_wide(r.out);
  return launch(wide ? renoise_kernel<true> : renoise_kernel<false>, r, r.rows,
                (r.count + kStretch - 1) / kStretch, stream);
}

const char* launch_renoise_score(const Renoise& r, void* stream) {
  const bool wide =
      r.count % kEach == 0 && is_wide(r.z0) && is_wide(r.uncond) && is_wide(r.cond);
  return launch(MITUNE_PICK(renoise_score_kernel, r.uncond.type, wide), r, r.rows, 1, stream);
}

const char* launch_noise(const Noise& n, void* stream) {
  const int64_t each = kThreads * 4;
  return launch(noise_kernel, n, n.rows, (n.count + each - 1) / each, stream);
}

}  // namespace mitune::cuda
