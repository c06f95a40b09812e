// The operations of a decoder's layers as kernels/layer_ops.py makes them: pointers, then integers, then numbers.

#pragma once

#include "numbers.h"

#include <cstdint>

namespace {

// Cosines and sines of the positions, [rows, size] in the model's type.
struct Rope {
  const void *cosines, *sines;
  int64_t size;
};

// What a step brings along.
struct Step {
  const int64_t* tables;     // [pieces, columns]: the block of each BLOCK positions
  const int64_t* windowed_tables;  // the same for layers with a window
  const int64_t* begins;     // [pieces + 1]: rows from one to before the next are a piece of a sequence
  const int64_t* positions;  // [rows]
  const Rope* ropes;         // one for each layer
  int64_t rows, pieces, columns, threads;
  int64_t decoded;  // so many pieces, the first ones, are the newest token of a sequence
};

// hidden += added, both [rows, size].
struct Add {
  const void* added;
  void* hidden;
  int64_t size;
};

// A root-mean-square norm of rows [rows, size].
struct Norm {
  const void* from;
  void* to;
  const void* weight;  // [size]
  int64_t size;
  int64_t plus_one;  // whether numbers are multiplied by 1 + weight before they are rounded, or by weight after
  double epsilon;
};

// act(gate) * up: [rows, size]; rows of gate and up lie `stride` apart.
struct Gate {
  const void *gate, *up;
  void* to;
  int64_t size, stride, activation;
};

enum : int64_t { SILU, GELU_TANH };

using OwnAttention =
    void (*)(const bfloat16*, const void*, const void*, const int64_t*, const int64_t*, void*, int64_t rows, int64_t shared, int64_t group, int64_t size, int64_t width, int64_t columns, int64_t window, int64_t threads);

using OwnProduct =
    void (*)(const bfloat16*, const void*, const void*, bfloat16*, int64_t rows, int64_t outputs, int64_t inputs, int64_t threads);

enum : int64_t { DENSE, INT8, INT4, OWN };

// A linear layer. All kinds but dense ones take and give bfloat16.
struct Product {
  const void* from;  // [rows, inputs]
  void* to;          // [rows, outputs]
  const void* bias;  // [outputs] in the type of the product, or none
  // What the function of the kind takes: handles of tensors, or addresses for `own`.
  const void *weight, *factors, *group;
  OwnProduct own;
  int64_t inputs, outputs, kind;
  int64_t planes;  // so many times the inputs are repeated
};

// Rotary position encoding of query and key, storing of key and value, and attention to all that is visible.
struct Attention {
  const void *query, *key, *value;  // [rows, heads * size], [rows, shared * size], [rows, shared * width]
  void* to;                         // [rows, heads * width]
  void *keys, *values;  // as PrefillAttention has them
  const void *query_norm, *key_norm;  // weights [size], or none
  OwnAttention own;                   // the kernel for pieces that are decoded, or none
  int64_t query_stride, key_stride, value_stride, heads, shared, size, width;
  int64_t window;  // so many tokens are seen, or 0: all
  int64_t layer, plus_one;
  int64_t in_int8;  // whether keys and values are
  double scale, softcap, epsilon;  // no softcap: 0
};

struct Operation {
  const void* what;
  int64_t kind;
};

}  // namespace
