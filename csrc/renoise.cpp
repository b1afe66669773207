// The CPU implementations of mitune_kernels.renoise and renoise_score.

#include "kernels.h"
#include "rows.h"

#include <algorithm>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

namespace {

using mitune::check;
using mitune::kChunk;
using mitune::Levels;
using mitune::Source;
using mitune::Target;
using mitune::Terms;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Re-noised rows: which latent, which noise, and how much of each.
struct Renoised {
  Source clean;
  const int64_t *row, *key, *draw;
  const float* levels;
  int64_t rows;

  Renoised(const Tensor& z0, const Tensor& row, const Tensor& key, const Tensor& draw,
           const Tensor& levels)
      : clean(z0), rows(row.size(0)) {
    check(row, "row", ScalarType::Long, {rows});
    check(key, "key", ScalarType::Long, {rows, 4});
    check(draw, "draw", ScalarType::Long, {rows});
    check(levels, "levels", ScalarType::Float, {rows, 4});
    STD_TORCH_CHECK(z0.scalar_type() == ScalarType::Float, "z0: expected float32");
    this->row = row.const_data_ptr<int64_t>();
    this->key = key.const_data_ptr<int64_t>();
    this->draw = draw.const_data_ptr<int64_t>();
    this->levels = levels.const_data_ptr<float>();
    for (int64_t i = 0; i < rows; ++i) {
      STD_TORCH_CHECK(this->row[i] >= 0 && this->row[i] < z0.size(0), "row: expected 0 to ",
                      z0.size(0) - 1, ", got ", this->row[i]);
    }
  }

  Levels levels_of(int64_t i) const {
    const float* const at = levels + 4 * i;
    return {at[0], at[1], at[2], at[3]};
  }

  // Calls f(i, first, n, clean, noise) for each chunk of row i, in order, then
  // end(i).
  template <class F, class End>
  void each(const F& f, const End& end) const {
    const int64_t count = clean.layout.count;
    torch::stable::parallel_for(
        0, rows, mitune::rows_per_task(count), [&](int64_t from, int64_t to) {
          alignas(64) float buffer[kChunk], noise[kChunk];
          for (int64_t i = from; i < to; ++i) {
            const mitune::Stream stream = mitune::stream_of(key + 4 * i, draw[i]);
            for (int64_t first = 0; first < count; first += kChunk) {
              const int64_t n = std::min(kChunk, count - first);
              mitune::normals(stream, static_cast<uint32_t>(first / 4), (n + 3) / 4, noise);
              f(i, first, n, clean.read(row[i], first, n, buffer), noise);
            }
            end(i);
          }
        });
  }
};

Tensor renoise(const Tensor& z0, const Tensor& row, const Tensor& key, const Tensor& draw,
               const Tensor& levels, ScalarType dtype, int64_t copies) {
  const Renoised task(z0, row, key, draw, levels);
  std::vector<int64_t> sizes(z0.sizes().begin(), z0.sizes().end());
  sizes[0] = copies * task.rows;
  Tensor out = torch::stable::new_empty(z0, sizes, dtype);
  const Target target(out);
  task.each(
      [&](int64_t i, int64_t first, int64_t n, const float* clean, const float* noise) {
        alignas(64) float values[kChunk];
        mitune::renoise_chunk(clean, noise, n, task.levels_of(i), values);
        for (int64_t copy = 0; copy < copies; ++copy) {
          target.write(copy * task.rows + i, first, n, values);
        }
      },
      [](int64_t) {});
  return out;
}

Tensor renoise_score(const Tensor& eps_uncond, const Tensor& eps_cond, const Tensor& z0,
                     const Tensor& row, const Tensor& key, const Tensor& draw,
                     const Tensor& levels) {
  const Renoised task(z0, row, key, draw, levels);
  const Source uncond(eps_uncond), cond(eps_cond);
  STD_TORCH_CHECK(eps_uncond.sizes().equals(eps_cond.sizes()) && eps_uncond.size(0) == task.rows &&
                      uncond.layout.count == task.clean.layout.count,
                  "eps_uncond, eps_cond: expected one shape, that of the re-noised latents");
  Tensor terms = torch::stable::new_empty(z0, {task.rows, 2});
  float* const out = terms.mutable_data_ptr<float>();
  int64_t chunks = 1;
  while (chunks * kChunk < task.clean.layout.count) {
    chunks *= 2;
  }
  // Zero-filled, for the sums' tree.
  std::vector<float> squared(task.rows * chunks), gap(task.rows * chunks);
  task.each(
      [&](int64_t i, int64_t first, int64_t n, const float* clean, const float* noise) {
        alignas(64) float u[kChunk], c[kChunk];
        const Terms sums =
            mitune::renoise_score_chunk(uncond.read(i, first, n, u), cond.read(i, first, n, c),
                                        clean, noise, n, task.levels_of(i));
        squared[i * chunks + first / kChunk] = sums.squared;
        gap[i * chunks + first / kChunk] = sums.cross;
      },
      [&](int64_t i) {
        out[2 * i] = mitune::fold(squared.data() + i * chunks, chunks);
        out[2 * i + 1] = mitune::fold(gap.data() + i * chunks, chunks);
      });
  return terms;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mitune, CPU, m) {
  m.impl("renoise_cpp", TORCH_BOX(&renoise));
  m.impl("renoise_score_cpp", TORCH_BOX(&renoise_score));
}
