// A decode step's attention over keys and values in blocks, read where they lie and once for all heads that share them.
//
// Each row is computed in the same order whatever other rows there are: alone or in a batch, the result is the same.

#include "lanes.h"

#include <omp.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int64_t BLOCK = 64;
// As many heads at a time, and vectors for each, as have room for their sums in registers.
constexpr int64_t MOST = 4;
template <int HEADS>
constexpr int WIDE = LANES == 16 || HEADS < 3 ? 4 : 2;

// Keys and values are stored as bfloat16, or as int8, where the scale of a head lies behind its numbers: bfloat16, in so
// many bytes.
template <typename Stored>
constexpr int64_t SCALE = sizeof(Stored) == 1 ? 2 : 0;

struct Job {
  const uint16_t* query;     // bfloat16 [rows, shared, heads, size]
  const void* keys;          // [blocks, shared, size + SCALE, BLOCK]
  const void* values;        // [blocks, shared, BLOCK, width + SCALE]
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
template <typename Stored, int HEADS, int PARTS>
inline void weigh(
    const Job& job, const int64_t* table, int64_t shared, int64_t at, const float* weights, int64_t span, int64_t first, int64_t last, const float* totals, uint16_t* result) {
  Floats sums[HEADS][PARTS];
  for (auto& sum : sums)
    for (auto& part : sum) part = zeros();
  for (int64_t block = first / BLOCK; block <= last / BLOCK; block++) {
    const int64_t begin = std::max(first, block * BLOCK), end = std::min(last, block * BLOCK + BLOCK - 1);
    const int64_t stride = job.width + SCALE<Stored>;
    const Stored* values = static_cast<const Stored*>(job.values) + ((table[block] * job.shared + shared) * BLOCK + begin % BLOCK) * stride + at;
    for (int64_t position = begin; position <= end; position++, values += stride) {
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

// The scales of the values of a block's positions.
inline void read_scales(const int8_t* values, int64_t width, float* scales) {
  for (int64_t at = 0; at < BLOCK; at++) {
    uint16_t scale;
    memcpy(&scale, values + at * (width + SCALE<int8_t>) + width, sizeof scale);
    scales[at] = widened(scale);
  }
}

// HEADS heads of one row, from `head` on, which share keys and values.
template <typename Stored, int HEADS>
void attend(const Job& job, int64_t row, int64_t shared, int64_t head, std::vector<float>& scratch) {
  const int64_t last = job.positions[row], first = job.window ? std::max<int64_t>(0, last + 1 - job.window) : 0;
  const int64_t begin = first / BLOCK * BLOCK, span = (last / BLOCK + 1) * BLOCK;
  const int64_t own = (row * job.shared + shared) * job.heads + head;
  const int64_t* table = job.tables + row * job.columns;
  scratch.resize(HEADS * (span + job.size) + (SCALE<Stored> ? span : 0));
  float *weights = scratch.data(), *query = weights + HEADS * span, *value_scales = query + HEADS * job.size;
  for (int64_t at = 0; at < HEADS * job.size; at++) query[at] = widened(job.query[own * job.size + at]);

  const Floats lowest = all(MINUS_INFINITY);
  Floats highest[HEADS];
  for (auto& each : highest) each = lowest;
  for (int64_t from = begin; from < span; from += WIDE<HEADS> * LANES) {
    const Stored* keys = static_cast<const Stored*>(job.keys) + (table[from / BLOCK] * job.shared + shared) * (job.size + SCALE<Stored>) * BLOCK + from % BLOCK;
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
    if constexpr (SCALE<Stored>)
      for (int part = 0; part < WIDE<HEADS>; part++) {
        const Stored* low = keys + job.size * BLOCK + part * LANES;
        const Floats scale = scales(low, low + BLOCK);
        for (int n = 0; n < HEADS; n++) scores[n][part] = times(scores[n][part], scale);
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

  if constexpr (SCALE<Stored>)
    for (int64_t at = begin; at < span; at += BLOCK)
      read_scales(static_cast<const Stored*>(job.values) + (table[at / BLOCK] * job.shared + shared) * BLOCK * (job.width + SCALE<Stored>), job.width, value_scales + at);
  float totals[HEADS];
  for (int n = 0; n < HEADS; n++) {
    const Floats maximum = all(::highest(highest[n]));
    Floats total = zeros();
    for (int64_t at = begin; at < span; at += LANES) {
      float* weight = weights + n * span + at;
      // In this order a NaN is kept.
      const Floats below = higher(all(LOWEST), minus(load(weight), maximum));
      Floats power = chosen(seen(at, first, last), exponential(below), zeros());
      total = plus(total, power);
      if constexpr (SCALE<Stored>) power = times(power, load(value_scales + at));
      store(weight, power);
    }
    totals[n] = summed(total);
  }
  uint16_t* result = job.result + own * job.width;
  int64_t at = 0;
  constexpr int64_t across = WIDE<HEADS> * LANES;
  for (; at + across <= job.width; at += across) weigh<Stored, HEADS, WIDE<HEADS>>(job, table, shared, at, weights, span, first, last, totals, result + at);
  for (; at < job.width; at += LANES) weigh<Stored, HEADS, 1>(job, table, shared, at, weights, span, first, last, totals, result + at);
}

template <typename Stored>
void attend(const Job& job, int64_t row, int64_t shared, int64_t head, int64_t count, std::vector<float>& scratch) {
  switch (count) {
    case 1: return attend<Stored, 1>(job, row, shared, head, scratch);
    case 2: return attend<Stored, 2>(job, row, shared, head, scratch);
    case 3: return attend<Stored, 3>(job, row, shared, head, scratch);
    default: return attend<Stored, 4>(job, row, shared, head, scratch);
  }
}

template <typename Stored>
void attend(const Job& job, int64_t threads) {
  const int64_t rows = job.rows, shared = job.shared, heads = job.heads, pieces = (heads + MOST - 1) / MOST;
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> scratch;
    // Rows are of different lengths.
#pragma omp for schedule(dynamic)
    for (int64_t at = 0; at < rows * shared * pieces; at++) {
      const int64_t head = at % pieces * MOST;
      attend<Stored>(job, at / (shared * pieces), at / pieces % shared, head, std::min(MOST, heads - head), scratch);
    }
  }
}

}  // namespace

// Shapes as in Job. `width` is a multiple of 16.
extern "C" void chatui_attend(
    const uint16_t* query,
    const void* keys,
    const void* values,
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
  attend<uint16_t>(job, threads);
}

// The same with keys and values in int8.
extern "C" void chatui_attend_int8(
    const uint16_t* query,
    const void* keys,
    const void* values,
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
  attend<int8_t>(job, threads);
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
  int32_t stored;
  void *own, *first, *second, *where, *when, *to;
  AOTITorchError failed = aoti_torch_get_size(query, 0, &rows) || aoti_torch_get_size(query, 1, &shared) ||
      aoti_torch_get_size(query, 2, &heads) || aoti_torch_get_size(query, 3, &size) ||
      aoti_torch_get_size(tables, 1, &columns) || aoti_torch_get_size(values, 3, &width) ||
      aoti_torch_get_dtype(values, &stored);
  const bool in_int8 = stored == aoti_torch_dtype_int8();
  if (in_int8) width -= SCALE<int8_t>;
  const int64_t sizes[4] = {rows, shared, heads, width};
  const int64_t strides[4] = {shared * heads * width, heads * width, width, 1};
  failed = failed ||
      aoti_torch_empty_strided(4, sizes, strides, aoti_torch_dtype_bfloat16(), aoti_torch_device_type_cpu(), 0, result) ||
      aoti_torch_get_data_ptr(query, &own) || aoti_torch_get_data_ptr(keys, &first) ||
      aoti_torch_get_data_ptr(values, &second) || aoti_torch_get_data_ptr(tables, &where) ||
      aoti_torch_get_data_ptr(positions, &when) || aoti_torch_get_data_ptr(*result, &to);
  if (!failed)
    (in_int8 ? chatui_attend_int8 : chatui_attend)(
        static_cast<uint16_t*>(own), first, second, static_cast<int64_t*>(where), static_cast<int64_t*>(when),
        static_cast<uint16_t*>(to), rows, shared, heads, size, width, columns, window, threads);
  return failed;
}
