// Products of int4 layers while prompts are read, where there are many rows to each weight.
//
// Activations become numbers from 0 to 255, each group of 32 with a scale of its own and from its lowest on (an error of
// 0.2 % of the group's range at most), so that one instruction multiplies twice as many as with 16 bits. Sums of a group
// are exact. Each row is computed in the same order whatever other rows there are: however a prompt is cut, the result is
// the same.
//
// Weights lie as Nibbles in levels.cpp tells, on CPUs without AVX-512 in blocks of 32 outputs: for each input 16 bytes,
// which hold outputs 0..15 in their low halves and 16..31 in their high ones. Both are worked on by strips of 32 outputs
// that share 16 bytes for each input.

#include "lanes.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>

namespace {

constexpr int GROUP = 32, QUADS = GROUP / 4, STRIP = 32, HALF = STRIP / 2;
constexpr int WIDE = 2, ACROSS = WIDE * LANES;  // vectors, and outputs, worked on together
constexpr int BLOCK = 4 * LANES;
// Rows worked on together: as many as have room for their sums in registers.
constexpr int MOST = LANES == 16 ? 6 : 4;
// Groups of inputs worked on together: what is unpacked of them stays in the first cache.
constexpr int64_t PART = 16;
constexpr float MAX_NUMBER = 255.0f;
// What is smaller adds nothing to a product, and its inverse would be no number.
constexpr float NOTHING = 1e-30f;

// A group of activations: number * scale + lowest.
struct Activations {
  float scale, lowest, total;  // the last is the sum of all
};

struct Job {
  const uint8_t* numbers;   // [groups, rows, GROUP]
  const Activations* each;  // [groups, rows]
  const uint8_t* packed;
  const uint16_t* scales_and_zeros;  // bfloat16 [groups, outputs, 2]
  uint16_t* result;                  // bfloat16 [rows, outputs]
  int64_t rows, outputs, inputs, groups;
};

// Some groups of a strip, unpacked: levels so that four inputs of an output lie side by side.
struct alignas(64) Strip {
  int8_t levels[PART][QUADS][STRIP][4];
  float scales[PART][STRIP], zeros[PART][STRIP], totals[PART][STRIP];  // the last are sums of level * scale
};

inline __m256 widened8(const uint16_t* halves) {
  const __m128i narrow = _mm_loadu_si128(reinterpret_cast<const __m128i*>(halves));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(narrow), 16));
}

template <typename Choose>
inline float chosen(__m256 a, __m256 b, __m256 c, __m256 d, Choose choose) {
  const __m256 all = choose(choose(a, b), choose(c, d));
  const __m256 half = choose(all, _mm256_permute2f128_ps(all, all, 1));
  const __m256 quarter = choose(half, _mm256_permute_ps(half, 0x4E));
  return _mm256_cvtss_f32(choose(quarter, _mm256_permute_ps(quarter, 0xB1)));
}

// One group of activations; what holds NaN or infinity makes all of its products NaN.
inline Activations quantize(const uint16_t* values, uint8_t* numbers) {
  const __m256 a = widened8(values), b = widened8(values + 8), c = widened8(values + 16), d = widened8(values + 24);
  const __m256 check = _mm256_add_ps(
      _mm256_add_ps(_mm256_sub_ps(a, a), _mm256_sub_ps(b, b)), _mm256_add_ps(_mm256_sub_ps(c, c), _mm256_sub_ps(d, d)));
  if (_mm256_movemask_ps(_mm256_cmp_ps(check, check, _CMP_UNORD_Q))) {
    memset(numbers, 0, GROUP);
    return {NAN, NAN, NAN};
  }
  const float lowest = chosen(a, b, c, d, [](__m256 x, __m256 y) { return _mm256_min_ps(x, y); });
  const float range = chosen(a, b, c, d, [](__m256 x, __m256 y) { return _mm256_max_ps(x, y); }) - lowest;
  const __m256 inverse = _mm256_set1_ps(range > NOTHING ? MAX_NUMBER / range : 0.0f), low = _mm256_set1_ps(lowest);
  const auto nearest = [&](__m256 x) { return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_sub_ps(x, low), inverse)); };
  const __m256i first = _mm256_packs_epi32(nearest(a), nearest(b));
  const __m256i second = _mm256_packs_epi32(nearest(c), nearest(d));
  // Packing works on each half of the vector by itself.
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i packed = _mm256_permutevar8x32_epi32(_mm256_packus_epi16(first, second), order);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(numbers), packed);
  const __m256i sums = _mm256_madd_epi16(_mm256_add_epi16(first, second), _mm256_set1_epi16(1));
  __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
  sum = _mm_add_epi32(sum, _mm_unpackhi_epi64(sum, sum));
  const float total = static_cast<float>(_mm_cvtsi128_si32(sum) + _mm_extract_epi32(sum, 1));
  const float scale = range / MAX_NUMBER;
  return {scale, lowest, std::fma(scale, total, GROUP * lowest)};
}

inline __m128i bytes(const uint8_t* from) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)); }

// Low and high halves of 16 bytes, from -8 to 7: four inputs of four outputs, and of four others.
inline void split(__m128i both, int8_t (*low)[4], int8_t (*high)[4]) {
  const __m128i mask = _mm_set1_epi8(15), middle = _mm_set1_epi8(8);
  _mm_store_si128(reinterpret_cast<__m128i*>(low), _mm_sub_epi8(_mm_and_si128(both, mask), middle));
  const __m128i upper = _mm_and_si128(_mm_srli_epi16(both, 4), mask);
  _mm_store_si128(reinterpret_cast<__m128i*>(high), _mm_sub_epi8(upper, middle));
}

inline void unpack(const Job& job, int64_t strip, int64_t begin, int64_t end, Strip& to) {
  constexpr int STRIPS = BLOCK / STRIP, STRIDE = STRIPS * HALF;
  const int64_t block = strip / STRIPS, within = strip % STRIPS * HALF;
  for (int64_t group = begin; group < end; group++) {
    const uint8_t* from = job.packed + (block * job.inputs + group * GROUP) * STRIDE + within;
    for (int quad = 0; quad < QUADS; quad++, from += 4 * STRIDE) {
      const __m128i a = bytes(from), b = bytes(from + STRIDE), c = bytes(from + 2 * STRIDE), d = bytes(from + 3 * STRIDE);
      const __m128i ab = _mm_unpacklo_epi8(a, b), cd = _mm_unpacklo_epi8(c, d);
      const __m128i upper_ab = _mm_unpackhi_epi8(a, b), upper_cd = _mm_unpackhi_epi8(c, d);
      int8_t(*low)[4] = to.levels[group - begin][quad];
      split(_mm_unpacklo_epi16(ab, cd), low, low + HALF);
      split(_mm_unpackhi_epi16(ab, cd), low + 4, low + HALF + 4);
      split(_mm_unpacklo_epi16(upper_ab, upper_cd), low + 8, low + HALF + 8);
      split(_mm_unpackhi_epi16(upper_ab, upper_cd), low + 12, low + HALF + 12);
    }
    for (int half = 0; half < 2; half++) {
      const uint16_t* pairs = job.scales_and_zeros + (group * job.outputs + block * BLOCK + within + half * BLOCK / 2) * 2;
      for (int at = 0; at < HALF; at++) {
        to.scales[group - begin][half * HALF + at] = widened(pairs[2 * at]);
        to.zeros[group - begin][half * HALF + at] = widened(pairs[2 * at + 1]);
      }
    }
    const uint8_t ones[4] = {1, 1, 1, 1};
    for (int at = 0; at < STRIP; at += LANES) {
      Ints sum = no_dot();
      for (int quad = 0; quad < QUADS; quad++) sum = dot(sum, four_bytes(ones), load(to.levels[group - begin][quad][at]));
      store(to.totals[group - begin] + at, times(load(to.scales[group - begin] + at), total(sum)));
    }
  }
}

// ROWS rows from `row` on, outputs from `at` on; `sums` [ROWS, STRIP] are what the groups before `begin` come to.
template <int ROWS>
inline void multiply(const Job& job, const Strip& strip, int64_t begin, int64_t end, int64_t row, int at, float* sums) {
  Floats sum[ROWS][WIDE];
  for (int r = 0; r < ROWS; r++)
    for (int w = 0; w < WIDE; w++) sum[r][w] = begin ? load(sums + r * STRIP + at + w * LANES) : zeros();
  for (int64_t group = begin; group < end; group++) {
    const int8_t* levels = strip.levels[group - begin][0][at];
    const uint8_t* numbers = job.numbers + (group * job.rows + row) * GROUP;
    Ints dots[ROWS][WIDE];
    for (auto& own : dots)
      for (auto& one : own) one = no_dot();
#pragma GCC unroll QUADS
    for (int quad = 0; quad < QUADS; quad++, levels += STRIP * 4, numbers += 4) {
      const Ints first = load(levels), second = load(levels + LANES * 4);
      for (int r = 0; r < ROWS; r++) {
        const Ints own = four_bytes(numbers + r * GROUP);
        dots[r][0] = dot(dots[r][0], own, first);
        dots[r][1] = dot(dots[r][1], own, second);
      }
    }
    const Activations* each = job.each + group * job.rows + row;
    for (int w = 0; w < WIDE; w++) {
      const int from = at + w * LANES;
      const Floats scale = load(strip.scales[group - begin] + from);
      const Floats zero = load(strip.zeros[group - begin] + from), levels_total = load(strip.totals[group - begin] + from);
      for (int r = 0; r < ROWS; r++) {
        sum[r][w] = times_plus(times(scale, all(each[r].scale)), total(dots[r][w]), sum[r][w]);
        sum[r][w] = times_plus(levels_total, all(each[r].lowest), sum[r][w]);
        sum[r][w] = times_plus(zero, all(each[r].total), sum[r][w]);
      }
    }
  }
  for (int r = 0; r < ROWS; r++)
    for (int w = 0; w < WIDE; w++) store(sums + r * STRIP + at + w * LANES, sum[r][w]);
}

// So many rows, from 1 to MOST.
template <int ROWS = MOST>
inline void several(const Job& job, const Strip& strip, int64_t begin, int64_t end, int64_t row, int64_t rows, float* sums) {
  if (rows == ROWS)
    for (int at = 0; at < STRIP; at += ACROSS) multiply<ROWS>(job, strip, begin, end, row, at, sums);
  else if constexpr (ROWS > 1) several<ROWS - 1>(job, strip, begin, end, row, rows, sums);
}

void multiply_strip(const Job& job, int64_t at, Strip& strip, float* sums) {
  const int64_t parts = (job.groups + PART - 1) / PART, tiles = (job.rows + MOST - 1) / MOST;
  for (int64_t part = 0; part < parts; part++) {
    const int64_t begin = job.groups * part / parts, end = job.groups * (part + 1) / parts;
    unpack(job, at, begin, end, strip);
    for (int64_t tile = 0; tile < tiles; tile++) {
      const int64_t row = job.rows * tile / tiles, rows = job.rows * (tile + 1) / tiles - row;
      several(job, strip, begin, end, row, rows, sums + row * STRIP);
    }
  }
  const int64_t column = at * STRIP / BLOCK * BLOCK + at * HALF % (BLOCK / 2);
  for (int64_t row = 0; row < job.rows; row++)
    for (int half = 0; half < 2; half++) {
      const float* from = sums + row * STRIP + half * HALF;
      uint16_t* result = job.result + row * job.outputs + column + half * BLOCK / 2;
      for (int lane = 0; lane < HALF; lane += LANES) narrow(load(from + lane), result + lane);
    }
}

}  // namespace

// As chatui_int4mm in levels.cpp. `outputs` is a multiple of 64.
extern "C" void chatui_int4mm_prefill(
    const uint16_t* activations,
    const uint8_t* packed,
    const uint16_t* scales_and_zeros,
    uint16_t* result,
    int64_t rows,
    int64_t outputs,
    int64_t inputs,
    int64_t threads) {
  const int64_t groups = inputs / GROUP, strips = outputs / STRIP;
  const std::unique_ptr<uint8_t[]> numbers(new uint8_t[rows * inputs]);
  const std::unique_ptr<Activations[]> each(new Activations[rows * groups]);
  const Job job{numbers.get(), each.get(), packed, scales_and_zeros, result, rows, outputs, inputs, groups};
#pragma omp parallel num_threads(threads)
  {
#pragma omp for
    for (int64_t at = 0; at < rows * groups; at++) {
      const int64_t to = at % groups * rows + at / groups;
      each[to] = quantize(activations + at * GROUP, numbers.get() + to * GROUP);
    }
    const std::unique_ptr<Strip> strip(new Strip);
    const std::unique_ptr<float[]> sums(new float[rows * STRIP]);
#pragma omp for schedule(static)
    for (int64_t at = 0; at < strips; at++) multiply_strip(job, at, *strip, sums.get());
  }
}
