// What the host does while a model runs: memory that is freed, and what a GPU's driver says while
// something runs. No tensors: torch is not linked, and no call holds Python's lock while it waits.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <dlfcn.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace py = pybind11;

namespace {

// Whether the C library now keeps `bytes` of freed memory, and takes new memory in steps of `step`.
bool keep_freed_memory(int bytes, int step) {
#ifdef __GLIBC__
  return mallopt(M_MMAP_THRESHOLD, bytes) == 1 && mallopt(M_TRIM_THRESHOLD, bytes) == 1 &&
         mallopt(M_TOP_PAD, step) == 1;
#else
  (void)bytes;
  (void)step;
  return false;
#endif
}

// Whether freed memory went back to the system.
bool give_back_memory() {
#ifdef __GLIBC__
  py::gil_scoped_release release;
  return malloc_trim(0) == 1;
#else
  return false;
#endif
}

// The part of NVML's interface that is used, as nvml.h declares it; 0 is success throughout.
struct Memory {
  unsigned long long total, free, used;
};
struct Utilization {
  unsigned int gpu, memory;
};
using Device = void *;
constexpr int kSmClock = 1;

class Nvml {
 public:
  explicit Nvml(const std::string &library) : handle_(dlopen(library.c_str(), RTLD_NOW)) {
    if (handle_ == nullptr) throw std::runtime_error(library + " cannot be loaded");
    const auto init = symbol<int (*)()>("nvmlInit_v2");
    find_ = symbol<decltype(find_)>("nvmlDeviceGetHandleByPciBusId_v2");
    power_ = symbol<decltype(power_)>("nvmlDeviceGetPowerUsage");
    clock_ = symbol<decltype(clock_)>("nvmlDeviceGetClockInfo");
    memory_ = symbol<decltype(memory_)>("nvmlDeviceGetMemoryInfo");
    utilization_ = symbol<decltype(utilization_)>("nvmlDeviceGetUtilizationRates");
    if (init() != 0) throw std::runtime_error("NVML does not start: is the driver running?");
  }

  Device find(const std::string &address) const {
    Device device = nullptr;
    if (find_(address.c_str(), &device) != 0) {
      throw std::runtime_error("NVML has no GPU at " + address);
    }
    return device;
  }

  // Watts, SM clock in MHz, bytes in use, share of the time in which a kernel ran; -1 where the
  // board does not tell.
  std::vector<double> look(Device device) const {
    unsigned int milliwatts = 0, mhz = 0;
    Memory memory{};
    Utilization utilization{};
    return {
        power_(device, &milliwatts) == 0 ? milliwatts / 1000.0 : -1,
        clock_(device, kSmClock, &mhz) == 0 ? static_cast<double>(mhz) : -1,
        memory_(device, &memory) == 0 ? static_cast<double>(memory.used) : -1,
        utilization_(device, &utilization) == 0 ? utilization.gpu / 100.0 : -1,
    };
  }

 private:
  template <typename F>
  F symbol(const char *name) const {
    void *found = dlsym(handle_, name);
    if (found == nullptr) throw std::runtime_error(std::string("NVML has no ") + name);
    return reinterpret_cast<F>(found);
  }

  void *handle_;  // never closed: the driver's library does not like to be unloaded
  int (*find_)(const char *, Device *) = nullptr;
  int (*power_)(Device, unsigned int *) = nullptr;
  int (*clock_)(Device, int, unsigned int *) = nullptr;
  int (*memory_)(Device, Memory *) = nullptr;
  int (*utilization_)(Device, Utilization *) = nullptr;
};

// Looks at a GPU every `interval` seconds from a thread of its own.
class Sampler {
 public:
  Sampler(const std::string &address, double interval, const std::string &library)
      : nvml_(library), device_(nvml_.find(address)), interval_(interval) {
    if (!(interval > 0)) throw std::invalid_argument("interval must be above 0 seconds");
    thread_ = std::thread([this] { run(); });
  }

  ~Sampler() { stop(); }

  // Ends the sampling and returns what was seen: (seconds since the start, watts, MHz, bytes,
  // share), one row a look. Once more: the same.
  std::vector<std::vector<double>> stop() {
    {
      const std::lock_guard<std::mutex> guard(mutex_);
      done_ = true;
    }
    wake_.notify_all();
    if (thread_.joinable()) thread_.join();
    return rows_;
  }

 private:
  void run() {
    const auto start = std::chrono::steady_clock::now();
    std::unique_lock<std::mutex> lock(mutex_);
    do {  // one look at least, however soon it ends
      lock.unlock();
      const std::chrono::duration<double> since = std::chrono::steady_clock::now() - start;
      std::vector<double> row{since.count()};
      for (const double value : nvml_.look(device_)) row.push_back(value);
      rows_.push_back(std::move(row));
      lock.lock();
    } while (!wake_.wait_for(lock, std::chrono::duration<double>(interval_),
                             [this] { return done_; }));
  }

  Nvml nvml_;
  Device device_;
  double interval_;
  std::vector<std::vector<double>> rows_;
  std::mutex mutex_;
  std::condition_variable wake_;
  bool done_ = false;
  std::thread thread_;
};

}  // namespace

PYBIND11_MODULE(_host, module) {
  module.doc() = "Host-side helpers of mitune; see mitune.runtime.malloc and mitune.bench.machine.";
  module.def("keep_freed_memory", &keep_freed_memory, py::arg("bytes"), py::arg("step"));
  module.def("give_back_memory", &give_back_memory);
  py::class_<Sampler>(module, "Sampler")
      .def(py::init<const std::string &, double, const std::string &>(), py::arg("address"),
           py::arg("interval"), py::arg("library") = "libnvidia-ml.so.1")
      .def("stop", &Sampler::stop, py::call_guard<py::gil_scoped_release>());
}
