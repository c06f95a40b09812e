// Products of int4 layers while prompts are read, where there are many rows to each weight.
//
// Activations become numbers from -127 to 127, each group of 32 with a scale of its own (an error of 0.4 % of the largest
// one at most), so that one instruction multiplies twice as many as with 16 bits. Products of a group are exact. Each row
// is computed in the same order whatever other rows there are: however a prompt is cut, the result is the same.
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
constexpr int64_t PART = 18;
// Threads work on rows of their own from so many on: what they made of them is in their caches then.
constexpr int64_t MIN_ROWS = 64;
constexpr float MAX_NUMBER = 127.0f;
// What is smaller adds nothing to a product, and its inverse would be no number.
constexpr float NOTHING = 1e-30f;

// The sum of a group's activations is multiplied by what lies between its weights and their levels, PAIR groups at once.
#if defined(__AVX512BF16__)
// Where levels are from -8 on, that is bfloat16 as the model has it.
constexpr int64_t PAIR = 2;
constexpr int MIDDLE = 8;
using Total = uint16_t;
inline Total total_of(float sum) {
  return static_cast<Total>(_mm_extract_epi16(reinterpret_cast<__m128i>(_mm_cvtneps_pbh(_mm_set_ss(sum))), 0));
}
inline Floats plus_totals(Floats sum, const Total* totals, const Total* zeros) {
  const Ints own = four_bytes(totals), all = _mm512_loadu_si512(zeros);
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(own), reinterpret_cast<__m512bh>(all));
}
inline void put_zeros(Floats, Floats zero, bool is_second, Total* to) {
  const Ints bits = _mm512_castps_si512(zero);
  _mm512_storeu_si512(to, is_second ? _mm512_or_si512(_mm512_loadu_si512(to), bits) : _mm512_srli_epi32(bits, 16));
}
#else
constexpr int64_t PAIR = 1;
constexpr int MIDDLE = 0;
using Total = float;
inline Total total_of(float sum) { return sum; }
inline Floats plus_totals(Floats sum, const Total* totals, const Total* zeros) { return times_plus(load(zeros), all(*totals), sum); }
inline void put_zeros(Floats scale, Floats zero, bool, Total* to) { store(to, minus_times(scale, all(8.0f), zero)); }
#endif

// A group of activations: number * scale.
struct Activations {
  float scale;
  int32_t sum;  // of the numbers
};

struct Job {
  const int8_t* numbers;    // [groups, rows, GROUP]
  const Activations* each;  // [groups, rows]
  const Total* totals;      // [groups / PAIR, rows, PAIR]
  const uint8_t* packed;
  const uint16_t* scales_and_zeros;  // bfloat16 [groups, outputs, 2]
  uint16_t* result;                  // bfloat16 [rows, outputs]
  int64_t rows, outputs, inputs, groups;
};

// Some groups of a strip, unpacked: levels so that four inputs of an output lie side by side, 0..15.
// weight = (level - MIDDLE) * scale + zero
struct alignas(64) Strip {
  uint8_t levels[PART][QUADS][STRIP][4];
  float scales[PART][STRIP];
  Total zeros[PART / PAIR][STRIP][PAIR];
};

// One group of activations; what holds NaN or infinity makes all of its products NaN.
inline Activations quantize(const uint16_t* values, int8_t* numbers) {
  const auto* from = reinterpret_cast<const __m256i*>(values);
  const __m256i first = _mm256_loadu_si256(from), second = _mm256_loadu_si256(from + 1), magnitude = _mm256_set1_epi16(0x7FFF);
  const __m256i larger = _mm256_max_epu16(_mm256_and_si256(first, magnitude), _mm256_and_si256(second, magnitude));
  const __m128i most = _mm_max_epu16(_mm256_castsi256_si128(larger), _mm256_extracti128_si256(larger, 1));
  const int bits = 0xFFFF - _mm_extract_epi16(_mm_minpos_epu16(_mm_xor_si128(most, _mm_set1_epi16(-1))), 0);
  if (bits >= 0x7F80) {
    memset(numbers, 0, GROUP);
    return {NAN, 0};
  }
  const float largest = widened(static_cast<uint16_t>(bits)), scale = largest / MAX_NUMBER;
  const __m256 inverse = _mm256_set1_ps(largest > NOTHING ? MAX_NUMBER / largest : 0.0f);
  const __m256i zero = _mm256_setzero_si256();
  const auto nearest = [&](__m256i words) { return _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_castsi256_ps(words), inverse)); };
  // Unpacking and packing work on each half of a vector by itself: this packing undoes the unpacking.
  const auto rounded = [&](__m256i halves) {
    return _mm256_packs_epi32(nearest(_mm256_unpacklo_epi16(zero, halves)), nearest(_mm256_unpackhi_epi16(zero, halves)));
  };
  const __m256i low = rounded(first), high = rounded(second);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(numbers), _mm256_permute4x64_epi64(_mm256_packs_epi16(low, high), 0xD8));
  const __m256i sums = _mm256_madd_epi16(_mm256_add_epi16(low, high), _mm256_set1_epi16(1));
  __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
  sum = _mm_add_epi32(sum, _mm_unpackhi_epi64(sum, sum));
  return {scale, _mm_cvtsi128_si32(sum) + _mm_extract_epi32(sum, 1)};
}

inline __m128i bytes(const uint8_t* from) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)); }

// Low and high halves of 16 bytes: four inputs of four outputs, and of four others.
inline void split(__m128i both, uint8_t (*low)[4], uint8_t (*high)[4]) {
  const __m128i mask = _mm_set1_epi8(15);
  _mm_store_si128(reinterpret_cast<__m128i*>(low), _mm_and_si128(both, mask));
  _mm_store_si128(reinterpret_cast<__m128i*>(high), _mm_and_si128(_mm_srli_epi16(both, 4), mask));
}

inline void unpack(const Job& job, int64_t strip, int64_t group, Strip& to, int64_t at) {
  constexpr int STRIPS = BLOCK / STRIP, STRIDE = STRIPS * HALF;
  const int64_t block = strip / STRIPS, within = strip % STRIPS * HALF;
  const uint8_t* from = job.packed + (block * job.inputs + group * GROUP) * STRIDE + within;
  for (int quad = 0; quad < QUADS; quad++, from += 4 * STRIDE) {
    const __m128i a = bytes(from), b = bytes(from + STRIDE), c = bytes(from + 2 * STRIDE), d = bytes(from + 3 * STRIDE);
    const __m128i ab = _mm_unpacklo_epi8(a, b), cd = _mm_unpacklo_epi8(c, d);
    const __m128i upper_ab = _mm_unpackhi_epi8(a, b), upper_cd = _mm_unpackhi_epi8(c, d);
    uint8_t(*low)[4] = to.levels[at][quad];
    split(_mm_unpacklo_epi16(ab, cd), low, low + HALF);
    split(_mm_unpackhi_epi16(ab, cd), low + 4, low + HALF + 4);
    split(_mm_unpacklo_epi16(upper_ab, upper_cd), low + 8, low + HALF + 8);
    split(_mm_unpackhi_epi16(upper_ab, upper_cd), low + 12, low + HALF + 12);
  }
  for (int half = 0; half < 2; half++) {
    const uint16_t* pairs = job.scales_and_zeros + (group * job.outputs + block * BLOCK + within + half * BLOCK / 2) * 2;
    for (int lane = 0; lane < HALF; lane += LANES) {
      Floats scale, zero;
      widened_pairs(pairs + 2 * lane, &scale, &zero);
      store(to.scales[at] + half * HALF + lane, scale);
      put_zeros(scale, zero, at % PAIR, to.zeros[at / PAIR][half * HALF + lane]);
    }
  }
}

// ROWS rows from `row` on, outputs from `at` on; `sums` [ROWS, STRIP] are what the groups before `begin` come to.
template <int ROWS>
inline void multiply(const Job& job, const Strip& strip, int64_t begin, int64_t end, int64_t row, int at, float* sums) {
  Floats sum[ROWS][WIDE];
  for (int r = 0; r < ROWS; r++)
    for (int w = 0; w < WIDE; w++) sum[r][w] = begin ? load(sums + r * STRIP + at + w * LANES) : zeros();
  for (int64_t pair = begin / PAIR; pair * PAIR < end; pair++)
    for (int r = 0; r < ROWS; r++)
      for (int w = 0; w < WIDE; w++)
        sum[r][w] = plus_totals(sum[r][w], job.totals + (pair * job.rows + row + r) * PAIR, strip.zeros[pair - begin / PAIR][at + w * LANES]);
  for (int64_t group = begin; group < end; group++) {
    const uint8_t* levels = strip.levels[group - begin][0][at];
    const int8_t* numbers = job.numbers + (group * job.rows + row) * GROUP;
    const Activations* each = job.each + group * job.rows + row;
    Ints dots[ROWS][WIDE];
    for (int r = 0; r < ROWS; r++)
      for (auto& one : dots[r]) one = MIDDLE ? repeated(-MIDDLE * each[r].sum) : no_dot();
#pragma GCC unroll QUADS
    for (int quad = 0; quad < QUADS; quad++, levels += STRIP * 4, numbers += 4) {
      const Ints first = load(levels), second = load(levels + LANES * 4);
      for (int r = 0; r < ROWS; r++) {
        const Ints own = four_bytes(numbers + r * GROUP);
        dots[r][0] = dot(dots[r][0], first, own);
        dots[r][1] = dot(dots[r][1], second, own);
      }
    }
    for (int w = 0; w < WIDE; w++) {
      const int from = at + w * LANES;
      const Floats scale = load(strip.scales[group - begin] + from);
      for (int r = 0; r < ROWS; r++) sum[r][w] = times_plus(times(scale, all(each[r].scale)), total(dots[r][w]), sum[r][w]);
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

// Rows from `begin` to before `end`; `sums` [rows, STRIP].
void multiply_strip(const Job& job, int64_t at, int64_t begin, int64_t end, Strip& strip, float* sums) {
  const int64_t count = end - begin, tiles = (count + MOST - 1) / MOST, pairs = (job.groups + PAIR - 1) / PAIR;
  const int64_t parts = (pairs * PAIR + PART - 1) / PART;
  const int64_t column = at * STRIP / BLOCK * BLOCK + at * HALF % (BLOCK / 2);
  for (int64_t part = 0; part < parts; part++) {
    const int64_t from = pairs * part / parts * PAIR, to = std::min(job.groups, pairs * (part + 1) / parts * PAIR);
    for (int64_t group = from; group < to; group++) unpack(job, at, group, strip, group - from);
    for (int64_t tile = 0; tile < tiles; tile++) {
      const int64_t first = count * tile / tiles, last = count * (tile + 1) / tiles;
      several(job, strip, from, to, begin + first, last - first, sums + first * STRIP);
      for (int64_t row = first; to == job.groups && row < last; row++)
        for (int lane = 0; lane < STRIP; lane += LANES)
          narrow(load(sums + row * STRIP + lane), job.result + (begin + row) * job.outputs + column + lane / HALF * (BLOCK / 2) + lane % HALF);
    }
  }
}

// How many parts the rows are cut into, for the threads to share.
int64_t row_parts(int64_t rows, int64_t threads) {
  int64_t parts = std::clamp<int64_t>(rows / MIN_ROWS, 1, threads);
  while (threads % parts) parts--;
  return parts;
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
  const std::unique_ptr<int8_t[]> numbers(new int8_t[rows * inputs]);
  const std::unique_ptr<Activations[]> each(new Activations[rows * groups]);
  const std::unique_ptr<Total[]> totals(new Total[(groups + 1) * rows]());
  const Job job{numbers.get(), each.get(), totals.get(), packed, scales_and_zeros, result, rows, outputs, inputs, groups};
#pragma omp parallel num_threads(threads)
  {
    // Who works on the same rows shares the outputs.
    const int64_t all = omp_get_num_threads(), parts = row_parts(rows, all), members = all / parts;
    const int64_t part = omp_get_thread_num() / members, member = omp_get_thread_num() % members;
    const int64_t begin = rows * part / parts, end = rows * (part + 1) / parts, count = end - begin;
    for (int64_t row = begin + count * member / members; row < begin + count * (member + 1) / members; row++)
      for (int64_t group = 0; group < groups; group++) {
        const int64_t to = group * rows + row;
        each[to] = quantize(activations + row * inputs + group * GROUP, numbers.get() + to * GROUP);
        totals[(group / PAIR * rows + row) * PAIR + group % PAIR] = total_of(each[to].scale * static_cast<float>(each[to].sum));
      }
    if (members > 1) {
#pragma omp barrier
    }
    const std::unique_ptr<Strip> strip(new Strip);
    const std::unique_ptr<float[]> sums(new float[count * STRIP]);
    for (int64_t at = strips * member / members; at < strips * (member + 1) / members; at++)
      multiply_strip(job, at, begin, end, *strip, sums.get());
  }
}
