// What prefill_attention.cpp computes; kernels/prefill_attention.py makes it too.

#pragma once

#include "numbers.h"

#include <cstdint>

namespace {

// Keys and values are stored in the model's type, or in int8, where the scale of a head lies behind its numbers: bfloat16,
// in so many bytes. kernels/int8_kv.py stores the same.
template <typename Stored>
constexpr int64_t SCALE = sizeof(Stored) == 1 ? 2 : 0;

inline float scale_of(int8_t low, int8_t high) {
  return same_bits<float>(static_cast<uint32_t>(static_cast<uint8_t>(high)) << 24 | static_cast<uint32_t>(static_cast<uint8_t>(low)) << 16);
}

// Rows of a piece, from begins[piece] to before begins[piece + 1], are tokens that stand one behind the other in a sequence.
// Numbers are those of the model: bfloat16, or float32.
struct PrefillAttention {
  const void* query;         // [rows, shared, group, size], scaled
  const void *keys, *values;  // [blocks, shared, size + SCALE, BLOCK], [blocks, shared, BLOCK, width + SCALE]
  const int64_t* tables;     // [pieces, columns]: the block of each BLOCK positions
  const int64_t* begins;     // [pieces + 1]
  const int64_t* positions;  // [rows]
  const float* sinks;        // [shared, group]: scores that take weight and give nothing, or none
  void* result;              // [rows, shared, group, width]
  int64_t pieces, shared, group, size, width, columns;
  int64_t window;  // so many tokens are seen, or 0: all
  int64_t is_bfloat16, in_int8, threads;
  double softcap;  // or 0: none
};

}  // namespace

extern "C" void chatui_prefill_attention(const PrefillAttention* given);
