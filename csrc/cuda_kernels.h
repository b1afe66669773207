// The CUDA kernels' launchers on plain memory. Neither torch nor CUDA is needed to include this, so
// that the kernels compile in seconds, and apart from the binding.
#pragma once

#include <cstdint>

namespace mitune::cuda {

enum class Type { kFloat, kBFloat16, kHalf };

// A [rows, ...] tensor in its logical order, or with its channels last.
struct View {
  void* data;
  Type type;
  bool last;
};

// See mitune_kernels.step_out; what is left out is null. `parts` is step_parts(count).
struct Step {
  View uncond, cond, z, z_next, input;
  const int64_t *index, *key;
  const float *table, *score;
  float *score_next, *terms, *t_next;
  int64_t* index_next;
  float* sums;  // [rows, parts, 2], to work in
  float guidance;
  int64_t rows, table_rows, count, channels;
  int parts, copies, t_copies;
  bool history, in_place;
};

// See mitune_kernels.renoise and renoise_score; `out` is of the one, uncond, cond and terms of the
// other.
struct Renoise {
  View out, uncond, cond, z0;
  const int64_t *row, *key, *draw;
  const float* levels;
  float* terms;
  int64_t rows, given, count;
  int copies;
};

// words or values is null.
struct Noise {
  const int64_t *key, *step;
  int64_t* words;
  float* values;
  int64_t rows, count;
};

// In how many parts the rows of a step are summed.
int step_parts(int64_t count);

// Each returns null, or what CUDA says went wrong. They do not wait for the device.
const char* launch_step(const Step& step, void* stream);
const char* launch_renoise(const Renoise& renoise, void* stream);
const char* launch_renoise_score(const Renoise& renoise, void* stream);
const char* launch_noise(const Noise& noise, void* stream);

}  // namespace mitune::cuda
