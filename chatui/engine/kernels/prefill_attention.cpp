// Attention of tokens that stand one behind the other: pieces of prompts, or single tokens.
//
// Some tokens of a piece, and all heads that share keys, look at a block of keys and values together: it is unpacked to
// float32 once for all of them. Weights are summed block by block against the highest score so far (online softmax, as in
// FlashAttention: https://arxiv.org/abs/2205.14135). Blocks are those of the cache, so each token is computed in the same
// order however its prompt is cut, and whatever is read beside it.

#include "prefill_attention.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace {

constexpr int64_t BLOCK = 64;
// Vectors worked on together, and numbers in them; so many queries have room for their sums in registers then.
constexpr int64_t WIDE = 2, ACROSS = WIDE * LANES;
constexpr int MOST = 6;
// So many queries share what is unpacked of a block; it costs them a tenth.
constexpr int64_t QUERIES = 48;
// Threads share more multiplications than this: to wait for each other takes some microseconds.
constexpr int64_t MIN_SHARED_PRODUCTS = 1 << 15;

inline int64_t padded(int64_t count) { return (count + ACROSS - 1) / ACROSS * ACROSS; }

// sums [ROWS, stride] += factors [ROWS, count] * numbers [count, ACROSS]; rows of those lie `apart`.
template <int ROWS>
inline void multiply(const float* factors, int64_t length, const float* numbers, int64_t apart, int64_t count, float* sums, int64_t stride) {
  Floats sum[ROWS][WIDE];
  for (int row = 0; row < ROWS; row++)
    for (int part = 0; part < WIDE; part++) sum[row][part] = load(sums + row * stride + part * LANES);
  for (int64_t at = 0; at < count; at++, numbers += apart) {
    const Floats first = load(numbers), second = load(numbers + LANES);
    for (int row = 0; row < ROWS; row++) {
      const float factor = factors[row * length + at];
      sum[row][0] += factor * first;
      sum[row][1] += factor * second;
    }
  }
  for (int row = 0; row < ROWS; row++)
    for (int part = 0; part < WIDE; part++) store(sums + row * stride + part * LANES, sum[row][part]);
}

// The same for so many rows, from 1 to MOST.
template <int ROWS = MOST>
inline void several(int64_t rows, const float* factors, int64_t length, const float* numbers, int64_t apart, int64_t count, float* sums, int64_t stride) {
  if (rows == ROWS) multiply<ROWS>(factors, length, numbers, apart, count, sums, stride);
  else if constexpr (ROWS > 1) several<ROWS - 1>(rows, factors, length, numbers, apart, count, sums, stride);
}

// sums [rows, width] += factors [rows, length], of which `count` are used, * numbers [count, width].
void multiply_all(int64_t rows, const float* factors, int64_t length, const float* numbers, int64_t width, int64_t count, float* sums) {
  const int64_t tiles = (rows + MOST - 1) / MOST;
  for (int64_t at = 0; at < width; at += ACROSS)
    for (int64_t tile = 0; tile < tiles; tile++) {
      const int64_t row = rows * tile / tiles, many = rows * (tile + 1) / tiles - row;
      several(many, factors + row * length, length, numbers + at, width, count, sums + row * width + at, width);
    }
}

// Some tokens of a piece with the heads that share keys and values: token by token, and head by head.
struct Tile {
  const int64_t* table;
  int64_t shared, row, tokens, position;  // the first row, and its position
};

struct Scratch {
  std::vector<float> queries, scores, sums, keys, values, highest;
  std::vector<Floats> totals;
};

// The numbers of a block's keys as float32 [size, BLOCK].
template <typename Stored>
void unpack_keys(const Stored* from, int64_t size, float* to) {
  if constexpr (SCALE<Stored> == 0) {
    for (int64_t at = 0; at < size * BLOCK; at += LANES) store(to + at, load(from + at));
  } else {
    float scales[BLOCK];
    for (int64_t at = 0; at < BLOCK; at++) scales[at] = scale_of(from[size * BLOCK + at], from[(size + 1) * BLOCK + at]);
    for (int64_t n = 0; n < size; n++)
      for (int64_t at = 0; at < BLOCK; at += LANES) store(to + n * BLOCK + at, load(from + n * BLOCK + at) * load(scales + at));
  }
}

// The numbers of values from `begin` to before `end` of a block as float32 [BLOCK, padded width]; the padding stays 0.
template <typename Stored>
void unpack_values(const Stored* from, int64_t width, int64_t begin, int64_t end, float* to) {
  const int64_t stride = padded(width);
  for (int64_t at = begin; at < end; at++) {
    const Stored* own = from + at * (width + SCALE<Stored>);
    float scale = 1.0f;
    if constexpr (SCALE<Stored> != 0) scale = scale_of(own[width], own[width + 1]);
    for (int64_t n = 0; n < width; n += LANES) store(to + at * stride + n, load(own + n, width - n) * scale);
  }
}

// What a query's scores of a block weigh, in their place, from `begin` to before `end`; the others weigh nothing. What was
// summed before is scaled to the new highest score.
inline void weigh(float* scores, int64_t begin, int64_t end, float softcap, float& highest, Floats& total, float* sums, int64_t width) {
  const auto masked = [&](int64_t at, Floats numbers, float other) {
    Ints place;
    for (int64_t lane = 0; lane < LANES; lane++) place[lane] = static_cast<int32_t>(at + lane);
    return (place >= static_cast<int32_t>(begin)) & (place < static_cast<int32_t>(end)) ? numbers : Floats{} + other;
  };
  const bool whole = begin == 0 && end == BLOCK;
  Floats most = Floats{} - INFINITY;
  for (int64_t at = 0; at < BLOCK; at += LANES) {
    Floats score = load(scores + at);
    if (softcap != 0) score = softcap * tanh_of(score / softcap);
    if (!whole) score = masked(at, score, -INFINITY);
    store(scores + at, score);
    most = score > most ? score : most;
  }
  float maximum = highest;
  for (int64_t lane = 0; lane < LANES; lane++) maximum = most[lane] > maximum ? most[lane] : maximum;
  if (maximum > highest) {
    const float factor = exponential(Floats{} + (highest - maximum))[0];
    total *= factor;
    for (int64_t n = 0; n < width; n += LANES) store(sums + n, load(sums + n) * factor);
    highest = maximum;
  }
  for (int64_t at = 0; at < BLOCK; at += LANES) {
    Floats weight = exponential(load(scores + at) - maximum);
    if (!whole) weight = masked(at, weight, 0);
    store(scores + at, weight);
    total += weight;
  }
}

template <typename T, typename Stored>
void attend(const PrefillAttention& job, const Tile& tile, Scratch& scratch) {
  const int64_t group = job.group, count = tile.tokens * group, width = padded(job.width), heads = job.shared * group;
  scratch.queries.resize(count * job.size);
  scratch.scores.resize(count * BLOCK);
  scratch.sums.assign(count * width, 0.0f);
  scratch.keys.resize(job.size * BLOCK);
  scratch.values.assign(BLOCK * width, 0.0f);
  scratch.highest.assign(count, -INFINITY);
  scratch.totals.assign(count, Floats{});
  for (int64_t at = 0; at < count; at++) {
    const int64_t head = tile.shared * group + at % group, row = tile.row + at / group;
    const T* query = static_cast<const T*>(job.query) + (row * heads + head) * job.size;
    for (int64_t n = 0; n < job.size; n++) scratch.queries[at * job.size + n] = number(query[n]);
    if (job.sinks != nullptr) {
      scratch.highest[at] = job.sinks[head];
      scratch.totals[at][0] = 1.0f;
    }
  }
  const auto first_seen = [&](int64_t position) { return job.window ? std::max<int64_t>(0, position + 1 - job.window) : 0; };
  const int64_t last = tile.position + tile.tokens - 1;
  const float softcap = static_cast<float>(job.softcap);
  for (int64_t block = first_seen(tile.position) / BLOCK; block <= last / BLOCK; block++) {
    const int64_t from = block * BLOCK, slot = tile.table[block] * job.shared + tile.shared;
    unpack_keys(static_cast<const Stored*>(job.keys) + slot * (job.size + SCALE<Stored>) * BLOCK, job.size, scratch.keys.data());
    std::fill(scratch.scores.begin(), scratch.scores.end(), 0.0f);
    multiply_all(count, scratch.queries.data(), job.size, scratch.keys.data(), BLOCK, job.size, scratch.scores.data());
    for (int64_t at = 0; at < count; at++) {
      const int64_t position = tile.position + at / group;
      const int64_t begin = std::clamp<int64_t>(first_seen(position) - from, 0, BLOCK), end = std::clamp<int64_t>(position + 1 - from, 0, BLOCK);
      float* scores = scratch.scores.data() + at * BLOCK;
      if (begin < end) weigh(scores, begin, end, softcap, scratch.highest[at], scratch.totals[at], scratch.sums.data() + at * width, width);
      else std::fill_n(scores, BLOCK, 0.0f);
    }
    const int64_t begin = std::max<int64_t>(0, first_seen(tile.position) - from), end = std::min(BLOCK, last + 1 - from);
    unpack_values(static_cast<const Stored*>(job.values) + slot * BLOCK * (job.width + SCALE<Stored>), job.width, begin, end, scratch.values.data());
    multiply_all(count, scratch.scores.data() + begin, BLOCK, scratch.values.data() + begin * width, width, end - begin, scratch.sums.data());
  }
  T* result = static_cast<T*>(job.result);
  for (int64_t at = 0; at < count; at++) {
    const int64_t own = (tile.row + at / group) * heads + tile.shared * group + at % group;
    const float sum = total(scratch.totals[at]);
    for (int64_t n = 0; n < job.width; n++) put(result + own * job.width + n, scratch.sums[at * width + n] / sum);
  }
}

}  // namespace

extern "C" void chatui_prefill_attention(const PrefillAttention* given) {
  const PrefillAttention& job = *given;
  const int64_t tokens = std::max<int64_t>(1, QUERIES / job.group);
  std::vector<Tile> tiles;
  int64_t products = 0;
  for (int64_t piece = 0; piece < job.pieces; piece++)
    for (int64_t row = job.begins[piece]; row < job.begins[piece + 1]; row += tokens) {
      const int64_t many = std::min(tokens, job.begins[piece + 1] - row);
      products += (job.positions[row] + many) * many;
      for (int64_t shared = 0; shared < job.shared; shared++)
        tiles.push_back({job.tables + piece * job.columns, shared, row, many, job.positions[row]});
    }
  products *= job.shared * job.group * (job.size + job.width);
  const auto run = job.is_bfloat16 ? (job.in_int8 ? attend<bfloat16, int8_t> : attend<bfloat16, bfloat16>)
                                   : (job.in_int8 ? attend<float, int8_t> : attend<float, float>);
#pragma omp parallel num_threads(job.threads) if (products > MIN_SHARED_PRODUCTS)
  {
    Scratch scratch;
    // The last ones of a piece see most.
#pragma omp for schedule(dynamic)
    for (int64_t at = static_cast<int64_t>(tiles.size()) - 1; at >= 0; at--) run(job, tiles[at], scratch);
  }
}
