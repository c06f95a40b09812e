// What the kernels share: sixteen numbers at a time.

#pragma once

#include <immintrin.h>

#include <cstdint>
#include <initializer_list>

namespace {

inline __m512 widened(const uint16_t* halves) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

// Rounds to bfloat16, to even between two. NaN stays NaN.
inline void narrow(__m512 values, uint16_t* halves) {
  const __m512i bits = _mm512_castps_si512(values);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
  const __mmask16 invalid = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
  const __m512i valid = _mm512_mask_mov_epi32(rounded, invalid, _mm512_set1_epi32(0x7FC00000));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(halves), _mm512_cvtepi32_epi16(_mm512_srli_epi32(valid, 16)));
}

// Below this an exponential counts nothing beside 1.
constexpr float LOWEST = -87.0f;

// e to the power of something from LOWEST to 0: 2**whole * e**rest, the latter by its Taylor
// series, whose error is below 2e-7 for a rest of up to ln(2) / 2. NaN stays NaN.
inline __m512 exponential(__m512 x) {
  const __m512 whole = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
  __m512 rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693359375f), x);
  rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(-2.12194440e-4f), rest);
  __m512 sum = _mm512_set1_ps(1.0f / 5040.0f);
  for (const float factor : {1.0f / 720.0f, 1.0f / 120.0f, 1.0f / 24.0f, 1.0f / 6.0f, 0.5f, 1.0f, 1.0f})
    sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(factor));
  return _mm512_scalef_ps(sum, whole);
}

}  // namespace
