// The layers of a decoder for pieces of sequences, one token each when they are decoded: a list of operations, run by one
// call. Python says which (kernels/layer_ops.py).
//
// What lies between operations is rounded to the model's type, as PyTorch does; within them all is float32. Each row is
// computed in the same order whatever other rows there are: alone or in a batch, the result is the same.

#include "layers.h"
#include "prefill_attention.h"

#include <omp.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/inductor/aoti_torch/c/shim_cpu.h>
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int64_t BLOCK = 64;
// Threads share what has more numbers than this, or sums of two: to wait for each other takes some microseconds.
constexpr int64_t MIN_SHARED_NUMBERS = 1 << 12, MIN_SHARED_ADDED = 1 << 15;

enum : int64_t { ADD, NORM, GATE, PRODUCT, ATTENTION };

template <typename T>
void add(const Add& job, const Step& step) {
  const T* added = static_cast<const T*>(job.added);
  T* hidden = static_cast<T*>(job.hidden);
  const int64_t count = step.rows * job.size;
#pragma omp parallel for num_threads(step.threads) if (count > MIN_SHARED_ADDED)
  for (int64_t at = 0; at < count; at += LANES) store(hidden + at, load(hidden + at, count - at) + load(added + at, count - at), count - at);
}

// `from` and `to` may be the same.
template <typename T>
void norm(const T* from, T* to, const T* weight, int64_t size, float epsilon, bool plus_one) {
  Floats squares = {};
  for (int64_t at = 0; at < size; at += LANES) {
    const Floats numbers = load(from + at, size - at);
    squares += numbers * numbers;
  }
  const float factor = 1.0f / std::sqrt(total(squares) / size + epsilon);
  for (int64_t at = 0; at < size; at += LANES) {
    const Floats normed = load(from + at, size - at) * factor, weights = load(weight + at, size - at);
    store(to + at, plus_one ? normed * (1.0f + weights) : rounded<T>(normed) * weights, size - at);
  }
}

template <typename T>
void norm(const Norm& job, const Step& step) {
#pragma omp parallel for num_threads(step.threads) if (step.rows * job.size > MIN_SHARED_NUMBERS)
  for (int64_t row = 0; row < step.rows; row++) {
    const int64_t at = row * job.size;
    norm(static_cast<const T*>(job.from) + at, static_cast<T*>(job.to) + at, static_cast<const T*>(job.weight), job.size, job.epsilon, job.plus_one);
  }
}

inline Floats activated(Floats x, int64_t kind) {
  if (kind == SILU) return x / (1.0f + exponential(-x));
  return 0.5f * x * (1.0f + tanh_of(0.7978845608f * (x + 0.044715f * x * x * x)));
}

template <typename T>
void gate(const Gate& job, const Step& step) {
#pragma omp parallel for collapse(2) num_threads(step.threads) if (step.rows * job.size > MIN_SHARED_NUMBERS)
  for (int64_t row = 0; row < step.rows; row++)
    for (int64_t at = 0; at < job.size; at += LANES) {
      const int64_t count = job.size - at;
      const Floats gates = load(static_cast<const T*>(job.gate) + row * job.stride + at, count);
      const Floats ups = load(static_cast<const T*>(job.up) + row * job.stride + at, count);
      store(static_cast<T*>(job.to) + row * job.size + at, rounded<T>(activated(gates, job.activation)) * ups, count);
    }
}

// A tensor over memory of ours, for functions of PyTorch's.
struct Tensor {
  AtenTensorHandle handle = nullptr;
  Tensor() = default;
  Tensor(const void* data, int64_t rows, int64_t columns, int32_t type) {
    const int64_t sizes[2] = {rows, columns}, strides[2] = {columns, 1};
    aoti_torch_create_tensor_from_blob(const_cast<void*>(data), 2, sizes, strides, 0, type, aoti_torch_device_type_cpu(), 0, &handle);
  }
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;
  ~Tensor() {
    if (handle) aoti_torch_delete_tensor_object(handle);
  }
};

inline AtenTensorHandle handle_of(const void* pointer) {
  return static_cast<AtenTensorHandle>(const_cast<void*>(pointer));
}

inline int32_t type_of(const float*) { return aoti_torch_dtype_float32(); }
inline int32_t type_of(const bfloat16*) { return aoti_torch_dtype_bfloat16(); }

template <typename T>
bool dense(const Product& job, const Step& step) {
  T* to = static_cast<T*>(job.to);
  const Tensor from(job.from, step.rows, job.inputs, type_of(to)), result(job.to, step.rows, job.outputs, type_of(to));
  if (aoti_torch_cpu_mm_out(result.handle, from.handle, handle_of(job.weight))) return false;
  const T* bias = static_cast<const T*>(job.bias);
  for (int64_t row = 0; bias && row < step.rows; row++, to += job.outputs)
    for (int64_t n = 0; n < job.outputs; n++) put(to + n, number(to[n]) + number(bias[n]));
  return true;
}

// As a tensor of PyTorch's begins: its product of int8 levels reads its input by instructions that need 32 bytes.
struct alignas(64) Line {
  bfloat16 numbers[32];
};

// The input as bfloat16, side by side as many times as there are planes.
template <typename T>
const bfloat16* prepared(const Product& job, int64_t rows, std::vector<Line>& scratch) {
  const T* from = static_cast<const T*>(job.from);
  if constexpr (sizeof(T) == sizeof(bfloat16))
    if (job.planes == 1) return from;
  constexpr int64_t line = sizeof(Line) / sizeof(bfloat16);
  scratch.resize((rows * job.planes * job.inputs + line - 1) / line);
  bfloat16* const first = scratch.data()->numbers;
  bfloat16* to = first;
  for (int64_t row = 0; row < rows; row++)
    for (int64_t plane = 0; plane < job.planes; plane++)
      for (int64_t n = 0; n < job.inputs; n++) put(to++, number(from[row * job.inputs + n]));
  return first;
}

template <typename T>
bool packed(const Product& job, const Step& step) {
  thread_local std::vector<Line> scratch;
  thread_local std::vector<bfloat16> sums;
  const int64_t inputs = job.inputs * job.planes;
  const bfloat16* from = prepared<T>(job, step.rows, scratch);
  T* to = static_cast<T*>(job.to);
  const bfloat16* result;
  Tensor made;
  if (job.kind == OWN) {
    bfloat16* target;
    if constexpr (sizeof(T) == sizeof(bfloat16)) {
      target = to;
    } else {
      sums.resize(step.rows * job.outputs);
      target = sums.data();
    }
    job.own(from, job.weight, job.factors, target, step.rows, job.outputs, inputs, step.threads);
    result = target;
  } else {
    const Tensor x(from, step.rows, inputs, aoti_torch_dtype_bfloat16());
    const AOTITorchError failed = job.kind == INT4
        ? aoti_torch_cpu__weight_int4pack_mm_cpu_tensor(x.handle, handle_of(job.weight), handle_of(job.group), handle_of(job.factors), &made.handle)
        : aoti_torch_cpu__weight_int8pack_mm(x.handle, handle_of(job.weight), handle_of(job.factors), &made.handle);
    void* data;
    if (failed || aoti_torch_get_data_ptr(made.handle, &data)) return false;
    result = static_cast<const bfloat16*>(data);
  }
  const bfloat16* bias = static_cast<const bfloat16*>(job.bias);
  if (static_cast<const void*>(result) == job.to && !bias) return true;
  for (int64_t row = 0; row < step.rows; row++, result += job.outputs, to += job.outputs)
    for (int64_t n = 0; n < job.outputs; n++)
      put(to + n, bias ? rounded<bfloat16>(number(result[n]) + number(bias[n])) : number(result[n]));
  return true;
}

// One head of a row after its norm and its rotary encoding, in float32 as the model's type rounds it.
template <typename T>
void encode(const Attention& job, const Rope& rope, int64_t row, const T* from, const void* weight, T* normed, float* to) {
  const T *cosines = static_cast<const T*>(rope.cosines) + row * rope.size, *sines = static_cast<const T*>(rope.sines) + row * rope.size;
  if (weight) {
    norm(from, normed, static_cast<const T*>(weight), job.size, job.epsilon, job.plus_one);
    from = normed;
  }
  const int64_t half = rope.size / 2;
  for (int64_t n = 0; n < half; n += LANES) {
    const int64_t count = half - n;
    const auto product = [&](const T* numbers, const T* factors) { return rounded<T>(load(numbers, count) * load(factors, count)); };
    const T *first = from + n, *second = from + n + half;
    store(to + n, rounded<T>(product(first, cosines + n) - product(second, sines + n)), count);
    store(to + n + half, rounded<T>(product(second, cosines + n + half) + product(first, sines + n + half)), count);
  }
  for (int64_t n = rope.size; n < job.size; n++) to[n] = number(from[n]);
}

constexpr float LARGEST = 127.0f, TINY = 1e-30f;

// The numbers of a head, each `stride` behind the last.
template <typename T>
void put_head(const float* numbers, int64_t size, T* to, int64_t stride) {
  for (int64_t n = 0; n < size; n++) put(to + n * stride, numbers[n]);
}
void put_head(const float* numbers, int64_t size, int8_t* to, int64_t stride) {
  float largest = 0;
  for (int64_t n = 0; n < size; n++) {
    const float magnitude = std::fabs(numbers[n]);
    if (magnitude > largest || magnitude != magnitude) largest = magnitude;
  }
  bfloat16 scale;
  put(&scale, largest * (1.0f / LARGEST));
  const float step = std::max(TINY, number(scale));
  for (int64_t n = 0; n < size; n++) {
    const float level = std::nearbyint(numbers[n] / step);
    to[n * stride] = std::fabs(level) <= LARGEST ? static_cast<int8_t>(level) : 0;
  }
  to[size * stride] = static_cast<int8_t>(scale.bits & 255);
  to[(size + 1) * stride] = static_cast<int8_t>(scale.bits >> 8);
}

// The block of each BLOCK positions in this layer's keys and values: [pieces, columns].
inline const int64_t* tables_of(const Attention& job, const Step& step) { return job.window ? step.windowed_tables : step.tables; }

template <typename T, typename Stored>
void store_token(const Attention& job, const Step& step, int64_t piece, int64_t row, int64_t shared, T* normed, float* scratch) {
  const int64_t position = step.positions[row], at = position % BLOCK;
  const int64_t slot = tables_of(job, step)[piece * step.columns + position / BLOCK] * job.shared + shared;
  const T* key = static_cast<const T*>(job.key) + row * job.key_stride + shared * job.size;
  encode(job, step.ropes[job.layer], row, key, job.key_norm, normed, scratch);
  put_head(scratch, job.size, static_cast<Stored*>(job.keys) + slot * (job.size + SCALE<Stored>) * BLOCK + at, BLOCK);
  const T* value = static_cast<const T*>(job.value) + row * job.value_stride + shared * job.width;
  for (int64_t n = 0; n < job.width; n++) scratch[n] = number(value[n]);
  put_head(scratch, job.width, static_cast<Stored*>(job.values) + (slot * BLOCK + at) * (job.width + SCALE<Stored>), 1);
}

// The piece of each row.
std::vector<int64_t> pieces_of(const Step& step) {
  std::vector<int64_t> pieces;
  for (int64_t piece = 0; piece < step.pieces; piece++) pieces.resize(step.begins[piece + 1], piece);
  return pieces;
}

template <typename T, typename Stored>
void attention(const Attention& job, const Step& step) {
  thread_local std::vector<T> kept;
  kept.resize(step.rows * job.heads * job.size);
  T* queries = kept.data();
  const std::vector<int64_t> pieces = pieces_of(step);
  const Rope& rope = step.ropes[job.layer];
#pragma omp parallel num_threads(step.threads) if (step.rows * job.heads * job.size > MIN_SHARED_NUMBERS)
  {
    const int64_t wide = std::max(job.size, job.width);
    std::vector<float> numbers(wide);
    std::vector<T> normed(job.size);
#pragma omp for
    for (int64_t row = 0; row < step.rows; row++) {
      for (int64_t shared = 0; shared < job.shared; shared++)
        store_token<T, Stored>(job, step, pieces[row], row, shared, normed.data(), numbers.data());
      for (int64_t head = 0; head < job.heads; head++) {
        const T* query = static_cast<const T*>(job.query) + row * job.query_stride + head * job.size;
        encode(job, rope, row, query, job.query_norm, normed.data(), numbers.data());
        for (int64_t n = 0; n < job.size; n++) put(queries + (row * job.heads + head) * job.size + n, numbers[n] * static_cast<float>(job.scale));
      }
    }
  }
  const int64_t group = job.heads / job.shared, decoded = job.own ? step.decoded : 0, others = step.pieces - decoded;
  const int64_t* tables = tables_of(job, step);
  if constexpr (sizeof(T) == sizeof(bfloat16))
    if (decoded) job.own(queries, job.keys, job.values, tables, step.positions, job.to, decoded, job.shared, group, job.size, job.width, step.columns, job.window, step.threads);
  if (others == 0) return;
  const PrefillAttention call{
      queries, job.keys, job.values, tables + decoded * step.columns, step.begins + decoded, step.positions, nullptr, job.to, others, job.shared, group, job.size, job.width,
      step.columns, job.window, sizeof(T) == sizeof(bfloat16), job.in_int8, step.threads, job.softcap};
  chatui_prefill_attention(&call);
}

template <typename T>
bool run(const Operation& operation, const Step& step) {
  const void* what = operation.what;
  switch (operation.kind) {
    case ADD: return add<T>(*static_cast<const Add*>(what), step), true;
    case NORM: return norm<T>(*static_cast<const Norm*>(what), step), true;
    case GATE: return gate<T>(*static_cast<const Gate*>(what), step), true;
    case ATTENTION: {
      const Attention& job = *static_cast<const Attention*>(what);
      return job.in_int8 ? attention<T, int8_t>(job, step) : attention<T, T>(job, step), true;
    }
    case PRODUCT: {
      const Product& product = *static_cast<const Product*>(what);
      return product.kind == DENSE ? dense<T>(product, step) : packed<T>(product, step);
    }
  }
  return false;
}

}  // namespace

// Runs `count` operations in their order; 0 if all went well. Buffers are bfloat16, or float32.
extern "C" int chatui_layers(const Operation* operations, int64_t count, const Step* step, int64_t is_bfloat16) {
  for (int64_t at = 0; at < count; at++)
    if (!(is_bfloat16 ? run<bfloat16>(operations[at], *step) : run<float>(operations[at], *step))) return 1;
  return 0;
}
