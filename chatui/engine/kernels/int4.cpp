// Products of layers whose weights are levels of 4 bits, several times as fast as PyTorch's own kernel:
// weight = (level - 8) * scale + zero.
//
// In a strip, for each four inputs, lie as many bytes as a vector has: those of one output side by side, of the strip's
// first half in the low halves of the bytes, and of its second half in the high ones.

#include "levels_product.h"

namespace {

struct Nibbles {
  static constexpr int BYTES = 4 * LANES;  // of four inputs of a strip
  using Dots = ::Dots;
#if defined(__AVX512BF16__)
  // As the model's zeros are, which are read as they lie then: those of levels from -8 on.
  static Dots dots(int32_t sum) { return repeated(-8 * sum); }
#else
  static constexpr float LEVEL_OF_ZERO = 8.0f;
  static Dots dots(int32_t) { return no_dots(); }
#endif
  static auto first(const uint8_t* levels) { return low_halves(levels); }
  static auto second(const uint8_t* levels) { return high_halves(levels); }
  template <class Four, class Own>
  static Dots dot(Dots sum, Four levels, Own numbers) { return ::dot(sum, levels, numbers); }
  static Floats total(Dots sum) { return ::total(sum); }
};

}  // namespace

// Shapes as those of multiply_all.
extern "C" void chatui_int4mm(
    const uint16_t* activations,
    const uint8_t* packed,
    const uint16_t* scales_and_zeros,
    uint16_t* result,
    int64_t rows,
    int64_t outputs,
    int64_t inputs,
    int64_t threads) {
  multiply_all<Nibbles>(activations, packed, scales_and_zeros, result, rows, outputs, inputs, threads);
}

extern "C" AOTITorchError aoti_torch_cpu_int4mm(
    AtenTensorHandle activations,
    AtenTensorHandle packed,
    AtenTensorHandle scales_and_zeros,
    int64_t threads,
    AtenTensorHandle* result) {
  return compiled(chatui_int4mm, activations, packed, scales_and_zeros, threads, result);
}
