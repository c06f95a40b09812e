// Products of dense bfloat16 layers in float32, for CPUs that have no instructions for bfloat16.
//
// Weights lie as PyTorch has them, [outputs, inputs]. Each number of the result is summed in the same order whatever other
// rows there are: alone or in a batch, and however a prompt is cut, the result is the same.

// Layers whose inputs are a multiple of 16 have room for two vectors of 8.
#define NO_MORE_THAN_8_LANES
#include "numbers.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <algorithm>
#include <cstdint>
#include <memory>

namespace {

// Numbers of a row that are unpacked together.
constexpr int64_t PAIR = 2 * LANES;
// Inputs of a part, after which sums of the lanes are added up, and outputs of a strip. A part of a strip fits into the
// second cache, and a part of some rows into the first.
constexpr int64_t PART = 1024, STRIP = 32;
// Rows worked on together: their sums have room in sixteen registers.
constexpr int MOST = 6;
// With fewer rows outputs are worked on one by one, since memory is read fastest from one place on.
constexpr int64_t MIN_STRIP_ROWS = 4;
// From so many rows on, threads share the unpacking of activations.
constexpr int64_t MIN_SHARED_ROWS = 16;

struct Pair {
  Floats first, second;
};

// Sixteen numbers, first those at even places and then the others.
inline Pair pair(const bfloat16* from) {
  Words words;
  memcpy(&words, from, sizeof words);
  return {same_bits<Floats>(words << 16), same_bits<Floats>(words & 0xFFFF0000)};
}
inline void unpack(const bfloat16* from, float* to) {
  const Pair both = pair(from);
  store(to, both.first);
  store(to + LANES, both.second);
}

struct Job {
  const float* numbers;     // [rows, inputs]: unpacked activations
  const bfloat16* weights;  // [outputs, inputs]
  bfloat16* result;         // [rows, outputs]
  int64_t rows, outputs, inputs;
};

// sums [ROWS] += what some inputs add to an output; they lie STRIP apart.
template <int ROWS>
inline void multiply(const float* numbers, int64_t inputs, const bfloat16* weights, int64_t count, float* sums) {
  Floats first[ROWS] = {}, second[ROWS] = {};
  for (int64_t at = 0; at < count; at += PAIR) {
    const Pair own = pair(weights + at);
    for (int row = 0; row < ROWS; row++) {
      first[row] += load(numbers + row * inputs + at) * own.first;
      second[row] += load(numbers + row * inputs + at + LANES) * own.second;
    }
  }
  for (int row = 0; row < ROWS; row++) sums[row * STRIP] += total(first[row] + second[row]);
}

// The same for so many rows, from 1 to MOST, and for neighbouring outputs.
template <int ROWS = MOST>
void several(const float* numbers, const bfloat16* weights, int64_t inputs, int64_t rows, int64_t outputs, int64_t count, float* sums) {
  if (rows == ROWS)
    for (int64_t at = 0; at < outputs; at++) multiply<ROWS>(numbers, inputs, weights + at * inputs, count, sums + at);
  else if constexpr (ROWS > 1) several<ROWS - 1>(numbers, weights, inputs, rows, outputs, count, sums);
}

// `outputs` of them from `first` on, STRIP at most; `sums` has room for [rows, STRIP].
void multiply_strip(const Job& job, int64_t first, int64_t outputs, float* sums) {
  const int64_t tiles = (job.rows + MOST - 1) / MOST;
  for (int64_t row = 0; row < job.rows; row++) std::fill_n(sums + row * STRIP, outputs, 0.0f);
  for (int64_t at = 0; at < job.inputs; at += PART)
    for (int64_t tile = 0; tile < tiles; tile++) {
      const int64_t row = job.rows * tile / tiles, rows = job.rows * (tile + 1) / tiles - row;
      const int64_t count = std::min(PART, job.inputs - at);
      several(job.numbers + row * job.inputs + at, job.weights + first * job.inputs + at, job.inputs, rows, outputs, count, sums + row * STRIP);
    }
  for (int64_t row = 0; row < job.rows; row++)
    for (int64_t at = 0; at < outputs; at++) put(job.result + row * job.outputs + first + at, sums[row * STRIP + at]);
}

}  // namespace

// activations bfloat16 [rows, inputs], weights bfloat16 [outputs, inputs] -> result bfloat16 [rows, outputs]. `inputs` is a
// multiple of 16. Called as chatui_int4mm is.
extern "C" void chatui_linear(
    const bfloat16* activations,
    const bfloat16* weights,
    const void*,
    bfloat16* result,
    int64_t rows,
    int64_t outputs,
    int64_t inputs,
    int64_t threads) {
  const std::unique_ptr<float[]> numbers(new float[rows * inputs]);
  const Job job{numbers.get(), weights, result, rows, outputs, inputs};
  const int64_t width = rows < MIN_STRIP_ROWS ? 1 : STRIP;
  const auto unpack_row = [&](int64_t row) {
    for (int64_t at = 0; at < inputs; at += PAIR) unpack(activations + row * inputs + at, numbers.get() + row * inputs + at);
  };
  if (rows < MIN_SHARED_ROWS)
    for (int64_t row = 0; row < rows; row++) unpack_row(row);
#pragma omp parallel num_threads(threads)
  {
    if (rows >= MIN_SHARED_ROWS) {
#pragma omp for
      for (int64_t row = 0; row < rows; row++) unpack_row(row);
    }
    const std::unique_ptr<float[]> sums(new float[rows * STRIP]);
#pragma omp for schedule(static)
    for (int64_t first = 0; first < outputs; first += width)
      multiply_strip(job, first, std::min(width, outputs - first), sums.get());
  }
}

// The same for steps that AOTInductor has compiled.
extern "C" AOTITorchError aoti_torch_cpu_bfloat16_linear(
    AtenTensorHandle activations, AtenTensorHandle weights, int64_t threads, AtenTensorHandle* result) {
  int64_t rows, inputs, outputs;
  void *from, *by, *to;
  AOTITorchError failed = aoti_torch_get_size(activations, 0, &rows) || aoti_torch_get_size(activations, 1, &inputs) ||
      aoti_torch_get_size(weights, 0, &outputs);
  const int64_t sizes[2] = {rows, outputs}, strides[2] = {outputs, 1};
  failed = failed ||
      aoti_torch_empty_strided(2, sizes, strides, aoti_torch_dtype_bfloat16(), aoti_torch_device_type_cpu(), 0, result) ||
      aoti_torch_get_data_ptr(activations, &from) || aoti_torch_get_data_ptr(weights, &by) ||
      aoti_torch_get_data_ptr(*result, &to);
  if (!failed)
    chatui_linear(
        static_cast<bfloat16*>(from), static_cast<bfloat16*>(by), nullptr, static_cast<bfloat16*>(to), rows, outputs,
        inputs, threads);
  return failed;
}
