// The CPU implementations of the operations whose schemas kernels/mitune_kernels/ops.py owns,
// through torch's stable ABI: one binary serves the torch it was built with and later ones. The
// public Python functions validate; what is checked here again is what would otherwise read or
// write outside a tensor.

#include "kernels.h"
#include "rows.h"

#include <algorithm>
#include <optional>
#include <vector>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

namespace {

using mitune::check;
using mitune::Coefficients;
using mitune::copies_of;
using mitune::kChunk;
using mitune::Layout;
using mitune::rows_per_task;
using mitune::Source;
using mitune::Stream;
using mitune::stream_of;
using mitune::Target;
using mitune::Terms;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Calls draw(stream, first block, blocks, buffer) and emit(position in the output, n, buffer) until
// every row has its `count` elements.
template <class T, class Draw, class Emit>
void draw_rows(const Tensor& key, const Tensor& step, int64_t count, const Draw& draw,
               const Emit& emit) {
  const int64_t rows = step.size(0);
  check(step, "step", ScalarType::Long, {rows});
  check(key, "key", ScalarType::Long, {rows, 4});
  const int64_t* keys = key.const_data_ptr<int64_t>();
  const int64_t* steps = step.const_data_ptr<int64_t>();
  torch::stable::parallel_for(0, rows, rows_per_task(count), [&](int64_t begin, int64_t end) {
    alignas(64) T buffer[kChunk];
    for (int64_t row = begin; row < end; ++row) {
      const Stream stream = stream_of(keys + 4 * row, steps[row]);
      for (int64_t first = 0; first < count; first += kChunk) {
        const int64_t n = std::min(kChunk, count - first);
        draw(stream, static_cast<uint32_t>(first / 4), (n + 3) / 4, buffer);
        emit(row * count + first, n, buffer);
      }
    }
  });
}

Tensor philox(const Tensor& key, const Tensor& step, int64_t count) {
  Tensor out = torch::stable::new_empty(step, {step.size(0), count});
  int64_t* words = out.mutable_data_ptr<int64_t>();
  draw_rows<uint32_t>(key, step, count, mitune::philox_words,
                      [&](int64_t at, int64_t n, const uint32_t* buffer) {
                        std::copy(buffer, buffer + n, words + at);
                      });
  return out;
}

Tensor normal(const Tensor& key, const Tensor& step, int64_t count) {
  Tensor out = torch::stable::new_empty(step, {step.size(0), count}, ScalarType::Float);
  float* values = out.mutable_data_ptr<float>();
  draw_rows<float>(key, step, count, mitune::normals,
                   [&](int64_t at, int64_t n, const float* buffer) {
                     std::copy(buffer, buffer + n, values + at);
                   });
  return out;
}

// Everything about a step that does not change from row to row.
struct Step {
  Source uncond, cond, z;
  Target z_next;
  std::optional<Target> model_input;
  const int64_t *index, *key;
  const float *table, *score;
  float guidance;
  float *score_next, *terms, *t_next;
  int64_t* index_next;
  int64_t rows, table_rows, copies, t_copies;
  bool history;    // terms are [B, N, 2], one row for each step
  int64_t chunks;  // of a row, rounded up to a power of two for the sums' tree

  // One thread's memory.
  struct Scratch {
    alignas(64) float uncond[kChunk], cond[kChunk], z[kChunk], noise[kChunk], z_next[kChunk];
    std::vector<float> squared, cross;
    explicit Scratch(int64_t chunks) : squared(chunks), cross(chunks) {}
  };

  const float* coefficients(int64_t i) const { return table + mitune::kColumns * i; }

  void idle_row(int64_t row, Scratch& s) const {
    // In place there is nothing to carry over.
    const int64_t count = z.data == z_next.data ? 0 : z.layout.count;
    for (int64_t first = 0; first < count; first += kChunk) {
      const int64_t n = std::min(kChunk, count - first);
      write(row, first, n, z.read(row, first, n, s.z));
    }
    if (!history) {
      terms[2 * row] = 0.0f;
      terms[2 * row + 1] = 0.0f;
    }
    score_next[row] = score[row];
    if (index_next != nullptr) {
      index_next[row] = -1;
    }
  }

  void active_row(int64_t row, Scratch& s) const {
    const int64_t i = index[row], count = z.layout.count;
    const float* const at = coefficients(i);
    const Coefficients coefficients{at[0], at[1], at[2], at[3], at[4]};
    const Stream stream = stream_of(key + 4 * row, i + 1);
    std::fill(s.squared.begin(), s.squared.end(), 0.0f);
    std::fill(s.cross.begin(), s.cross.end(), 0.0f);
    for (int64_t first = 0; first < count; first += kChunk) {
      const int64_t n = std::min(kChunk, count - first);
      const float* noise = nullptr;
      if (coefficients.sigma != 0.0f) {
        mitune::normals(stream, static_cast<uint32_t>(first / 4), (n + 3) / 4, s.noise);
        noise = s.noise;
      }
      float* const there = z_next.run(row, first);
      float* const out = there == nullptr ? s.z_next : there;
      const Terms sums =
          mitune::step_chunk(uncond.read(row, first, n, s.uncond), cond.read(row, first, n, s.cond),
                             z.read(row, first, n, s.z), noise, n, coefficients, guidance, out);
      s.squared[first / kChunk] = sums.squared;
      s.cross[first / kChunk] = sums.cross;
      write(row, first, n, out);
    }
    const float squared = mitune::fold(s.squared.data(), chunks);
    float* const to = terms + 2 * (history ? row * table_rows + i : row);
    to[0] = squared;
    to[1] = mitune::fold(s.cross.data(), chunks);
    score_next[row] = score[row] + coefficients.weight * squared;
    const int64_t next = i + 1 < table_rows ? i + 1 : -1;
    if (index_next != nullptr) {
      index_next[row] = next;
    }
    for (int64_t copy = 0; copy < t_copies && next >= 0; ++copy) {
      t_next[copy * rows + row] = this->coefficients(next)[4];
    }
  }

  void write(int64_t row, int64_t first, int64_t n, const float* values) const {
    z_next.write(row, first, n, values);
    for (int64_t copy = 0; copy < copies; ++copy) {
      model_input->write(copy * rows + row, first, n, values);
    }
  }
};

void step_out(const Tensor& eps_uncond, const Tensor& eps_cond, const Tensor& z,
              const Tensor& score, const Tensor& index, const Tensor& key, const Tensor& table,
              double guidance, const Tensor& z_next, const Tensor& score_next, const Tensor& terms,
              const std::optional<Tensor>& model_input, const std::optional<Tensor>& index_next,
              const std::optional<Tensor>& t_next) {
  const int64_t rows = z.size(0), table_rows = table.size(0);
  const bool history = terms.dim() == 3;
  check(score, "score", ScalarType::Float, {rows});
  check(index, "index", ScalarType::Long, {rows});
  check(key, "key", ScalarType::Long, {rows, 4});
  check(table, "table", ScalarType::Float, {table_rows, mitune::kColumns});
  check(score_next, "score_next", ScalarType::Float, {rows});
  if (history) {
    check(terms, "terms", ScalarType::Float, {rows, table_rows, 2});
  } else {
    check(terms, "terms", ScalarType::Float, {rows, 2});
  }
  STD_TORCH_CHECK(z.scalar_type() == ScalarType::Float && z_next.scalar_type() == ScalarType::Float,
                  "z and z_next: expected float32");
  STD_TORCH_CHECK(eps_uncond.sizes().equals(z.sizes()) && eps_cond.sizes().equals(z.sizes()) &&
                      z_next.sizes().equals(z.sizes()),
                  "eps_uncond, eps_cond, z, z_next: expected one shape");
  const int64_t* const indices = index.const_data_ptr<int64_t>();
  for (int64_t row = 0; row < rows; ++row) {
    STD_TORCH_CHECK(indices[row] >= -1 && indices[row] < table_rows, "index: expected -1 to ",
                    table_rows - 1, ", got ", indices[row]);
  }
  std::optional<Target> input;
  int64_t copies = 0, t_copies = 0;
  if (model_input) {
    copies = copies_of(*model_input, "model_input", rows);
    input.emplace(*model_input);
    STD_TORCH_CHECK(input->layout.count == Layout(z).count, "model_input: expected z's rows");
  }
  if (index_next) {
    check(*index_next, "index_next", ScalarType::Long, {rows});
  }
  if (t_next) {
    t_copies = copies_of(*t_next, "t_next", rows);
    check(*t_next, "t_next", ScalarType::Float, {t_copies * rows});
  }

  const int64_t count = Layout(z).count;
  int64_t chunks = 1;
  while (chunks * kChunk < count) {
    chunks *= 2;
  }
  const Step task{Source(eps_uncond),
                  Source(eps_cond),
                  Source(z),
                  Target(z_next),
                  input,
                  indices,
                  key.const_data_ptr<int64_t>(),
                  table.const_data_ptr<float>(),
                  score.const_data_ptr<float>(),
                  static_cast<float>(guidance),
                  score_next.mutable_data_ptr<float>(),
                  terms.mutable_data_ptr<float>(),
                  t_next ? t_next->mutable_data_ptr<float>() : nullptr,
                  index_next ? index_next->mutable_data_ptr<int64_t>() : nullptr,
                  rows,
                  table_rows,
                  copies,
                  t_copies,
                  history,
                  chunks};
  torch::stable::parallel_for(0, rows, rows_per_task(count), [&](int64_t begin, int64_t end) {
    Step::Scratch scratch(task.chunks);
    for (int64_t row = begin; row < end; ++row) {
      if (task.index[row] < 0) {
        task.idle_row(row, scratch);
      } else {
        task.active_row(row, scratch);
      }
    }
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mitune, CPU, m) {
  m.impl("philox_cpp", TORCH_BOX(&philox));
  m.impl("normal_cpp", TORCH_BOX(&normal));
  m.impl("step_out_cpp", TORCH_BOX(&step_out));
}
