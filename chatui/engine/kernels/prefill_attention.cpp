// Attention of tokens that stand one behind the other: pieces of prompts, or single tokens.
//
// Some tokens of a piece, and all heads that share keys, look at a block of keys and values together: it is unpacked once
// for all of them, to float32, or to pairs of bfloat16 where an instruction multiplies those. Weights are summed block by block against the highest score so far (online softmax, as in
// FlashAttention: https://arxiv.org/abs/2205.14135). Blocks are those of the cache, so each token is computed in the same
// order however its prompt is cut, and whatever is read beside it.

#include "prefill_attention.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace {

constexpr int64_t BLOCK = 64;
// Vectors worked on together.
constexpr int64_t WIDE = 2;
// So many queries share what is unpacked of a block; it costs them a tenth.
constexpr int64_t QUERIES = 48;
// Threads share more multiplications than this: to wait for each other takes some microseconds.
constexpr int64_t MIN_SHARED_PRODUCTS = 1 << 15;

// How numbers are multiplied by factors: so many rows have room for their sums in registers, and PAIR products are added
// to each sum at once.
template <typename Number>
struct Vectors {
  using Sums = Floats;
  using Places = Ints;
  static constexpr int ROWS = 6;
  static constexpr int64_t SUMS = LANES, PAIR = 1;
  static Floats numbers(const float* from) { return load(from); }
  static float factor(const float* from) { return *from; }
  static Floats loaded(const float* from) { return load(from); }
  static void stored(float* to, Floats sums) { store(to, sums); }
  static Floats added(Floats sums, float factor, Floats numbers) { return sums + factor * numbers; }
  static void narrow(float* to, Floats weights) { store(to, weights); }
  static Floats exponential(Floats x) { return ::exponential(x); }
};

#if defined(__AVX512BF16__)
template <>
struct Vectors<bfloat16> {
  using Sums = __m512;
  typedef int32_t Places __attribute__((vector_size(64)));
  static constexpr int ROWS = 12;
  static constexpr int64_t SUMS = 16, PAIR = 2;
  static __m512i numbers(const bfloat16* from) { return _mm512_loadu_si512(from); }
  static __m512i factor(const bfloat16* from) {
    int32_t both;
    memcpy(&both, from, sizeof both);
    return _mm512_set1_epi32(both);
  }
  static __m512 loaded(const float* from) { return _mm512_loadu_ps(from); }
  static void stored(float* to, __m512 sums) { _mm512_storeu_ps(to, sums); }
  static __m512 added(__m512 sums, __m512i factor, __m512i numbers) {
    return _mm512_dpbf16_ps(sums, reinterpret_cast<__m512bh>(factor), reinterpret_cast<__m512bh>(numbers));
  }
  static void narrow(bfloat16* to, __m512 weights) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(weights)));
  }
  // 2**whole * 2**rest, the latter by its Taylor series, whose error is below 3e-6 for a rest of up to 1 / 2: a hundredth of
  // what rounding to bfloat16 makes of it.
  static __m512 exponential(__m512 x) {
    x *= 1.44269504f;
    const __m512 whole = _mm512_roundscale_ps(x, 0), rest = x - whole;
    __m512 sum = _mm512_set1_ps(0.00133336f);
    for (const float factor : {0.00961813f, 0.05550411f, 0.24022651f, 0.69314718f, 1.0f}) sum = sum * rest + factor;
    return _mm512_scalef_ps(sum, whole);
  }
};
template <typename T, typename Stored>
using Number = std::conditional_t<std::is_same_v<T, bfloat16> && std::is_same_v<Stored, bfloat16>, bfloat16, float>;
#else
template <typename T, typename Stored>
using Number = float;
#endif

template <typename N>
constexpr int64_t ACROSS = WIDE * Vectors<N>::SUMS;

inline int64_t padded(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

// sums [ROWS, stride] += factors [ROWS, count] * numbers [count / PAIR, ACROSS, PAIR]; rows of those lie `apart`.
template <int ROWS, typename N>
inline void multiply(const N* factors, int64_t length, const N* numbers, int64_t apart, int64_t count, float* sums, int64_t stride) {
  using V = Vectors<N>;
  typename V::Sums sum[ROWS][WIDE];
  for (int row = 0; row < ROWS; row++)
    for (int part = 0; part < WIDE; part++) sum[row][part] = V::loaded(sums + row * stride + part * V::SUMS);
  for (int64_t at = 0; at < count; at += V::PAIR, numbers += apart) {
    const auto first = V::numbers(numbers), second = V::numbers(numbers + V::SUMS * V::PAIR);
    for (int row = 0; row < ROWS; row++) {
      const auto factor = V::factor(factors + row * length + at);
      sum[row][0] = V::added(sum[row][0], factor, first);
      sum[row][1] = V::added(sum[row][1], factor, second);
    }
  }
  for (int row = 0; row < ROWS; row++)
    for (int part = 0; part < WIDE; part++) V::stored(sums + row * stride + part * V::SUMS, sum[row][part]);
}

// The same for so many rows, from 1 to ROWS.
template <typename N, int ROWS = Vectors<N>::ROWS>
inline void several(int64_t rows, const N* factors, int64_t length, const N* numbers, int64_t apart, int64_t count, float* sums, int64_t stride) {
  if (rows == ROWS) multiply<ROWS>(factors, length, numbers, apart, count, sums, stride);
  else if constexpr (ROWS > 1) several<N, ROWS - 1>(rows, factors, length, numbers, apart, count, sums, stride);
}

// sums [rows, width] += factors [rows, length], of which `count` are used, * numbers [count / PAIR, width, PAIR].
template <typename N>
void multiply_all(int64_t rows, const N* factors, int64_t length, const N* numbers, int64_t width, int64_t count, float* sums) {
  constexpr int64_t MOST = Vectors<N>::ROWS, PAIR = Vectors<N>::PAIR;
  const int64_t tiles = (rows + MOST - 1) / MOST;
  for (int64_t at = 0; at < width; at += ACROSS<N>)
    for (int64_t tile = 0; tile < tiles; tile++) {
      const int64_t row = rows * tile / tiles, many = rows * (tile + 1) / tiles - row;
      several(many, factors + row * length, length, numbers + at * PAIR, width * PAIR, count, sums + row * width + at, width);
    }
}

// Some tokens of a piece with the heads that share keys and values: token by token, and head by head.
struct Tile {
  const int64_t* table;
  int64_t shared, row, tokens, position;  // the first row, and its position
};

template <typename N>
struct Scratch {
  std::vector<N> queries, weights, keys, values;
  std::vector<float> scores, sums, highest;
  std::vector<typename Vectors<N>::Sums> totals;
};

#if defined(__AVX512BF16__)
// Two rows of numbers side by side; instead of none, zeros.
inline void interleave(const bfloat16* first, const bfloat16* second, int64_t count, bfloat16* to) {
  for (int64_t n = 0; n < count; n += 16) {
    const __mmask16 some = count - n < 16 ? (1 << (count - n)) - 1 : 0xFFFF;
    const auto row = [&](const bfloat16* from) { return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(from ? some : 0, from + n)); };
    _mm512_mask_storeu_epi32(to + 2 * n, some, _mm512_or_si512(row(first), _mm512_slli_epi32(row(second), 16)));
  }
}

// The numbers of a block's keys: [size / 2, BLOCK, 2], where an odd size has zeros behind it.
inline void unpack_keys(const bfloat16* from, int64_t size, bfloat16* to) {
  for (int64_t n = 0; n < size; n += 2) interleave(from + n * BLOCK, n + 1 < size ? from + (n + 1) * BLOCK : nullptr, BLOCK, to + n * BLOCK);
}

// The numbers of values from `begin` to before `end` of a block: [BLOCK / 2, stride, 2], and zeros beside them in their
// pairs. What lies behind the width stays as it is.
inline void unpack_values(const bfloat16* from, int64_t width, int64_t begin, int64_t end, int64_t stride, bfloat16* to) {
  const auto own = [&](int64_t at) { return begin <= at && at < end ? from + at * width : nullptr; };
  for (int64_t at = begin & ~int64_t{1}; at < end; at += 2) interleave(own(at), own(at + 1), width, to + at * stride);
}
#endif

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

// The numbers of values from `begin` to before `end` of a block as float32 [BLOCK, stride].
template <typename Stored>
void unpack_values(const Stored* from, int64_t width, int64_t begin, int64_t end, int64_t stride, float* to) {
  for (int64_t at = begin; at < end; at++) {
    const Stored* own = from + at * (width + SCALE<Stored>);
    float scale = 1.0f;
    if constexpr (SCALE<Stored> != 0) scale = scale_of(own[width], own[width + 1]);
    for (int64_t n = 0; n < width; n += LANES) store(to + at * stride + n, load(own + n, width - n) * scale);
  }
}

// What a query's scores of a block weigh from `begin` to before `end`; the others weigh nothing. What was summed before is
// scaled to the new highest score.
template <typename N>
void weigh(float* scores, N* weights, int64_t begin, int64_t end, float softcap, float& highest, typename Vectors<N>::Sums& total, float* sums, int64_t width) {
  using V = Vectors<N>;
  using Sums = typename V::Sums;
  const auto masked = [&](int64_t at, Sums numbers, float other) {
    typename V::Places place;
    for (int64_t lane = 0; lane < V::SUMS; lane++) place[lane] = static_cast<int32_t>(at + lane);
    return (place >= static_cast<int32_t>(begin)) & (place < static_cast<int32_t>(end)) ? numbers : Sums{} + other;
  };
  const bool whole = begin == 0 && end == BLOCK;
  Sums most = Sums{} - INFINITY;
  for (int64_t at = 0; at < BLOCK; at += V::SUMS) {
    Sums score = V::loaded(scores + at);
    if (softcap != 0) score = softcap * (1.0f - 2.0f / (V::exponential(score * (2.0f / softcap)) + 1.0f));
    if (!whole) score = masked(at, score, -INFINITY);
    V::stored(scores + at, score);
    most = score > most ? score : most;
  }
  float maximum = highest;
  for (int64_t lane = 0; lane < V::SUMS; lane++) maximum = most[lane] > maximum ? most[lane] : maximum;
  if (maximum > highest) {
    const float factor = V::exponential(Sums{} + (highest - maximum))[0];
    total *= factor;
    for (int64_t n = 0; n < width; n += V::SUMS) V::stored(sums + n, V::loaded(sums + n) * factor);
    highest = maximum;
  }
  for (int64_t at = 0; at < BLOCK; at += V::SUMS) {
    Sums weight = V::exponential(V::loaded(scores + at) - maximum);
    if (!whole) weight = masked(at, weight, 0);
    V::narrow(weights + at, weight);
    total += weight;
  }
}

template <typename T, typename Stored>
void attend(const PrefillAttention& job, const Tile& tile) {
  using N = Number<T, Stored>;
  thread_local Scratch<N> scratch;
  constexpr int64_t PAIR = Vectors<N>::PAIR;
  const int64_t group = job.group, count = tile.tokens * group, heads = job.shared * group;
  const int64_t size = padded(job.size, PAIR), width = padded(job.width, ACROSS<N>);
  scratch.queries.resize(count * size);
  scratch.scores.resize(count * BLOCK);
  scratch.weights.resize(count * BLOCK);
  scratch.sums.assign(count * width, 0.0f);
  scratch.keys.resize(size * BLOCK);
  scratch.values.resize(BLOCK * width);
  scratch.highest.assign(count, -INFINITY);
  scratch.totals.assign(count, typename Vectors<N>::Sums{});
  for (int64_t at = 0; at < count; at++) {
    const int64_t head = tile.shared * group + at % group, row = tile.row + at / group;
    const T* query = static_cast<const T*>(job.query) + (row * heads + head) * job.size;
    N* own = &scratch.queries[at * size];
    std::fill(own + job.size, own + size, N{});
    if constexpr (std::is_same_v<N, T>) std::copy_n(query, job.size, own);
    else for (int64_t n = 0; n < job.size; n++) own[n] = number(query[n]);
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
    multiply_all(count, scratch.queries.data(), size, scratch.keys.data(), BLOCK, size, scratch.scores.data());
    for (int64_t at = 0; at < count; at++) {
      const int64_t position = tile.position + at / group;
      const int64_t begin = std::clamp<int64_t>(first_seen(position) - from, 0, BLOCK), end = std::clamp<int64_t>(position + 1 - from, 0, BLOCK);
      N* weights = scratch.weights.data() + at * BLOCK;
      if (begin < end) weigh(scratch.scores.data() + at * BLOCK, weights, begin, end, softcap, scratch.highest[at], scratch.totals[at], scratch.sums.data() + at * width, width);
      else std::fill_n(weights, BLOCK, N{});
    }
    const int64_t begin = std::max<int64_t>(0, first_seen(tile.position) - from), end = std::min(BLOCK, last + 1 - from);
    unpack_values(static_cast<const Stored*>(job.values) + slot * BLOCK * (job.width + SCALE<Stored>), job.width, begin, end, width, scratch.values.data());
    const int64_t paired = begin / PAIR * PAIR;
    multiply_all(count, scratch.weights.data() + paired, BLOCK, scratch.values.data() + paired * width, width, end - paired, scratch.sums.data());
  }
  T* result = static_cast<T*>(job.result);
  for (int64_t at = 0; at < count; at++) {
    const int64_t own = (tile.row + at / group) * heads + tile.shared * group + at % group;
    float sum = 0;
    for (int64_t lane = 0; lane < Vectors<N>::SUMS; lane++) sum += scratch.totals[at][lane];
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
  // The last ones of a piece see most.
#pragma omp parallel for schedule(dynamic) num_threads(job.threads) if (products > MIN_SHARED_PRODUCTS)
  for (int64_t at = static_cast<int64_t>(tiles.size()) - 1; at >= 0; at--) run(job, tiles[at]);
}
