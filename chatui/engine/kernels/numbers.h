// Some numbers at a time in what every compiler has, float32 or bfloat16 in memory.

#pragma once

#include <cstdint>
#include <cstring>
#include <initializer_list>

namespace {

// As many as a register holds: of a wider vector's sums GCC keeps none in registers.
#if defined(__AVX512BW__) && !defined(NO_MORE_THAN_8_LANES)
constexpr int64_t LANES = 16;
#elif defined(__AVX__)
constexpr int64_t LANES = 8;
#else
constexpr int64_t LANES = 4;
#endif
typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));
typedef int8_t Bytes __attribute__((vector_size(LANES)));

struct bfloat16 {
  uint16_t bits;
};

template <typename To, typename From>
inline To same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

inline float number(float from) { return from; }
inline float number(bfloat16 from) { return same_bits<float>(static_cast<uint32_t>(from.bits) << 16); }

inline float number(int8_t from) { return from; }

inline void put(float* to, float from) { *to = from; }
// To even between two. NaN stays NaN.
inline void put(bfloat16* to, float from) {
  const uint32_t bits = same_bits<uint32_t>(from);
  const uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  to->bits = from == from ? static_cast<uint16_t>(rounded) : 0x7FC0;
}

inline Floats load(const float* from) {
  Floats numbers;
  memcpy(&numbers, from, sizeof numbers);
  return numbers;
}
inline Floats load(const bfloat16* from) {
  Halves halves;
  memcpy(&halves, from, sizeof halves);
  return same_bits<Floats>(__builtin_convertvector(halves, Words) << 16);
}

inline Floats load(const int8_t* from) {
  Bytes levels;
  memcpy(&levels, from, sizeof levels);
  return __builtin_convertvector(__builtin_convertvector(levels, Ints), Floats);
}

inline void store(float* to, Floats numbers) { memcpy(to, &numbers, sizeof numbers); }
inline void store(bfloat16* to, Floats numbers) {
  const Words bits = same_bits<Words>(numbers), valid = bits + 0x7FFF + ((bits >> 16) & 1);
  const Halves halves = __builtin_convertvector((numbers == numbers ? valid : Words{} + 0x7FC00000) >> 16, Halves);
  memcpy(to, &halves, sizeof halves);
}

// The first `count` of LANES numbers; the others are 0.
template <typename T>
inline Floats load(const T* from, int64_t count) {
  if (count >= LANES) return load(from);
  T few[LANES] = {};
  memcpy(few, from, count * sizeof(T));
  return load(few);
}
template <typename T>
inline void store(T* to, Floats numbers, int64_t count) {
  if (count >= LANES) return store(to, numbers);
  T few[LANES];
  store(few, numbers);
  memcpy(to, few, count * sizeof(T));
}

template <typename T>
inline Floats rounded(Floats from) {
  T to[LANES];
  store(to, from);
  return load(to);
}

template <typename T>
inline float rounded(float from) {
  T to;
  put(&to, from);
  return number(to);
}

inline float total(Floats numbers) {
  float sum = 0;
  for (int lane = 0; lane < LANES; lane++) sum += numbers[lane];
  return sum;
}

// e to the power of `x`, at least of -87: 2**whole * e**rest, the latter by its Taylor series, whose error is below 2e-7
// for a rest of up to ln(2) / 2. NaN stays NaN.
inline Floats exponential(Floats x) {
  const Floats lowest = Floats{} - 87.0f, highest = Floats{} + 88.0f;
  x = x < lowest ? lowest : x;
  x = x > highest ? highest : x;
  const Floats shift = Floats{} + 12582912.0f;  // 1.5 * 2**23: what is added to it is rounded to whole numbers
  const Floats shifted = x * 1.44269504f + shift, whole = shifted - shift;
  Floats rest = x - whole * 0.693359375f;
  rest = rest + whole * 2.12194440e-4f;
  Floats sum = Floats{} + 1.0f / 5040.0f;
  for (const float factor : {1.0f / 720.0f, 1.0f / 120.0f, 1.0f / 24.0f, 1.0f / 6.0f, 0.5f, 1.0f, 1.0f}) sum = sum * rest + factor;
  const Ints exponent = same_bits<Ints>(shifted) - same_bits<Ints>(shift) + 127;
  return sum * same_bits<Floats>(exponent << 23);
}

inline Floats tanh_of(Floats x) { return 1.0f - 2.0f / (exponential(x + x) + 1.0f); }

}  // namespace
