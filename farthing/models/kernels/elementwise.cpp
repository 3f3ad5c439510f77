// Elementwise parts of a decoder layer, each in one pass over memory: RMSNorm, SwiGLU, rotary positions, with gradients;
// what latent attention does to queries and latents before they meet; and the draw of a token from logits.
// Built by fused.py with the system's compiler and called through ctypes; fused.py holds the same functions in PyTorch.
// Sums run in a fixed order for a fixed number of threads, so results repeat to the bit.

#include <omp.h>

#include <algorithm>
#include <vector>

#include "numbers.h"

namespace {

// One row normed into y, which may be x; returns one over its root mean square
template <typename T>
inline float norm_row(const T* x, const T* weight, T* y, int64_t width, float eps) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < width; i++) { float v = load(x, i); sum += v * v; }
  const float scale = 1.f / std::sqrt(sum / width + eps);
#pragma omp simd
  for (int64_t i = 0; i < width; i++) store(y, i, load(x, i) * scale * load(weight, i));
  return scale;
}

template <typename T>
void rmsnorm_forward(const T* x, const T* weight, T* y, float* rstd, int64_t rows, int64_t width, float eps) {
#pragma omp parallel for schedule(static) if (rows * width > kSerialElements)
  for (int64_t r = 0; r < rows; r++) {
    const float scale = norm_row(x + r * width, weight, y + r * width, width, eps);
    if (rstd) rstd[r] = scale;
  }
}

// y [rows, left normed | right normed]
template <typename T>
void rmsnorm_pair(const T* left, const T* right, const T* left_weight, const T* right_weight, T* y, int64_t rows,
                  int64_t width, float eps) {
#pragma omp parallel for schedule(static) if (rows * width > kSerialElements)
  for (int64_t r = 0; r < rows; r++) {
    norm_row(left + r * width, left_weight, y + 2 * r * width, width, eps);
    norm_row(right + r * width, right_weight, y + (2 * r + 1) * width, width, eps);
  }
}

// grad_weight holds one row per thread; the caller adds the rows up
template <typename T>
void rmsnorm_backward(const T* grad, const T* x, const T* weight, const float* rstd, T* grad_x, float* grad_weight,
                      int64_t rows, int64_t width, int64_t threads) {
#pragma omp parallel num_threads(threads)
  {
    float* gw = grad_weight + omp_get_thread_num() * width;
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
      const T *xr = x + r * width, *gr = grad + r * width;
      T* out = grad_x + r * width;
      float scale = rstd[r], dot = 0;
#pragma omp simd reduction(+ : dot)
      for (int64_t i = 0; i < width; i++) {
        float g = load(gr, i), normed = load(xr, i) * scale;
        gw[i] += g * normed;
        dot += g * load(weight, i) * normed;
      }
      float mean = dot / width;
#pragma omp simd
      for (int64_t i = 0; i < width; i++)
        store(out, i, scale * (load(gr, i) * load(weight, i) - load(xr, i) * scale * mean));
    }
  }
}

template <typename T>
void swiglu_forward(const T* gate_up, T* out, int64_t rows, int64_t width) {
#pragma omp parallel for schedule(static) if (rows * width > kSerialElements)
  for (int64_t r = 0; r < rows; r++) {
    const T *gate = gate_up + 2 * r * width, *up = gate + width;
    T* o = out + r * width;
#pragma omp simd
    for (int64_t i = 0; i < width; i++) {
      float g = load(gate, i);
      store(o, i, g * sigmoid(g) * load(up, i));
    }
  }
}

template <typename T>
void swiglu_backward(const T* grad, const T* gate_up, T* grad_gate_up, int64_t rows, int64_t width) {
#pragma omp parallel for schedule(static) if (rows * width > kSerialElements)
  for (int64_t r = 0; r < rows; r++) {
    const T *gate = gate_up + 2 * r * width, *up = gate + width, *d = grad + r * width;
    T *grad_gate = grad_gate_up + 2 * r * width, *grad_up = grad_gate + width;
#pragma omp simd
    for (int64_t i = 0; i < width; i++) {
      float g = load(gate, i), s = sigmoid(g), di = load(d, i);
      store(grad_up, i, di * g * s);
      store(grad_gate, i, di * load(up, i) * s * (1.f + g * (1.f - s)));
    }
  }
}

// x: rows of `heads` heads, `x_stride` elements from row to row; y is dense; row r takes angle row r % periods
template <typename T>
void rotate(const T* x, const float* cos, const float* sin, T* y, int64_t rows, int64_t heads, int64_t head_width,
            int64_t x_stride, int64_t periods, float sign) {
  const int64_t half = head_width / 2;
#pragma omp parallel for schedule(static) if (rows * heads * head_width > kSerialElements)
  for (int64_t r = 0; r < rows; r++) {
    const float *c = cos + (r % periods) * half, *s = sin + (r % periods) * half;
    for (int64_t h = 0; h < heads; h++) {
      const T* a = x + r * x_stride + h * head_width;
      T* out = y + (r * heads + h) * head_width;
#pragma omp simd
      for (int64_t i = 0; i < half; i++) {
        float first = load(a, i), second = load(a, i + half), sine = sign * s[i];
        store(out, i, first * c[i] - second * sine);
        store(out, i + half, second * c[i] + first * sine);
      }
    }
  }
}

// In place, row by row: the last `turning` numbers of each of a query's heads turned by the row's angle and all scaled; a latent's
// first `rank` numbers normed, the rest turned. Row r takes angle row r % periods.
template <typename T>
void turn_latents(T* queries, int64_t q_stride, T* latents, int64_t latent_stride, const T* weight, const float* cos,
                  const float* sin, int64_t rows, int64_t heads, int64_t head_width, int64_t rank, int64_t turning,
                  int64_t periods, float eps, float scale) {
  const int64_t half = turning / 2, fixed = head_width - turning;
#pragma omp parallel for schedule(static) if (rows * heads * head_width > kSerialElements)
  for (int64_t r = 0; r < rows; r++) {
    const float *c = cos + (r % periods) * half, *s = sin + (r % periods) * half;
    const auto turn = [&](T* pair, float by) {
#pragma omp simd
      for (int64_t i = 0; i < half; i++) {
        const float first = load(pair, i) * by, second = load(pair, i + half) * by;
        store(pair, i, first * c[i] - second * s[i]);
        store(pair, i + half, second * c[i] + first * s[i]);
      }
    };
    for (int64_t h = 0; h < heads; h++) {
      T* head = queries + r * q_stride + h * head_width;
      if (scale != 1.f)
        for (int64_t i = 0; i < fixed; i++) store(head, i, load(head, i) * scale);
      turn(head + fixed, scale);
    }
    T* latent = latents + r * latent_stride;
    norm_row(latent, weight, latent, rank, eps);
    turn(latent + rank, 1.f);
  }
}

// in [0, 1): number `counter` of the generator that `seed` begins, as `uniform` in engine/sampler.py
inline float uniform(int64_t seed, int64_t counter) {
  uint64_t z = uint64_t(seed) + (uint64_t(counter) + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return float((z ^ (z >> 31)) >> 40) * 0x1p-24f;
}

// One draw a row by inverse transform: the first token at which the running sum of exp(logit / temperature) passes
// uniform * total. Sums of kBlock tokens are kept, so only one block is walked token by token.
template <typename T>
void sample(const T* logits, const int64_t* seeds, const int64_t* counters, int64_t* tokens, float* logprobs, int64_t rows,
            int64_t vocab, float inverse_temperature) {
  constexpr int64_t kBlock = 256;
  const int64_t blocks = (vocab + kBlock - 1) / kBlock;
#pragma omp parallel for schedule(static) if (rows * vocab > kSerialElements)
  for (int64_t r = 0; r < rows; r++) {
    const T* row = logits + r * vocab;
    float top = load(row, 0);
#pragma omp simd reduction(max : top)
    for (int64_t i = 0; i < vocab; i++) { float v = load(row, i); top = v > top ? v : top; }
    std::vector<float> sums(blocks);
    double total = 0;
    for (int64_t b = 0; b < blocks; b++) {
      const int64_t end = std::min(vocab, (b + 1) * kBlock);
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = b * kBlock; i < end; i++) sum += fast_exp((load(row, i) - top) * inverse_temperature);
      total += sums[b] = sum;
    }
    double left = uniform(seeds[r], counters[r]) * total;
    int64_t block = 0, last = blocks - 1;
    while (last > 0 && sums[last] == 0) last--;
    while (block < last && left >= sums[block]) left -= sums[block++];
    // rounding can leave a rest behind: then it is the last token that has any weight; NaN gives token 0, logprob NaN
    int64_t token = block * kBlock, chosen = token;
    for (const int64_t end = std::min(vocab, token + kBlock); token < end && left >= 0; token++) {
      const float weight = fast_exp((load(row, token) - top) * inverse_temperature);
      left -= weight;
      if (weight > 0) chosen = token;
    }
    tokens[r] = chosen;
    logprobs[r] = (load(row, chosen) - top) * inverse_temperature - float(std::log(total));
  }
}

}  // namespace

#define EXPORT(NAME, T)                                                                                               \
  extern "C" void rmsnorm_forward_##NAME(const T* x, const T* w, T* y, float* s, int64_t r, int64_t d, float eps) {    \
    rmsnorm_forward(x, w, y, s, r, d, eps);                                                                           \
  }                                                                                                                   \
  extern "C" void rmsnorm_backward_##NAME(const T* g, const T* x, const T* w, const float* s, T* gx, float* gw,        \
                                          int64_t r, int64_t d, int64_t threads) {                                    \
    rmsnorm_backward(g, x, w, s, gx, gw, r, d, threads);                                                              \
  }                                                                                                                   \
  extern "C" void swiglu_forward_##NAME(const T* x, T* y, int64_t r, int64_t d) { swiglu_forward(x, y, r, d); }        \
  extern "C" void swiglu_backward_##NAME(const T* g, const T* x, T* gx, int64_t r, int64_t d) {                        \
    swiglu_backward(g, x, gx, r, d);                                                                                  \
  }                                                                                                                   \
  extern "C" void rotate_##NAME(const T* x, const float* c, const float* s, T* y, int64_t r, int64_t n, int64_t h,     \
                                int64_t stride, int64_t periods, float sign) {                                        \
    rotate(x, c, s, y, r, n, h, stride, periods, sign);                                                               \
  }                                                                                                                   \
  extern "C" void rmsnorm_pair_##NAME(const T* a, const T* b, const T* wa, const T* wb, T* y, int64_t r, int64_t d,    \
                                      float eps) {                                                                    \
    rmsnorm_pair(a, b, wa, wb, y, r, d, eps);                                                                         \
  }                                                                                                                   \
  extern "C" void turn_latents_##NAME(T* q, int64_t q_stride, T* l, int64_t l_stride, const T* w, const float* c,      \
                                      const float* s, int64_t r, int64_t n, int64_t h, int64_t rank, int64_t turning, \
                                      int64_t periods, float eps, float scale) {                                      \
    turn_latents(q, q_stride, l, l_stride, w, c, s, r, n, h, rank, turning, periods, eps, scale);                     \
  }                                                                                                                   \
  extern "C" void sample_##NAME(const T* l, const int64_t* seeds, const int64_t* counters, int64_t* t, float* p,       \
                                int64_t r, int64_t v, float scale) {                                                  \
    sample(l, seeds, counters, t, p, r, v, scale);                                                                    \
  }
EXPORT(f32, float)
EXPORT(bf16, bf16)
