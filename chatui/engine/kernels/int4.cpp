// Products of int4 layers on CPUs with AVX-512 VNNI, several times as fast as PyTorch's own kernel for the same weights.
//
// Activations become 16-bit integers, each group of 32 with a scale of its own (an error of 2**-16 of the group's largest
// number, far below what bfloat16 rounds anyway), so that one instruction multiplies and sums 32 of them exactly.
// Each row is computed in the same order whatever other rows there are: alone or in a batch, the result is the same.
//
// Weights lie as _convert_weight_to_int4pack_for_cpu leaves them for AVX-512
// (aten/src/ATen/native/cpu/int4mm_kernel.cpp): blocks of 64 outputs; in a block, for each input, 32 bytes, of which the
// first 16 hold outputs 0..15 in their low halves and 32..47 in their high ones, the others 16..31 and 48..63. They are
// worked on by strips of 32 outputs that share 16 bytes. weight = (level - 8) * scale + zero.

#include "vectors.h"

#include <omp.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>

namespace {

constexpr int GROUP = 32, PAIRS = GROUP / 2, STRIP = 32;
// From so many rows on, threads share the rounding of activations.
constexpr int64_t MANY = 16;
// Bytes of weights that are asked for before they are needed.
constexpr int64_t AHEAD = 1024;
// Rows worked on together. With eight the compiler runs out of registers, and takes a tenth longer.
constexpr int MOST = 7;
constexpr float LARGEST = 32767.0f;
// What is smaller adds nothing to a product, and its inverse would be no number.
constexpr float NOTHING = 1e-30f;

struct Job {
  const int16_t* numbers;  // [groups, rows, GROUP]
  const float* scales;     // [groups, rows]
  const float* totals;     // [groups, rows]: sums of the activations
  const uint8_t* packed;
  const uint16_t* scales_and_zeros;  // bfloat16 [groups, outputs, 2]
  uint16_t* result;                  // bfloat16 [rows, outputs]
  int64_t rows, outputs, inputs, groups;
};

// One group of activations; what holds NaN or infinity makes all of its products NaN.
inline void quantize(const uint16_t* values, int16_t* numbers, float* scale, float* total) {
  const __m512 low = widened(values);
  const __m512 high = widened(values + 16);
  const float largest = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_abs_ps(low), _mm512_abs_ps(high)));
  const __m512 check = _mm512_add_ps(_mm512_sub_ps(low, low), _mm512_sub_ps(high, high));
  if (_mm512_cmp_ps_mask(check, check, _CMP_UNORD_Q)) {
    memset(numbers, 0, GROUP * sizeof(int16_t));
    *scale = *total = NAN;
    return;
  }
  const __m512 inverse = _mm512_set1_ps(largest > NOTHING ? LARGEST / largest : 0.0f);
  const __m512i first = _mm512_cvtps_epi32(_mm512_mul_ps(low, inverse));
  const __m512i second = _mm512_cvtps_epi32(_mm512_mul_ps(high, inverse));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(numbers), _mm512_cvtepi32_epi16(first));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(numbers + 16), _mm512_cvtepi32_epi16(second));
  *scale = largest / LARGEST;
  *total = *scale * static_cast<float>(_mm512_reduce_add_epi32(_mm512_add_epi32(first, second)));
}

// The levels of two inputs for 16 outputs and 16 others, side by side in 16-bit lanes.
inline void unpack(const uint8_t* bytes, __m512i* low, __m512i* high) {
  const __m512i mask = _mm512_set1_epi32(0x000F000F);
  const __m512i one = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
  const __m512i other = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + 32)));
  const __m512i both = _mm512_or_si512(one, _mm512_slli_epi32(other, 16));
  *low = _mm512_and_si512(both, mask);
  *high = _mm512_and_si512(_mm512_srli_epi32(both, 4), mask);
}

// What levels 0..15 of 16 outputs are multiplied by, and what is added for each activation.
inline void factors(const uint16_t* scales_and_zeros, __m512* scale, __m512* zero) {
  const __m512i both = _mm512_loadu_si512(scales_and_zeros);
  *scale = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
  const __m512 middle = _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(0xFFFF0000)));
  *zero = _mm512_fnmadd_ps(*scale, _mm512_set1_ps(8.0f), middle);
}

inline __m512i pair(const int16_t* numbers) {
  int32_t both;
  memcpy(&both, numbers, sizeof both);
  return _mm512_set1_epi32(both);
}

inline __m512 added(__m512 sum, __m512i dot, __m512 scale, __m512 zero, float own_scale, float total) {
  sum = _mm512_fmadd_ps(_mm512_mul_ps(scale, _mm512_set1_ps(own_scale)), _mm512_cvtepi32_ps(dot), sum);
  return _mm512_fmadd_ps(zero, _mm512_set1_ps(total), sum);
}

// ROWS rows and STRIPS neighbouring strips, unpacked on the way.
template <int ROWS, int STRIPS>
inline void multiply(const Job& job, int64_t row, int64_t strip) {
  constexpr int WIDE = 2 * STRIPS;
  const uint8_t* packed = job.packed + strip / 2 * job.inputs * 32 + strip % 2 * 16;
  int64_t place[WIDE];
  for (int at = 0; at < STRIPS; at++) {
    place[2 * at] = strip / 2 * 64 + (strip % 2 + at) * 16;
    place[2 * at + 1] = place[2 * at] + 32;
  }
  __m512 sums[ROWS][WIDE];
  for (auto& sum : sums)
    for (auto& one : sum) one = _mm512_setzero_ps();
  for (int64_t group = 0; group < job.groups; group++) {
    __m512i dots[ROWS][WIDE];
    for (auto& dot : dots)
      for (auto& one : dot) one = _mm512_setzero_si512();
    const uint8_t* bytes = packed + group * GROUP * 32;
    const int16_t* numbers = job.numbers + (group * job.rows + row) * GROUP;
#pragma GCC unroll 4
    for (int at = 0; at < PAIRS; at++) {
      __m512i levels[WIDE];
      _mm_prefetch(reinterpret_cast<const char*>(bytes + at * 64 + AHEAD), _MM_HINT_T0);
      for (int one = 0; one < STRIPS; one++) unpack(bytes + at * 64 + one * 16, &levels[2 * one], &levels[2 * one + 1]);
      for (int r = 0; r < ROWS; r++) {
        const __m512i own = pair(numbers + r * GROUP + 2 * at);
        for (int w = 0; w < WIDE; w++) dots[r][w] = _mm512_dpwssd_epi32(dots[r][w], levels[w], own);
      }
    }
    for (int w = 0; w < WIDE; w++) {
      __m512 scale, zero;
      factors(job.scales_and_zeros + (group * job.outputs + place[w]) * 2, &scale, &zero);
      for (int r = 0; r < ROWS; r++) {
        const int64_t own = group * job.rows + row + r;
        sums[r][w] = added(sums[r][w], dots[r][w], scale, zero, job.scales[own], job.totals[own]);
      }
    }
  }
  for (int r = 0; r < ROWS; r++)
    for (int w = 0; w < WIDE; w++) {
      uint16_t* result = job.result + (row + r) * job.outputs + place[w];
      narrow(sums[r][w], result);
    }
}

// So many rows, from 2 to MOST, in one strip.
template <int ROWS = MOST>
void several(const Job& job, int64_t row, int64_t rows, int64_t strip) {
  if (rows == ROWS) multiply<ROWS, 1>(job, row, strip);
  else if constexpr (ROWS > 2) several<ROWS - 1>(job, row, rows, strip);
}

// One row: two strips of a block together, for one alone would wait for its own instructions.
void one_row(const Job& job, int64_t strip, int64_t end) {
  if (strip % 2 && strip < end) multiply<1, 1>(job, 0, strip++);
  for (; strip + 2 <= end; strip += 2) multiply<1, 2>(job, 0, strip);
  if (strip < end) multiply<1, 1>(job, 0, strip);
}

}  // namespace

// activations bfloat16 [rows, inputs], packed as above, scales_and_zeros bfloat16 [inputs / 32, outputs, 2] -> result
// bfloat16 [rows, outputs]. `outputs` is a multiple of 64.
extern "C" void chatui_int4mm(
    const uint16_t* activations,
    const uint8_t* packed,
    const uint16_t* scales_and_zeros,
    uint16_t* result,
    int64_t rows,
    int64_t outputs,
    int64_t inputs,
    int64_t threads) {
  const int64_t groups = inputs / GROUP, strips = outputs / STRIP;
  const std::unique_ptr<int16_t[]> numbers(new int16_t[rows * inputs]);
  const std::unique_ptr<float[]> scales(new float[rows * groups]), totals(new float[rows * groups]);
  const Job job{numbers.get(), scales.get(), totals.get(), packed, scales_and_zeros, result, rows, outputs, inputs, groups};
  const auto quantize_group = [&](int64_t at) {
    const int64_t group = at % groups, row = at / groups, to = group * rows + row;
    quantize(activations + at * GROUP, numbers.get() + to * GROUP, &scales[to], &totals[to]);
  };
  if (rows < MANY)
    for (int64_t at = 0; at < rows * groups; at++) quantize_group(at);
#pragma omp parallel num_threads(threads)
  {
    if (rows >= MANY) {
#pragma omp for
      for (int64_t at = 0; at < rows * groups; at++) quantize_group(at);
    }
    const int64_t own = omp_get_thread_num(), all = omp_get_num_threads();
    const int64_t strip = strips * own / all, end = strips * (own + 1) / all;
    if (rows == 1) one_row(job, strip, end);
    // A strip stays in the first cache while one part of the rows after another is multiplied by it.
    const int64_t parts = rows == 1 ? 0 : (rows + MOST - 1) / MOST;
    for (int64_t at = strip; at < end; at++)
      for (int64_t part = 0; part < parts; part++) {
        const int64_t row = rows * part / parts;
        several(job, row, rows * (part + 1) / parts - row, at);
      }
  }
}

// The same for steps that AOTInductor has compiled.
extern "C" AOTITorchError aoti_torch_cpu_int4mm(
    AtenTensorHandle activations,
    AtenTensorHandle packed,
    AtenTensorHandle scales_and_zeros,
    int64_t threads,
    AtenTensorHandle* result) {
  int64_t rows, inputs, outputs;
  void *from, *levels, *factors, *to;
  AOTITorchError failed = aoti_torch_get_size(activations, 0, &rows) || aoti_torch_get_size(activations, 1, &inputs) ||
      aoti_torch_get_size(scales_and_zeros, 1, &outputs);
  const int64_t sizes[2] = {rows, outputs}, strides[2] = {outputs, 1};
  failed = failed ||
      aoti_torch_empty_strided(2, sizes, strides, aoti_torch_dtype_bfloat16(), aoti_torch_device_type_cpu(), 0, result) ||
      aoti_torch_get_data_ptr(activations, &from) || aoti_torch_get_data_ptr(packed, &levels) ||
      aoti_torch_get_data_ptr(scales_and_zeros, &factors) || aoti_torch_get_data_ptr(*result, &to);
  if (!failed)
    chatui_int4mm(
        static_cast<uint16_t*>(from), static_cast<uint8_t*>(levels), static_cast<uint16_t*>(factors),
        static_cast<uint16_t*>(to), rows, outputs, inputs, threads);
  return failed;
}
