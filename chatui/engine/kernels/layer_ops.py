"""The layers of a decoder as operations that layers.cpp runs in one call, for prompts or for a token in each row."""

import ctypes
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from chatui.engine.kernels import dense, ops
from chatui.engine.kernels.dense import Bfloat16Linear
from chatui.engine.kernels.handles import from_handles, handles
from chatui.engine.kernels.levels import GROUP
from chatui.engine.kernels.quantized import Int4Linear, Int8GroupLinear, Int8Linear

ADD, NORM, GATE, PRODUCT, ATTENTION = range(5)
SILU, GELU_TANH = range(2)
DENSE, INT8, INT4, OWN = range(4)
FUNCTION = "chatui_layers"


def structure(name: str, pointers: str = "", integers: str = "", reals: str = "") -> Any:
    """A structure of layers.cpp: its pointers, then its integers, then its numbers."""
    kinds = ((pointers, ctypes.c_void_p), (integers, ctypes.c_int64), (reals, ctypes.c_double))
    fields = [(field, kind) for names, kind in kinds for field in names.split()]
    return type(name, (ctypes.Structure,), {"_fields_": fields})


Rope = structure("Rope", "cosines sines", "size")
Step = structure("Step", "tables windowed_tables begins positions ropes", "rows pieces columns threads decoded")
Add = structure("Add", "added hidden", "size")
Norm = structure("Norm", "source target weight", "size plus_one", "epsilon")
Gate = structure("Gate", "gate up target", "size stride activation")
Product = structure("Product", "source target bias weight factors group own", "inputs outputs kind planes")
Attention = structure(
    "Attention",
    "query key value target keys values query_norm key_norm own",
    "query_stride key_stride value_stride heads shared size width window layer plus_one in_int8",
    "scale softcap epsilon",
)
Operation = structure("Operation", "what", "kind")


@dataclass(frozen=True)
class RmsNorm:
    """A root-mean-square norm. Numbers are multiplied by `1 + weight` where it is `plus_one`."""

    weight: Tensor
    epsilon: float
    plus_one: bool


@dataclass(frozen=True)
class AttentionShape:
    """What an attention is about: `size` of a query's and key's head, `width` of a value's."""

    heads: int
    shared: int
    size: int
    width: int
    scale: float
    window: int | None
    softcap: float | None


@dataclass(frozen=True)
class Pieces:
    """Where rows stand: those from one of `begins` [pieces + 1] to before the next are tokens one behind the other.

    Their sequence lies in the blocks of `tables` [pieces, blocks], and for layers with a window in those of
    `windowed_tables` if there are any. `positions` has shape [rows]. The first `decoded` pieces are one token each, and
    are computed as in a decode step.
    """

    tables: Tensor
    begins: Tensor
    positions: Tensor
    windowed_tables: Tensor | None = None
    decoded: int = 0


class LayerProgram:
    """Operations on rows of numbers, collected one by one and then run by one call, for up to `capacity` rows."""

    def __init__(self, capacity: int, dtype: torch.dtype) -> None:
        self.capacity, self.dtype = capacity, dtype
        self._held: list[object] = []
        self._operations: list[Any] = []
        self._array: Any = None
        self._handles: list[int] = []
        self._group = self._handle(torch.tensor(GROUP))
        weakref.finalize(self, from_handles, self._handles).atexit = False

    def __len__(self) -> int:
        return len(self._operations)

    def buffer(self, width: int) -> Tensor:
        """Room for rows of so many numbers."""
        return torch.zeros(self.capacity, width, dtype=self.dtype)

    def add(self, added: Tensor, hidden: Tensor) -> None:
        """hidden += added"""
        self._append(ADD, Add(self._at(added), self._at(hidden), hidden.shape[1]))

    def norm(self, norm: RmsNorm, source: Tensor, target: Tensor) -> None:
        """target = norm(source)"""
        at = map(self._at, (source, target, norm.weight))
        self._append(NORM, Norm(*at, source.shape[1], norm.plus_one, norm.epsilon))

    def gate(self, gate: Tensor, up: Tensor, target: Tensor, activation: int) -> None:
        """target = act(gate) * up; those two may be parts of wider rows."""
        at = map(self._at, (gate, up, target))
        self._append(GATE, Gate(*at, target.shape[1], gate.stride(0), activation))

    def product(self, layer: nn.Module, source: Tensor, target: Tensor) -> None:
        """target = layer(source), for a layer that `multiplies` knows."""
        bias: Any = layer.bias
        at = self._at(source), self._at(target), None if bias is None else self._at(bias)
        inputs, outputs = source.shape[1], target.shape[1]
        planes, own = 1, None
        weights: tuple[int | None, ...]
        if isinstance(layer, Int4Linear):
            kind, planes, weights = (
                INT4,
                layer.planes,
                (self._handle(layer.packed), self._handle(layer.scales_and_zeros)),
            )
            if layer.is_ours():
                kind, own = OWN, ops.address(ops.PRODUCT)
                weights = self._at(layer.packed), self._at(layer.scales_and_zeros)
        elif isinstance(layer, Int8GroupLinear):
            kind, own = OWN, ops.address(ops.INT8_PRODUCT)
            weights = self._at(layer.packed), self._at(layer.scales_and_zeros)
        elif isinstance(layer, Int8Linear):
            kind, weights = INT8, (self._handle(layer.levels), self._handle(layer.scales))
        elif isinstance(layer, Bfloat16Linear):
            kind, own, weights = OWN, ops.address(dense.FUNCTION), (self._at(layer.weight), None)
        else:
            weight: Any = layer.weight
            kind, weights = DENSE, (self._handle(weight.detach().t()), None)
        self._append(PRODUCT, Product(*at, *weights, self._group, own, inputs, outputs, kind, planes))

    def attend(
        self,
        shape: AttentionShape,
        layer: int,
        projections: Sequence[Tensor],
        norms: tuple[RmsNorm, RmsNorm] | None,
        cached: tuple[Tensor, Tensor],
        target: Tensor,
    ) -> None:
        """target = what the tokens take from those that they see, of query, key and value `projections`, which may be
        parts of wider rows. Keys and values are `cached` as KVCache has them.
        """
        query, key = norms or (None, None)
        at = [self._at(each) for each in (*projections, target, *cached)]
        weights = [None if each is None else self._at(each.weight) for each in (query, key)]
        row = projections[0][:1].unflatten(1, (shape.shared, -1, shape.size))
        own = ops.address(ops.ATTEND[cached[0].dtype]) if not shape.softcap and ops.attends(row, *cached) else None
        strides = [each.stride(0) for each in projections]
        plus_one, epsilon = (query.plus_one, query.epsilon) if query else (False, 0.0)
        in_int8 = cached[0].dtype is torch.int8
        sizes = shape.heads, shape.shared, shape.size, shape.width, shape.window or 0, layer, plus_one, in_int8
        reals = shape.scale, shape.softcap or 0.0, epsilon
        self._append(ATTENTION, Attention(*at, *weights, own, *strides, *sizes, *reals))

    def run(
        self, pieces: Pieces, ropes: Sequence[tuple[Tensor, Tensor]], begin: int = 0, end: int | None = None
    ) -> None:
        """Run all, or some of the operations, for the rows of `pieces`. Raises RuntimeError.

        `ropes` are the cosines and sines of each layer, of `size` numbers for each row.
        """
        if self._array is None:
            self._array = (Operation * len(self))(*self._operations)
        encoded = (Rope * len(ropes))(*((c.data_ptr(), s.data_ptr(), c.shape[-1]) for c, s in ropes))
        windowed = pieces.tables if pieces.windowed_tables is None else pieces.windowed_tables
        at = [tensor.data_ptr() for tensor in (pieces.tables, windowed, pieces.begins, pieces.positions)]
        sizes = len(pieces.positions), *pieces.tables.shape, torch.get_num_threads(), pieces.decoded
        step = Step(*at, ctypes.addressof(encoded), *sizes)
        first = ctypes.byref(self._array, begin * ctypes.sizeof(Operation))
        count = ctypes.c_int64((len(self) if end is None else end) - begin)
        function: Any = ops.function(FUNCTION)
        if function is None or function(first, count, ctypes.byref(step), ctypes.c_int64(self.dtype is torch.bfloat16)):
            raise RuntimeError("the layers could not be computed")

    def _append(self, kind: int, what: Any) -> None:
        self._held.append(what)
        self._array = None
        self._operations.append(Operation(ctypes.addressof(what), kind))

    def _at(self, tensor: Tensor) -> int:
        self._held.append(tensor)
        return tensor.data_ptr()

    def _handle(self, tensor: Tensor) -> int:
        [handle] = handles([tensor])
        self._handles.append(handle)
        return handle


def multiplies(layer: object, dtype: torch.dtype) -> bool:
    """Whether this is a linear layer as `LayerProgram.product` takes it, in a model of this type."""
    if isinstance(layer, nn.Linear) and type(layer) in (nn.Linear, Bfloat16Linear):
        return layer.weight.dtype is dtype and layer.weight.device.type == "cpu"
    return type(layer) in (Int4Linear, Int8GroupLinear, Int8Linear)


def has_own_rows(layer: nn.Module) -> bool:
    """Whether what this layer makes of a row has the same bits whatever rows are beside it: our kernels do that."""
    return isinstance(layer, Int8GroupLinear | Bfloat16Linear) or (isinstance(layer, Int4Linear) and layer.is_ours())
