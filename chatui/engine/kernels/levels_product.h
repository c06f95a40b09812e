// Products of layers whose weights are levels, in groups of 32 inputs: weight = level * scale + zero. int4.cpp and int8.cpp
// tell how the levels of their layers lie.
//
// Activations become numbers from -127 to 127, each group of 32 with a scale of its own (an error of 0.4 % of the largest
// one at most), so that one instruction multiplies many of them. Products of a group are exact. Each row is computed in the
// same order whatever other rows there are: alone or in a batch, and however a prompt is cut, the result is the same.
//
// Weights are worked on by strips of outputs, two vectors of them, one strip after another.

#pragma once

#include "lanes.h"
#include "product_shim.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>

namespace {

constexpr int GROUP = 32, QUADS = GROUP / 4;
constexpr int WIDE = 2, STRIP = WIDE * LANES;
// Rows worked on together: as many as have room for their sums in registers.
constexpr int MOST = LANES == 16 ? 6 : 4;
// Threads work on rows of their own from so many on: what they made of them is in their caches then.
constexpr int64_t MIN_OWN_ROWS = 64;
// From so many rows on, threads share the rounding of activations.
constexpr int64_t MIN_SHARED_ROWS = 16;
// Bytes of activations that one strip after another is multiplied by: they stay in the second cache.
constexpr int64_t TOGETHER = 1 << 19;
// Bytes of weights that are asked for before they are needed. With a tenth of it one row takes a third longer.
constexpr int64_t AHEAD = 1 << 14;
constexpr float MAX_NUMBER = 127.0f;
// What is smaller adds nothing to a product, and its inverse would be no number.
constexpr float NOTHING = 1e-30f;

// The sum of a group's activations is multiplied by what lies between its weights and their levels, PAIR groups at once.
#if defined(__AVX512BF16__)
constexpr int PAIR = 2;
using Total = uint16_t;
inline Total total_of(float sum) {
  return static_cast<Total>(_mm_extract_epi16(reinterpret_cast<__m128i>(_mm_cvtneps_pbh(_mm_set_ss(sum))), 0));
}
inline Floats plus_totals(Floats sum, const Total* totals, Ints zeros) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(four_bytes(totals)), reinterpret_cast<__m512bh>(zeros));
}
// The zeros of two groups, or of the last one, side by side in each lane.
template <class Levels>
inline Ints zeros_of(const uint16_t* scales_and_zeros, int64_t stride, bool both) {
  const Ints first = _mm512_srli_epi32(_mm512_loadu_si512(scales_and_zeros), 16);
  if (!both) return first;
  return _mm512_or_si512(first, _mm512_and_si512(_mm512_loadu_si512(scales_and_zeros + stride), repeated(0xFFFF0000)));
}
#else
constexpr int PAIR = 1;
using Total = float;
inline Total total_of(float sum) { return sum; }
inline Floats plus_totals(Floats sum, const Total* totals, Floats zeros) { return times_plus(zeros, all(*totals), sum); }
// What weights of level 0 are.
template <class Levels>
inline Floats zeros_of(const uint16_t* scales_and_zeros, int64_t, bool) {
  Floats scale, zero;
  widened_pairs(scales_and_zeros, &scale, &zero);
  return Levels::LEVEL_OF_ZERO == 0 ? zero : minus_times(scale, all(Levels::LEVEL_OF_ZERO), zero);
}
#endif

// A group of activations: number * scale.
struct Activations {
  float scale;
  int32_t sum;  // of the numbers
};

struct Job {
  const Number* numbers;    // [groups, rows, GROUP]
  const Activations* each;  // [groups, rows]
  const Total* totals;      // [groups / PAIR, rows, PAIR]
  const uint8_t* packed;
  const uint16_t* scales_and_zeros;  // bfloat16 [groups, outputs, 2]
  uint16_t* result;                  // bfloat16 [rows, outputs]
  int64_t rows, outputs, inputs, groups;
};

// One group of activations; what holds NaN or infinity makes all of its products NaN.
inline Activations quantize(const uint16_t* values, Number* numbers, Total* total) {
  constexpr int PARTS = GROUP / LANES;
  Floats parts[PARTS];
  for (int at = 0; at < PARTS; at++) parts[at] = widened(values + at * LANES);
  Floats magnitudes = magnitude(parts[0]), check = minus(parts[0], parts[0]);
  for (int at = 1; at < PARTS; at++) {
    magnitudes = higher(magnitudes, magnitude(parts[at]));
    check = plus(check, minus(parts[at], parts[at]));
  }
  if (any_nan(check)) {
    memset(numbers, 0, GROUP * sizeof(Number));
    *total = total_of(NAN);
    return {NAN, 0};
  }
  const float largest = highest(magnitudes);
  const Floats inverse = all(largest > NOTHING ? MAX_NUMBER / largest : 0.0f);
  Ints sums = repeated(0);
  for (int at = 0; at < PARTS; at++) {
    const Ints part = nearest(times(parts[at], inverse));
    store(numbers + at * LANES, part);
    sums = plus(sums, part);
  }
  const float scale = largest / MAX_NUMBER;
  const int32_t sum = summed(sums);
  *total = total_of(scale * static_cast<float>(sum));
  return {scale, sum};
}

// ROWS rows from `row` on.
template <class Levels, int ROWS>
inline void multiply(const Job& job, int64_t row, int64_t strip) {
  const uint8_t* levels = job.packed + strip * job.inputs / 4 * Levels::BYTES;
  const uint16_t* factors = job.scales_and_zeros + strip * STRIP * 2;
  const int64_t stride = job.outputs * 2;
  Floats sums[ROWS][WIDE];
  for (auto& sum : sums)
    for (auto& one : sum) one = zeros();
  for (int64_t group = 0; group < job.groups; group++, factors += stride) {
    if (group % PAIR == 0)
      for (int w = 0; w < WIDE; w++) {
        const auto zeros = zeros_of<Levels>(factors + w * LANES * 2, stride, group + 1 < job.groups);
        for (int r = 0; r < ROWS; r++) sums[r][w] = plus_totals(sums[r][w], job.totals + group * job.rows + (row + r) * PAIR, zeros);
      }
    const Number* numbers = job.numbers + (group * job.rows + row) * GROUP;
    const Activations* each = job.each + group * job.rows + row;
    typename Levels::Dots dots[ROWS][WIDE];
    for (int r = 0; r < ROWS; r++)
      for (auto& one : dots[r]) one = Levels::dots(each[r].sum);
#pragma GCC unroll QUADS
    for (int quad = 0; quad < QUADS; quad++, levels += Levels::BYTES, numbers += 4) {
      for (int line = 0; line < Levels::BYTES; line += 64) prefetch_far(levels + AHEAD + line);
      const auto first = Levels::first(levels);
      for (int r = 0; r < ROWS; r++) dots[r][0] = Levels::dot(dots[r][0], first, four_numbers(numbers + r * GROUP));
      const auto second = Levels::second(levels);
      for (int r = 0; r < ROWS; r++) dots[r][1] = Levels::dot(dots[r][1], second, four_numbers(numbers + r * GROUP));
    }
    for (int w = 0; w < WIDE; w++) {
      prefetch_far(factors + STRIP * 2 + w * LANES * 2);  // the next strip's
      Floats scale, zero;
      widened_pairs(factors + w * LANES * 2, &scale, &zero);
      for (int r = 0; r < ROWS; r++) sums[r][w] = times_plus(times(scale, all(each[r].scale)), Levels::total(dots[r][w]), sums[r][w]);
    }
  }
  for (int r = 0; r < ROWS; r++)
    for (int w = 0; w < WIDE; w++) narrow(sums[r][w], job.result + (row + r) * job.outputs + strip * STRIP + w * LANES);
}

// So many rows, from 1 to MOST.
template <class Levels, int ROWS = MOST>
inline void several(const Job& job, int64_t row, int64_t rows, int64_t strip) {
  if (rows == ROWS) multiply<Levels, ROWS>(job, row, strip);
  else if constexpr (ROWS > 1) several<Levels, ROWS - 1>(job, row, rows, strip);
}

// How many parts the rows are cut into, for the threads to share.
int64_t row_parts(int64_t rows, int64_t threads) {
  int64_t parts = std::clamp<int64_t>(rows / MIN_OWN_ROWS, 1, threads);
  while (threads % parts) parts--;
  return parts;
}

// activations bfloat16 [rows, inputs], scales_and_zeros bfloat16 [inputs / 32, outputs, 2] -> result bfloat16 [rows, outputs].
// `outputs` is a multiple of 64.
template <class Levels>
void multiply_all(
    const uint16_t* activations,
    const uint8_t* packed,
    const uint16_t* scales_and_zeros,
    uint16_t* result,
    int64_t rows,
    int64_t outputs,
    int64_t inputs,
    int64_t threads) {
  const int64_t groups = inputs / GROUP, strips = outputs / STRIP;
  const std::unique_ptr<Number[]> numbers(new Number[rows * inputs]);
  const std::unique_ptr<Activations[]> each(new Activations[rows * groups]);
  const std::unique_ptr<Total[]> totals(new Total[(groups + 1) * rows]());
  const Job job{numbers.get(), each.get(), totals.get(), packed, scales_and_zeros, result, rows, outputs, inputs, groups};
  const auto quantize_row = [&](int64_t row) {
    for (int64_t group = 0; group < groups; group++) {
      const int64_t to = group * rows + row;
      Total* total = totals.get() + (group / PAIR * rows + row) * PAIR + group % PAIR;
      each[to] = quantize(activations + row * inputs + group * GROUP, numbers.get() + to * GROUP, total);
    }
  };
  if (rows < MIN_SHARED_ROWS)
    for (int64_t row = 0; row < rows; row++) quantize_row(row);
#pragma omp parallel num_threads(threads)
  {
    // Who works on the same rows shares the outputs.
    const int64_t all = omp_get_num_threads(), parts = row_parts(rows, all), members = all / parts;
    const int64_t part = omp_get_thread_num() / members, member = omp_get_thread_num() % members;
    const int64_t begin = rows * part / parts, count = rows * (part + 1) / parts - begin;
    if (rows >= MIN_SHARED_ROWS) {
      for (int64_t row = count * member / members; row < count * (member + 1) / members; row++) quantize_row(begin + row);
      if (members > 1) {
#pragma omp barrier
      }
    }
    const int64_t strip = strips * member / members, end = strips * (member + 1) / members;
    const int64_t tiles = (count + MOST - 1) / MOST, together = std::max<int64_t>(1, TOGETHER / static_cast<int64_t>(MOST * inputs * sizeof(Number)));
    for (int64_t first = 0; first < tiles; first += together)
      for (int64_t at = strip; at < end; at++)
        for (int64_t tile = first; tile < std::min(first + together, tiles); tile++) {
          const int64_t row = count * tile / tiles;
          several<Levels>(job, begin + row, count * (tile + 1) / tiles - row, at);
        }
  }
}

}  // namespace
