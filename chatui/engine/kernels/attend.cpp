// A decode step's attention over keys and values in blocks, read where they lie and once for all heads that share them.
//
// Each row is computed in the same order whatever other rows there are: alone or in a batch, the result is the same.

#include "lanes.h"

#include <omp.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace {

constexpr int64_t BLOCK = 64;
// As many heads at a time, and vectors for each, as have room for their sums in registers.
constexpr int64_t MOST = 4;
template <int HEADS>
constexpr int WIDE = LANES == 16 || HEADS < 3 ? 4 : 2;

struct Job {
  const uint16_t* query;     // bfloat16 [rows, shared, heads, size]
  const uint16_t* keys;      // bfloat16 [blocks, shared, size, BLOCK]
  const uint16_t* values;    // bfloat16 [blocks, shared, BLOCK, width]
  const int64_t* tables;     // [rows, columns]: the block of each BLOCK positions
  const int64_t* positions;  // [rows]: of the newest token
  uint16_t* result;          // bfloat16 [rows, shared, heads, width]
  int64_t rows, shared, heads, size, width, columns;
  int64_t window;  // so many tokens are seen, or 0: all
};

// Which of the positions from `at` on lie between `first` and `last`, both included.
inline Mask seen(int64_t at, int64_t first, int64_t last) {
  return between(std::clamp<int64_t>(first - at, 0, LANES), std::clamp<int64_t>(last + 1 - at, 0, LANES));
}

// Sums of values from `first` to `last`, PARTS vectors of their numbers from `at` on, weighed for HEADS heads.
template <int HEADS, int PARTS>
inline void weigh(
    const Job& job, const int64_t* table, int64_t shared, int64_t at, const float* weights, int64_t span, int64_t first, int64_t last, const float* totals, uint16_t* result) {
  Floats sums[HEADS][PARTS];
  for (auto& sum : sums)
    for (auto& part : sum) part = zeros();
  for (int64_t block = first / BLOCK; block <= last / BLOCK; block++) {
    const int64_t begin = std::max(first, block * BLOCK), end = std::min(last, block * BLOCK + BLOCK - 1);
    const uint16_t* values = job.values + ((table[block] * job.shared + shared) * BLOCK + begin % BLOCK) * job.width + at;
    for (int64_t position = begin; position <= end; position++, values += job.width) {
      Floats value[PARTS];
      for (int part = 0; part < PARTS; part++) value[part] = widened(values + part * LANES);
      for (int head = 0; head < HEADS; head++) {
        const Floats weight = all(weights[head * span + position]);
        for (int part = 0; part < PARTS; part++) sums[head][part] = times_plus(weight, value[part], sums[head][part]);
      }
    }
  }
  for (int head = 0; head < HEADS; head++)
    for (int part = 0; part < PARTS; part++)
      narrow(divided(sums[head][part], all(totals[head])), result + head * job.width + part * LANES);
}

// HEADS heads of one row, from `head` on, which share keys and values.
template <int HEADS>
void attend(const Job& job, int64_t row, int64_t shared, int64_t head, std::vector<float>& scratch) {
  const int64_t last = job.positions[row], first = job.window ? std::max<int64_t>(0, last + 1 - job.window) : 0;
  const int64_t begin = first / BLOCK * BLOCK, span = (last / BLOCK + 1) * BLOCK;
  const int64_t own = (row * job.shared + shared) * job.heads + head;
  const int64_t* table = job.tables + row * job.columns;
  scratch.resize(HEADS * (span + job.size));
  float *weights = scratch.data(), *query = weights + HEADS * span;
  for (int64_t at = 0; at < HEADS * job.size; at++) query[at] = widened(job.query[own * job.size + at]);

  const Floats lowest = all(MINUS_INFINITY);
  Floats highest[HEADS];
  for (auto& each : highest) each = lowest;
  for (int64_t from = begin; from < span; from += WIDE<HEADS> * LANES) {
    const uint16_t* keys = job.keys + (table[from / BLOCK] * job.shared + shared) * job.size * BLOCK + from % BLOCK;
    Floats scores[HEADS][WIDE<HEADS>];
    for (auto& score : scores)
      for (auto& part : score) part = zeros();
    for (int64_t at = 0; at < job.size; at++) {
      Floats key[WIDE<HEADS>];
      for (int part = 0; part < WIDE<HEADS>; part++) key[part] = widened(keys + at * BLOCK + part * LANES);
      for (int n = 0; n < HEADS; n++) {
        const Floats number = all(query[n * job.size + at]);
        for (int part = 0; part < WIDE<HEADS>; part++) scores[n][part] = times_plus(number, key[part], scores[n][part]);
      }
    }
    for (int part = 0; part < WIDE<HEADS>; part++) {
      const int64_t at = from + part * LANES;
      const Mask mask = seen(at, first, last);
      for (int n = 0; n < HEADS; n++) {
        const Floats score = chosen(mask, scores[n][part], lowest);
        store(weights + n * span + at, score);
        highest[n] = higher(highest[n], score);
      }
    }
  }

  float totals[HEADS];
  for (int n = 0; n < HEADS; n++) {
    const Floats maximum = all(::highest(highest[n]));
    Floats total = zeros();
    for (int64_t at = begin; at < span; at += LANES) {
      float* weight = weights + n * span + at;
      // In this order a NaN is kept.
      const Floats below = higher(all(LOWEST), minus(load(weight), maximum));
      const Floats power = chosen(seen(at, first, last), exponential(below), zeros());
      store(weight, power);
      total = plus(total, power);
    }
    totals[n] = summed(total);
  }
  uint16_t* result = job.result + own * job.width;
  int64_t at = 0;
  constexpr int64_t across = WIDE<HEADS> * LANES;
  for (; at + across <= job.width; at += across) weigh<HEADS, WIDE<HEADS>>(job, table, shared, at, weights, span, first, last, totals, result + at);
  for (; at < job.width; at += LANES) weigh<HEADS, 1>(job, table, shared, at, weights, span, first, last, totals, result + at);
}

void attend(const Job& job, int64_t row, int64_t shared, int64_t head, int64_t count, std::vector<float>& scratch) {
  switch (count) {
    case 1: return attend<1>(job, row, shared, head, scratch);
    case 2: return attend<2>(job, row, shared, head, scratch);
    case 3: return attend<3>(job, row, shared, head, scratch);
    default: return attend<4>(job, row, shared, head, scratch);
  }
}

}  // namespace

// Shapes as in Job. `width` is a multiple of 16.
extern "C" void chatui_attend(
    const uint16_t* query,
    const uint16_t* keys,
    const uint16_t* values,
    const int64_t* tables,
    const int64_t* positions,
    uint16_t* result,
    int64_t rows,
    int64_t shared,
    int64_t heads,
    int64_t size,
    int64_t width,
    int64_t columns,
    int64_t window,
    int64_t threads) {
  const Job job{query, keys, values, tables, positions, result, rows, shared, heads, size, width, columns, window};
  const int64_t pieces = (heads + MOST - 1) / MOST;
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> scratch;
    // Rows are of different lengths.
#pragma omp for schedule(dynamic)
    for (int64_t at = 0; at < rows * shared * pieces; at++) {
      const int64_t head = at % pieces * MOST;
      attend(job, at / (shared * pieces), at / pieces % shared, head, std::min(MOST, heads - head), scratch);
    }
  }
}

// The same for steps that AOTInductor has compiled.
extern "C" AOTITorchError aoti_torch_cpu_attend(
    AtenTensorHandle query,
    AtenTensorHandle keys,
    AtenTensorHandle values,
    AtenTensorHandle tables,
    AtenTensorHandle positions,
    int64_t window,
    int64_t threads,
    AtenTensorHandle* result) {
  int64_t rows, shared, heads, size, width, columns;
  void *own, *first, *second, *where, *when, *to;
  AOTITorchError failed = aoti_torch_get_size(query, 0, &rows) || aoti_torch_get_size(query, 1, &shared) ||
      aoti_torch_get_size(query, 2, &heads) || aoti_torch_get_size(query, 3, &size) ||
      aoti_torch_get_size(tables, 1, &columns) || aoti_torch_get_size(values, 3, &width);
  const int64_t sizes[4] = {rows, shared, heads, width};
  const int64_t strides[4] = {shared * heads * width, heads * width, width, 1};
  failed = failed ||
      aoti_torch_empty_strided(4, sizes, strides, aoti_torch_dtype_bfloat16(), aoti_torch_device_type_cpu(), 0, result) ||
      aoti_torch_get_data_ptr(query, &own) || aoti_torch_get_data_ptr(keys, &first) ||
      aoti_torch_get_data_ptr(values, &second) || aoti_torch_get_data_ptr(tables, &where) ||
      aoti_torch_get_data_ptr(positions, &when) || aoti_torch_get_data_ptr(*result, &to);
  if (!failed)
    chatui_attend(
        static_cast<uint16_t*>(own), static_cast<uint16_t*>(first), static_cast<uint16_t*>(second),
        static_cast<int64_t*>(where), static_cast<int64_t*>(when), static_cast<uint16_t*>(to), rows, shared, heads, size,
        width, columns, window, threads);
  return failed;
}
