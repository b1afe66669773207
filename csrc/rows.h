// What the operations share: checks of tensors, how the rows of a [B, ...] tensor lie in memory, and
// reading and writing them as float32 in logical order.
#pragma once

#include "kernels.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

namespace mitune {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Work for one thread, in elements: below it, starting threads costs more than they save.
constexpr int64_t kGrain = 16384;

inline int64_t rows_per_task(int64_t count) {
  return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, count));
}

inline void check(const Tensor& t, const char* name, ScalarType dtype, std::vector<int64_t> sizes) {
  STD_TORCH_CHECK(t.is_cpu() && t.scalar_type() == dtype, name, ": expected a CPU tensor of ",
                  torch::headeronly::toString(dtype), ", got ",
                  torch::headeronly::toString(t.scalar_type()));
  STD_TORCH_CHECK(t.is_contiguous() && t.sizes().equals(sizes),
                  name, ": expected another shape, contiguous");
}

inline Stream stream_of(const int64_t* key, int64_t step) {
  return {static_cast<uint32_t>(key[0]), static_cast<uint32_t>(key[1]), static_cast<uint32_t>(step),
          static_cast<uint32_t>(key[2]), static_cast<uint32_t>(key[3])};
}

// How often `rows` rows are repeated in the first dimension of t: once or twice.
inline int64_t copies_of(const Tensor& t, const char* name, int64_t rows) {
  const int64_t copies = rows == 0 ? 1 : t.size(0) / rows;
  STD_TORCH_CHECK((copies == 1 || copies == 2) && t.size(0) == copies * rows, name, ": expected ",
                  rows, " or ", 2 * rows, " rows, got ", t.size(0));
  return copies;
}

// How the elements of a row, in their logical (C) order, lie in memory: `planes` runs of `run`
// elements. Contiguous rows are one run; channels-last rows are one run per channel with the
// channels interleaved.
struct Layout {
  int64_t count, planes, run, row_stride, plane_stride, stride;

  explicit Layout(const Tensor& t) {
    STD_TORCH_CHECK(t.dim() >= 2, "expected [rows, ...], got ", t.dim(), " dimensions");
    count = 1;
    for (int64_t d = 1; d < t.dim(); ++d) {
      count *= t.size(d);
    }
    row_stride = t.stride(0);
    planes = 1;
    run = count;
    plane_stride = 0;
    stride = 1;
    if (!dense(t, 1, 1)) {
      planes = t.size(1);
      run = count / std::max<int64_t>(1, planes);
      plane_stride = 1;
      stride = planes;
      STD_TORCH_CHECK(t.stride(1) == 1 && dense(t, 2, planes),
                      "expected a tensor whose rows are contiguous or channels-last");
    }
  }

  // Whether a row is one stretch of memory in its logical order.
  bool is_run() const { return planes == 1 && stride == 1; }

  static bool dense(const Tensor& t, int64_t first, int64_t stride) {
    for (int64_t d = t.dim() - 1; d >= first; --d) {
      if (t.size(d) != 1 && t.stride(d) != stride) {
        return false;
      }
      stride *= t.size(d);
    }
    return true;
  }

  // Calls f(offset in memory, position, length) for each run within n elements from `first`.
  template <class F>
  void spans(int64_t row, int64_t first, int64_t n, const F& f) const {
    for (int64_t done = 0; done < n;) {
      const int64_t plane = (first + done) / run, at = (first + done) % run;
      const int64_t length = std::min(n - done, run - at);
      f(row * row_stride + plane * plane_stride + at * stride, done, length);
      done += length;
    }
  }
};

// A [B, ...] tensor read as float32, whatever its type and layout.
struct Source {
  const void* data;
  ScalarType dtype;
  Layout layout;

  explicit Source(const Tensor& t) : data(t.data_ptr()), dtype(t.scalar_type()), layout(t) {
    STD_TORCH_CHECK(t.is_cpu(), "expected a CPU tensor");
    STD_TORCH_CHECK(
        dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half,
        "expected float32, bfloat16 or float16, got ", torch::headeronly::toString(dtype));
  }

  // n elements from `first` of a row, through the buffer unless memory already holds them so.
  const float* read(int64_t row, int64_t first, int64_t n, float* buffer) const {
    if (dtype == ScalarType::Float && layout.is_run()) {
      return static_cast<const float*>(data) + row * layout.row_stride + first;
    }
    layout.spans(row, first, n, [&](int64_t offset, int64_t at, int64_t length) {
      if (dtype == ScalarType::Float) {
        load(static_cast<const float*>(data) + offset, layout.stride, length, buffer + at);
      } else if (dtype == ScalarType::BFloat16) {
        load_bfloat16(static_cast<const uint16_t*>(data) + offset, layout.stride, length,
                      buffer + at);
      } else {
        load_half(static_cast<const uint16_t*>(data) + offset, layout.stride, length, buffer + at);
      }
    });
    return buffer;
  }
};

// A [B, ...] tensor that float32 values are written to, in its own type and layout.
struct Target {
  void* data;
  ScalarType dtype;
  Layout layout;

  explicit Target(const Tensor& t)
      : data(t.mutable_data_ptr()), dtype(t.scalar_type()), layout(t) {
    STD_TORCH_CHECK(t.is_cpu(), "expected a CPU tensor");
    STD_TORCH_CHECK(
        dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half,
        "expected float32, bfloat16 or float16, got ", torch::headeronly::toString(dtype));
  }

  // Where n elements from `first` of a row may be computed in place; null where they may not.
  float* run(int64_t row, int64_t first) const {
    return dtype == ScalarType::Float && layout.is_run()
               ? static_cast<float*>(data) + row * layout.row_stride + first
               : nullptr;
  }

  // Puts n elements where they belong, unless they were computed there.
  void write(int64_t row, int64_t first, int64_t n, const float* values) const {
    if (values == run(row, first)) {
      return;
    }
    layout.spans(row, first, n, [&](int64_t offset, int64_t at, int64_t length) {
      if (dtype == ScalarType::Float) {
        store(values + at, length, layout.stride, static_cast<float*>(data) + offset);
      } else if (dtype == ScalarType::BFloat16) {
        store_bfloat16(values + at, length, layout.stride, static_cast<uint16_t*>(data) + offset);
      } else {
        store_half(values + at, length, layout.stride, static_cast<uint16_t*>(data) + offset);
      }
    });
  }
};

}  // namespace mitune
