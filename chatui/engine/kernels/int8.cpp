// Products of layers whose weights are levels of 8 bits, -128..127: weight = level * scale + zero.
//
// In a strip, for each four inputs, lie the levels of its first half, those of one output side by side, and then those of
// its second half.

#include "levels_product.h"

namespace {

struct Bytes {
  static constexpr int BYTES = 8 * LANES;  // of four inputs of a strip
  static constexpr float LEVEL_OF_ZERO = 0.0f;
  using Dots = ByteDots;
  static Dots dots(int32_t sum) { return byte_dots(sum); }
  static auto first(const uint8_t* levels) { return signed_bytes(levels); }
  static auto second(const uint8_t* levels) { return signed_bytes(levels + 4 * LANES); }
  template <class Four, class Own>
  static Dots dot(Dots sum, Four levels, Own numbers) { return dot_bytes(sum, levels, numbers); }
  static Floats total(Dots sum) { return total_bytes(sum); }
};

}  // namespace

// Shapes as those of multiply_all.
extern "C" void chatui_int8mm(
    const uint16_t* activations,
    const uint8_t* packed,
    const uint16_t* scales_and_zeros,
    uint16_t* result,
    int64_t rows,
    int64_t outputs,
    int64_t inputs,
    int64_t threads) {
  multiply_all<Bytes>(activations, packed, scales_and_zeros, result, rows, outputs, inputs, threads);
}

extern "C" AOTITorchError aoti_torch_cpu_int8mm(
    AtenTensorHandle activations,
    AtenTensorHandle packed,
    AtenTensorHandle scales_and_zeros,
    int64_t threads,
    AtenTensorHandle* result) {
  return compiled(chatui_int8mm, activations, packed, scales_and_zeros, threads, result);
}
