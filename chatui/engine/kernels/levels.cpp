// Products of layers whose weights are levels of 4 or 8 bits, several times as fast as PyTorch's own kernel.
//
// Activations become 16-bit integers, each group of 32 with a scale of its own (an error of 2**-16 of the group's largest
// number, far below what bfloat16 rounds anyway), so that one instruction multiplies many of them, and sums are exact.
// Each row is computed in the same order whatever other rows there are: alone or in a batch, the result is the same.
//
// Weights are worked on by strips of outputs, two vectors of them. The levels of a strip lie one input after another.

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
// Outputs of a strip, and of a block of levels of 4 bits.
constexpr int STRIP = 2 * LANES, BLOCK = 2 * STRIP;
// From so many rows on, threads share the rounding of activations.
constexpr int64_t MIN_SHARED_ROWS = 16;
// Bytes of weights that are asked for before they are needed.
constexpr int64_t AHEAD = 1024;
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

// Levels of 4 bits as _convert_weight_to_int4pack_for_cpu leaves them (aten/src/ATen/native/cpu/int4mm_kernel.cpp): for
// AVX-512 in blocks of 64 outputs; in a block, for each input, 32 bytes, of which the first 16 hold outputs 0..15 in their
// low halves and 32..47 in their high ones, the others 16..31 and 48..63. For AVX2 all of that is half as wide, and likewise
// where there is neither (see ops.py, pack). A strip is the outputs that share one half of those bytes.
// weight = (level - 8) * scale + zero.
struct Nibbles {
  static constexpr int INPUT = BLOCK / 2;  // bytes from an input to the next
  static constexpr int ALONE = 2;  // strips worked on together for one row: those of a block read the same memory
  static const uint8_t* strip(const Job& job, int64_t at) { return job.packed + at / 2 * job.inputs * INPUT + at % 2 * LANES; }
  static int64_t column(int64_t at, int half) { return at / 2 * BLOCK + at % 2 * LANES + half * BLOCK / 2; }
  // Of two inputs, side by side in each lane.
  static void unpack(const uint8_t* bytes, Ints* levels) { ::unpack(bytes, INPUT, &levels[0], &levels[1]); }
  // What levels 0..15 are multiplied by, and what is added for each activation.
  static void factors(const uint16_t* scales_and_zeros, Floats* scale, Floats* zero) {
    Floats middle;
    widened_pairs(scales_and_zeros, scale, &middle);
    *zero = minus_times(*scale, all(8.0f), middle);
  }
};

// Levels of 8 bits, -128..127: the strips one after another; in a strip, for each two inputs, both levels of one output
// after another. weight = level * scale + zero.
struct Bytes {
  static constexpr int INPUT = STRIP, ALONE = 1;
  static const uint8_t* strip(const Job& job, int64_t at) { return job.packed + at * job.inputs * INPUT; }
  static int64_t column(int64_t at, int half) { return at * STRIP + half * LANES; }
  static void unpack(const uint8_t* bytes, Ints* levels) {
    levels[0] = widened_bytes(bytes);
    levels[1] = widened_bytes(bytes + 2 * LANES);
  }
  static void factors(const uint16_t* scales_and_zeros, Floats* scale, Floats* zero) {
    widened_pairs(scales_and_zeros, scale, zero);
  }
};

// ROWS rows and STRIPS neighbouring strips, unpacked on the way.
template <typename Form, int ROWS, int STRIPS>
inline void multiply(const Job& job, int64_t row, int64_t strip) {
  constexpr int WIDE = 2 * STRIPS;
  const uint8_t* packed[STRIPS];
  int64_t column[WIDE];
  for (int at = 0; at < STRIPS; at++) {
    packed[at] = Form::strip(job, strip + at);
    for (int half = 0; half < 2; half++) column[2 * at + half] = Form::column(strip + at, half);
  }
  Floats sums[ROWS][WIDE];
  for (auto& sum : sums)
    for (auto& one : sum) one = zeros();
  for (int64_t group = 0; group < job.groups; group++) {
    Ints dots[ROWS][WIDE];
    for (auto& dot : dots)
      for (auto& one : dot) one = no_dot();
    const int16_t* numbers = job.numbers + (group * job.rows + row) * GROUP;
#pragma GCC unroll 4
    for (int at = 0; at < PAIRS; at++) {
      Ints levels[WIDE];
      for (int one = 0; one < STRIPS; one++) {
        const uint8_t* bytes = packed[one] + (group * GROUP + at * 2) * Form::INPUT;
        __builtin_prefetch(bytes + AHEAD);
        Form::unpack(bytes, levels + 2 * one);
      }
      for (int r = 0; r < ROWS; r++) {
        const Ints own = four_bytes(numbers + r * GROUP + 2 * at);
        for (int w = 0; w < WIDE; w++) dots[r][w] = dot16(dots[r][w], own, levels[w]);
      }
    }
    for (int w = 0; w < WIDE; w++) {
      Floats scale, zero;
      Form::factors(job.scales_and_zeros + (group * job.outputs + column[w]) * 2, &scale, &zero);
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
template <typename Form, int ROWS = MOST>
void several(const Job& job, int64_t row, int64_t rows, int64_t strip) {
  if (rows == ROWS) multiply<Form, ROWS, 1>(job, row, strip);
  else if constexpr (ROWS > 2) several<Form, ROWS - 1>(job, row, rows, strip);
}

template <typename Form>
void one_row(const Job& job, int64_t strip, int64_t end) {
  constexpr int ALONE = Form::ALONE;
  for (; strip % ALONE && strip < end; strip++) multiply<Form, 1, 1>(job, 0, strip);
  for (; strip + ALONE <= end; strip += ALONE) multiply<Form, 1, ALONE>(job, 0, strip);
  for (; strip < end; strip++) multiply<Form, 1, 1>(job, 0, strip);
}

// activations bfloat16 [rows, inputs], scales_and_zeros bfloat16 [inputs / 32, outputs, 2] -> result bfloat16 [rows, outputs].
template <typename Form>
void product(
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
    if (rows == 1) one_row<Form>(job, strip, end);
    // A strip stays in the first cache while one part of the rows after another is multiplied by it.
    const int64_t parts = rows == 1 ? 0 : (rows + MOST - 1) / MOST;
    const int64_t together = std::max<int64_t>(1, TOGETHER / (MOST * inputs * sizeof(int16_t)));
    for (int64_t first = 0; first < parts; first += together)
      for (int64_t at = strip; at < end; at++)
        for (int64_t part = first; part < std::min(first + together, parts); part++) {
          const int64_t row = rows * part / parts;
          several<Form>(job, row, rows * (part + 1) / parts - row, at);
        }
  }
}

using Product = decltype(product<Nibbles>);

// A product for steps that AOTInductor has compiled.
AOTITorchError compiled(
    Product product,
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
    product(
        static_cast<uint16_t*>(from), static_cast<uint8_t*>(levels), static_cast<uint16_t*>(factors),
        static_cast<uint16_t*>(to), rows, outputs, inputs, threads);
  return failed;
}

}  // namespace

// `outputs` is a multiple of 64.
extern "C" void chatui_int4mm(
    const uint16_t* activations,
    const uint8_t* packed,
    const uint16_t* scales_and_zeros,
    uint16_t* result,
    int64_t rows,
    int64_t outputs,
    int64_t inputs,
    int64_t threads) {
  product<Nibbles>(activations, packed, scales_and_zeros, result, rows, outputs, inputs, threads);
}

extern "C" void chatui_int8mm(
    const uint16_t* activations,
    const uint8_t* packed,
    const uint16_t* scales_and_zeros,
    uint16_t* result,
    int64_t rows,
    int64_t outputs,
    int64_t inputs,
    int64_t threads) {
  product<Bytes>(activations, packed, scales_and_zeros, result, rows, outputs, inputs, threads);
}

extern "C" AOTITorchError aoti_torch_cpu_int4mm(
    AtenTensorHandle activations,
    AtenTensorHandle packed,
    AtenTensorHandle scales_and_zeros,
    int64_t threads,
    AtenTensorHandle* result) {
  return compiled(product<Nibbles>, activations, packed, scales_and_zeros, threads, result);
}

extern "C" AOTITorchError aoti_torch_cpu_int8mm(
    AtenTensorHandle activations,
    AtenTensorHandle packed,
    AtenTensorHandle scales_and_zeros,
    int64_t threads,
    AtenTensorHandle* result) {
  return compiled(product<Bytes>, activations, packed, scales_and_zeros, threads, result);
}
