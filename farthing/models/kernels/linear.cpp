// x W^T + b for a few rows of x, as a decode step of few completions needs it: every weight is read once, from where it is.
// BLAS and oneDNN are built for many rows, and of small weights a call of theirs costs more than the product.
// Built by fused.py; models/linear.py holds the same function in PyTorch. Sums are fp32 and in a fixed order, whatever the threads.

#include <algorithm>
#include <vector>

#include "numbers.h"
#include "products.h"

namespace {

constexpr int64_t kBlock = 4;  // rows of the weight that stay in cache while all rows of x meet them

// out[r * kBlock + c] of R rows of x and C rows of the weight, all of one width
template <int R, int C, typename T>
inline void multiply_rows(const float* x, const T* weight, int64_t width, float* out) {
  Lanes sum[R][C] = {};
  const int64_t whole = width / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kLanes)
    for (int c = 0; c < C; c++) {
      const Lanes right = load_lanes(weight + c * width + i);
      for (int r = 0; r < R; r++) sum[r][c] += load_lanes(x + r * width + i) * right;
    }
  for (int r = 0; r < R; r++)
    for (int c = 0; c < C; c++) {
      float total = sum_of(sum[r][c]);
      for (int64_t i = whole; i < width; i++) total += x[r * width + i] * load(weight + c * width, i);
      out[r * kBlock + c] = total;
    }
}

// The same for `count` rows of the weight, at most kBlock; as many sums at a time as there are registers for
template <int R, typename T>
inline void multiply_block(const float* x, const T* weight, int64_t width, int64_t count, float* out) {
  constexpr int C = R <= 2 ? 4 : 2;
  int64_t c = 0;
  for (; c + C <= count; c += C) multiply_rows<R, C>(x, weight + c * width, width, out + c);
  for (; c < count; c++) multiply_rows<R, 1>(x, weight + c * width, width, out + c);
}

template <typename T>
void linear_few(const T* x, const T* weight, const T* bias, T* out, int64_t rows, int64_t width, int64_t out_width) {
  std::vector<float> wide;
  const float* given = nullptr;
  if constexpr (sizeof(T) == sizeof(float)) {
    given = x;
  } else {
    for (int64_t i = 0; i < rows * width; i++) wide.push_back(load(x, i));
    given = wide.data();
  }
#pragma omp parallel for schedule(static) if (rows * width * out_width > kSerialProducts)
  for (int64_t block = 0; block < out_width; block += kBlock) {
    const int64_t count = std::min(kBlock, out_width - block);
    for (int64_t first = 0; first < rows; first += 4) {
      const int64_t together = std::min<int64_t>(4, rows - first);
      const float* left = given + first * width;
      const T* right = weight + block * width;
      float found[4 * kBlock];
      if (together == 4) multiply_block<4>(left, right, width, count, found);
      if (together == 3) multiply_block<3>(left, right, width, count, found);
      if (together == 2) multiply_block<2>(left, right, width, count, found);
      if (together == 1) multiply_block<1>(left, right, width, count, found);
      for (int64_t r = 0; r < together; r++)
        for (int64_t c = 0; c < count; c++)
          store(out + (first + r) * out_width, block + c, found[r * kBlock + c] + (bias ? load(bias, block + c) : 0.f));
    }
  }
}

}  // namespace

#define EXPORT(NAME, T)                                                                                              \
  extern "C" void linear_few_##NAME(const T* x, const T* weight, const T* bias, T* out, int64_t rows, int64_t width, \
                                    int64_t out_width) {                                                             \
    linear_few<T>(x, weight, bias, out, rows, width, out_width);                                                     \
  }
EXPORT(f32, float)
EXPORT(bf16, bf16)
