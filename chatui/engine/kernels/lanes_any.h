// The same as lanes.h for ARM and for x86 with SSSE3 alone: a vector in two halves of 128 bits.

#pragma once

#if defined(__aarch64__)
#include <arm_neon.h>
#else
#include <tmmintrin.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

constexpr int LANES = 8;
typedef float FourFloats __attribute__((vector_size(16)));
typedef int32_t FourInts __attribute__((vector_size(16)));
typedef uint32_t FourWords __attribute__((vector_size(16)));
typedef int16_t FourShorts __attribute__((vector_size(8)));
typedef uint16_t FourHalves __attribute__((vector_size(8)));
typedef int16_t EightShorts __attribute__((vector_size(16)));

struct Floats {
  FourFloats low, high;
};
struct Ints {
  FourInts low, high;
};
using Mask = Ints;

template <typename To, typename From>
inline To loaded(const From* from) {
  To to;
  memcpy(&to, from, sizeof to);
  return to;
}

#if defined(__aarch64__)
// Left to itself, GCC 12 widens bytes one by one.
inline EightShorts eight(const int8_t* bytes) { return vmovl_s8(vld1_s8(bytes)); }
inline FourInts nearest(FourFloats numbers) { return vcvtnq_s32_f32(numbers); }

#else
inline EightShorts eight(const int8_t* bytes) {
  const __m128i levels = _mm_loadl_epi64((const __m128i*)bytes);
  return (EightShorts)_mm_unpacklo_epi8(levels, levels) >> 8;
}
inline FourInts nearest(FourFloats numbers) { return (FourInts)_mm_cvtps_epi32(numbers); }

#endif

inline Floats all(float number) {
  const FourFloats four = {number, number, number, number};
  return {four, four};
}
inline Floats zeros() { return all(0.0f); }
inline Floats load(const float* from) { return loaded<Floats>(from); }
inline void store(float* to, Floats numbers) { memcpy(to, &numbers, sizeof numbers); }
inline Floats plus(Floats a, Floats b) { return {a.low + b.low, a.high + b.high}; }
inline Floats minus(Floats a, Floats b) { return {a.low - b.low, a.high - b.high}; }
inline Floats times(Floats a, Floats b) { return {a.low * b.low, a.high * b.high}; }
inline Floats divided(Floats a, Floats b) { return {a.low / b.low, a.high / b.high}; }
inline Floats times_plus(Floats a, Floats b, Floats c) { return {a.low * b.low + c.low, a.high * b.high + c.high}; }
inline Floats minus_times(Floats a, Floats b, Floats c) { return {c.low - a.low * b.low, c.high - a.high * b.high}; }
inline FourFloats magnitude(FourFloats numbers) { return (FourFloats)((FourInts)numbers & 0x7FFFFFFF); }
inline Floats magnitude(Floats numbers) { return {magnitude(numbers.low), magnitude(numbers.high)}; }
inline FourFloats higher(FourFloats a, FourFloats b) { return a > b ? a : b; }
inline Floats higher(Floats a, Floats b) { return {higher(a.low, b.low), higher(a.high, b.high)}; }
inline float highest(Floats numbers) {
  const FourFloats four = higher(numbers.low, numbers.high);
  return std::max(std::max(four[0], four[2]), std::max(four[1], four[3]));
}
inline float summed(Floats numbers) {
  const FourFloats four = numbers.low + numbers.high;
  return (four[0] + four[2]) + (four[1] + four[3]);
}
inline bool any_nan(Floats numbers) {
  const FourInts invalid = (numbers.low != numbers.low) | (numbers.high != numbers.high);
  return invalid[0] | invalid[1] | invalid[2] | invalid[3];
}
inline FourFloats times_power(FourFloats numbers, FourFloats whole) {
  return numbers * (FourFloats)((__builtin_convertvector(whole, FourInts) + 127) << 23);
}
inline Floats times_power(Floats numbers, Floats whole) {
  return {times_power(numbers.low, whole.low), times_power(numbers.high, whole.high)};
}

inline FourInts between(int64_t begin, int64_t end, FourInts lane) {
  return (lane >= static_cast<int>(begin)) & (lane < static_cast<int>(end));
}
inline Mask between(int64_t begin, int64_t end) {
  return {between(begin, end, FourInts{0, 1, 2, 3}), between(begin, end, FourInts{4, 5, 6, 7})};
}
inline Floats chosen(Mask mask, Floats yes, Floats no) {
  return {mask.low ? yes.low : no.low, mask.high ? yes.high : no.high};
}

inline FourFloats widened(FourHalves halves) { return (FourFloats)(__builtin_convertvector(halves, FourWords) << 16); }
inline Floats widened(const uint16_t* halves) {
  return {widened(loaded<FourHalves>(halves)), widened(loaded<FourHalves>(halves + 4))};
}
inline FourFloats floats(FourShorts numbers) {
  return __builtin_convertvector(__builtin_convertvector(numbers, FourInts), FourFloats);
}
inline Floats widened(const int8_t* levels) {
  const EightShorts shorts = eight(levels);
  FourShorts parts[2];
  memcpy(parts, &shorts, sizeof parts);
  return {floats(parts[0]), floats(parts[1])};
}
inline Floats some(const float* from, int64_t count) {
  if (count >= LANES) return load(from);
  float rest[LANES];
  std::fill(rest, rest + LANES, -INFINITY);
  memcpy(rest, from, count * sizeof *from);
  return load(rest);
}
inline Floats some(const uint16_t* from, int64_t count) {
  if (count >= LANES) return widened(from);
  uint16_t rest[LANES];
  std::fill(rest, rest + LANES, uint16_t{0xFF80});  // minus infinity
  memcpy(rest, from, count * sizeof *from);
  return widened(rest);
}
inline void narrow(FourFloats numbers, uint16_t* halves) {
  const FourWords bits = (FourWords)numbers, valid = bits + 0x7FFF + ((bits >> 16) & 1);
  const FourWords kept = numbers == numbers ? valid : FourWords{} + 0x7FC00000;
  const FourHalves made = __builtin_convertvector(kept >> 16, FourHalves);
  memcpy(halves, &made, sizeof made);
}
inline void narrow(Floats numbers, uint16_t* halves) {
  narrow(numbers.low, halves);
  narrow(numbers.high, halves + 4);
}

inline Ints repeated(int32_t number) {
  const FourInts four = {number, number, number, number};
  return {four, four};
}
inline Ints no_dot() { return repeated(0); }
inline Floats floats(Ints numbers) {
  return {__builtin_convertvector(numbers.low, FourFloats), __builtin_convertvector(numbers.high, FourFloats)};
}
inline Ints nearest(Floats numbers) { return {nearest(numbers.low), nearest(numbers.high)}; }
inline Floats rounded(Floats numbers) { return floats(nearest(numbers)); }
inline Ints plus(Ints a, Ints b) { return {a.low + b.low, a.high + b.high}; }
inline int32_t summed(Ints numbers) {
  const FourInts four = numbers.low + numbers.high;
  return four[0] + four[1] + four[2] + four[3];
}
inline void store(int8_t* to, Ints numbers) {
  for (int lane = 0; lane < 4; lane++) {
    to[lane] = static_cast<int8_t>(numbers.low[lane]);
    to[lane + 4] = static_cast<int8_t>(numbers.high[lane]);
  }
}

// Of 4 * LANES bytes the low halves, the high ones, and the whole ones with their signs: four levels of each of eight
// outputs.
using Number = int8_t;
#if defined(__aarch64__)
struct Levels {
  int8x16_t low, high;
};
inline int8x16_t low_half(uint8x16_t bytes) { return vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15))); }
inline int8x16_t high_half(uint8x16_t bytes) { return vreinterpretq_s8_u8(vshrq_n_u8(bytes, 4)); }
inline Levels low_halves(const uint8_t* bytes) { return {low_half(vld1q_u8(bytes)), low_half(vld1q_u8(bytes + 16))}; }
inline Levels high_halves(const uint8_t* bytes) { return {high_half(vld1q_u8(bytes)), high_half(vld1q_u8(bytes + 16))}; }
inline Levels signed_bytes(const uint8_t* bytes) { return {vreinterpretq_s8_u8(vld1q_u8(bytes)), vreinterpretq_s8_u8(vld1q_u8(bytes + 16))}; }
inline int8x16_t four_numbers(const Number* from) { return vreinterpretq_s8_s32(vdupq_n_s32(loaded<int32_t>(from))); }
#if defined(__ARM_FEATURE_DOTPROD)
// Adds to each lane the products of four levels with four numbers, -127..127.
using Dots = Ints;
inline Dots no_dots() { return no_dot(); }
inline Dots dot(Dots sum, Levels levels, int8x16_t numbers) {
  return {(FourInts)vdotq_s32((int32x4_t)sum.low, levels.low, numbers), (FourInts)vdotq_s32((int32x4_t)sum.high, levels.high, numbers)};
}
inline Floats total(Dots sum) { return floats(sum); }
#else
// The same, in two parts for each output.
struct Dots {
  int32x4_t parts[4];
};
inline Dots no_dots() { return {}; }
inline Dots dot(Dots sum, Levels levels, int8x16_t numbers) {
  const int8x8_t four = vget_low_s8(numbers);
  sum.parts[0] = vpadalq_s16(sum.parts[0], vmull_s8(vget_low_s8(levels.low), four));
  sum.parts[1] = vpadalq_s16(sum.parts[1], vmull_s8(vget_high_s8(levels.low), four));
  sum.parts[2] = vpadalq_s16(sum.parts[2], vmull_s8(vget_low_s8(levels.high), four));
  sum.parts[3] = vpadalq_s16(sum.parts[3], vmull_s8(vget_high_s8(levels.high), four));
  return sum;
}
inline Floats total(const Dots& sum) {
  return floats(Ints{(FourInts)vpaddq_s32(sum.parts[0], sum.parts[1]), (FourInts)vpaddq_s32(sum.parts[2], sum.parts[3])});
}
#endif
using ByteDots = Dots;
inline ByteDots byte_dots(int32_t) { return no_dots(); }
inline ByteDots dot_bytes(const ByteDots& sum, const Levels& levels, int8x16_t numbers) { return dot(sum, levels, numbers); }
inline Floats total_bytes(const ByteDots& sum) { return total(sum); }
#else
struct Levels {
  __m128i low, high;
};
inline __m128i half(__m128i bytes) { return _mm_and_si128(bytes, _mm_set1_epi8(15)); }
inline Levels low_halves(const uint8_t* bytes) { return {half(loaded<__m128i>(bytes)), half(loaded<__m128i>(bytes + 16))}; }
inline Levels high_halves(const uint8_t* bytes) {
  return {half(_mm_srli_epi16(loaded<__m128i>(bytes), 4)), half(_mm_srli_epi16(loaded<__m128i>(bytes + 16), 4))};
}
inline Levels signed_bytes(const uint8_t* bytes) { return {loaded<__m128i>(bytes), loaded<__m128i>(bytes + 16)}; }
inline __m128i four_numbers(const Number* from) { return _mm_set1_epi32(loaded<int32_t>(from)); }
// In two halves of 16 bits for each lane: those of a group of 32 stay within 8 * 2 * 15 * 127.
using Dots = Levels;
inline Dots no_dots() { return {_mm_setzero_si128(), _mm_setzero_si128()}; }
inline Dots dot(Dots sum, Levels levels, __m128i numbers) {
  return {_mm_add_epi16(sum.low, _mm_maddubs_epi16(levels.low, numbers)), _mm_add_epi16(sum.high, _mm_maddubs_epi16(levels.high, numbers))};
}
inline Floats total(Dots sum) {
  const __m128i ones = _mm_set1_epi16(1);
  return floats(Ints{(FourInts)_mm_madd_epi16(sum.low, ones), (FourInts)_mm_madd_epi16(sum.high, ones)});
}
// The instruction takes no levels below 0: numbers change their signs instead. Sums of two stay within 2 * 128 * 127.
using ByteDots = Ints;
inline ByteDots byte_dots(int32_t) { return no_dot(); }
inline FourInts dot_bytes(FourInts sum, __m128i levels, __m128i numbers) {
  const __m128i pairs = _mm_maddubs_epi16(_mm_abs_epi8(levels), _mm_sign_epi8(numbers, levels));
  return sum + (FourInts)_mm_madd_epi16(pairs, _mm_set1_epi16(1));
}
inline ByteDots dot_bytes(ByteDots sum, Levels levels, __m128i numbers) {
  return {dot_bytes(sum.low, levels.low, numbers), dot_bytes(sum.high, levels.high, numbers)};
}
inline Floats total_bytes(ByteDots sum) { return floats(sum); }
#endif
inline void widened_pairs(const uint16_t* pairs, Floats* first, Floats* second) {
  const FourWords low = loaded<FourWords>(pairs), high = loaded<FourWords>(pairs + LANES);
  *first = {(FourFloats)(low << 16), (FourFloats)(high << 16)};
  *second = {(FourFloats)(low & 0xFFFF0000), (FourFloats)(high & 0xFFFF0000)};
}

}  // namespace
