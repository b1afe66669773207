// Enough of CUDA for csrc/cuda_kernels.cu to be compiled by g++ and run on a CPU, one thread block
// after the other. The threads of a block are fibers; each runs until it reaches __syncthreads or
// its end. It tests what the kernels compute and that all threads of a block meet at each barrier;
// it says nothing of speed or of races between two barriers.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include <ucontext.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __shared__ static
#define __launch_bounds__(...)

struct dim3 {
  unsigned x, y, z;
  explicit dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct float4 {
  float x, y, z, w;
};
struct uint2 {
  uint32_t x, y;
};
struct uint4 {
  uint32_t x, y, z, w;
};

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorInvalidConfiguration };

namespace cuda_on_cpu {

struct Index {
  int x = 0, y = 0;
};
inline Index thread, block, grid;
inline ucontext_t scheduler, *running;
inline bool at_barrier;
inline cudaError_t last_error = cudaSuccess;

inline void wait() {
  const Index mine = thread;
  at_barrier = true;
  swapcontext(running, &scheduler);
  thread = mine;
}

// The work of one thread, for makecontext, which passes no pointers.
template <class Arguments>
struct Call {
  static inline void (*kernel)(Arguments);
  static inline const Arguments* arguments;
  static void run() { kernel(*arguments); }
};

inline void run_block(void (*entry)(), int threads) {
  constexpr size_t kStack = 64 * 1024;
  static std::vector<std::vector<char>> stacks;
  stacks.resize(threads, std::vector<char>(kStack));
  std::vector<ucontext_t> fibers(threads);
  for (int i = 0; i < threads; ++i) {
    getcontext(&fibers[i]);
    fibers[i].uc_stack.ss_sp = stacks[i].data();
    fibers[i].uc_stack.ss_size = kStack;
    fibers[i].uc_link = &scheduler;
    makecontext(&fibers[i], entry, 0);
  }
  for (int waiting = threads; waiting > 0;) {
    waiting = 0;
    for (int i = 0; i < threads; ++i) {
      thread.x = i;
      at_barrier = false;
      running = &fibers[i];
      swapcontext(&scheduler, running);
      waiting += at_barrier;
    }
    if (waiting != 0 && waiting != threads) {
      std::fprintf(stderr, "a barrier that %d of %d threads reach\n", waiting, threads);
      std::abort();
    }
  }
}

}  // namespace cuda_on_cpu

#define threadIdx (cuda_on_cpu::thread)
#define blockIdx (cuda_on_cpu::block)
#define gridDim (cuda_on_cpu::grid)
#define __syncthreads cuda_on_cpu::wait

template <class Arguments>
cudaError_t cudaLaunchKernel(void (*kernel)(Arguments), dim3 grid, dim3 threads, void** arguments,
                             size_t, cudaStream_t) {
  using Call = cuda_on_cpu::Call<Arguments>;
  if (grid.x == 0 || grid.y == 0 || threads.x > 1024) {
    return cuda_on_cpu::last_error = cudaErrorInvalidConfiguration;
  }
  Call::kernel = kernel;
  Call::arguments = static_cast<const Arguments*>(arguments[0]);
  cuda_on_cpu::grid = {static_cast<int>(grid.x), static_cast<int>(grid.y)};
  for (unsigned y = 0; y < grid.y; ++y) {
    for (unsigned x = 0; x < grid.x; ++x) {
      cuda_on_cpu::block = {static_cast<int>(x), static_cast<int>(y)};
      cuda_on_cpu::run_block(Call::run, static_cast<int>(threads.x));
    }
  }
  return cudaSuccess;
}

inline cudaError_t cudaGetLastError() {
  const cudaError_t error = cuda_on_cpu::last_error;
  cuda_on_cpu::last_error = cudaSuccess;
  return error;
}

inline const char* cudaGetErrorString(cudaError_t) { return "invalid configuration argument"; }
