// How a step that AOTInductor has compiled calls a product of levels.

#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <cstdint>

namespace {

using Product = void(const uint16_t*, const uint8_t*, const uint16_t*, uint16_t*, int64_t, int64_t, int64_t, int64_t);

inline AOTITorchError compiled(
    Product* product,
    AtenTensorHandle activations,
    AtenTensorHandle packed,
    AtenTensorHandle scales_and_zeros,
    int64_t threads,
    AtenTensorHandle* result) {
  int64_t rows, inputs, outputs;
  void *from, *levels, *factors, *to;
  AOTITorchError failed = aoti_torch_get_size(activations, 0, &rows) || aoti_torch_get_size(activations, 1, &inputs) ||
      aoti_torch_get_size(scales_and_zeros, 1, &outputs);
  const int64_t sizes[2] = {rows, outputs}, strides[2] = {outputs, 1};
  failed = failed ||
      aoti_torch_empty_strided(2, sizes, strides, aoti_torch_dtype_bfloat16(), aoti_torch_device_type_cpu(), 0, result) ||
      aoti_torch_get_data_ptr(activations, &from) || aoti_torch_get_data_ptr(packed, &levels) ||
      aoti_torch_get_data_ptr(scales_and_zeros, &factors) || aoti_torch_get_data_ptr(*result, &to);
  if (!failed)
    product(
        static_cast<uint16_t*>(from), static_cast<uint8_t*>(levels), static_cast<uint16_t*>(factors),
        static_cast<uint16_t*>(to), rows, outputs, inputs, threads);
  return failed;
}

}  // namespace
