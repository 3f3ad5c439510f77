// x W^T + b for a few rows of x, as a decode step of few completions needs it: every weight is read once, from where it is.
// BLAS and oneDNN are built for many rows, and of small weights a call of theirs costs more than the product.
// Built by fused.py; models/linear.py holds the same function in PyTorch. Sums are fp32 and in a fixed order, whatever the threads.

#include <algorithm>
#include <vector>

#include "numbers.h"
#include "products.h"

namespace {

// `rows` of x as fp32: where they are, if they are that already
template <typename T>
const float* widened(const T* x, int64_t count, std::vector<float>& scratch) {
  if constexpr (sizeof(T) == sizeof(float)) return x;
  scratch.resize(count);
  for (int64_t i = 0; i < count; i++) scratch[i] = load(x, i);
  return scratch.data();
}

template <typename T>
void linear_few(const T* x, const T* weight, const T* bias, T* out, int64_t rows, int64_t width, int64_t out_width) {
  constexpr int64_t kBlock = 48;  // outputs of a task
  std::vector<float> wide;
  const float* given = widened(x, rows * width, wide);
#pragma omp parallel for schedule(static) if (rows * width * out_width > kSerialProducts)
  for (int64_t block = 0; block < out_width; block += kBlock) {
    const int64_t count = std::min(kBlock, out_width - block);
    std::vector<float> found(rows * kBlock);
    multiply_few(given, rows, weight + block * width, width, count, found.data(), kBlock);
    for (int64_t r = 0; r < rows; r++)
      for (int64_t c = 0; c < count; c++)
        store(out + r * out_width, block + c, found[r * kBlock + c] + (bias ? load(bias, block + c) : 0.f));
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
