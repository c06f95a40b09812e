"""Tensors as PyTorch's C interface knows them: torch/csrc/inductor/aoti_torch/c/shim.h."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch

# Tensors become handles, which the C side takes over, and back: torch's own functions, for calls such as these.
_to_capsules: Any = torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors
_from_capsules: Any = torch._C._aoti.alloc_tensors_by_stealing_from_void_ptrs
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
_capsule = ctypes.pythonapi.PyCapsule_New
_capsule.restype, _capsule.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)


def handles(tensors: Sequence[torch.Tensor]) -> list[int]:
    """Handles that own the tensors, until C or `from_handles` takes them over."""
    return [_pointer(capsule, None) for capsule in _to_capsules(list(tensors))]


def from_handles(owned: Sequence[int | None]) -> list[torch.Tensor]:
    """The tensors of such handles, which are then no more."""
    tensors: list[torch.Tensor] = _from_capsules([_capsule(handle, None, None) for handle in owned])
    return tensors
