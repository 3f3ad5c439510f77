// Which experts a token goes through, and for a few tokens what they make of it: a decode step of a mixture of experts, where a
// matmul for every expert costs more in calls than in work. Each weight is read once, for all tokens that chose its expert.
// Built by fused.py; models/moe.py holds the same function in PyTorch. All sums are fp32. A task owns what it writes and works in
// a fixed order, so results repeat to the bit on any number of threads.

#include <algorithm>
#include <vector>

#include "numbers.h"
#include "products.h"

namespace {

struct Routing {
  int64_t tokens, experts, choices, groups, open_groups;
  int64_t is_sigmoid, is_normed;
  float scaling;
};

// The `count` greatest of `values`, greatest first, the earlier of equals first
inline void greatest(const float* values, int64_t size, int64_t count, int64_t* found) {
  for (int64_t k = 0; k < count; k++) {
    int64_t best = -1;
    for (int64_t i = 0; i < size; i++)
      if ((best < 0 || values[i] > values[best]) && std::find(found, found + k, i) == found + k) best = i;
    found[k] = best;
  }
}

// scores [tokens, experts]: logits in, what the experts score out; chosen and gates [tokens, choices]
void route(float* scores, const float* bias, int64_t* chosen, float* gates, const Routing& r) {
  const int64_t size = r.experts / r.groups;
#pragma omp parallel for schedule(static) if (r.tokens * r.experts * r.choices > kSerialElements)
  for (int64_t n = 0; n < r.tokens; n++) {
    std::vector<float> wanted(r.experts), ranks(r.groups);
    std::vector<int64_t> open(r.open_groups);
    float* row = scores + n * r.experts;
    float top = *std::max_element(row, row + r.experts), total = 0;
    for (int64_t e = 0; e < r.experts; e++) {
      row[e] = r.is_sigmoid ? sigmoid(row[e]) : fast_exp(row[e] - top);
      total += row[e];
    }
    for (int64_t e = 0; e < r.experts; e++) {
      if (!r.is_sigmoid) row[e] /= total;
      wanted[e] = row[e] + (bias ? bias[e] : 0.f);
    }
    if (r.groups > 1) {  // V3 ranks a group by its two best experts, V2 by its best
      for (int64_t g = 0; g < r.groups; g++) {
        int64_t best[2];
        const int64_t counted = r.is_sigmoid ? 2 : 1;
        greatest(wanted.data() + g * size, size, counted, best);
        ranks[g] = 0;
        for (int64_t i = 0; i < counted; i++) ranks[g] += wanted[g * size + best[i]];
      }
      greatest(ranks.data(), r.groups, r.open_groups, open.data());
      for (int64_t e = 0; e < r.experts; e++)
        if (std::find(open.begin(), open.end(), e / size) == open.end()) wanted[e] = -INFINITY;
    }
    int64_t* own = chosen + n * r.choices;
    greatest(wanted.data(), r.experts, r.choices, own);
    float sum = 0;
    for (int64_t k = 0; k < r.choices; k++) sum += gates[n * r.choices + k] = row[own[k]];
    for (int64_t k = 0; k < r.choices; k++)
      gates[n * r.choices + k] *= r.scaling / (r.is_normed ? sum + 1e-20f : 1.f);
  }
}

// gate_up [gate hidden | up hidden, width] and down [width, hidden] of `count` tokens x [count, width]: out[m] = gates[m] times
// what the expert makes of x[m]
template <typename T>
void one_expert(const T* gate_up, const T* down, int64_t width, int64_t hidden, const std::vector<float>& given, int64_t count,
                const float* const* gates, float* const* out) {
  std::vector<float> both(count * 2 * hidden), middle(count * hidden), found(count * width);
  multiply_few(given.data(), count, gate_up, width, 2 * hidden, both.data(), 2 * hidden);
  for (int64_t m = 0; m < count; m++) {
    const float *gate = both.data() + m * 2 * hidden, *up = gate + hidden;
    float* to = middle.data() + m * hidden;
#pragma omp simd
    for (int64_t f = 0; f < hidden; f++) to[f] = gate[f] * sigmoid(gate[f]) * up[f];
  }
  multiply_few(middle.data(), count, down, hidden, width, found.data(), width);
  for (int64_t m = 0; m < count; m++)
    for (int64_t d = 0; d < width; d++) out[m][d] = found[m * width + d] * *gates[m];
}

struct Sizes { int64_t tokens, choices, experts, width, hidden, shared_hidden; };

// x [tokens, width], gate_up [experts, gate hidden | up hidden, width], down [experts, width, hidden], chosen [tokens, choices]:
// out[n] = sum over choices k of gates[n, k] times what expert chosen[n, k] makes of x[n], and what the shared one makes, if any
template <typename T>
void experts_few(const T* x, const int64_t* chosen, const float* gates, const T* gate_up, const T* down, const T* shared_gate_up,
                 const T* shared_down, T* out, const Sizes& s) {
  const int64_t all = s.tokens * s.choices, with_shared = shared_gate_up ? s.tokens : 0;
  const float one = 1;
  // work by expert: the shared one first, which has most of it, then those that anybody chose
  std::vector<std::vector<int64_t>> members(s.experts);
  for (int64_t m = 0; m < all; m++) members[chosen[m]].push_back(m);
  std::vector<int64_t> busy;
  if (with_shared) busy.push_back(s.experts);
  for (int64_t e = 0; e < s.experts; e++)
    if (!members[e].empty()) busy.push_back(e);
  std::vector<float> made((all + with_shared) * s.width);
  const int64_t products = 3 * s.width * (all * s.hidden + with_shared * s.shared_hidden);
#pragma omp parallel for schedule(dynamic) if (products > kSerialProducts)
  for (int64_t task = 0; task < int64_t(busy.size()); task++) {
    const int64_t e = busy[task], count = e == s.experts ? s.tokens : int64_t(members[e].size());
    std::vector<float> given(count * s.width);
    std::vector<const float*> weights(count, &one);
    std::vector<float*> to(count);
    for (int64_t m = 0; m < count; m++) {
      const int64_t place = e == s.experts ? all + m : members[e][m], token = e == s.experts ? m : place / s.choices;
      if (e < s.experts) weights[m] = gates + place;
      to[m] = made.data() + place * s.width;
      for (int64_t i = 0; i < s.width; i++) given[m * s.width + i] = load(x + token * s.width, i);
    }
    if (e == s.experts)
      one_expert(shared_gate_up, shared_down, s.width, s.shared_hidden, given, count, weights.data(), to.data());
    else
      one_expert(gate_up + e * 2 * s.hidden * s.width, down + e * s.width * s.hidden, s.width, s.hidden, given, count,
                 weights.data(), to.data());
  }
  for (int64_t n = 0; n < s.tokens; n++)
    for (int64_t d = 0; d < s.width; d++) {
      float sum = 0;
      for (int64_t k = 0; k < s.choices; k++) sum += made[(n * s.choices + k) * s.width + d];
      store(out + n * s.width, d, with_shared ? sum + made[(all + n) * s.width + d] : sum);
    }
}

}  // namespace

extern "C" void route_f32(float* scores, const float* bias, int64_t* chosen, float* gates, int64_t tokens, int64_t experts,
                          int64_t choices, int64_t groups, int64_t open_groups, int64_t is_sigmoid, int64_t is_normed,
                          float scaling) {
  route(scores, bias, chosen, gates, {tokens, experts, choices, groups, open_groups, is_sigmoid, is_normed, scaling});
}

#define EXPORT(NAME, T)                                                                                                  \
  extern "C" void experts_few_##NAME(const T* x, const int64_t* chosen, const float* gates, const T* gate_up, const T* down, \
                                     const T* shared_gate_up, const T* shared_down, T* out, int64_t tokens,              \
                                     int64_t choices, int64_t experts, int64_t width, int64_t hidden,                    \
                                     int64_t shared_hidden) {                                                            \
    experts_few<T>(x, chosen, gates, gate_up, down, shared_gate_up, shared_down, out,                                    \
                   {tokens, choices, experts, width, hidden, shared_hidden});                                            \
  }
EXPORT(f32, float)
EXPORT(bf16, bf16)
