"""A compiled step called through its C interface.

torch's own binding holds Python's lock for the whole step, so that no page is served meanwhile; ctypes lets it go. The
interface is torch/csrc/inductor/aoti_runtime/interface.h.
"""

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

# Tensors become handles, which the C side takes over, and back: torch's own functions, for calls such as these.
_to_capsules: Any = torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors
_from_capsules: Any = torch._C._aoti.alloc_tensors_by_stealing_from_void_ptrs
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
_capsule = ctypes.pythonapi.PyCapsule_New
_capsule.restype, _capsule.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)


class _Constant(ctypes.Structure):
    """AOTInductorConstantMapEntry."""

    _fields_ = (("name", ctypes.c_char_p), ("handle", ctypes.c_void_p))


class SharedObject:
    """One function of tensors, compiled by AOTInductor for the CPU, with `constants` by their names in the model.

    The constants are not copied; `added` is what the compiler itself may have added to them. Raises RuntimeError where
    the library refuses.
    """

    def __init__(self, path: Path, constants: Mapping[str, torch.Tensor], added: torch.Tensor) -> None:
        self._library = ctypes.CDLL(str(path))
        self._container = ctypes.c_void_p()
        self._call("CreateWithDevice", ctypes.byref(self._container), ctypes.c_size_t(1), b"cpu", None)
        count = ctypes.c_size_t()
        self._call("GetNumConstants", self._container, ctypes.byref(count))
        names = [self._text("GetConstantName", index) for index in range(count.value)]
        known = [self._text("GetConstantOriginalFQN", index).decode() for index in range(count.value)]
        self._constants = [constants.get(name, added) for name in known]
        pairs = (_Constant * len(names))(*map(_Constant, names, _handles(self._constants)))
        self._call(
            "UpdateUserManagedConstantBufferPairs", self._container, pairs, ctypes.c_size_t(len(names)), False, True
        )

    def __call__(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """The one output. Other threads go on meanwhile."""
        handles = (ctypes.c_void_p * len(inputs))(*_handles(inputs))
        results = (ctypes.c_void_p * 1)()
        size = ctypes.c_size_t
        self._call("Run", self._container, handles, size(len(inputs)), results, size(1), None, None)
        result: torch.Tensor = _from_capsules([_capsule(results[0], None, None)])[0]
        return result

    def _text(self, function: str, index: int) -> bytes:
        text = ctypes.c_char_p()
        self._call(function, self._container, ctypes.c_size_t(index), ctypes.byref(text))
        return text.value or b""

    def _call(self, function: str, *arguments: Any) -> None:
        if getattr(self._library, f"AOTInductorModelContainer{function}")(*arguments) != 0:
            raise RuntimeError(f"the compiled step failed in {function}")


def _handles(tensors: Sequence[torch.Tensor]) -> list[int]:
    return [_pointer(capsule, None) for capsule in _to_capsules(list(tensors))]
