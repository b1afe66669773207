// The noise of noise.h in blocks, vectorised by the compiler.

#include "noise.h"

namespace mitune {

MITUNE_CLONES void philox_words(const Stream& stream, uint32_t first_block, int64_t blocks,
                                uint32_t* out) {
  const Stream s = stream;
  for (int64_t i = 0; i < blocks; ++i) {
    const Words w = philox(s, first_block + static_cast<uint32_t>(i));
    out[4 * i] = static_cast<uint32_t>(w.x0);
    out[4 * i + 1] = static_cast<uint32_t>(w.x1);
    out[4 * i + 2] = static_cast<uint32_t>(w.x2);
    out[4 * i + 3] = static_cast<uint32_t>(w.x3);
  }
}

MITUNE_CLONES void normals(const Stream& stream, uint32_t first_block, int64_t blocks, float* out) {
  const Stream s = stream;
  for (int64_t i = 0; i < blocks; ++i) {
    const Words w = philox(s, first_block + static_cast<uint32_t>(i));
    normals_of(w, out[4 * i], out[4 * i + 1], out[4 * i + 2], out[4 * i + 3]);
  }
}

}  // namespace mitune
