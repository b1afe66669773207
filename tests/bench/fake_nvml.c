// NVML's functions that the sampler calls, of a board that draws 100 W more at each look and does not
// tell its utilization. Built by test_host.py.
#include <string.h>

static unsigned looks = 0;

int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *address, void **device) {
  *device = &looks;
  return strcmp(address, "00000000:4B:00.0") == 0 ? 0 : 6;
}
int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) {
  *milliwatts = 100000u * ++*(unsigned *)device;
  return 0;
}
int nvmlDeviceGetClockInfo(void *device, int kind, unsigned *mhz) {
  (void)device;
  *mhz = kind == 1 ? 1755 : 0;
  return 0;
}
int nvmlDeviceGetMemoryInfo(void *device, unsigned long long *memory) {
  (void)device;
  memory[0] = 80, memory[1] = 50, memory[2] = 30;
  return 0;
}
int nvmlDeviceGetUtilizationRates(void *device, unsigned *rates) {
  (void)device, (void)rates;
  return 3;
}
