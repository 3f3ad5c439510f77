// Matrix products of fp32 for what BLAS is too slow to be called for: tiles of scores, a few rows times a weight.

#pragma once

#include <cstdint>
#include <cstring>

#include "numbers.h"

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif
typedef float Lanes __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

inline Lanes load_lanes(const float* p) { return *(const Lanes*)p; }
inline Lanes load_lanes(const bf16* p) {
  typedef uint16_t Halves __attribute__((vector_size(kLanes * 2), aligned(2), may_alias));
  typedef uint32_t Words __attribute__((vector_size(kLanes * 4)));
  return (Lanes)(__builtin_convertvector(*(const Halves*)p, Words) << 16);
}

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

template <int M, int N>
inline void multiply_tile(int64_t depth, const float* a, int64_t row, int64_t column, const float* b, int64_t ldb, float* c,
                          int64_t ldc) {
  Lanes sum[M][N];
  for (int m = 0; m < M; m++)
    for (int n = 0; n < N; n++) sum[m][n] = *(const Lanes*)(c + m * ldc + n * kLanes);
  for (int64_t d = 0; d < depth; d++) {
    Lanes right[N];
    for (int n = 0; n < N; n++) right[n] = *(const Lanes*)(b + d * ldb + n * kLanes);
    for (int m = 0; m < M; m++) {
      const float left = a[m * row + d * column];
      for (int n = 0; n < N; n++) sum[m][n] += left * right[n];
    }
  }
  for (int m = 0; m < M; m++)
    for (int n = 0; n < N; n++) *(Lanes*)(c + m * ldc + n * kLanes) = sum[m][n];
}

// As many rows as make whole blocks of M, in tiles of N * kLanes columns, which stay in cache while all rows meet them; returns
// how many rows that were
template <int M, int N>
inline int64_t multiply_blocks(int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t row, int64_t column,
                               const float* b, int64_t ldb, float* c, int64_t ldc) {
  const int64_t whole = rows / M * M;
  int64_t j = 0;
  for (; j + N * kLanes <= columns; j += N * kLanes)
    for (int64_t i = 0; i < whole; i += M)
      multiply_tile<M, N>(depth, a + i * row, row, column, b + j, ldb, c + i * ldc + j, ldc);
  for (; j < columns; j += kLanes)
    for (int64_t i = 0; i < whole; i += M)
      multiply_tile<M, 1>(depth, a + i * row, row, column, b + j, ldb, c + i * ldc + j, ldc);
  return whole;
}

// C[rows, columns] += A[rows, depth] B[depth, columns]; columns are a multiple of kLanes. Each sum runs in order of depth.
// A tile has as many sums as there are registers for: each addition waits for the one before it, and they fill the time.
void multiply(int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t row, int64_t column, const float* b,
              int64_t ldb, float* c, int64_t ldc) {
  const auto rest_of = [&](auto multiply_some) {
    const int64_t done = multiply_some(rows, columns, depth, a, row, column, b, ldb, c, ldc);
    rows -= done, a += done * row, c += done * ldc;
  };
  rest_of(columns == kLanes ? multiply_blocks<8, 1> : multiply_blocks<6, 2>);
  rest_of(multiply_blocks<4, 2>);
  rest_of(multiply_blocks<2, 4>);
  rest_of(multiply_blocks<1, 8>);
}

inline float sum_of(Lanes x) {
  typedef float Quarter __attribute__((vector_size(16), may_alias));
  Quarter parts[kLanes / 4];
  std::memcpy(parts, &x, sizeof x);
  for (int i = kLanes / 8; i > 0; i /= 2)
    for (int j = 0; j < i; j++) parts[j] += parts[j + i];
  return (parts[0][0] + parts[0][2]) + (parts[0][1] + parts[0][3]);
}

template <int M>
inline void dots(const float* x, const float* rows, int64_t stride, int64_t width, float* out) {
  Lanes sum[M];
  for (int m = 0; m < M; m++) sum[m] = *(const Lanes*)x * *(const Lanes*)(rows + m * stride);
  for (int64_t i = kLanes; i < width; i += kLanes) {
    const Lanes left = *(const Lanes*)(x + i);
    for (int m = 0; m < M; m++) sum[m] += left * *(const Lanes*)(rows + m * stride + i);
  }
  for (int m = 0; m < M; m++) out[m] = sum_of(sum[m]);
}

}  // namespace
