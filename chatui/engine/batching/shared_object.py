"""A compiled step called through its C interface.

torch's own binding holds Python's lock for the whole step, so that no page is served meanwhile; ctypes lets it go. The
interface is torch/csrc/inductor/aoti_runtime/interface.h.
"""

import ctypes
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from chatui.engine.kernels.handles import from_handles, handles

ADDED = re.compile(r"constant\d+")
"""How the compiler names what it adds: allocate_non_dup_const_name in torch/_inductor/graph.py."""


class _Constant(ctypes.Structure):
    """AOTInductorConstantMapEntry."""

    _fields_ = (("name", ctypes.c_char_p), ("handle", ctypes.c_void_p))


class SharedObject:
    """One function of tensors, compiled by AOTInductor for the CPU, with `constants` by their names in the model.

    The constants are not copied; `added` is what the compiler itself may have added to them, any number of times.
    Raises RuntimeError where the library refuses, or was compiled for a constant that is not among these.
    """

    def __init__(self, path: Path, constants: Mapping[str, torch.Tensor], added: torch.Tensor) -> None:
        self._library = ctypes.CDLL(str(path))
        self._container = ctypes.c_void_p()
        self._call("CreateWithDevice", ctypes.byref(self._container), ctypes.c_size_t(1), b"cpu", None)
        count = ctypes.c_size_t()
        self._call("GetNumConstants", self._container, ctypes.byref(count))
        names = [self._text("GetConstantName", index) for index in range(count.value)]
        known = [self._text("GetConstantOriginalFQN", index).decode() for index in range(count.value)]
        missing = [name for name in known if name not in constants and not ADDED.fullmatch(name)]
        if missing:
            # Anything else in their place would be read beyond its end.
            raise RuntimeError(f"the compiled step needs {missing[0]}, which this model does not have")
        self._constants = [constants.get(name, added) for name in known]
        pairs = (_Constant * len(names))(*map(_Constant, names, handles(self._constants)))
        self._call(
            "UpdateUserManagedConstantBufferPairs", self._container, pairs, ctypes.c_size_t(len(names)), False, True
        )

    def __call__(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """The one output. Other threads go on meanwhile."""
        given = (ctypes.c_void_p * len(inputs))(*handles(inputs))
        results = (ctypes.c_void_p * 1)()
        size = ctypes.c_size_t
        self._call("Run", self._container, given, size(len(inputs)), results, size(1), None, None)
        return from_handles([results[0]])[0]

    def _text(self, function: str, index: int) -> bytes:
        text = ctypes.c_char_p()
        self._call(function, self._container, ctypes.c_size_t(index), ctypes.byref(text))
        return text.value or b""

    def _call(self, function: str, *arguments: Any) -> None:
        if getattr(self._library, f"AOTInductorModelContainer{function}")(*arguments) != 0:
            raise RuntimeError(f"the compiled step failed in {function}")
