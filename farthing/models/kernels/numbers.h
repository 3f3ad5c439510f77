// fp32 and bf16 behind one load and one store, and an exp that vectorises.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

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

// Cephes expf: 2^n times a polynomial; plain arithmetic, so that the compiler vectorises it. 0 below -87, as -inf must give.
inline float fast_exp(float x) {
  const float keep = x < -87.f ? 0.f : 1.f;
  x = x > 88.f ? 88.f : x;
  x = x < -87.f ? -87.f : x;
  float n = std::floor(x * 1.44269504f + 0.5f);
  float r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  float e = p * r * r + r + 1.f;
  int32_t exponent = (int32_t(n) + 127) << 23;
  float scale;
  std::memcpy(&scale, &exponent, 4);
  return e * scale * keep;
}

}  // namespace
