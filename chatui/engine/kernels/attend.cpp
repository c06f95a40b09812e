// A decode step's attention over keys and values in blocks, read where they lie and once for all heads that share them.
//
// Each row is computed in the same order whatever other rows there are: alone or in a batch, the result is the same.

#include "vectors.h"

#include <omp.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace {

constexpr int64_t LANES = 16, BLOCK = 64;
constexpr int WIDE = BLOCK / LANES;
// As many heads at a time as have room for their sums in registers.
constexpr int64_t MOST = 4;

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

inline float widened(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float number;
  memcpy(&number, &bits, sizeof number);
  return number;
}

// Which of the sixteen positions from `at` on lie between `first` and `last`, both included.
inline __mmask16 seen(int64_t at, int64_t first, int64_t last) {
  const int64_t below = std::clamp<int64_t>(first - at, 0, LANES), above = std::clamp<int64_t>(last + 1 - at, 0, LANES);
  return static_cast<__mmask16>(((1u << above) - 1) & ~((1u << below) - 1));
}

// Sums of values from `first` to `last`, PARTS * 16 of their numbers from `at` on, weighed for HEADS heads.
template <int HEADS, int PARTS>
inline void weigh(
    const Job& job, const int64_t* table, int64_t shared, int64_t at, const float* weights, int64_t span, int64_t first, int64_t last, const float* totals, uint16_t* result) {
  __m512 sums[HEADS][PARTS];
  for (auto& sum : sums)
    for (auto& part : sum) part = _mm512_setzero_ps();
  for (int64_t block = first / BLOCK; block <= last / BLOCK; block++) {
    const int64_t begin = std::max(first, block * BLOCK), end = std::min(last, block * BLOCK + BLOCK - 1);
    const uint16_t* values = job.values + ((table[block] * job.shared + shared) * BLOCK + begin % BLOCK) * job.width + at;
    for (int64_t position = begin; position <= end; position++, values += job.width) {
      __m512 value[PARTS];
      for (int part = 0; part < PARTS; part++) value[part] = widened(values + part * LANES);
      for (int head = 0; head < HEADS; head++) {
        const __m512 weight = _mm512_set1_ps(weights[head * span + position]);
        for (int part = 0; part < PARTS; part++) sums[head][part] = _mm512_fmadd_ps(weight, value[part], sums[head][part]);
      }
    }
  }
  for (int head = 0; head < HEADS; head++)
    for (int part = 0; part < PARTS; part++)
      narrow(_mm512_div_ps(sums[head][part], _mm512_set1_ps(totals[head])), result + head * job.width + part * LANES);
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

  const __m512 lowest = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  __m512 highest[HEADS];
  for (auto& each : highest) each = lowest;
  for (int64_t block = begin; block < span; block += BLOCK) {
    const uint16_t* keys = job.keys + (table[block / BLOCK] * job.shared + shared) * job.size * BLOCK;
    __m512 scores[HEADS][WIDE];
    for (auto& score : scores)
      for (auto& part : score) part = _mm512_setzero_ps();
    for (int64_t at = 0; at < job.size; at++) {
      __m512 key[WIDE];
      for (int part = 0; part < WIDE; part++) key[part] = widened(keys + at * BLOCK + part * LANES);
      for (int n = 0; n < HEADS; n++) {
        const __m512 number = _mm512_set1_ps(query[n * job.size + at]);
        for (int part = 0; part < WIDE; part++) scores[n][part] = _mm512_fmadd_ps(number, key[part], scores[n][part]);
      }
    }
    for (int part = 0; part < WIDE; part++) {
      const int64_t at = block + part * LANES;
      const __mmask16 mask = seen(at, first, last);
      for (int n = 0; n < HEADS; n++) {
        const __m512 score = _mm512_mask_mov_ps(lowest, mask, scores[n][part]);
        _mm512_storeu_ps(weights + n * span + at, score);
        highest[n] = _mm512_max_ps(highest[n], score);
      }
    }
  }

  float totals[HEADS];
  for (int n = 0; n < HEADS; n++) {
    const __m512 most = _mm512_set1_ps(_mm512_reduce_max_ps(highest[n]));
    __m512 total = _mm512_setzero_ps();
    for (int64_t at = begin; at < span; at += LANES) {
      float* weight = weights + n * span + at;
      // In this order a NaN is kept.
      const __m512 below = _mm512_max_ps(_mm512_set1_ps(LOWEST), _mm512_sub_ps(_mm512_loadu_ps(weight), most));
      const __m512 power = _mm512_maskz_mov_ps(seen(at, first, last), exponential(below));
      _mm512_storeu_ps(weight, power);
      total = _mm512_add_ps(total, power);
    }
    totals[n] = _mm512_reduce_add_ps(total);
  }
  uint16_t* result = job.result + own * job.width;
  int64_t at = 0;
  for (; at + BLOCK <= job.width; at += BLOCK) weigh<HEADS, WIDE>(job, table, shared, at, weights, span, first, last, totals, result + at);
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
