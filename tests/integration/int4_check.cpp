// Compares the product of int4 layers with one in double precision, and rows alone with rows together. For CPUs that are
// emulated: compiled together with int4.cpp, without PyTorch. Returns how many shapes are wrong.

#include "int4.cpp"

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

bool is_right(int64_t rows, int64_t inputs) {
  const auto factors = normal(inputs / GROUP * OUTPUTS * 2), x = normal(rows * inputs);
  std::vector<uint8_t> levels(OUTPUTS * inputs), packed(OUTPUTS * inputs / 2);
  for (int64_t output = 0; output < OUTPUTS; output++)
    for (int64_t input = 0; input < inputs; input++) {
      const int64_t strip = output / STRIP, within = output % STRIP;
      const int64_t at = (strip * inputs / 4 + input / 4) * QUAD + within % LANES * 4 + input % 4;
      const uint8_t level = levels[output * inputs + input] = generator() % 16;
      packed[at] |= level << (within / LANES * 4);
    }
  std::vector<uint16_t> together(rows * OUTPUTS), alone(OUTPUTS);
  chatui_int4mm(x.data(), packed.data(), factors.data(), together.data(), rows, OUTPUTS, inputs, 2);
  double error = 0, size = 0;
  for (int64_t row = 0; row < rows; row++) {
    chatui_int4mm(x.data() + row * inputs, packed.data(), factors.data(), alone.data(), 1, OUTPUTS, inputs, 1);
    if (memcmp(alone.data(), together.data() + row * OUTPUTS, OUTPUTS * sizeof(uint16_t))) return false;
    for (int64_t output = 0; output < OUTPUTS; output++) {
      double exact = 0;
      for (int64_t input = 0; input < inputs; input++) {
        const uint16_t* factor = factors.data() + (input / GROUP * OUTPUTS + output) * 2;
        exact += widened(x[row * inputs + input]) * ((levels[output * inputs + input] - 8.0) * widened(factor[0]) + widened(factor[1]));
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
  for (const int64_t rows : {1, 2, 5, 9, 70})
    for (const int64_t inputs : {32, 96, 1280})
      if (!is_right(rows, inputs)) {
        std::printf("%d rows of %d inputs\n", static_cast<int>(rows), static_cast<int>(inputs));
        wrong++;
      }
  return wrong;
}
