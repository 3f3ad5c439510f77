// Matrix products summed in fp32 for what BLAS is too slow to be called for: tiles of scores, a few rows times a weight.

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

typedef float Quarter __attribute__((vector_size(16), aligned(4), may_alias));

inline Quarter fold(Lanes x) {
  Quarter parts[kLanes / 4];
  std::memcpy(parts, &x, sizeof x);
  for (int i = kLanes / 8; i > 0; i /= 2)
    for (int j = 0; j < i; j++) parts[j] += parts[j + i];
  return parts[0];
}

inline float sum_of(Lanes x) {
  const Quarter parts = fold(x);
  return (parts[0] + parts[2]) + (parts[1] + parts[3]);
}

// `sum_of` of each, in a third of the instructions
inline Quarter sums_of(Lanes a, Lanes b, Lanes c, Lanes d) {
  const Quarter p = fold(a), q = fold(b), r = fold(c), s = fold(d);
  const Quarter left = Quarter{p[0], q[0], p[1], q[1]} + Quarter{p[2], q[2], p[3], q[3]};
  const Quarter right = Quarter{r[0], s[0], r[1], s[1]} + Quarter{r[2], s[2], r[3], s[3]};
  return Quarter{left[0], left[1], right[0], right[1]} + Quarter{left[2], left[3], right[2], right[3]};
}

template <int M>
inline void dots(const float* x, const float* rows, int64_t stride, int64_t width, float* out) {
  Lanes sum[M];
  for (int m = 0; m < M; m++) sum[m] = *(const Lanes*)x * *(const Lanes*)(rows + m * stride);
  for (int64_t i = kLanes; i < width; i += kLanes) {
    const Lanes left = *(const Lanes*)(x + i);
    for (int m = 0; m < M; m++) sum[m] += left * *(const Lanes*)(rows + m * stride + i);
  }
  if constexpr (M == 4)
    *(Quarter*)out = sums_of(sum[0], sum[1], sum[2], sum[3]);
  else
    for (int m = 0; m < M; m++) out[m] = sum_of(sum[m]);
}

// out[r * stride + c] = x[r] . weight[c] for R rows of x and C of the weight, all `width` long
template <int R, int C, typename T>
inline void multiply_rows(const float* x, const T* weight, int64_t width, float* out, int64_t stride) {
  Lanes sum[R][C] = {};
  const int64_t whole = width / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
    Lanes left[R];
    for (int r = 0; r < R; r++) left[r] = load_lanes(x + r * width + i);
    for (int c = 0; c < C; c++) {
      const Lanes right = load_lanes(weight + c * width + i);
      for (int r = 0; r < R; r++) sum[r][c] += left[r] * right;
    }
  }
  for (int r = 0; r < R; r++) {
    if constexpr (C % 4 == 0)
      for (int c = 0; c < C; c += 4)
        *(Quarter*)(out + r * stride + c) = sums_of(sum[r][c], sum[r][c + 1], sum[r][c + 2], sum[r][c + 3]);
    else if constexpr (R != 4)
      for (int c = 0; c < C; c++) out[r * stride + c] = sum_of(sum[r][c]);
  }
  if constexpr (R == 4 && C % 4 != 0)
    for (int c = 0; c < C; c++) {
      const Quarter sums = sums_of(sum[0][c], sum[1][c], sum[2][c], sum[3][c]);
      for (int r = 0; r < R; r++) out[r * stride + c] = sums[r];
    }
  for (int64_t i = whole; i < width; i++)
    for (int r = 0; r < R; r++)
      for (int c = 0; c < C; c++) out[r * stride + c] += x[r * width + i] * load(weight + c * width, i);
}

template <int R, int C, typename T>
inline void multiply_columns(const float* x, const T* weight, int64_t width, int64_t count, float* out, int64_t stride) {
  int64_t c = 0;
  for (; c + C <= count; c += C) multiply_rows<R, C>(x, weight + c * width, width, out + c, stride);
  for (; c < count; c++) multiply_rows<R, 1>(x, weight + c * width, width, out + c, stride);
}

// out[r * stride + c] = x[r] . weight[c] for few rows of x: every row of the weight is read once from memory, where it lies
template <typename T>
void multiply_few(const float* x, int64_t rows, const T* weight, int64_t width, int64_t count, float* out, int64_t stride) {
  constexpr int64_t kBlock = 12;  // rows of the weight that stay in cache while all rows of x meet them
  for (int64_t block = 0; block < count; block += kBlock) {
    const int64_t some = std::min(kBlock, count - block);
    const T* right = weight + block * width;
    for (int64_t r = 0; r < rows; r += 4) {
      const float* left = x + r * width;
      float* to = out + r * stride + block;
      if (rows - r >= 4) multiply_columns<4, 3>(left, right, width, some, to, stride);
      if (rows - r == 3) multiply_columns<3, 4>(left, right, width, some, to, stride);
      if (rows - r == 2) multiply_columns<2, 4>(left, right, width, some, to, stride);
      if (rows - r == 1) multiply_columns<1, 12>(left, right, width, some, to, stride);
    }
  }
}

}  // namespace
