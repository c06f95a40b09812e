// Compares the products of int4 and int8 layers with one in double precision, and rows alone with rows together. For CPUs
// that are emulated: compiled together with those, without PyTorch. Returns how many shapes are wrong.

#if defined(EMULATES_AVX_VNNI)
// This CPU need not have it: four products in each lane one by one.
#include <immintrin.h>

#include <cstdint>

inline __m256i emulated(__m256i sums, __m256i levels, __m256i numbers) {
  alignas(32) int32_t sum[8];
  alignas(32) uint8_t level[32];
  alignas(32) int8_t number[32];
  _mm256_store_si256(reinterpret_cast<__m256i*>(sum), sums);
  _mm256_store_si256(reinterpret_cast<__m256i*>(level), levels);
  _mm256_store_si256(reinterpret_cast<__m256i*>(number), numbers);
  for (int at = 0; at < 32; at++) sum[at / 4] += level[at] * number[at];
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(sum));
}
#define __AVXVNNI__ 1
#define _mm256_dpbusd_avx_epi32 emulated
#endif

#include "int4.cpp"
#include "int8.cpp"

#include <cstdio>
#include <random>
#include <vector>

// What compiled steps use is not called here.
extern "C" {
AOTITorchError aoti_torch_get_size(AtenTensorHandle, int64_t, int64_t*) { return 1; }
AOTITorchError aoti_torch_empty_strided(int64_t, const int64_t*, const int64_t*, int32_t, int32_t, int32_t, AtenTensorHandle*) { return 1; }
AOTITorchError aoti_torch_get_data_ptr(AtenTensorHandle, void**) { return 1; }
int32_t aoti_torch_dtype_bfloat16() { return 0; }
int32_t aoti_torch_device_type_cpu() { return 0; }
}

namespace {

constexpr int64_t OUTPUTS = 128;
std::mt19937 generator(1);

std::vector<uint16_t> normal(int64_t count) {
  std::normal_distribution<float> distribution;
  std::vector<uint16_t> made(count);
  for (uint16_t& each : made) {
    const float number = distribution(generator);
    uint32_t bits;
    memcpy(&bits, &number, sizeof bits);
    each = static_cast<uint16_t>(bits >> 16);
  }
  return made;
}

bool is_right(bool in_8_bits, int64_t rows, int64_t inputs) {
  const auto multiply = in_8_bits ? chatui_int8mm : chatui_int4mm;
  const int64_t bytes = in_8_bits ? Bytes::BYTES : Nibbles::BYTES;
  const auto factors = normal(inputs / GROUP * OUTPUTS * 2), x = normal(rows * inputs);
  std::vector<int> levels(OUTPUTS * inputs);
  std::vector<uint8_t> packed(OUTPUTS / STRIP * inputs / 4 * bytes);
  for (int64_t output = 0; output < OUTPUTS; output++)
    for (int64_t input = 0; input < inputs; input++) {
      const int64_t within = output % STRIP, half = within / LANES;
      uint8_t* own = &packed[(output / STRIP * inputs / 4 + input / 4) * bytes + within % LANES * 4 + input % 4];
      const int level = generator() % (in_8_bits ? 256 : 16);
      levels[output * inputs + input] = in_8_bits ? level - 128 : level - 8;
      if (in_8_bits) own[half * 4 * LANES] = static_cast<uint8_t>(level - 128);
      else *own |= level << (half * 4);
    }
  std::vector<uint16_t> together(rows * OUTPUTS), alone(OUTPUTS);
  multiply(x.data(), packed.data(), factors.data(), together.data(), rows, OUTPUTS, inputs, 2);
  double error = 0, size = 0;
  for (int64_t row = 0; row < rows; row++) {
    multiply(x.data() + row * inputs, packed.data(), factors.data(), alone.data(), 1, OUTPUTS, inputs, 1);
    if (memcmp(alone.data(), together.data() + row * OUTPUTS, OUTPUTS * sizeof(uint16_t))) return false;
    for (int64_t output = 0; output < OUTPUTS; output++) {
      double exact = 0;
      for (int64_t input = 0; input < inputs; input++) {
        const uint16_t* factor = factors.data() + (input / GROUP * OUTPUTS + output) * 2;
        exact += widened(x[row * inputs + input]) * (levels[output * inputs + input] * widened(factor[0]) + widened(factor[1]));
      }
      error += std::pow(widened(alone[output]) - exact, 2);
      size += std::pow(exact, 2);
    }
  }
  return std::sqrt(error / size) < 0.01;
}

}  // namespace

int main() {
  int wrong = 0;
  for (const bool in_8_bits : {false, true})
    for (const int64_t rows : {1, 2, 5, 9, 70})
      for (const int64_t inputs : {32, 96, 1280})
        if (!is_right(in_8_bits, rows, inputs)) {
          std::printf("int%d: %d rows of %d inputs\n", in_8_bits ? 8 : 4, static_cast<int>(rows), static_cast<int>(inputs));
          wrong++;
        }
  return wrong;
}
