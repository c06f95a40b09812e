"""Dense bfloat16 layers on a CPU without instructions for bfloat16, where PyTorch's products take several times longer.

The product is linear.cpp. Whether it is used is measured, once in a process.
"""

import ctypes
import logging
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from chatui.engine.kernels import ops
from chatui.engine.kernels.checks import TOLERANCE, seconds

log = logging.getLogger(__name__)

FUNCTION = "chatui_linear"
# Inputs are taken by so many at a time.
STEP = 16
# The layer that is measured, [outputs, inputs], how many rows it gets, and how often.
MEASURED_SHAPE, MEASURED_ROWS, TIMES = (512, 1024), (1, 4, 32), 5
# Ours may take so much longer with some of these rows, and must be so much faster with others.
NO_SLOWER, FASTER = 1.1, 0.7


class Bfloat16Linear(nn.Linear):
    """A linear layer that shares the weight and the bias of another one, both bfloat16."""

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        if x.dtype is not torch.bfloat16 or self.weight.dtype is not torch.bfloat16:
            return super().forward(x)
        product = linear(x.reshape(-1, self.in_features), self.weight).view(*x.shape[:-1], self.out_features)
        return product if self.bias is None else product + self.bias


def use_kernel(model: PreTrainedModel) -> None:
    """Let our kernel compute the model's dense bfloat16 layers, in place, if it is in use here and faster."""
    layers = {name: layer for name, layer in model.named_modules() if type(layer) is nn.Linear and takes(layer)}
    if layers and ops.function(FUNCTION) is not None and is_faster():
        for name, layer in layers.items():
            model.set_submodule(name, Bfloat16Linear(layer))


def takes(layer: nn.Linear) -> bool:
    """Whether the kernel can compute this layer."""
    weight = layer.weight
    plain = weight.dtype is torch.bfloat16 and weight.device.type == "cpu" and weight.is_contiguous()
    return plain and layer.in_features % STEP == 0


@cache
def is_faster() -> bool:
    """Whether the kernel, which is loaded, computes what PyTorch does and takes less time."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(MEASURED_SHAPE, generator=generator, dtype=torch.float32).bfloat16()
    ratios = list[float]()
    with torch.inference_mode():
        for rows in MEASURED_ROWS:
            x = torch.randn(rows, MEASURED_SHAPE[1], generator=generator, dtype=torch.float32).bfloat16()
            found, expected = linear(x, weight).float(), nn.functional.linear(x, weight).float()
            if not (found - expected).norm() <= TOLERANCE * expected.norm():
                log.warning("dense layers are PyTorch's own: the kernel for them computes something else here")
                return False
            own, other = seconds(partial(linear, x, weight), partial(nn.functional.linear, x, weight), times=TIMES)
            ratios.append(own / other)
    log.info("products of dense layers take %s of the time that PyTorch's do", ", ".join(f"{r:.2f}" for r in ratios))
    return max(ratios) <= NO_SLOWER and min(ratios) <= FASTER


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x [rows, in] and weight [out, in] -> [rows, out], all bfloat16."""
    call: Any = torch.ops.chatui.bfloat16_linear if torch.compiler.is_exporting() else _linear
    product: Tensor = call(x, weight, torch.get_num_threads())
    return product


def _linear(x: Tensor, weight: Tensor, threads: int) -> Tensor:
    x = x.contiguous()
    result = x.new_empty(len(x), len(weight))
    multiply = ops.function(FUNCTION)
    if multiply is None:
        raise RuntimeError("the kernel for dense layers is not loaded")
    # The kernel is called as that for int4, whose scales it has no use for.
    pointers = (x.data_ptr(), weight.data_ptr(), None, result.data_ptr())
    multiply(*map(ctypes.c_void_p, pointers), *map(ctypes.c_int64, (*result.shape, x.shape[1], threads)))
    return result


def _linear_shaped(x: Tensor, weight: Tensor, threads: int) -> Tensor:  # noqa: ARG001
    return x.new_empty(x.shape[0], weight.shape[0])


torch.library.custom_op("chatui::bfloat16_linear", _linear, mutates_args=()).register_fake(_linear_shaped)

SHIMS = {
    torch.ops.chatui.bfloat16_linear.default: [
        "AOTITorchError aoti_torch_cpu_bfloat16_linear(AtenTensorHandle, AtenTensorHandle, int64_t, AtenTensorHandle*)"
    ]
}
"""How a step compiled by AOTInductor calls it."""
