// Attention over packed segments, forward and backward, and over the engine's cache: no block of scores is ever whole in
// memory (FlashAttention, arXiv:2205.14135), and a prompt's keys are read once for all completions that share it.
// Built by fused.py; packed.py and engine/cache.py hold the same functions in PyTorch. All sums are fp32. A task owns what it
// writes and works in a fixed order, so results repeat to the bit on any number of threads.
//
// Every matrix product here is `multiply`: C += A B with A read element by element (any strides) and B, C in rows.

#include <algorithm>
#include <limits>
#include <vector>

#include "numbers.h"
#include "products.h"

namespace {

constexpr int64_t kQueries = 32;  // rows of scores at a time
constexpr int64_t kKeys = 64;     // columns of scores at a time
constexpr float kNever = -std::numeric_limits<float>::infinity();

// One head's rows of a [tokens, heads, width] array that may be a view with a longer row
template <typename T>
struct Heads {
  T* data;
  int64_t stride, width;
  T* at(int64_t token, int64_t head) const { return data + token * stride + head * width; }
};

// fp32 copy of some rows of one head, its width padded with zeros to whole lanes
template <typename T>
void copy_rows(const Heads<T>& from, int64_t head, int64_t first, int64_t rows, float scale, float* to, int64_t padded) {
  for (int64_t r = 0; r < rows; r++) {
    const T* source = from.at(first + r, head);
    for (int64_t i = 0; i < from.width; i++) to[r * padded + i] = load(source, i) * scale;
    std::fill(to + r * padded + from.width, to + (r + 1) * padded, 0.f);
  }
}

// Keys or values of one segment and head: in rows, and transposed in tiles [padded width, kKeys]
struct Side {
  int64_t count = 0, padded = 0;
  std::vector<float> rows, turned;

  template <typename T>
  void fill(const Heads<T>& from, int64_t head, int64_t first, int64_t length) {
    count = length, padded = round_up(from.width, kLanes);
    const int64_t held = round_up(length, kKeys);
    rows.assign(held * padded, 0.f);
    turned.resize(held * padded);
    copy_rows(from, head, first, length, 1.f, rows.data(), padded);
    for (int64_t tile = 0; tile < held; tile += kKeys)
      for (int64_t i = 0; i < padded; i++)
        for (int64_t t = 0; t < kKeys; t++) turned[tile * padded + i * kKeys + t] = rows[(tile + t) * padded + i];
  }
  const float* tile(int64_t first) const { return turned.data() + first * padded; }
};

// Which keys of a tile a query sees: those before `limit`; in its own segment, one more for every query
struct Visible {
  int64_t count;
  bool is_own;
  int64_t of(int64_t query, int64_t first_key) const {
    return std::clamp<int64_t>((is_own ? std::min(count, query + 1) : count) - first_key, 0, kKeys);
  }
};

struct Segments {
  const int64_t *starts, *lengths, *firsts;  // root r is segment firsts[r], its children follow up to firsts[r + 1]
  int64_t num_roots;
};

template <typename T>
void forward_segment(const Heads<const T>& q, const Heads<T>& out, float* log_sums, int64_t num_heads, int64_t head,
                     int64_t start, int64_t length, const Side* const* keys, const Side* const* values, int sides,
                     float scale) {
  const int64_t width = keys[0]->padded, value_width = values[0]->padded;
  std::vector<float> query(kQueries * width), scores(kQueries * kKeys), sum(kQueries * value_width);
  for (int64_t block = 0; block < length; block += kQueries) {
    const int64_t rows = std::min(kQueries, length - block);
    float top[kQueries], total[kQueries];
    std::fill(top, top + kQueries, kNever);
    std::fill(total, total + kQueries, 0.f);
    std::fill(sum.begin(), sum.end(), 0.f);
    copy_rows(q, head, start + block, rows, scale, query.data(), width);
    for (int side = 0; side < sides; side++) {
      const bool is_own = side == sides - 1;
      const Visible visible{keys[side]->count, is_own};
      const int64_t last = is_own ? block + rows : visible.count;
      for (int64_t tile = 0; tile < last; tile += kKeys) {
        std::fill(scores.begin(), scores.end(), 0.f);
        multiply(rows, kKeys, width, query.data(), width, 1, keys[side]->tile(tile), kKeys, scores.data(), kKeys);
        for (int64_t r = 0; r < rows; r++) {
          float* row = scores.data() + r * kKeys;
          const int64_t seen = visible.of(block + r, tile);
          float best = top[r];
          for (int64_t i = 0; i < seen; i++) best = std::max(best, row[i]);
          if (best == kNever) {  // nothing seen so far: nothing to add either
            std::fill(row, row + kKeys, 0.f);
            continue;
          }
          const float shrink = top[r] == kNever ? 0.f : std::exp(top[r] - best);
          float added = 0;
#pragma omp simd reduction(+ : added)
          for (int64_t i = 0; i < kKeys; i++) {
            row[i] = i < seen ? fast_exp(row[i] - best) : 0.f;
            added += row[i];
          }
          if (shrink != 1.f)
            for (int64_t i = 0; i < value_width; i++) sum[r * value_width + i] *= shrink;
          total[r] = total[r] * shrink + added;
          top[r] = best;
        }
        const int64_t depth = std::min(kKeys, values[side]->count - tile);
        multiply(rows, value_width, depth, scores.data(), kKeys, 1, values[side]->rows.data() + tile * value_width,
                 value_width, sum.data(), value_width);
      }
    }
    for (int64_t r = 0; r < rows; r++) {
      T* to = out.at(start + block + r, head);
      for (int64_t i = 0; i < out.width; i++) store(to, i, sum[r * value_width + i] / total[r]);
      log_sums[(start + block + r) * num_heads + head] = top[r] + std::log(total[r]);
    }
  }
}

template <typename T>
void segments_forward(const Heads<const T>& q, const Heads<const T>& k, const Heads<const T>& v, const Heads<T>& out,
                      float* log_sums, int64_t num_heads, int64_t num_kv_heads, const Segments& segments, float scale) {
  const int64_t repeat = num_heads / num_kv_heads;
#pragma omp parallel for schedule(dynamic)
  for (int64_t task = 0; task < segments.num_roots * num_kv_heads; task++) {
    const int64_t root = task / num_kv_heads, kv_head = task % num_kv_heads;
    Side keys[2], values[2];
    for (int64_t s = segments.firsts[root]; s < segments.firsts[root + 1]; s++) {
      const bool is_root = s == segments.firsts[root];
      Side &own_keys = keys[is_root ? 0 : 1], &own_values = values[is_root ? 0 : 1];
      own_keys.fill(k, kv_head, segments.starts[s], segments.lengths[s]);
      own_values.fill(v, kv_head, segments.starts[s], segments.lengths[s]);
      const Side *key_sides[2] = {&keys[0], &keys[1]}, *value_sides[2] = {&values[0], &values[1]};
      for (int64_t head = kv_head * repeat; head < (kv_head + 1) * repeat; head++)
        forward_segment(q, out, log_sums, num_heads, head, segments.starts[s], segments.lengths[s], key_sides, value_sides,
                        is_root ? 1 : 2, scale);
    }
  }
}

template <typename T>
struct Backward {
  Heads<const T> q, out, grad;
  Heads<T> grad_q;
  const float* log_sums;
  int64_t num_heads;
  float scale;

  // Adds to the gradients of both sides' keys and values, [count, padded] each
  void segment(int64_t head, int64_t start, int64_t length, const Side* const* keys, const Side* const* values,
               std::vector<float>* const* grad_keys, std::vector<float>* const* grad_values, int sides) const {
    const int64_t width = keys[0]->padded, value_width = values[0]->padded;
    std::vector<float> query(kQueries * width), grad_query(kQueries * width), grad_out(kQueries * value_width);
    std::vector<float> weights(kQueries * kKeys), grad_scores(kQueries * kKeys);
    for (int64_t block = 0; block < length; block += kQueries) {
      const int64_t rows = std::min(kQueries, length - block);
      float mean[kQueries];  // what the softmax's gradient takes off: the product of output and its gradient
      copy_rows(q, head, start + block, rows, scale, query.data(), width);
      copy_rows(grad, head, start + block, rows, 1.f, grad_out.data(), value_width);
      std::fill(grad_query.begin(), grad_query.end(), 0.f);
      for (int64_t r = 0; r < rows; r++) {
        const T* value = out.at(start + block + r, head);
        mean[r] = 0;
        for (int64_t i = 0; i < out.width; i++) mean[r] += load(value, i) * grad_out[r * value_width + i];
      }
      for (int side = 0; side < sides; side++) {
        const bool is_own = side == sides - 1;
        const Visible visible{keys[side]->count, is_own};
        const int64_t last = is_own ? block + rows : visible.count;
        for (int64_t tile = 0; tile < last; tile += kKeys) {
          const int64_t held = std::min(kKeys, visible.count - tile);
          std::fill(weights.begin(), weights.end(), 0.f);
          std::fill(grad_scores.begin(), grad_scores.end(), 0.f);
          multiply(rows, kKeys, width, query.data(), width, 1, keys[side]->tile(tile), kKeys, weights.data(), kKeys);
          multiply(rows, kKeys, value_width, grad_out.data(), value_width, 1, values[side]->tile(tile), kKeys,
                   grad_scores.data(), kKeys);
          for (int64_t r = 0; r < rows; r++) {
            const int64_t seen = visible.of(block + r, tile);
            const float log_sum = log_sums[(start + block + r) * num_heads + head];
            float *row = weights.data() + r * kKeys, *grad_row = grad_scores.data() + r * kKeys;
#pragma omp simd
            for (int64_t i = 0; i < kKeys; i++) {
              row[i] = i < seen ? fast_exp(row[i] - log_sum) : 0.f;
              grad_row[i] = row[i] * (grad_row[i] - mean[r]);
            }
          }
          const float* key_rows = keys[side]->rows.data() + tile * width;
          multiply(rows, width, held, grad_scores.data(), kKeys, 1, key_rows, width, grad_query.data(), width);
          multiply(held, width, rows, grad_scores.data(), 1, kKeys, query.data(), width,
                   grad_keys[side]->data() + tile * width, width);
          multiply(held, value_width, rows, weights.data(), 1, kKeys, grad_out.data(), value_width,
                   grad_values[side]->data() + tile * value_width, value_width);
        }
      }
      for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < grad_q.width; i++)
          store(grad_q.at(start + block + r, head), i, grad_query[r * width + i] * scale);
    }
  }
};

template <typename T>
void store_rows(const std::vector<float>& from, int64_t padded, const Heads<T>& to, int64_t head, int64_t first,
                int64_t rows) {
  for (int64_t r = 0; r < rows; r++)
    for (int64_t i = 0; i < to.width; i++) store(to.at(first + r, head), i, from[r * padded + i]);
}

template <typename T>
void segments_backward(const Backward<T>& backward, const Heads<const T>& k, const Heads<const T>& v, const Heads<T>& grad_k,
                       const Heads<T>& grad_v, int64_t num_kv_heads, const Segments& segments) {
  const int64_t repeat = backward.num_heads / num_kv_heads;
#pragma omp parallel for schedule(dynamic)
  for (int64_t task = 0; task < segments.num_roots * num_kv_heads; task++) {
    const int64_t root = task / num_kv_heads, kv_head = task % num_kv_heads, first = segments.firsts[root];
    Side keys[2], values[2];
    std::vector<float> grad_keys[2], grad_values[2];
    for (int64_t s = first; s < segments.firsts[root + 1]; s++) {
      const int own = s == first ? 0 : 1;
      const int64_t start = segments.starts[s], length = segments.lengths[s];
      keys[own].fill(k, kv_head, start, length);
      values[own].fill(v, kv_head, start, length);
      grad_keys[own].assign(length * keys[own].padded, 0.f);
      grad_values[own].assign(length * values[own].padded, 0.f);
      const Side *key_sides[2] = {&keys[0], &keys[1]}, *value_sides[2] = {&values[0], &values[1]};
      std::vector<float>*key_grads[2] = {&grad_keys[0], &grad_keys[1]}, *value_grads[2] = {&grad_values[0], &grad_values[1]};
      for (int64_t head = kv_head * repeat; head < (kv_head + 1) * repeat; head++)
        backward.segment(head, start, length, key_sides, value_sides, key_grads, value_grads, own + 1);
      if (own) {
        store_rows(grad_keys[1], keys[1].padded, grad_k, kv_head, start, length);
        store_rows(grad_values[1], values[1].padded, grad_v, kv_head, start, length);
      }
    }
    store_rows(grad_keys[0], keys[0].padded, grad_k, kv_head, segments.starts[first], segments.lengths[first]);
    store_rows(grad_values[0], values[0].padded, grad_v, kv_head, segments.starts[first], segments.lengths[first]);
  }
}

// One new token of each slot against the cache -----------------------------------------------------------------------------

// Running softmax of some queries: their best score, the sum of weights, the weighted sum of values
struct Running {
  std::vector<float> top, total, sum;
  int64_t width;

  Running(int64_t queries, int64_t width_) : top(queries, kNever), total(queries), sum(queries * width_), width(width_) {}

  void shrink(int64_t query, float best) {
    const float by = top[query] == kNever ? 0.f : std::exp(top[query] - best);
    top[query] = best;
    if (by == 1.f) return;
    total[query] *= by;
    for (int64_t i = 0; i < width; i++) sum[query * width + i] *= by;
  }
};

// What a task needs while it attends to one tile of keys
struct Scratch {
  std::vector<float> scores, best, added, keys, values;
};

struct Rows {
  const float* data;
  int64_t stride;
};

// `rows` of the cache as fp32 rows of `padded` width: in place where they are that already, else through `scratch`
template <typename T>
Rows as_rows(const T* from, int64_t stride, int64_t rows, int64_t width, int64_t padded, std::vector<float>& scratch) {
  if constexpr (sizeof(T) == sizeof(float))
    if (width == padded) return {from, stride};
  scratch.resize(kKeys * padded);
  copy_rows<const T>({from, stride, width}, 0, 0, rows, 1.f, scratch.data(), padded);
  return {scratch.data(), padded};
}

// Of a key, of a value, and from one value in the cache to the next: they are the first part of the keys where attention is to
// latents, as in DeepSeek's
struct Widths {
  int64_t key, value, value_stride;
};

template <typename T>
inline void prefetch(const T* from, int64_t count) {
  for (int64_t i = 0; i < count; i += 64 / int64_t(sizeof(T))) __builtin_prefetch(from + i);
}

// Many queries, columns of `turned` [width, stride], against `count` keys that all of them see: a column of scores is a query's.
// `first` is the queries' place in `running`. What is read after a tile of keys, its values and the keys that follow (`next`
// after the last), is asked for while the tile is worked on.
template <typename T>
void attend_together(const float* turned, int64_t stride, int64_t queries, const T* keys, const T* values, int64_t count,
                     const Widths& w, Running& running, int64_t first, const T* next, Scratch& scratch) {
  const int64_t padded = round_up(w.key, kLanes), columns = round_up(queries, kLanes);
  for (int64_t tile = 0; tile < count; tile += kKeys) {
    const int64_t held = std::min(kKeys, count - tile);
    const T *tile_values = values + tile * w.value_stride, *after = tile + kKeys < count ? keys + (tile + kKeys) * w.key : next;
    scratch.scores.assign(held * columns, 0.f);
    scratch.best.assign(columns, kNever);
    scratch.added.assign(columns, 0.f);
    float *scores = scratch.scores.data(), *best = scratch.best.data(), *added = scratch.added.data();
    const Rows key_rows = as_rows(keys + tile * w.key, w.key, held, w.key, padded, scratch.keys);
    multiply(held, columns, w.key, key_rows.data, key_rows.stride, 1, turned, stride, scores, columns);
    std::copy_n(running.top.data() + first, queries, best);
    for (int64_t t = 0; t < held; t++) {
      if (values != keys) prefetch(tile_values + t * w.value_stride, w.value);
#pragma omp simd
      for (int64_t r = 0; r < columns; r++) best[r] = std::max(best[r], scores[t * columns + r]);
    }
    for (int64_t r = 0; r < queries; r++) running.shrink(first + r, best[r]);
    for (int64_t t = 0; t < held; t++) {
      prefetch(after + t * w.key, w.key);
#pragma omp simd
      for (int64_t r = 0; r < columns; r++) {
        const float weight = fast_exp(scores[t * columns + r] - best[r]);
        scores[t * columns + r] = weight;
        added[r] += weight;
      }
    }
    for (int64_t r = 0; r < queries; r++) running.total[first + r] += added[r];
    const Rows value_rows = as_rows(tile_values, w.value_stride, held, w.value, running.width, scratch.values);
    multiply(queries, running.width, held, scores, 1, columns, value_rows.data, value_rows.stride,
             running.sum.data() + first * running.width, running.width);
  }
}

// The same for fewer queries than would fill lanes, rows [queries, padded width]: a row of scores is a query's.
template <typename T>
void attend_each(const float* rows, int64_t queries, const T* keys, const T* values, int64_t count, const Widths& w,
                  Running& running, int64_t first, const T* next, Scratch& scratch) {
  const int64_t padded = round_up(w.key, kLanes);
  scratch.scores.resize(queries * kKeys);
  float* scores = scratch.scores.data();
  for (int64_t tile = 0; tile < count; tile += kKeys) {
    const int64_t held = std::min(kKeys, count - tile);
    const T* after = tile + kKeys < count ? keys + (tile + kKeys) * w.key : next;
    const T* tile_values = values + tile * w.value_stride;
    const Rows key_rows = as_rows(keys + tile * w.key, w.key, held, w.key, padded, scratch.keys);
    for (int64_t r = 0; r < queries; r++) {
      float *row = scores + r * kKeys, best = running.top[first + r], added = 0;
      int64_t t = 0;
      for (; t + 4 <= held; t += 4) {
        if (r == 0 && values != keys) prefetch(tile_values + t * w.value_stride, 4 * w.value_stride);
        if (r == 0) prefetch(after + t * w.key, 4 * w.key);
        dots<4>(rows + r * padded, key_rows.data + t * key_rows.stride, key_rows.stride, padded, row + t);
      }
      for (; t < held; t++)
        dots<1>(rows + r * padded, key_rows.data + t * key_rows.stride, key_rows.stride, padded, row + t);
#pragma omp simd reduction(max : best)
      for (int64_t i = 0; i < held; i++) best = row[i] > best ? row[i] : best;
      running.shrink(first + r, best);
#pragma omp simd reduction(+ : added)
      for (int64_t i = 0; i < held; i++) {
        row[i] = fast_exp(row[i] - best);
        added += row[i];
      }
      running.total[first + r] += added;
    }
    const Rows value_rows = as_rows(tile_values, w.value_stride, held, w.value, running.width, scratch.values);
    multiply(queries, running.width, held, scores, kKeys, 1, value_rows.data, value_rows.stride,
             running.sum.data() + first * running.width, running.width);
  }
}

// The cache of one layer: [slots, kv heads, positions, width], twice; or once, where values are part of the keys. Tokens ask
// for what their slot holds: token t's is slot t / per_slot.
template <typename T>
struct Cache {
  T *keys, *values;
  int64_t num_kv_heads, num_positions;
  Widths widths;
  int64_t per_slot;
  T* key(int64_t token, int64_t head, int64_t at) const {
    return keys + ((token / per_slot * num_kv_heads + head) * num_positions + at) * widths.key;
  }
  T* value(int64_t token, int64_t head, int64_t at) const {
    return values + ((token / per_slot * num_kv_heads + head) * num_positions + at) * widths.value_stride;
  }
};

// New tokens whose slots hold the same first `common` positions, which are read from the first of them
struct Part {
  const int64_t* member;
  int64_t count, common;
};

// Members of group g are slots[firsts[g]] ...; all hold the same first shared[g] positions. A group with many queries is cut
// into several parts, so that it keeps all threads busy; how many threads there are changes neither parts nor results.
std::vector<Part> parts_of(const int64_t* slots, const int64_t* firsts, const int64_t* shared, int64_t num_groups,
                           int64_t repeat) {
  constexpr int64_t kQueriesAtOnce = 64;
  const int64_t at_once = std::max<int64_t>(1, kQueriesAtOnce / repeat);
  std::vector<Part> parts;
  for (int64_t group = 0; group < num_groups; group++) {
    const int64_t size = firsts[group + 1] - firsts[group], common = size > 1 ? shared[group] : 0;
    for (int64_t first = 0; first < size; first += at_once)
      parts.push_back({slots + firsts[group] + first, std::min(at_once, size - first), common});
  }
  return parts;
}

// Whether a step is worth waking the other threads for; `per_position` multiplications for each position that a member sees
bool is_much(const std::vector<Part>& parts, const int64_t* positions, int64_t per_position) {
  int64_t seen = 0;
  for (const Part& part : parts)
    for (int64_t m = 0; m < part.count; m++) seen += positions[part.member[m]];
  return seen * per_position > kSerialProducts;
}

// Queries of a part against one key/value head, rows [count * repeat, padded width], scaled
template <typename T>
void attend_part(const std::vector<float>& rows, int64_t repeat, const Part& part, int64_t kv_head, const Cache<T>& cache,
                 const int64_t* positions, Running& running, Scratch& scratch) {
  const int64_t width = cache.widths.key, padded = round_up(width, kLanes), queries = part.count * repeat;
  const bool are_many = 2 * repeat > kLanes;
  // a member's lanes may reach beyond its queries, the last one's beyond all
  const int64_t columns = round_up(queries, kLanes) + kLanes;
  std::vector<float> turned(part.common || are_many ? width * columns : 0);
  if (!turned.empty())
    for (int64_t i = 0; i < width; i++)
      for (int64_t r = 0; r < queries; r++) turned[i * columns + r] = rows[r * padded + i];
  if (part.common)
    attend_together(turned.data(), columns, queries, cache.key(part.member[0], kv_head, 0),
                    cache.value(part.member[0], kv_head, 0), part.common, cache.widths, running, 0,
                    cache.key(part.member[0], kv_head, part.common), scratch);
  for (int64_t m = 0; m < part.count; m++) {
    const int64_t slot = part.member[m], after = part.member[std::min(m + 1, part.count - 1)], first = m * repeat;
    const T *keys = cache.key(slot, kv_head, part.common), *values = cache.value(slot, kv_head, part.common);
    const T* next = cache.key(after, kv_head, part.common);
    const int64_t count = positions[slot] + 1 - part.common;
    if (are_many)
      attend_together(turned.data() + first, columns, repeat, keys, values, count, cache.widths, running, first, next, scratch);
    else
      attend_each(rows.data() + first * padded, repeat, keys, values, count, cache.widths, running, first, next, scratch);
  }
}

template <typename T>
void decode(const T* q, const T* k, const T* v, T* out, int64_t q_stride, int64_t k_stride, int64_t v_stride,
            int64_t num_heads, const Cache<T>& cache, const int64_t* positions, const std::vector<Part>& parts) {
  const int64_t repeat = num_heads / cache.num_kv_heads, width = cache.widths.key, value_width = cache.widths.value;
  const int64_t padded = round_up(width, kLanes);
  const float scale = 1.f / std::sqrt(float(width));
  const bool wakes = is_much(parts, positions, num_heads * (width + value_width));
#pragma omp parallel for schedule(dynamic) if (wakes)
  for (int64_t task = 0; task < int64_t(parts.size()) * cache.num_kv_heads; task++) {
    const Part& part = parts[task / cache.num_kv_heads];
    const int64_t kv_head = task % cache.num_kv_heads, queries = part.count * repeat;
    Running running(queries, round_up(value_width, kLanes));
    Scratch scratch;
    std::vector<float> rows(queries * padded);
    for (int64_t m = 0; m < part.count; m++) {
      const int64_t slot = part.member[m];
      std::copy_n(k + slot * k_stride + kv_head * width, width, cache.key(slot, kv_head, positions[slot]));
      std::copy_n(v + slot * v_stride + kv_head * value_width, value_width, cache.value(slot, kv_head, positions[slot]));
      copy_rows<const T>({q + slot * q_stride, width, width}, 0, kv_head * repeat, repeat, scale,
                         rows.data() + m * repeat * padded, padded);
    }
    attend_part(rows, repeat, part, kv_head, cache, positions, running, scratch);
    for (int64_t query = 0; query < queries; query++) {
      const int64_t slot = part.member[query / repeat], head = kv_head * repeat + query % repeat;
      T* to = out + (slot * num_heads + head) * value_width;
      for (int64_t i = 0; i < value_width; i++)
        store(to, i, running.sum[query * running.width + i] / running.total[query]);
    }
  }
}

// Of a head of DeepSeek's latent attention: its queries and values, and the rows of `up`, [heads, fixed | value, rank], that
// turn latents into keys without position and into values
struct LatentHeads {
  int64_t num_heads, fixed, value, rank;
};

// The same with latents in the cache, [rank | rotated key], one for all heads. `up` is moved to the other side of both products:
// a query is multiplied by it before it meets the latents, and what it finds there after; no key or value is ever made.
// A slot may have several tokens, which see each other's latents: all are written before any is read.
template <typename T>
void decode_latents(const T* q, const T* latent, T* out, const T* up, int64_t q_stride, int64_t latent_stride,
                    const LatentHeads& h, const Cache<T>& cache, const int64_t* positions, const std::vector<Part>& parts) {
  const int64_t width = cache.widths.key, padded = round_up(width, kLanes), turned = width - h.rank, head = h.fixed + turned;
  const float scale = 1.f / std::sqrt(float(head));
  std::vector<float> widened;
  const int64_t up_rows = h.num_heads * (h.fixed + h.value);
  const float* weights = nullptr;
  if constexpr (sizeof(T) == sizeof(float)) {
    weights = up;
  } else {
    widened.resize(up_rows * h.rank);
    copy_rows<const T>({up, h.rank, h.rank}, 0, 0, up_rows, 1.f, widened.data(), h.rank);
    weights = widened.data();
  }
  for (const Part& part : parts)
    for (int64_t m = 0; m < part.count; m++) {
      const int64_t token = part.member[m];
      std::copy_n(latent + token * latent_stride, width, cache.key(token, 0, positions[token]));
    }
  const bool wakes = is_much(parts, positions, h.num_heads * (width + h.rank));
#pragma omp parallel for schedule(dynamic) if (wakes)
  for (int64_t task = 0; task < int64_t(parts.size()); task++) {
    const Part& part = parts[task];
    const int64_t queries = part.count * h.num_heads, all_heads = h.num_heads * head;
    Running running(queries, h.rank);
    Scratch scratch;
    std::vector<float> given(part.count * all_heads), rows(queries * padded), found(h.rank);
    for (int64_t m = 0; m < part.count; m++)
      copy_rows<const T>({q + part.member[m] * q_stride, all_heads, all_heads}, 0, 0, 1, scale, given.data() + m * all_heads,
                         all_heads);
    for (int64_t n = 0; n < h.num_heads; n++) {
      multiply(part.count, h.rank, h.fixed, given.data() + n * head, all_heads, 1, weights + n * (h.fixed + h.value) * h.rank,
               h.rank, rows.data() + n * padded, h.num_heads * padded);
      for (int64_t m = 0; m < part.count; m++)
        std::copy_n(given.data() + m * all_heads + n * head + h.fixed, turned,
                    rows.data() + (m * h.num_heads + n) * padded + h.rank);
    }
    attend_part(rows, h.num_heads, part, 0, cache, positions, running, scratch);
    for (int64_t query = 0; query < queries; query++) {
      const int64_t token = part.member[query / h.num_heads], n = query % h.num_heads;
      const float* value_rows = weights + (n * (h.fixed + h.value) + h.fixed) * h.rank;
      T* to = out + (token * h.num_heads + n) * h.value;
      for (int64_t i = 0; i < h.rank; i++) found[i] = running.sum[query * running.width + i] / running.total[query];
      for (int64_t i = 0; i < h.value;) {
        float values[4];
        const int64_t some = i + 4 <= h.value ? 4 : 1;
        if (some == 4)
          dots<4>(found.data(), value_rows + i * h.rank, h.rank, h.rank, values);
        else
          dots<1>(found.data(), value_rows + i * h.rank, h.rank, h.rank, values);
        for (int64_t j = 0; j < some; j++) store(to, i++, values[j]);
      }
    }
  }
}

}  // namespace

#define EXPORT(NAME, T)                                                                                                  \
  extern "C" void segments_forward_##NAME(const T* q, int64_t q_stride, const T* k, int64_t k_stride, const T* v,       \
                                          int64_t v_stride, T* out, float* log_sums, int64_t num_heads,                  \
                                          int64_t num_kv_heads, int64_t width, int64_t value_width, const int64_t* starts, \
                                          const int64_t* lengths, const int64_t* firsts, int64_t num_roots, float scale) { \
    segments_forward<T>({q, q_stride, width}, {k, k_stride, width}, {v, v_stride, value_width},                          \
                        {out, num_heads * value_width, value_width}, log_sums, num_heads, num_kv_heads,                  \
                        {starts, lengths, firsts, num_roots}, scale);                                                    \
  }                                                                                                                      \
  extern "C" void segments_backward_##NAME(                                                                              \
      const T* q, int64_t q_stride, const T* k, int64_t k_stride, const T* v, int64_t v_stride, const T* out,            \
      const T* grad, const float* log_sums, T* grad_q, T* grad_k, T* grad_v, int64_t num_heads, int64_t num_kv_heads,    \
      int64_t width, int64_t value_width, const int64_t* starts, const int64_t* lengths, const int64_t* firsts,          \
      int64_t num_roots, float scale) {                                                                                  \
    Backward<T> backward{{q, q_stride, width},                                                                           \
                         {out, num_heads * value_width, value_width},                                                    \
                         {grad, num_heads * value_width, value_width},                                                   \
                         {grad_q, num_heads * width, width},                                                             \
                         log_sums,                                                                                       \
                         num_heads,                                                                                      \
                         scale};                                                                                         \
    segments_backward<T>(backward, {k, k_stride, width}, {v, v_stride, value_width},                                     \
                         {grad_k, num_kv_heads * width, width}, {grad_v, num_kv_heads * value_width, value_width},       \
                         num_kv_heads, {starts, lengths, firsts, num_roots});                                            \
  }                                                                                                                      \
  extern "C" void decode_##NAME(const T* q, const T* k, const T* v, T* out, int64_t q_stride, int64_t k_stride,          \
                                int64_t v_stride, int64_t num_heads, T* keys, T* values, int64_t num_kv_heads,           \
                                int64_t num_positions, int64_t width, int64_t value_width, const int64_t* positions,     \
                                const int64_t* slots, const int64_t* firsts, const int64_t* shared, int64_t num_groups) { \
    decode<T>(q, k, v, out, q_stride, k_stride, v_stride, num_heads,                                                     \
              {keys, values, num_kv_heads, num_positions, {width, value_width, value_width}, 1}, positions,              \
              parts_of(slots, firsts, shared, num_groups, num_heads / num_kv_heads));                                    \
  }                                                                                                                      \
  extern "C" void decode_latents_##NAME(const T* q, const T* latent, T* out, const T* up, int64_t q_stride,              \
                                        int64_t latent_stride, int64_t num_heads, int64_t fixed, int64_t value,          \
                                        int64_t rank, T* latents, int64_t num_positions, int64_t width, int64_t per_slot, \
                                        const int64_t* positions, const int64_t* slots, const int64_t* firsts,           \
                                        const int64_t* shared, int64_t num_groups) {                                     \
    decode_latents<T>(q, latent, out, up, q_stride, latent_stride, {num_heads, fixed, value, rank},                      \
                      {latents, latents, 1, num_positions, {width, rank, width}, per_slot}, positions,                   \
                      parts_of(slots, firsts, shared, num_groups, num_heads));                                           \
  }
EXPORT(f32, float)
EXPORT(bf16, bf16)
