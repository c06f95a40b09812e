"""A compiled step takes the constants for which it was compiled, and no others."""

import ctypes
from pathlib import Path
from typing import Any

import pytest
import torch

from chatui.engine.batching.shared_object import SharedObject
from chatui.engine.kernels.handles import from_handles


class Library:
    """What AOTInductor makes, for constants of these names."""

    def __init__(self, *names: str) -> None:
        self.names, self.given = names, dict[str, torch.Tensor]()

    def __getattr__(self, function: str) -> Any:
        return getattr(self, f"_{function.removeprefix('AOTInductorModelContainer')}")

    def _CreateWithDevice(self, *_: Any) -> int:  # noqa: N802
        return 0

    def _GetNumConstants(self, _: Any, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self.names)
        return 0

    def _GetConstantOriginalFQN(self, _: Any, index: Any, name: Any) -> int:  # noqa: N802
        name._obj.value = self.names[index.value].encode()
        return 0

    _GetConstantName = _GetConstantOriginalFQN

    def _UpdateUserManagedConstantBufferPairs(self, _: Any, pairs: Any, *__: Any) -> int:  # noqa: N802
        tensors = from_handles([pair.handle for pair in pairs])
        self.given = {pair.name.decode(): tensor for pair, tensor in zip(pairs, tensors, strict=True)}
        return 0


def opened(monkeypatch: pytest.MonkeyPatch, *names: str) -> Library:
    library, group = Library(*names), torch.tensor(32)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    SharedObject(Path("step.so"), {"head.levels": torch.ones(2), "head.scales": torch.ones(3)}, group)
    return library


def test_it_gets_the_models_own_and_what_the_compiler_added(monkeypatch: pytest.MonkeyPatch) -> None:
    given = opened(monkeypatch, "head.levels", "constant36", "head.scales", "constant37").given
    assert {name: tensor.tolist() for name, tensor in given.items()} == {
        "head.levels": [1, 1],
        "constant36": 32,
        "head.scales": [1, 1, 1],
        "constant37": 32,
    }


@pytest.mark.parametrize("name", ["head.packed", "constants.weight", "lifted_tensor_0"])
def test_a_step_for_another_constant_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with pytest.raises(RuntimeError, match=f"needs {name}"):
        opened(monkeypatch, "head.levels", "constant36", name)
