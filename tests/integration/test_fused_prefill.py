"""Prompts read by layers in C++ give the logits, keys and values of the model's own, however they are cut."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from chatui.engine.batching import fused_prefill
from chatui.engine.batching.forward import Forward, PromptChunk
from chatui.engine.batching.fused_decode import FusedDecode
from chatui.engine.batching.fused_prefill import FusedPrefill, fuse_prefill
from chatui.engine.kernels import ops, processors
from chatui.engine.kernels.int8_kv import from_stored
from chatui.engine.kernels.quantized import quantize
from chatui.settings import AppSettings, KvDtype
from tests import models
from tests.integration.test_fused_decode import FUSED, caches_of_checks, fused_of, model_of, over_blocks_of

IDS = [20 + at % 25 for at in range(90)]
CUTS = ((90,), (64, 26), (1, 5, 57, 1, 26), (70, 20))


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    ops.load(AppSettings().cache_dir)  # once for each version of their sources
    if processors.current() is None or ops.compiler() is None:
        pytest.skip("this CPU lacks AVX2, or there is no C++ compiler here")


@pytest.fixture(autouse=True)
def always_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models say nothing of speed."""
    monkeypatch.setattr(fused_prefill, "seconds", lambda *_, **__: [1.0, 2.0])


def with_fused_prompts(model: PreTrainedModel, kv_dtype: KvDtype = "auto") -> tuple[Forward, FusedPrefill]:
    over_blocks = over_blocks_of(model, kv_dtype)
    fused = fuse_prefill(fused_of(over_blocks), over_blocks.cache)
    assert isinstance(fused, FusedPrefill)
    return over_blocks, fused


def read(over_blocks: Forward, fused: FusedPrefill | None, cuts: tuple[int, ...], row: int = 0) -> list[torch.Tensor]:
    """The last logits, and what is stored, after this row has read all ids."""
    over_blocks._faster_prefill = fused
    ends = list(itertools.accumulate(cuts))
    logits = [
        over_blocks.prefill([PromptChunk(models.table(row), begin, IDS[begin:end], len(IDS))])[0]
        for begin, end in itertools.pairwise([0, *ends])
    ]
    if fused is not None:
        assert over_blocks._faster_prefill is fused, "it failed"
    return [logits[-1], *stored(over_blocks, row)]


def stored(over_blocks: Forward, row: int) -> list[torch.Tensor]:
    """Keys and values of a row's tokens: [kv heads, size, tokens] and [kv heads, tokens, size] of each layer."""
    dtype, (keys, values) = over_blocks.model.dtype, models.stored_in(over_blocks.cache, models.table(row))
    return [
        *(torch.cat(list(from_stored(each, dtype, 2)), 2)[:, :, : len(IDS)] for each in keys),
        *(torch.cat(list(from_stored(each, dtype, 3)), 1)[:, : len(IDS)] for each in values),
    ]


def check(model: PreTrainedModel, allowed: float, same_bits: bool = False, kv_dtype: KvDtype = "auto") -> None:
    """As the model's own layers read it; with the `same_bits` however it is cut and whatever is read beside it, unless
    PyTorch's dense product of few rows has others than that of many.
    """
    over_blocks, fused = with_fused_prompts(model, kv_dtype)
    expected = read(over_blocks, None, CUTS[0])
    whole = read(over_blocks, fused, CUTS[0])
    for cuts in CUTS:
        for found, own, other in zip(read(over_blocks, fused, cuts), whole, expected, strict=True):
            assert (found.float() - other.float()).norm() <= allowed * other.float().norm(), cuts
            assert torch.equal(found, own) or not same_bits, cuts
    over_blocks._faster_prefill = fused
    beside = [PromptChunk(models.table(1), 0, IDS[:50], 50), PromptChunk(models.table(0), 0, IDS, len(IDS))]
    together = over_blocks.prefill(beside)[1]
    assert (together.float() - whole[0].float()).norm() <= allowed * whole[0].float().norm()
    if same_bits:
        assert torch.equal(together, whole[0])
        assert all(map(torch.equal, stored(over_blocks, 0), whole[1:]))


@pytest.mark.parametrize("kind", FUSED)
def test_the_usual_layers(kind: str) -> None:
    check(model_of(kind), 1e-4)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "mistral", "half_rope"])
def test_in_bfloat16(kind: str) -> None:
    check(model_of(kind).bfloat16(), 0.06)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "mistral", "wide"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_keys_and_values_in_int8(kind: str, dtype: torch.dtype) -> None:
    model = model_of(kind)
    check(model.bfloat16() if dtype is torch.bfloat16 else model, 0.06, kv_dtype="int8")


@pytest.mark.parametrize("kind", ["wide", "biased"])
@pytest.mark.parametrize("bits", ["int4", "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_layers_have_the_same_bits_however_a_prompt_is_cut(kind: str, bits: Any, dtype: torch.dtype) -> None:
    model = model_of(kind).bfloat16() if dtype is torch.bfloat16 else model_of(kind)
    quantize(model, bits, None, lambda _: None)
    check(model, 0.06, same_bits=True)
    check(model, 0.06, same_bits=True, kv_dtype="int8")


@pytest.mark.parametrize("kind", FUSED)
def test_greedy_tokens_are_those_of_generate(kind: str) -> None:
    over_blocks, fused = with_fused_prompts(model_of(kind))
    over_blocks._decode = fused_of(over_blocks)
    logits = read(over_blocks, fused, CUTS[1])[0]
    written = list[int]()
    while len(written) < 10:
        written.append(int(logits.argmax()))
        [logits] = over_blocks.decode(written[-1:], [models.table(0)], [len(IDS) + len(written) - 1])
    model = model_of(kind)
    model.generation_config.eos_token_id = None
    assert written == models.generate(model, IDS, 10)


def test_keys_and_values_of_the_check_do_not_stay_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    made = caches_of_checks(monkeypatch, fused_prefill)
    _, fused = with_fused_prompts(model_of("llama"))
    assert made
    assert all(tensor() is None for tensor in made), fused


def test_it_is_not_used_where_it_is_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_prefill, "seconds", lambda *_, **__: [2.0, 1.0])
    over_blocks = over_blocks_of(model_of("llama"))
    assert fuse_prefill(fused_of(over_blocks), over_blocks.cache) is None


def test_it_is_not_used_where_a_layer_computes_something_else() -> None:
    over_blocks = over_blocks_of(model_of("llama"))
    decode = fused_of(over_blocks)
    other = over_blocks_of(model_of("qwen3"))
    wrong = FusedDecode(over_blocks.model, decode.list_name, [fused_of(other).layers[0], *decode.layers[1:]])
    assert fuse_prefill(wrong, over_blocks.cache) is None


def test_after_an_error_the_models_own_layers_read_on(monkeypatch: pytest.MonkeyPatch) -> None:
    over_blocks, fused = with_fused_prompts(model_of("llama"))
    expected = read(over_blocks, None, CUTS[0])[0]

    def failed(*_: Any) -> None:
        raise RuntimeError("the layers could not be computed")

    run: Callable[..., None] = failed
    monkeypatch.setattr(fused.program, "run", run)
    monkeypatch.setattr(fused, "build", lambda *_: None)
    over_blocks._faster_prefill = fused
    [logits] = over_blocks.prefill([PromptChunk(models.table(0), 0, IDS)])
    assert torch.equal(logits, expected)
    assert over_blocks._faster_prefill is None
