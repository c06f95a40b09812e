// A vector of numbers and what is done to it, in AVX-512 VNNI or in AVX2. Both compute the same bits.

#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace {

#if defined(__AVX512VNNI__)

constexpr int LANES = 16;
using Floats = __m512;
using Ints = __m512i;

inline Floats zeros() { return _mm512_setzero_ps(); }
inline Floats all(float number) { return _mm512_set1_ps(number); }
inline Floats load(const float* from) { return _mm512_loadu_ps(from); }
inline void store(float* to, Floats numbers) { _mm512_storeu_ps(to, numbers); }
inline Floats times(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
inline Floats times_plus(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }

inline Ints no_dot() { return _mm512_setzero_si512(); }
inline Ints load(const int8_t* from) { return _mm512_loadu_si512(from); }
inline Ints four(const uint8_t* from) {
  int32_t numbers;
  memcpy(&numbers, from, sizeof numbers);
  return _mm512_set1_epi32(numbers);
}
// Adds to each lane the products of four numbers, 0..255, with four levels, -8..7.
inline Ints dot(Ints sum, Ints numbers, Ints levels) { return _mm512_dpbusd_epi32(sum, numbers, levels); }
inline Floats total(Ints sum) { return _mm512_cvtepi32_ps(sum); }

#else

constexpr int LANES = 8;
using Floats = __m256;
using Ints = __m256i;

inline Floats zeros() { return _mm256_setzero_ps(); }
inline Floats all(float number) { return _mm256_set1_ps(number); }
inline Floats load(const float* from) { return _mm256_loadu_ps(from); }
inline void store(float* to, Floats numbers) { _mm256_storeu_ps(to, numbers); }
inline Floats times(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
inline Floats times_plus(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }

inline Ints no_dot() { return _mm256_setzero_si256(); }
inline Ints load(const int8_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
inline Ints four(const uint8_t* from) {
  int32_t numbers;
  memcpy(&numbers, from, sizeof numbers);
  return _mm256_set1_epi32(numbers);
}
// The same in two halves of 16 bits for each lane: those of a group of 32 stay within 8 * 2 * 8 * 255.
inline Ints dot(Ints sum, Ints numbers, Ints levels) { return _mm256_add_epi16(sum, _mm256_maddubs_epi16(numbers, levels)); }
inline Floats total(Ints sum) { return _mm256_cvtepi32_ps(_mm256_madd_epi16(sum, _mm256_set1_epi16(1))); }

#endif

inline float widened(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float number;
  memcpy(&number, &bits, sizeof number);
  return number;
}

}  // namespace
