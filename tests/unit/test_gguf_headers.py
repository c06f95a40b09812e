"""Inside `read_once` each GGUF file is read once, by the names that transformers asks for; outside all is as it was."""

import inspect
import threading
from typing import Any

import gguf
import pytest
from transformers import modeling_gguf_pytorch_utils

from chatui.engine.loading.gguf_headers import read_once

module: Any = gguf


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read."""
    paths = list[str]()

    def reader(path: str) -> object:
        paths.append(path)
        return object()

    monkeypatch.setattr(module, "GGUFReader", reader)
    return paths


def test_transformers_asks_for_these_names() -> None:
    for function, name in (("load_gguf_checkpoint", "GGUFReader"), ("get_gguf_hf_weights_map", "get_tensor_name_map")):
        source = inspect.getsource(getattr(modeling_gguf_pytorch_utils, function))
        assert f"{name}(" in source, f"transformers' {function} no longer reads GGUF files by gguf.{name}"
        assert "    from gguf import" in source, (
            f"transformers' {function} no longer takes gguf.{name} when it is called"
        )


def test_each_file_is_read_once(read: list[str]) -> None:
    before = module.GGUFReader, module.get_tensor_name_map
    with read_once():
        first = module.GGUFReader("one")
        assert module.GGUFReader("one") is first
        assert module.GGUFReader("two") is not first
        arch = module.MODEL_ARCH.LLAMA
        assert module.get_tensor_name_map(arch, 2) is module.get_tensor_name_map(arch, 2)
    assert read == ["one", "two"]
    assert (module.GGUFReader, module.get_tensor_name_map) == before
    module.GGUFReader("one")
    assert read == ["one", "two", "one"]


def test_after_an_error_and_in_threads_all_is_as_before(read: list[str]) -> None:
    before = module.GGUFReader

    def fail() -> None:
        try:
            with read_once(), read_once():
                module.GGUFReader("one")
                raise RuntimeError
        except RuntimeError:
            pass

    threads = [threading.Thread(target=fail) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert module.GGUFReader is before
    assert read == ["one"] * 4
