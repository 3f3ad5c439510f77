// Numbers rounded to E4M3 in blocks, each with its own scale, and multiplied back: two passes over a block that the first one
// brought into the cache. Built by fused.py; models/fp8.py holds the same function in PyTorch, equal to the bit.

#include <omp.h>

#include <algorithm>
#include <vector>

#include "numbers.h"

namespace {

inline uint32_t bits_of(float value) {
  uint32_t word;
  std::memcpy(&word, &value, 4);
  return word;
}
inline float float_of(uint32_t word) {
  float value;
  std::memcpy(&value, &word, 4);
  return value;
}

// The bits of |value|: as integers they are ordered like the magnitudes, with infinity and then NaN above all numbers.
inline int32_t magnitude(float value) { return int32_t(bits_of(value) & 0x7fffffff); }

inline float scale_of(int32_t largest, bool power_of_two) {
  constexpr float kSmallest = 1.17549435e-38f;
  const float scale = float_of(uint32_t(largest)) / 448.f;
  if (scale < kSmallest) return kSmallest;
  const uint32_t bits = bits_of(scale);
  return power_of_two && bits < 0x7f800000 ? float_of((bits + 0x7fffff) & 0xff800000) : scale;
}

// Next to 1.5 * 2^20 times its own power of two a number keeps 3 bits behind the first; below 2^-6 steps stay 2^-9.
inline float rounded(float value, float scale) {
  const float scaled = value / scale;
  const uint32_t exponent = std::max(bits_of(scaled) & 0x7f800000, uint32_t(127 - 6) << 23);
  const float large = float_of(exponent + (20u << 23) + (1u << 22));
  return ((scaled + large) - large) * scale;
}

template <typename T>
void round_blocks(const T* x, float* y, int64_t matrices, int64_t rows, int64_t columns, int64_t block_rows,
                  int64_t block_columns, bool power_of_two) {
  const int64_t bands = (rows + block_rows - 1) / block_rows, blocks = (columns + block_columns - 1) / block_columns;
#pragma omp parallel for schedule(static) if (matrices * rows * columns > 1 << 14)
  for (int64_t task = 0; task < matrices * bands; task++) {
    const int64_t first = task % bands * block_rows, height = std::min(block_rows, rows - first);
    const int64_t start = (task / bands * rows + first) * columns;
    std::vector<int32_t> largest(blocks, 0);
    std::vector<float> scale(blocks);
    for (int64_t r = 0; r < height; r++) {
      const T* row = x + start + r * columns;
      if (block_columns == 1) {
#pragma omp simd
        for (int64_t i = 0; i < columns; i++) largest[i] = std::max(largest[i], magnitude(load(row, i)));
      } else {
        for (int64_t b = 0; b < blocks; b++) {
          const int64_t end = std::min(columns, (b + 1) * block_columns);
          int32_t top = largest[b];
#pragma omp simd reduction(max : top)
          for (int64_t i = b * block_columns; i < end; i++) top = std::max(top, magnitude(load(row, i)));
          largest[b] = top;
        }
      }
    }
    for (int64_t b = 0; b < blocks; b++) scale[b] = scale_of(largest[b], power_of_two);
    for (int64_t r = 0; r < height; r++) {
      const T* row = x + start + r * columns;
      float* out = y + start + r * columns;
      if (block_columns == 1) {
#pragma omp simd
        for (int64_t i = 0; i < columns; i++) out[i] = rounded(load(row, i), scale[i]);
      } else {
        for (int64_t b = 0; b < blocks; b++) {
          const float block_scale = scale[b];
          const int64_t end = std::min(columns, (b + 1) * block_columns);
#pragma omp simd
          for (int64_t i = b * block_columns; i < end; i++) out[i] = rounded(load(row, i), block_scale);
        }
      }
    }
  }
}

}  // namespace

#define EXPORT(NAME, T)                                                                                              \
  extern "C" void round_blocks_##NAME(const T* x, float* y, int64_t matrices, int64_t rows, int64_t columns,          \
                                      int64_t block_rows, int64_t block_columns, int64_t power_of_two) {             \
    round_blocks(x, y, matrices, rows, columns, block_rows, block_columns, power_of_two != 0);                       \
  }
EXPORT(f32, float)
EXPORT(bf16, bf16)
