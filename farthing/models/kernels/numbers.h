// fp32 and bf16 behind one load and one store, and an exp that vectorises.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

// Below so many multiplications, or numbers that only pass through, waking the other threads costs more than it saves: they sleep
// between products (see GOMP_SPINCOUNT in farthing/__init__.py), and a virtual machine takes a tenth of a millisecond to wake one.
constexpr int64_t kSerialProducts = 1 << 19, kSerialElements = 1 << 16;

struct bf16 { uint16_t bits; };

inline float load(const float* p, int64_t i) { return p[i]; }
inline float load(const bf16* p, int64_t i) {
  uint32_t word = uint32_t(p[i].bits) << 16;
  float value;
  std::memcpy(&value, &word, 4);
  return value;
}
inline void store(float* p, int64_t i, float value) { p[i] = value; }
inline void store(bf16* p, int64_t i, float value) {  // round to nearest even; NaN stays NaN
  uint32_t word;
  std::memcpy(&word, &value, 4);
  uint32_t rounded = (word + 0x7fff + ((word >> 16) & 1)) >> 16;
  p[i].bits = (word & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : uint16_t(rounded);
}

// Cephes expf: 2^n times a polynomial; plain arithmetic, so that the compiler vectorises it, and without a branch, from which it
// would make several versions of what stands around; a call, which it may prefer where there are many, would be one number at a
// time. 0 below -88, as -inf must give; NaN stays NaN.
__attribute__((always_inline)) inline float fast_exp(float x) {
  x = std::max(std::min(x, 88.f), -88.5f);
  const float n = std::floor(x * 1.44269504f + 0.5f);
  const float r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float e = p * r * r + r + 1.f;
  const int32_t exponent = std::max(int32_t(n) + 127, 0) << 23;
  float scale;
  std::memcpy(&scale, &exponent, 4);
  return e * scale;
}

inline float sigmoid(float x) { return 1.f / (1.f + fast_exp(-x)); }

}  // namespace
