// A vector of numbers and what is done to it, in AVX-512 VNNI, in AVX2 with or without AVX-VNNI, or in neither (lanes_any.h).

#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#else
#include "lanes_any.h"
#endif

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>

namespace {

// Below this an exponential counts nothing beside 1.
constexpr float LOWEST = -87.0f;
constexpr float MINUS_INFINITY = -std::numeric_limits<float>::infinity();

inline float widened(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float number;
  memcpy(&number, &bits, sizeof number);
  return number;
}

#if defined(__AVX512VNNI__)

constexpr int LANES = 16;
using Floats = __m512;
using Ints = __m512i;
using Mask = __mmask16;

inline Floats zeros() { return _mm512_setzero_ps(); }
inline Floats all(float number) { return _mm512_set1_ps(number); }
inline Floats load(const float* from) { return _mm512_loadu_ps(from); }
inline void store(float* to, Floats numbers) { _mm512_storeu_ps(to, numbers); }
inline Floats plus(Floats a, Floats b) { return _mm512_add_ps(a, b); }
inline Floats minus(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
inline Floats times(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
inline Floats divided(Floats a, Floats b) { return _mm512_div_ps(a, b); }
inline Floats times_plus(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
// c - a * b.
inline Floats minus_times(Floats a, Floats b, Floats c) { return _mm512_fnmadd_ps(a, b, c); }
inline Floats magnitude(Floats numbers) { return _mm512_abs_ps(numbers); }
// The second one where either is NaN.
inline Floats higher(Floats a, Floats b) { return _mm512_max_ps(a, b); }
inline float highest(Floats numbers) { return _mm512_reduce_max_ps(numbers); }
inline float summed(Floats numbers) { return _mm512_reduce_add_ps(numbers); }
inline bool any_nan(Floats numbers) { return _mm512_cmp_ps_mask(numbers, numbers, _CMP_UNORD_Q); }
// Of 2 to the power of whole numbers from -126 on.
inline Floats times_power(Floats numbers, Floats whole) { return _mm512_scalef_ps(numbers, whole); }
inline Floats rounded(Floats numbers) { return _mm512_roundscale_ps(numbers, 0); }

// Lanes from `begin` to before `end`.
inline Mask between(int64_t begin, int64_t end) { return static_cast<Mask>(((1u << end) - 1) & ~((1u << begin) - 1)); }
inline Floats chosen(Mask mask, Floats yes, Floats no) { return _mm512_mask_mov_ps(no, mask, yes); }

inline Floats widened(const uint16_t* halves) {
  const Ints wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
inline Floats widened(const int8_t* levels) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(levels))));
}
// Some numbers, and minus infinity for the lanes behind them.
inline Floats some(const float* from, int64_t count) {
  const Mask mask = count >= LANES ? 0xFFFF : between(0, count);
  return chosen(mask, _mm512_maskz_loadu_ps(mask, from), all(MINUS_INFINITY));
}
inline Floats some(const uint16_t* from, int64_t count) {
  const Mask mask = count >= LANES ? 0xFFFF : between(0, count);
  const Ints wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from));
  return chosen(mask, _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16)), all(MINUS_INFINITY));
}
// Rounds to bfloat16, to even between two. NaN stays NaN.
inline void narrow(Floats numbers, uint16_t* halves) {
  const Ints bits = _mm512_castps_si512(numbers);
  const Ints odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const Ints rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
  const Mask invalid = _mm512_cmp_ps_mask(numbers, numbers, _CMP_UNORD_Q);
  const Ints valid = _mm512_mask_mov_epi32(rounded, invalid, _mm512_set1_epi32(0x7FC00000));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(halves), _mm512_cvtepi32_epi16(_mm512_srli_epi32(valid, 16)));
}

inline Ints no_dot() { return _mm512_setzero_si512(); }
inline Ints repeated(int32_t number) { return _mm512_set1_epi32(number); }
// Of 4 * LANES bytes the low halves, and the high ones: four levels in each lane.
using Levels = Ints;
inline Levels low_halves(const uint8_t* bytes) { return _mm512_and_si512(_mm512_loadu_si512(bytes), _mm512_set1_epi8(15)); }
inline Levels high_halves(const uint8_t* bytes) {
  return _mm512_and_si512(_mm512_srli_epi16(_mm512_loadu_si512(bytes), 4), _mm512_set1_epi8(15));
}
// Adds to each lane the products of four levels, 0..15, with four numbers, -127..127.
using Dots = Ints;
inline Dots no_dots() { return no_dot(); }
inline Dots dot(Dots sum, Levels levels, Ints numbers) { return _mm512_dpbusd_epi32(sum, levels, numbers); }
inline Floats total(Dots sum) { return _mm512_cvtepi32_ps(sum); }
// 4 * LANES levels, -128..127. Here each is 128 more, since the instruction takes none below 0: dots begin with what that
// adds to them.
inline Levels signed_bytes(const uint8_t* bytes) { return _mm512_xor_si512(_mm512_loadu_si512(bytes), _mm512_set1_epi8(-128)); }
using ByteDots = Ints;
inline ByteDots byte_dots(int32_t sum) { return repeated(-128 * sum); }
inline ByteDots dot_bytes(ByteDots sum, Levels levels, Ints numbers) { return _mm512_dpbusd_epi32(sum, levels, numbers); }
inline Floats total_bytes(ByteDots sum) { return _mm512_cvtepi32_ps(sum); }
inline Floats floats(Ints numbers) { return _mm512_cvtepi32_ps(numbers); }
inline Ints nearest(Floats numbers) { return _mm512_cvtps_epi32(numbers); }
inline Ints plus(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
inline int32_t summed(Ints numbers) { return _mm512_reduce_add_epi32(numbers); }
inline void store(int8_t* to, Ints numbers) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(numbers));
}

// The first ones of pairs of bfloat16, and the second ones.
inline void widened_pairs(const uint16_t* pairs, Floats* first, Floats* second) {
  const Ints both = _mm512_loadu_si512(pairs);
  *first = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
  *second = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(0xFFFF0000)));
}

#elif defined(__AVX2__)

constexpr int LANES = 8;
using Floats = __m256;
using Ints = __m256i;
using Mask = __m256;

inline Floats zeros() { return _mm256_setzero_ps(); }
inline Floats all(float number) { return _mm256_set1_ps(number); }
inline Floats load(const float* from) { return _mm256_loadu_ps(from); }
inline void store(float* to, Floats numbers) { _mm256_storeu_ps(to, numbers); }
inline Floats plus(Floats a, Floats b) { return _mm256_add_ps(a, b); }
inline Floats minus(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
inline Floats times(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
inline Floats divided(Floats a, Floats b) { return _mm256_div_ps(a, b); }
inline Floats times_plus(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
inline Floats minus_times(Floats a, Floats b, Floats c) { return _mm256_fnmadd_ps(a, b, c); }
inline Floats magnitude(Floats numbers) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), numbers); }
inline Floats higher(Floats a, Floats b) { return _mm256_max_ps(a, b); }
inline float highest(Floats numbers) {
  const Floats half = higher(numbers, _mm256_permute2f128_ps(numbers, numbers, 1));
  const Floats quarter = higher(half, _mm256_permute_ps(half, 0x4E));
  return _mm256_cvtss_f32(higher(quarter, _mm256_permute_ps(quarter, 0xB1)));
}
inline float summed(Floats numbers) {
  const Floats half = plus(numbers, _mm256_permute2f128_ps(numbers, numbers, 1));
  const Floats quarter = plus(half, _mm256_permute_ps(half, 0x4E));
  return _mm256_cvtss_f32(plus(quarter, _mm256_permute_ps(quarter, 0xB1)));
}
inline bool any_nan(Floats numbers) { return _mm256_movemask_ps(_mm256_cmp_ps(numbers, numbers, _CMP_UNORD_Q)); }
inline Floats times_power(Floats numbers, Floats whole) {
  const Ints exponent = _mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127));
  return times(numbers, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}
inline Floats rounded(Floats numbers) { return _mm256_round_ps(numbers, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

inline Mask between(int64_t begin, int64_t end) {
  const Ints lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const Ints below = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(begin)), lane);
  return _mm256_castsi256_ps(_mm256_andnot_si256(below, _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(end)), lane)));
}
inline Floats chosen(Mask mask, Floats yes, Floats no) { return _mm256_blendv_ps(no, yes, mask); }

inline Floats widened(const uint16_t* halves) {
  const __m128i narrow = _mm_loadu_si128(reinterpret_cast<const __m128i*>(halves));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(narrow), 16));
}
inline Floats widened(const int8_t* levels) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(levels))));
}
inline Floats some(const float* from, int64_t count) {
  if (count >= LANES) return load(from);
  const Mask mask = between(0, count);
  return chosen(mask, _mm256_maskload_ps(from, _mm256_castps_si256(mask)), all(MINUS_INFINITY));
}
inline Floats some(const uint16_t* from, int64_t count) {
  if (count >= LANES) return widened(from);
  uint16_t rest[LANES] = {};
  memcpy(rest, from, count * sizeof *from);
  return chosen(between(0, count), widened(rest), all(MINUS_INFINITY));
}
inline void narrow(Floats numbers, uint16_t* halves) {
  const Ints bits = _mm256_castps_si256(numbers);
  const Ints odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const Ints rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
  const Ints invalid = _mm256_castps_si256(_mm256_cmp_ps(numbers, numbers, _CMP_UNORD_Q));
  const Ints valid = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7FC00000), invalid), 16);
  const __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(valid), _mm256_extracti128_si256(valid, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(halves), packed);
}

inline Ints no_dot() { return _mm256_setzero_si256(); }
inline Ints repeated(int32_t number) { return _mm256_set1_epi32(number); }
// Else the compiler multiplies for all rows before it adds, and runs out of registers: with 16 bits it took a third longer.
inline Ints in_this_order(Ints sum) {
  asm("" : "+x"(sum));
  return sum;
}
using Levels = Ints;
inline Levels low_halves(const uint8_t* bytes) {
  return _mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes)), _mm256_set1_epi8(15));
}
inline Levels high_halves(const uint8_t* bytes) {
  const Ints both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes));
  return _mm256_and_si256(_mm256_srli_epi16(both, 4), _mm256_set1_epi8(15));
}
#if defined(__AVXVNNI__)
using Dots = Ints;
inline Dots no_dots() { return no_dot(); }
inline Dots dot(Dots sum, Levels levels, Ints numbers) { return _mm256_dpbusd_avx_epi32(sum, levels, numbers); }
inline Floats total(Dots sum) { return _mm256_cvtepi32_ps(sum); }
// As in AVX-512.
inline Levels signed_bytes(const uint8_t* bytes) {
  return _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes)), _mm256_set1_epi8(-128));
}
using ByteDots = Ints;
inline ByteDots byte_dots(int32_t sum) { return repeated(-128 * sum); }
inline ByteDots dot_bytes(ByteDots sum, Levels levels, Ints numbers) { return _mm256_dpbusd_avx_epi32(sum, levels, numbers); }
#else
// In two halves of 16 bits for each lane: those of a group of 32 stay within 8 * 2 * 15 * 127.
using Dots = Ints;
inline Dots no_dots() { return no_dot(); }
inline Dots dot(Dots sum, Levels levels, Ints numbers) {
  return in_this_order(_mm256_add_epi16(sum, _mm256_maddubs_epi16(levels, numbers)));
}
inline Floats total(Dots sum) { return _mm256_cvtepi32_ps(_mm256_madd_epi16(sum, _mm256_set1_epi16(1))); }
// 4 * LANES levels, -128..127. The instruction takes none below 0: numbers change their signs instead. Sums of two stay
// within 2 * 128 * 127.
inline Ints signed_bytes(const uint8_t* bytes) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes)); }
using ByteDots = Ints;
inline ByteDots byte_dots(int32_t) { return no_dot(); }
inline ByteDots dot_bytes(ByteDots sum, Ints levels, Ints numbers) {
  const Ints pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(levels), _mm256_sign_epi8(numbers, levels));
  return in_this_order(_mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))));
}
#endif
inline Floats total_bytes(ByteDots sum) { return _mm256_cvtepi32_ps(sum); }
inline Floats floats(Ints numbers) { return _mm256_cvtepi32_ps(numbers); }
inline Ints nearest(Floats numbers) { return _mm256_cvtps_epi32(numbers); }
inline Ints plus(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
inline int32_t summed(Ints numbers) {
  const __m128i half = _mm_add_epi32(_mm256_castsi256_si128(numbers), _mm256_extracti128_si256(numbers, 1));
  const __m128i quarter = _mm_add_epi32(half, _mm_unpackhi_epi64(half, half));
  return _mm_cvtsi128_si32(quarter) + _mm_extract_epi32(quarter, 1);
}
inline __m128i in_16_bits(Ints numbers) {
  return _mm_packs_epi32(_mm256_castsi256_si128(numbers), _mm256_extracti128_si256(numbers, 1));
}
inline void store(int8_t* to, Ints numbers) {
  const __m128i halves = in_16_bits(numbers);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packs_epi16(halves, halves));
}

inline void widened_pairs(const uint16_t* pairs, Floats* first, Floats* second) {
  const Ints both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(pairs));
  *first = _mm256_castsi256_ps(_mm256_slli_epi32(both, 16));
  *second = _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(0xFFFF0000)));
}

#endif

// Four bytes in every lane.
inline Ints four_bytes(const void* from) {
  int32_t bytes;
  memcpy(&bytes, from, sizeof bytes);
  return repeated(bytes);
}

#if defined(__AVX2__)
using Number = int8_t;
inline Ints four_numbers(const Number* from) { return four_bytes(from); }
#endif

// Into the second cache: what is read once has no place in the first one, and more can be under way.
inline void prefetch_far(const void* from) { __builtin_prefetch(from, 0, 2); }

// Scales of neighbouring positions, whose low bytes lie here, and the high ones there.
inline Floats scales(const int8_t* low, const int8_t* high) {
  float numbers[LANES];
  for (int lane = 0; lane < LANES; lane++)
    numbers[lane] = widened(static_cast<uint16_t>(static_cast<uint8_t>(high[lane]) << 8 | static_cast<uint8_t>(low[lane])));
  return load(numbers);
}

// e to the power of something from LOWEST to 0: 2**whole * e**rest, the latter by its Taylor
// series, whose error is below 2e-7 for a rest of up to ln(2) / 2. NaN stays NaN.
inline Floats exponential(Floats x) {
  const Floats whole = rounded(times(x, all(1.44269504f)));
  Floats rest = minus_times(whole, all(0.693359375f), x);
  rest = minus_times(whole, all(-2.12194440e-4f), rest);
  Floats sum = all(1.0f / 5040.0f);
  for (const float factor : {1.0f / 720.0f, 1.0f / 120.0f, 1.0f / 24.0f, 1.0f / 6.0f, 0.5f, 1.0f, 1.0f})
    sum = times_plus(sum, rest, all(factor));
  return times_power(sum, whole);
}

}  // namespace
