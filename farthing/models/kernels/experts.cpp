// SwiGLU of the experts that a few tokens chose: a decode step of a mixture of experts, where a matmul for every expert costs
// more in calls than in work. Each weight is read once, for all tokens that chose its expert.
// Built by fused.py; models/moe.py holds the same function in PyTorch. All sums are fp32. A task owns what it writes and works in
// a fixed order, so results repeat to the bit on any number of threads.

#include <algorithm>
#include <vector>

#include "numbers.h"
#include "products.h"

namespace {

// Row r of a [rows, width] weight as fp32 with its width padded with zeros: in place where it is that already
template <typename T>
const float* widened(const T* row, int64_t width, std::vector<float>& scratch) {
  if constexpr (sizeof(T) == sizeof(float))
    if (width == int64_t(scratch.size())) return row;
  for (int64_t i = 0; i < width; i++) scratch[i] = load(row, i);
  return scratch.data();
}

// out[m * stride] = x[m] . row for `count` rows of x, [count, padded]
inline void dots_with(const float* row, const float* x, int64_t count, int64_t padded, float* out, int64_t stride) {
  float four[4];
  int64_t m = 0;
  for (; m + 4 <= count; m += 4) {
    dots<4>(row, x + m * padded, padded, padded, four);
    for (int64_t i = 0; i < 4; i++) out[(m + i) * stride] = four[i];
  }
  for (; m < count; m++) dots<1>(row, x + m * padded, padded, padded, out + m * stride);
}

// x [tokens, width], gate_up [experts, gate hidden | up hidden, width], down [experts, width, hidden], chosen [tokens, choices]:
// out[n] = sum over choices k of gates[n, k] times what expert chosen[n, k] makes of x[n]
template <typename T>
void experts_few(const T* x, const int64_t* chosen, const float* gates, const T* gate_up, const T* down, T* out,
                 int64_t tokens, int64_t choices, int64_t experts, int64_t width, int64_t hidden) {
  const int64_t padded = round_up(width, kLanes), padded_hidden = round_up(hidden, kLanes), all = tokens * choices;
  std::vector<int64_t> order(all), firsts(experts + 1);
  for (int64_t m = 0; m < all; m++) firsts[chosen[m] + 1]++;
  for (int64_t e = 0; e < experts; e++) firsts[e + 1] += firsts[e];
  std::vector<int64_t> next(firsts.begin(), firsts.end() - 1), busy;
  for (int64_t m = 0; m < all; m++) order[next[chosen[m]]++] = m;
  for (int64_t e = 0; e < experts; e++)
    if (firsts[e + 1] > firsts[e]) busy.push_back(e);
  std::vector<float> made(all * width);
#pragma omp parallel for schedule(dynamic)
  for (int64_t task = 0; task < int64_t(busy.size()); task++) {
    const int64_t e = busy[task], count = firsts[e + 1] - firsts[e];
    const int64_t* members = order.data() + firsts[e];
    std::vector<float> given(count * padded), middle(count * padded_hidden), both(count * 2), found(count);
    std::vector<float> row(padded), row_hidden(padded_hidden);
    for (int64_t m = 0; m < count; m++)
      for (int64_t i = 0; i < width; i++) given[m * padded + i] = load(x + members[m] / choices * width, i);
    for (int64_t f = 0; f < hidden; f++) {
      for (int64_t side = 0; side < 2; side++) {
        const T* weight = gate_up + ((e * 2 + side) * hidden + f) * width;
        dots_with(widened(weight, width, row), given.data(), count, padded, both.data() + side, 2);
      }
      for (int64_t m = 0; m < count; m++)
        middle[m * padded_hidden + f] = both[2 * m] / (1.f + fast_exp(-both[2 * m])) * both[2 * m + 1];
    }
    for (int64_t d = 0; d < width; d++) {
      const T* weight = down + (e * width + d) * hidden;
      dots_with(widened(weight, hidden, row_hidden), middle.data(), count, padded_hidden, found.data(), 1);
      for (int64_t m = 0; m < count; m++) made[members[m] * width + d] = found[m] * gates[members[m]];
    }
  }
  for (int64_t n = 0; n < tokens; n++)
    for (int64_t d = 0; d < width; d++) {
      float sum = 0;
      for (int64_t k = 0; k < choices; k++) sum += made[(n * choices + k) * width + d];
      store(out + n * width, d, sum);
    }
}

}  // namespace

#define EXPORT(NAME, T)                                                                                                  \
  extern "C" void experts_few_##NAME(const T* x, const int64_t* chosen, const float* gates, const T* gate_up, const T* down, \
                                     T* out, int64_t tokens, int64_t choices, int64_t experts, int64_t width,            \
                                     int64_t hidden) {                                                                   \
    experts_few<T>(x, chosen, gates, gate_up, down, out, tokens, choices, experts, width, hidden);                       \
  }
EXPORT(f32, float)
EXPORT(bf16, bf16)
