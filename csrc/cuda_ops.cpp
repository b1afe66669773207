// The CUDA implementations of the operations whose schemas kernels/mitune_kernels/ops.py owns,
// through torch's stable ABI. Compiled by the host's compiler against a CPU build of torch: what it
// needs of CUDA are the launchers of cuda_kernels.h and torch's current stream.

#include "cuda_kernels.h"

#include <optional>
#include <vector>

#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

// The tests compile the kernels for the CPU (tests/kernels/emulation), and this file with them.
#ifdef MITUNE_CUDA_ON_CPU
#define MITUNE_KEY CPU
#else
#define MITUNE_KEY CUDA
#endif

namespace {

using mitune::cuda::Noise;
using mitune::cuda::Renoise;
using mitune::cuda::Step;
using mitune::cuda::Type;
using mitune::cuda::View;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

#ifndef MITUNE_CUDA_ON_CPU
// torch's current stream on a device. Its function is in torch's CUDA library, which a torch for
// CPUs, that this may be linked with, does not have; and which Python loads out of the linker's
// sight. So it is asked for by name.
void* current_stream(int32_t device) {
  using Get = int32_t (*)(int32_t, void**);
  static const Get get = [] {
    void* const library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return library == nullptr
               ? nullptr
               : reinterpret_cast<Get>(dlsym(library, "aoti_torch_get_current_cuda_stream"));
  }();
  void* stream = nullptr;
  STD_TORCH_CHECK(get != nullptr && get(device, &stream) == 0,
                  "this torch does not say which CUDA stream is current");
  return stream;
}
#endif

// Makes a tensor's device the current one, and calls f with its stream.
template <class F>
void on_device_of(const Tensor& t, const F& f) {
#ifdef MITUNE_CUDA_ON_CPU
  (void)t;
  const char* const error = f(nullptr);
#else
  const torch::stable::accelerator::DeviceGuard guard(t.get_device_index());
  const char* const error = f(current_stream(t.get_device_index()));
#endif
  STD_TORCH_CHECK(error == nullptr, "CUDA: ", error);
}

void check_device(const Tensor& t, const char* name, const Tensor& like) {
#ifdef MITUNE_CUDA_ON_CPU
  STD_TORCH_CHECK(t.is_cpu(), name, ": expected a CPU tensor");
  (void)like;
#else
  STD_TORCH_CHECK(t.is_cuda() && t.get_device_index() == like.get_device_index(), name,
                  ": expected a tensor on z's CUDA device");
#endif
}

void check(const Tensor& t, const char* name, ScalarType dtype, std::vector<int64_t> sizes,
           const Tensor& like) {
  check_device(t, name, like);
  STD_TORCH_CHECK(t.scalar_type() == dtype, name, ": expected ",
                  torch::headeronly::toString(dtype), ", got ",
                  torch::headeronly::toString(t.scalar_type()));
  STD_TORCH_CHECK(t.is_contiguous() && t.sizes().equals(sizes),
                  name, ": expected another shape, contiguous");
}

int64_t count_of(const Tensor& t) {
  STD_TORCH_CHECK(t.dim() >= 2, "expected [rows, ...], got ", t.dim(), " dimensions");
  int64_t count = 1;
  for (int64_t d = 1; d < t.dim(); ++d) {
    count *= t.size(d);
  }
  return count;
}

// The rows of a tensor of `rows` rows shaped like z's, contiguous or channels-last.
View view_of(const Tensor& t, const char* name, int64_t rows, const Tensor& like) {
  check_device(t, name, like);
  const ScalarType dtype = t.scalar_type();
  STD_TORCH_CHECK(
      dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half,
      name, ": expected float32, bfloat16 or float16");
  STD_TORCH_CHECK(t.dim() == like.dim() && t.size(0) == rows, name, ": expected ", rows, " rows");
  for (int64_t d = 1; d < t.dim(); ++d) {
    STD_TORCH_CHECK(t.size(d) == like.size(d), name, ": expected rows of one shape");
  }
  const bool last = !t.is_contiguous();
  if (last) {
    int64_t stride = t.size(1);
    for (int64_t d = t.dim() - 1; d >= 2; --d) {
      STD_TORCH_CHECK(t.size(d) == 1 || t.stride(d) == stride, name,
                      ": expected a contiguous or channels-last tensor");
      stride *= t.size(d);
    }
    STD_TORCH_CHECK((t.size(1) == 1 || t.stride(1) == 1) && (rows == 1 || t.stride(0) == stride),
                    name, ": expected a contiguous or channels-last tensor");
  }
  const Type type = dtype == ScalarType::Float      ? Type::kFloat
                    : dtype == ScalarType::BFloat16 ? Type::kBFloat16
                                                    : Type::kHalf;
  return {t.data_ptr(), type, last};
}

void check_float(const View& view, const char* name) {
  STD_TORCH_CHECK(view.type == Type::kFloat, name, ": expected float32");
}

int copies_of(const Tensor& t, const char* name, int64_t rows) {
  const int64_t copies = rows == 0 ? 1 : t.size(0) / rows;
  STD_TORCH_CHECK((copies == 1 || copies == 2) && t.size(0) == copies * rows, name, ": expected ",
                  rows, " or ", 2 * rows, " rows, got ", t.size(0));
  return static_cast<int>(copies);
}

Tensor noise(const Tensor& key, const Tensor& step, int64_t count, ScalarType dtype) {
  const int64_t rows = step.size(0);
  check(step, "step", ScalarType::Long, {rows}, step);
  check(key, "key", ScalarType::Long, {rows, 4}, step);
  Tensor out = torch::stable::new_empty(step, {rows, count}, dtype);
  const bool words = dtype == ScalarType::Long;
  const Noise task{key.const_data_ptr<int64_t>(), step.const_data_ptr<int64_t>(),
                   words ? out.mutable_data_ptr<int64_t>() : nullptr,
                   words ? nullptr : out.mutable_data_ptr<float>(), rows, count};
  on_device_of(step, [&](void* stream) { return mitune::cuda::launch_noise(task, stream); });
  return out;
}

Tensor philox(const Tensor& key, const Tensor& step, int64_t count) {
  return noise(key, step, count, ScalarType::Long);
}

Tensor normal(const Tensor& key, const Tensor& step, int64_t count) {
  return noise(key, step, count, ScalarType::Float);
}

void step_out(const Tensor& eps_uncond, const Tensor& eps_cond, const Tensor& z,
              const Tensor& score, const Tensor& index, const Tensor& key, const Tensor& table,
              double guidance, const Tensor& z_next, const Tensor& score_next, const Tensor& terms,
              const std::optional<Tensor>& model_input, const std::optional<Tensor>& index_next,
              const std::optional<Tensor>& t_next) {
  Step s{};
  s.rows = z.size(0);
  s.table_rows = table.size(0);
  s.count = count_of(z);
  s.channels = z.size(1);
  s.guidance = static_cast<float>(guidance);
  s.history = terms.dim() == 3;
  check(score, "score", ScalarType::Float, {s.rows}, z);
  check(index, "index", ScalarType::Long, {s.rows}, z);
  check(key, "key", ScalarType::Long, {s.rows, 4}, z);
  check(table, "table", ScalarType::Float, {s.table_rows, 5}, z);
  check(score_next, "score_next", ScalarType::Float, {s.rows}, z);
  if (s.history) {
    check(terms, "terms", ScalarType::Float, {s.rows, s.table_rows, 2}, z);
  } else {
    check(terms, "terms", ScalarType::Float, {s.rows, 2}, z);
  }
  s.uncond = view_of(eps_uncond, "eps_uncond", s.rows, z);
  s.cond = view_of(eps_cond, "eps_cond", s.rows, z);
  STD_TORCH_CHECK(s.uncond.type == s.cond.type, "eps_uncond, eps_cond: expected one dtype");
  s.z = view_of(z, "z", s.rows, z);
  s.z_next = view_of(z_next, "z_next", s.rows, z);
  check_float(s.z, "z");
  check_float(s.z_next, "z_next");
  s.in_place = s.z.data == s.z_next.data;
  if (model_input) {
    s.copies = copies_of(*model_input, "model_input", s.rows);
    s.input = view_of(*model_input, "model_input", s.copies * s.rows, z);
  }
  if (index_next) {
    check(*index_next, "index_next", ScalarType::Long, {s.rows}, z);
    s.index_next = index_next->mutable_data_ptr<int64_t>();
  }
  if (t_next) {
    s.t_copies = copies_of(*t_next, "t_next", s.rows);
    check(*t_next, "t_next", ScalarType::Float, {s.t_copies * s.rows}, z);
    s.t_next = t_next->mutable_data_ptr<float>();
  }
  s.index = index.const_data_ptr<int64_t>();
  s.key = key.const_data_ptr<int64_t>();
  s.table = table.const_data_ptr<float>();
  s.score = score.const_data_ptr<float>();
  s.score_next = score_next.mutable_data_ptr<float>();
  s.terms = terms.mutable_data_ptr<float>();
  s.parts = mitune::cuda::step_parts(s.count);
  Tensor sums = torch::stable::new_empty(z, {s.rows, s.parts, 2}, ScalarType::Float);
  s.sums = sums.mutable_data_ptr<float>();
  on_device_of(z, [&](void* stream) { return mitune::cuda::launch_step(s, stream); });
}

Renoise renoise_of(const Tensor& z0, const Tensor& row, const Tensor& key, const Tensor& draw,
                   const Tensor& levels) {
  Renoise r{};
  r.rows = row.size(0);
  r.given = z0.size(0);
  r.count = count_of(z0);
  check(row, "row", ScalarType::Long, {r.rows}, z0);
  check(key, "key", ScalarType::Long, {r.rows, 4}, z0);
  check(draw, "draw", ScalarType::Long, {r.rows}, z0);
  check(levels, "levels", ScalarType::Float, {r.rows, 4}, z0);
  r.z0 = view_of(z0, "z0", r.given, z0);
  check_float(r.z0, "z0");
  STD_TORCH_CHECK(!r.z0.last, "z0: expected a contiguous tensor");
  STD_TORCH_CHECK(r.given > 0 || r.rows == 0, "z0: expected rows, got none");
  r.row = row.const_data_ptr<int64_t>();
  r.key = key.const_data_ptr<int64_t>();
  r.draw = draw.const_data_ptr<int64_t>();
  r.levels = levels.const_data_ptr<float>();
  return r;
}

Tensor renoise(const Tensor& z0, const Tensor& row, const Tensor& key, const Tensor& draw,
               const Tensor& levels, ScalarType dtype, int64_t copies) {
  Renoise r = renoise_of(z0, row, key, draw, levels);
  std::vector<int64_t> sizes(z0.sizes().begin(), z0.sizes().end());
  sizes[0] = copies * r.rows;
  Tensor out = torch::stable::new_empty(z0, sizes, dtype);
  r.copies = static_cast<int>(copies);
  r.out = view_of(out, "out", sizes[0], z0);
  on_device_of(z0, [&](void* stream) { return mitune::cuda::launch_renoise(r, stream); });
  return out;
}

Tensor renoise_score(const Tensor& eps_uncond, const Tensor& eps_cond, const Tensor& z0,
                     const Tensor& row, const Tensor& key, const Tensor& draw,
                     const Tensor& levels) {
  Renoise r = renoise_of(z0, row, key, draw, levels);
  r.uncond = view_of(eps_uncond, "eps_uncond", r.rows, z0);
  r.cond = view_of(eps_cond, "eps_cond", r.rows, z0);
  STD_TORCH_CHECK(r.uncond.type == r.cond.type && !r.uncond.last && !r.cond.last,
                  "eps_uncond, eps_cond: expected one dtype, contiguous");
  Tensor terms = torch::stable::new_empty(z0, {r.rows, 2});
  r.terms = terms.mutable_data_ptr<float>();
  on_device_of(z0, [&](void* stream) { return mitune::cuda::launch_renoise_score(r, stream); });
  return terms;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mitune, MITUNE_KEY, m) {
  m.impl("philox_cuda", TORCH_BOX(&philox));
  m.impl("normal_cuda", TORCH_BOX(&normal));
  m.impl("step_out_cuda", TORCH_BOX(&step_out));
  m.impl("renoise_cuda", TORCH_BOX(&renoise));
  m.impl("renoise_score_cuda", TORCH_BOX(&renoise_score));
}
