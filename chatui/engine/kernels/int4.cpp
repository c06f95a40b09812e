// Products of int4 layers, several times as fast as PyTorch's own kernel for the same weights.
//
// Activations become 16-bit integers, each group of 32 with a scale of its own (an error of 2**-16 of the group's largest
// number, far below what bfloat16 rounds anyway), so that one instruction multiplies many of them, and sums are exact.
// Each row is computed in the same order whatever other rows there are: alone or in a batch, the result is the same.
//
// Weights lie as _convert_weight_to_int4pack_for_cpu leaves them (aten/src/ATen/native/cpu/int4mm_kernel.cpp): for AVX-512
// in blocks of 64 outputs; in a block, for each input, 32 bytes, of which the first 16 hold outputs 0..15 in their low
// halves and 32..47 in their high ones, the others 16..31 and 48..63. For AVX2 all of that is half as wide, and likewise
// where there is neither (see ops.py, packed). They are worked on by strips: the outputs that share one half of those bytes. weight = (level - 8) * scale + zero.

#include "lanes.h"

#include <omp.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>

namespace {

constexpr int GROUP = 32, PAIRS = GROUP / 2;
// Outputs of a strip and of a block; each input of a block takes half as many bytes.
constexpr int STRIP = 2 * LANES, BLOCK = 2 * STRIP;
// From so many rows on, threads share the rounding of activations.
constexpr int64_t MIN_SHARED_ROWS = 16;
// Bytes of weights that are asked for before they are needed.
constexpr int64_t AHEAD = 1024;
// Rows worked on together. With one more the compiler runs out of registers, and takes a tenth longer.
constexpr int MOST = LANES == 16 ? 7 : 6;
constexpr float MAX_NUMBER = 32767.0f;
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
  constexpr int PARTS = GROUP / LANES;
  Floats parts[PARTS];
  for (int at = 0; at < PARTS; at++) parts[at] = widened(values + at * LANES);
  Floats magnitudes = magnitude(parts[0]), check = minus(parts[0], parts[0]);
  for (int at = 1; at < PARTS; at++) {
    magnitudes = higher(magnitudes, magnitude(parts[at]));
    check = plus(check, minus(parts[at], parts[at]));
  }
  if (any_nan(check)) {
    memset(numbers, 0, GROUP * sizeof(int16_t));
    *scale = *total = NAN;
    return;
  }
  const float maximum = highest(magnitudes);
  const Floats inverse = all(maximum > NOTHING ? MAX_NUMBER / maximum : 0.0f);
  Ints sums = no_dot();
  for (int at = 0; at < PARTS; at++) {
    const Ints part = nearest(times(parts[at], inverse));
    store(numbers + at * LANES, part);
    sums = plus(sums, part);
  }
  *scale = maximum / MAX_NUMBER;
  *total = *scale * static_cast<float>(summed(sums));
}

// What levels 0..15 are multiplied by, and what is added for each activation.
inline void factors(const uint16_t* scales_and_zeros, Floats* scale, Floats* zero) {
  Floats middle;
  widened_pairs(scales_and_zeros, scale, &middle);
  *zero = minus_times(*scale, all(8.0f), middle);
}

inline Floats added(Floats sum, Ints dot, Floats scale, Floats zero, float own_scale, float total) {
  sum = times_plus(times(scale, all(own_scale)), floats(dot), sum);
  return times_plus(zero, all(total), sum);
}

// ROWS rows and STRIPS neighbouring strips, unpacked on the way.
template <int ROWS, int STRIPS>
inline void multiply(const Job& job, int64_t row, int64_t strip) {
  constexpr int WIDE = 2 * STRIPS, STRIDE = BLOCK / 2;
  const uint8_t* packed = job.packed + strip / 2 * job.inputs * STRIDE + strip % 2 * LANES;
  int64_t column[WIDE];
  for (int at = 0; at < STRIPS; at++) {
    column[2 * at] = strip / 2 * BLOCK + (strip % 2 + at) * LANES;
    column[2 * at + 1] = column[2 * at] + BLOCK / 2;
  }
  Floats sums[ROWS][WIDE];
  for (auto& sum : sums)
    for (auto& one : sum) one = zeros();
  for (int64_t group = 0; group < job.groups; group++) {
    Ints dots[ROWS][WIDE];
    for (auto& dot : dots)
      for (auto& one : dot) one = no_dot();
    const uint8_t* bytes = packed + group * GROUP * STRIDE;
    const int16_t* numbers = job.numbers + (group * job.rows + row) * GROUP;
#pragma GCC unroll 4
    for (int at = 0; at < PAIRS; at++) {
      Ints levels[WIDE];
      const uint8_t* both = bytes + at * 2 * STRIDE;
      __builtin_prefetch(both + AHEAD);
      for (int one = 0; one < STRIPS; one++) unpack(both + one * LANES, STRIDE, &levels[2 * one], &levels[2 * one + 1]);
      for (int r = 0; r < ROWS; r++) {
        const Ints own = four_bytes(numbers + r * GROUP + 2 * at);
        for (int w = 0; w < WIDE; w++) dots[r][w] = dot16(dots[r][w], own, levels[w]);
      }
    }
    for (int w = 0; w < WIDE; w++) {
      Floats scale, zero;
      factors(job.scales_and_zeros + (group * job.outputs + column[w]) * 2, &scale, &zero);
      for (int r = 0; r < ROWS; r++) {
        const int64_t own = group * job.rows + row + r;
        sums[r][w] = added(sums[r][w], dots[r][w], scale, zero, job.scales[own], job.totals[own]);
      }
    }
  }
  for (int r = 0; r < ROWS; r++)
    for (int w = 0; w < WIDE; w++) narrow(sums[r][w], job.result + (row + r) * job.outputs + column[w]);
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
  if (rows < MIN_SHARED_ROWS)
    for (int64_t at = 0; at < rows * groups; at++) quantize_group(at);
#pragma omp parallel num_threads(threads)
  {
    if (rows >= MIN_SHARED_ROWS) {
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
