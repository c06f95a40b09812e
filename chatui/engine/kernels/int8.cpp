// Products of layers whose weights are levels of 8 bits, -128..127: weight = level * scale + zero.
//
// Activations become 16-bit integers, each group of 32 with a scale of its own (an error of 2**-16 of the group's largest
// number, far below what bfloat16 rounds anyway), so that one instruction multiplies many of them, and sums are exact.
// Each row is computed in the same order whatever other rows there are: alone or in a batch, the result is the same.
//
// Weights are worked on by strips of outputs, two vectors of them, one strip after another. In a strip, for each two
// inputs, lie both levels of one output after another.

#include "lanes.h"
#include "product_shim.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>

namespace {

constexpr int GROUP = 32, PAIRS = GROUP / 2;
constexpr int WIDE = 2, STRIP = WIDE * LANES;
// From so many rows on, threads share the rounding of activations.
constexpr int64_t MIN_SHARED_ROWS = 16;
// Bytes of weights that are asked for before they are needed.
constexpr int64_t AHEAD = 1 << 14;
// Bytes of activations that one strip after another is multiplied by: they stay in the second cache.
constexpr int64_t TOGETHER = 1 << 19;
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

inline Floats added(Floats sum, Ints dot, Floats scale, Floats zero, float own_scale, float total) {
  sum = times_plus(times(scale, all(own_scale)), floats(dot), sum);
  return times_plus(zero, all(total), sum);
}

// ROWS rows from `row` on.
template <int ROWS>
inline void multiply(const Job& job, int64_t row, int64_t strip) {
  const uint8_t* levels = job.packed + strip * job.inputs * STRIP;
  Floats sums[ROWS][WIDE];
  for (auto& sum : sums)
    for (auto& one : sum) one = zeros();
  for (int64_t group = 0; group < job.groups; group++) {
    Ints dots[ROWS][WIDE];
    for (auto& dot : dots)
      for (auto& one : dot) one = no_dot();
    const int16_t* numbers = job.numbers + (group * job.rows + row) * GROUP;
#pragma GCC unroll 4
    for (int at = 0; at < PAIRS; at++, levels += 2 * STRIP) {
      for (int64_t line = 0; line < 2 * STRIP; line += 64) prefetch_far(levels + line + AHEAD);
      const Ints both[WIDE] = {widened_bytes(levels), widened_bytes(levels + 2 * LANES)};
      for (int r = 0; r < ROWS; r++) {
        const Ints own = four_bytes(numbers + r * GROUP + 2 * at);
        for (int w = 0; w < WIDE; w++) dots[r][w] = dot16(dots[r][w], own, both[w]);
      }
    }
    for (int w = 0; w < WIDE; w++) {
      const uint16_t* factors = job.scales_and_zeros + (group * job.outputs + strip * STRIP + w * LANES) * 2;
      prefetch_far(factors + STRIP * 2);  // the next strip's
      Floats scale, zero;
      widened_pairs(factors, &scale, &zero);
      for (int r = 0; r < ROWS; r++) {
        const int64_t own = group * job.rows + row + r;
        sums[r][w] = added(sums[r][w], dots[r][w], scale, zero, job.scales[own], job.totals[own]);
      }
    }
  }
  for (int r = 0; r < ROWS; r++)
    for (int w = 0; w < WIDE; w++) narrow(sums[r][w], job.result + (row + r) * job.outputs + strip * STRIP + w * LANES);
}

// So many rows, from 1 to MOST.
template <int ROWS = MOST>
void several(const Job& job, int64_t row, int64_t rows, int64_t strip) {
  if (rows == ROWS) multiply<ROWS>(job, row, strip);
  else if constexpr (ROWS > 1) several<ROWS - 1>(job, row, rows, strip);
}

}  // namespace

// activations bfloat16 [rows, inputs], scales_and_zeros bfloat16 [inputs / 32, outputs, 2] -> result bfloat16 [rows, outputs].
// `outputs` is a multiple of 64.
extern "C" void chatui_int8mm(
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
    // A strip stays in the first cache while one part of the rows after another is multiplied by it.
    const int64_t parts = (rows + MOST - 1) / MOST;
    const int64_t together = std::max<int64_t>(1, TOGETHER / (MOST * inputs * sizeof(int16_t)));
    for (int64_t first = 0; first < parts; first += together)
      for (int64_t at = strip; at < end; at++)
        for (int64_t part = first; part < std::min(first + together, parts); part++) {
          const int64_t row = rows * part / parts;
          several(job, row, rows * (part + 1) / parts - row, at);
        }
  }
}

extern "C" AOTITorchError aoti_torch_cpu_int8mm(
    AtenTensorHandle activations,
    AtenTensorHandle packed,
    AtenTensorHandle scales_and_zeros,
    int64_t threads,
    AtenTensorHandle* result) {
  return compiled(chatui_int8mm, activations, packed, scales_and_zeros, threads, result);
}
