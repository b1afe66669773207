// The operations for NVIDIA GPUs, without Triton.
//
// A step's thread has a tile of sixteen elements: four channels of four neighbouring positions, four
// blocks of Philox. However a tensor lies, those are vectors of four: along the row in one whose
// channels come first, across the channels in one whose channels come last. Several thread blocks
// share a row, so that few rows fill a GPU; what each has summed goes to memory, and a second kernel
// adds it up. Which thread has which element, and so the order of every sum, depends on a row's shape
// alone, neither on the batch nor on layouts. The other kernels have one thread block for a row, whose
// threads take eight neighbouring elements at a time. No atomics. Compiled without contraction, which
// would change the noise.

#include "cuda_kernels.h"
#include "noise.h"

#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace mitune::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kEach = 8;
constexpr int64_t kStretch = kThreads * kEach;
// Of a step: fewer threads in a block, for more blocks of a row.
constexpr int kStepThreads = 128;
constexpr uint32_t kTile = 16;
constexpr int64_t kMostParts = 64;

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

// A row of a tensor in logical order.
struct Place {
  int64_t row, count;
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
        const int64_t i = place.row * place.count + at + k;
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
        const int64_t i = place.row * place.count + at + k;
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

// Sum of every thread's x over the thread block, for thread 0. Every thread calls it.
template <int threads>
__device__ float sum_threads(float sum) {
  __shared__ float partial[threads];
  __syncthreads();  // before what an earlier sum left there is overwritten
  partial[threadIdx.x] = sum;
  for (int half = threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) {
      sum += partial[threadIdx.x + half];
      partial[threadIdx.x] = sum;
    }
  }
  return sum;
}

__device__ float sum_lanes(const float (&x)[kEach]) {
  return sum_threads<kThreads>(((x[0] + x[4]) + (x[2] + x[6])) + ((x[1] + x[5]) + (x[3] + x[7])));
}

// How a step's tiles cover a row of `channels` x `plane` elements. Where the elements are not split
// by channels, a tile is the sixteen elements that begin at 16 tile; else, with `plane` a multiple
// of 4, it is the channels 4 (tile / (plane / 4)) and on, at the positions
// 4 (tile % (plane / 4)) and on.
struct Tiles {
  uint32_t count, channels, plane, quads, tiles;

  // The first of the tile's four quads of elements, each a block of Philox; and from one to the next.
  __device__ void at(uint32_t tile, uint32_t& first, uint32_t& stride) const {
    if (quads == 0) {
      first = tile * kTile;
      stride = 4;
    } else {
      const uint32_t group = tile / quads;
      first = group * 4 * plane + (tile - group * quads) * 4;
      stride = plane;
    }
  }
};

// Four values of a type as they lie in memory.
template <Type type>
struct Quad {
  uint2 bits;
  __device__ float get(int k) const {
    return from<type>(static_cast<uint16_t>((k < 2 ? bits.x : bits.y) >> (16 * (k % 2))));
  }
};
template <>
struct Quad<Type::kFloat> {
  float4 values;
  __device__ float get(int k) const {
    return k == 0 ? values.x : k == 1 ? values.y : k == 2 ? values.z : values.w;
  }
};

template <Type type>
__device__ Quad<type> load_quad(const void* data, int64_t at) {
  if constexpr (type == Type::kFloat) {
    return {*reinterpret_cast<const float4*>(static_cast<const float*>(data) + at)};
  } else {
    return {*reinterpret_cast<const uint2*>(static_cast<const uint16_t*>(data) + at)};
  }
}

template <Type type>
__device__ float load_one(const void* data, int64_t at) {
  if constexpr (type == Type::kFloat) {
    return static_cast<const float*>(data)[at];
  } else {
    return from<type>(static_cast<const uint16_t*>(data)[at]);
  }
}

// Where element e of a row lies in a tensor with its channels last.
__device__ uint32_t place_last(const Tiles& tiles, uint32_t e) {
  const uint32_t channel = e / tiles.plane;
  return (e - channel * tiles.plane) * tiles.channels + channel;
}

// A tile of a tensor's row, as it lies: quads across the channels if they come last, else along the
// row. `wide`: the row can be read four elements at a time.
template <Type type, bool wide>
struct Loaded {
  Quad<type> quads[wide ? 4 : 1];

  __device__ void load(const View& view, const Tiles& tiles, int64_t row, uint32_t first,
                       uint32_t stride) {
    if constexpr (wide) {
      const int64_t begin = row * tiles.count;
      if (view.last) {
        const int64_t at = begin + place_last(tiles, first);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          quads[j] = load_quad<type>(view.data, at + static_cast<int64_t>(j) * tiles.channels);
        }
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          quads[j] = load_quad<type>(view.data, begin + first + j * stride);
        }
      }
    }
  }

  // Element k of the tile's quad j; 0 beyond the row's end.
  __device__ float get(const View& view, const Tiles& tiles, int64_t row, uint32_t first,
                       uint32_t stride, int j, int k) const {
    if constexpr (wide) {
      return view.last ? quads[k].get(j) : quads[j].get(k);
    } else {
      const uint32_t e = first + j * stride + k;
      if (e >= tiles.count) {
        return 0.0f;
      }
      return load_one<type>(view.data,
                            row * tiles.count + (view.last ? place_last(tiles, e) : e));
    }
  }
};

__device__ void store_one(const View& view, int64_t at, float x) {
  if (view.type == Type::kFloat) {
    static_cast<float*>(view.data)[at] = x;
  } else {
    static_cast<uint16_t*>(view.data)[at] = to(view.type, x);
  }
}

// Quad j of a tile into a tensor's row.
template <bool wide>
__device__ void store_quad(const View& view, const Tiles& tiles, int64_t row, uint32_t first,
                           const float (&x)[4]) {
  const int64_t begin = row * tiles.count;
  if (wide && !view.last) {
    if (view.type == Type::kFloat) {
      *reinterpret_cast<float4*>(static_cast<float*>(view.data) + begin + first) =
          float4{x[0], x[1], x[2], x[3]};
    } else {
      *reinterpret_cast<uint2*>(static_cast<uint16_t*>(view.data) + begin + first) =
          uint2{to(view.type, x[0]) | static_cast<uint32_t>(to(view.type, x[1])) << 16,
                to(view.type, x[2]) | static_cast<uint32_t>(to(view.type, x[3])) << 16};
    }
    return;
  }
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const uint32_t e = first + k;
    if (e < tiles.count) {
      store_one(view, begin + (view.last ? place_last(tiles, e) : e), x[k]);
    }
  }
}

template <bool wide>
__device__ void store_next(const Step& s, const Tiles& tiles, int64_t row, uint32_t first,
                           const float (&x)[4]) {
  store_quad<wide>(s.z_next, tiles, row, first, x);
  for (int copy = 0; copy < s.copies; ++copy) {
    store_quad<wide>(s.input, tiles, copy * s.rows + row, first, x);
  }
}

struct Tiled {
  Step step;
  Tiles tiles;
};

// Whether the table has that row. The host does not wait to see one that it has not: its row of the
// batch becomes NaN.
__device__ bool is_known(const Step& s, int64_t i) { return i >= 0 && i < s.table_rows; }

// Some of a row's tiles: what a step makes of each element, and what it sums of them.
template <Type type, bool wide>
__global__ void __launch_bounds__(kStepThreads) step_kernel(Tiled given) {
  const Step& s = given.step;
  const Tiles& tiles = given.tiles;
  const int64_t row = blockIdx.x;
  const int64_t i = s.index[row];
  const bool idle = i == -1;
  if (idle && s.in_place) {
    return;
  }
  const bool known = is_known(s, i);
  const float nan = bits<float>(0x7FC00000u);
  const float* const c = s.table + kColumns * (known ? i : 0);
  const float a = known ? c[0] : nan, b = c[1], sigma = c[2];
  const Stream stream = stream_of(s.key, row, i + 1);
  float squared = 0.0f, cross = 0.0f;
  for (uint32_t tile = blockIdx.y * kStepThreads + threadIdx.x; tile < tiles.tiles;
       tile += gridDim.y * kStepThreads) {
    uint32_t first, stride;
    tiles.at(tile, first, stride);
    Loaded<Type::kFloat, wide> z;
    z.load(s.z, tiles, row, first, stride);
    Loaded<type, wide> uncond, cond;
    if (!idle) {
      uncond.load(s.uncond, tiles, row, first, stride);
      cond.load(s.cond, tiles, row, first, stride);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float next[4], noise[4];
      if (sigma != 0.0f && !idle) {
        normals_of(philox(stream, (first + j * stride) / 4), noise[0], noise[1], noise[2],
                   noise[3]);
      }
      float squares[4], products[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float now = z.get(s.z, tiles, row, first, stride, j, k);
        next[k] = now;
        if (!idle) {
          const float u = uncond.get(s.uncond, tiles, row, first, stride, j, k);
          const float delta = cond.get(s.cond, tiles, row, first, stride, j, k) - u;
          squares[k] = delta * delta;
          products[k] = u * delta;
          next[k] = a * now + b * (u + s.guidance * delta);
          if (sigma != 0.0f) {
            next[k] = next[k] + sigma * noise[k];
          }
        }
      }
      store_next<wide>(s, tiles, row, first + j * stride, next);
      if (!idle) {
        squared += (squares[0] + squares[1]) + (squares[2] + squares[3]);
        cross += (products[0] + products[1]) + (products[2] + products[3]);
      }
    }
  }
  if (idle) {
    return;
  }
  const float total = sum_threads<kStepThreads>(squared);
  const float product = sum_threads<kStepThreads>(cross);
  if (threadIdx.x == 0) {
    float* const sums = s.sums + 2 * (row * gridDim.y + blockIdx.y);
    sums[0] = total;
    sums[1] = product;
  }
}

// What is left of a row when all its elements are done: a thread adds up what its blocks have summed.
__global__ void __launch_bounds__(kStepThreads) finish_kernel(Step s) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kStepThreads + threadIdx.x;
  if (row >= s.rows) {
    return;
  }
  const int64_t i = s.index[row];
  if (i == -1) {
    s.score_next[row] = s.score[row];
    if (!s.history) {
      s.terms[2 * row] = 0.0f;
      s.terms[2 * row + 1] = 0.0f;
    }
    if (s.index_next != nullptr) {
      s.index_next[row] = -1;
    }
    return;
  }
  const bool known = is_known(s, i);
  const float nan = bits<float>(0x7FC00000u);
  const float weight = known ? s.table[kColumns * i + 3] : nan;
  float total = 0.0f, product = 0.0f;
  const float* const sums = s.sums + 2 * row * s.parts;
  for (int part = 0; part < s.parts; ++part) {
    total += sums[2 * part];
    product += sums[2 * part + 1];
  }
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

// The level, or NaN where the latent does not exist.
__device__ float level(const Renoise& r, int64_t row, int column, bool known) {
  return known ? r.levels[4 * row + column] : bits<float>(0x7FC00000u);
}

__device__ Place given(const Renoise& r, int64_t row, bool& known) {
  const int64_t source = r.row[row];
  known = source >= 0 && source < r.given;
  return {known ? source : 0, r.count};
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
      store<wide>(r.out, {copy * r.rows + row, r.count}, at, noise);
    }
  }
}

template <Type type, bool wide>
__global__ void __launch_bounds__(kThreads) renoise_score_kernel(Renoise r) {
  const int64_t row = blockIdx.x;
  bool known;
  const Place source = given(r, row, known), place{row, r.count};
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
                   int64_t stretches, void* stream, int threads = kThreads) {
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
      cudaLaunchKernel(kernel, grid, dim3(static_cast<unsigned>(threads)), pointers, 0, static_cast<cudaStream_t>(stream));
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

int step_parts(int64_t count) {
  const int64_t of_block = static_cast<int64_t>(kTile) * kStepThreads;
  const int64_t parts = (count + of_block - 1) / of_block;
  return static_cast<int>(parts < kMostParts ? parts : kMostParts);
}

const char* launch_step(const Step& s, void* stream) {
  if (s.count > 0x7FFFFFFF - static_cast<int64_t>(kTile)) {
    return "more elements in a row than 32 bits count";
  }
  const uint32_t count = static_cast<uint32_t>(s.count);
  const uint32_t channels = static_cast<uint32_t>(s.channels), plane = count / channels;
  Tiled tiled{s, {count, channels, plane, 0, (count + kTile - 1) / kTile}};
  const bool of_channels = channels % 4 == 0 && plane % 4 == 0;
  if (of_channels) {
    tiled.tiles.quads = plane / 4;
  }
  // Four elements at a time: along the row where its length allows that, across the channels where
  // tiles are made of channels.
  const auto is_quads = [&](const View& view) {
    return view.data == nullptr || (reinterpret_cast<uintptr_t>(view.data) % 16 == 0 &&
                                    (of_channels || !view.last));
  };
  const bool wide = count % kTile == 0 && is_quads(s.uncond) && is_quads(s.cond) &&
                    is_quads(s.z) && is_quads(s.z_next) && is_quads(s.input);
  const char* const error = launch(MITUNE_PICK(step_kernel, s.uncond.type, wide), tiled, s.rows,
                                   s.parts, stream, kStepThreads);
  if (error != nullptr) {
    return error;
  }
  return launch(finish_kernel, s, (s.rows + kStepThreads - 1) / kStepThreads, 1, stream,
                kStepThreads);
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
