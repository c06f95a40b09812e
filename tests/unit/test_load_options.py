"""Precision, device and context chosen for one loading: what is valid, what is refused for lack of memory, and how."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatui.chat import LoadOptions
from chatui.engine import outline
from chatui.engine.backend import LocalBackend
from chatui.engine.batching.kv_cache import KVCache
from chatui.engine.loading import weights
from chatui.engine.runners import batch_runner, open_model
from chatui.errors import ModelError, SettingsError
from chatui.model_spec import GPU_PRECISIONS, MAX_CONTEXT, MIN_CONTEXT, PRECISIONS, ModelSpec
from chatui.stored_tensors import GGUF_LEVELS
from tests import models

SPEC = ModelSpec("owner/model", dtype="float16", quantization="int8", device_map="cpu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save(tmp_path_factory.mktemp("tiny"))


def memory(monkeypatch: pytest.MonkeyPatch, free: int, swap: int = 0) -> None:
    for module in (outline, weights, batch_runner):
        monkeypatch.setattr(module, "free_memory", lambda device_map: free)
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(free=swap))


def load(path: Path, **options: Any) -> LocalBackend:
    """The backend of a model that was loaded, or has failed."""
    backend = LocalBackend(ModelSpec(str(path), device_map="cpu").with_options(LoadOptions(**options)), path)
    return backend.load_in_this_thread()


def test_no_options_are_the_settings() -> None:
    assert SPEC.with_options(LoadOptions()) == SPEC


@pytest.mark.parametrize("precision", [*PRECISIONS, *GPU_PRECISIONS, *(kind.label for kind in GGUF_LEVELS.values())])
def test_each_precision_has_its_flags(precision: str) -> None:
    spec = SPEC.with_options(LoadOptions(precision, "cuda:1", 4096))
    expected = {**PRECISIONS, **GPU_PRECISIONS}.get(precision, ("auto", "auto"))
    assert (spec.dtype, spec.quantization, spec.device_map, spec.context) == (*expected, "cuda:1", 4096)


@pytest.mark.parametrize("precision", ["x", "none", "INT4", "int4 ", "float64", "../int4"])
def test_other_precisions_are_refused(precision: str) -> None:
    with pytest.raises(SettingsError, match="Take one of float32, bfloat16") as caught:
        SPEC.with_options(LoadOptions(precision))
    assert caught.value.field == "precision"


@given(st.text(max_size=12).filter(bool) | st.sampled_from(["disk", "cpu\n", "cuda:", "cuda:-1", "/dev/mem", "meta"]))
def test_a_device_is_one_that_torch_names(device: str) -> None:
    if device in ("auto", "cpu", "mps", "cuda", "xpu"):
        assert SPEC.with_options(LoadOptions(device=device)).device_map == device
    else:
        with pytest.raises(SettingsError, match="device"):
            SPEC.with_options(LoadOptions(device=device))


@pytest.mark.parametrize("context", [-1, 0, MIN_CONTEXT - 1, MAX_CONTEXT + 1, 10**30])
def test_an_absurd_context_is_refused(context: int) -> None:
    with pytest.raises(SettingsError, match="tokens"):
        SPEC.with_options(LoadOptions(context=context))


def test_the_model_is_loaded_as_it_was_chosen(tiny: Path) -> None:
    for precision, context in (("float32", 300), ("bfloat16", 256)):
        info = load(tiny, precision=precision, context=context).wait()
        assert info.anatomy is not None
        assert (info.precision, info.context_length) == (precision, context)
    longest = load(tiny, context=MAX_CONTEXT).wait().context_length
    assert longest == load(tiny).wait().context_length


def test_a_context_that_was_chosen_is_whole_even_where_it_takes_most_of_the_memory(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory(monkeypatch, 3_300_000)
    info = load(tiny, context=512).wait()
    assert info.context_length == 512
    assert info.slots >= 1


def test_what_is_too_large_is_refused_before_it_is_read_with_what_would_fit(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_model, "load", None)  # nothing is read
    memory(monkeypatch, 10)
    with pytest.raises(ModelError, match=r"needs .* of memory in float32 with a context of 512 tokens; 10 B are free"):
        load(tiny, context=512).wait()
    memory(monkeypatch, 1_300_000)  # int4 needs 1,219,762 bytes, float32 twice as many
    with pytest.raises(ModelError, match="In int4 it takes"):
        load(tiny, context=512, precision="float32").wait()


def test_load_anyway_takes_swap_space_and_no_more(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory(monkeypatch, free=1_000_000, swap=10**9)
    with pytest.raises(ModelError):
        load(tiny, context=512).wait()
    assert load(tiny, context=512, load_anyway=True).wait().context_length == 512
    assert load(tiny, load_anyway=True).wait().slots >= 1
    memory(monkeypatch, free=1_000, swap=1_000)
    with pytest.raises(ModelError, match="Free swap space is not enough"):
        load(tiny, context=512, load_anyway=True).wait()
    for options in ({"context": 512}, {"precision": "bfloat16"}):
        with pytest.raises(ModelError, match="are free"):
            load(tiny, load_anyway=True, **options).wait()


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory: you tried 9 B"), OSError(12)])
def test_memory_that_runs_out_is_a_failed_state(tiny: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(KVCache, "allocate", fail)
    backend = load(tiny, context=512)
    (status,) = backend.models()
    assert status.state == "failed"
    with pytest.raises(ModelError):
        backend.wait()


def test_the_prediction_counts_the_chosen_context(tiny: Path) -> None:
    spec = ModelSpec(str(tiny), device_map="cpu")
    needed = [outline.outline(replace(spec, context=context)).needed_bytes() for context in (256, 512)]
    assert needed[0] < needed[1]
