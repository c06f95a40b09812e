"""Prompts read by layers in C++ give the logits, keys and values of the model's own, however they are cut."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import pytest
import torch
from transformers import PreTrainedModel

from chatui.engine.batching import fused_prefill
from chatui.engine.batching.blocks import BLOCK
from chatui.engine.batching.forward import Forward, PromptChunk
from chatui.engine.batching.fused_decode import FusedDecode
from chatui.engine.batching.fused_prefill import FusedPrefill, fuse_prefill
from chatui.engine.batching.scheduler import Scheduler
from chatui.engine.batching.sequence_state import SequenceState
from chatui.engine.kernels import ops, processors
from chatui.engine.kernels.int8_kv import from_stored
from chatui.engine.kernels.quantized import quantize
from chatui.engine.sampling.sampler import Sampler
from chatui.generation_settings import GenerationSettings
from chatui.settings import AppSettings, KvDtype
from tests import models
from tests.integration.test_fused_decode import FUSED, caches_of_checks, fused_of, model_of, over_blocks_of

IDS = [20 + at % 25 for at in range(90)]
CUTS = ((90,), (64, 26), (1, 5, 57, 1, 26), (70, 20))
AT = (70, 63)
"""Rows that are decoded beside prompts stand at these positions."""


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    ops.load(AppSettings().cache_dir)  # once for each version of their sources
    if processors.current() is None or ops.compiler() is None:
        pytest.skip("this CPU lacks AVX2, or there is no C++ compiler here")


@pytest.fixture(autouse=True)
def always_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models say nothing of speed."""

    def seconds(*calls: Callable[[], object], **_: Any) -> list[float]:
        for call in calls:
            call()
        return [1.0, 2.0]

    monkeypatch.setattr(fused_prefill, "seconds", seconds)


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


@pytest.mark.parametrize("kind", ["wide", "biased"])
@pytest.mark.parametrize("bits", ["int4", "int8"])
@pytest.mark.parametrize(
    ("dtype", "kv_dtype"), [(torch.float32, "auto"), (torch.bfloat16, "auto"), (torch.bfloat16, "int8")]
)
def test_rows_that_are_decoded_beside_prompts_have_the_bits_that_they_have_alone(
    kind: str, bits: Any, dtype: torch.dtype, kv_dtype: KvDtype
) -> None:
    over_blocks, _ = mixing(kind, bits, dtype, kv_dtype)
    piece = PromptChunk(models.table(2), 0, IDS, len(IDS))
    alone = torch.cat([over_blocks.decode([5 + row], [models.table(row)], [AT[row]]) for row in (0, 1)])
    read_alone, kept = over_blocks.prefill([piece]), [stored(over_blocks, row) for row in range(3)]
    rows = [PromptChunk(models.table(row), AT[row], [5 + row]) for row in (0, 1)]
    for decoded, pieces in ((rows, [piece]), (rows[1:], [piece]), (rows, [PromptChunk(models.table(2), 0, IDS[:70])])):
        assert over_blocks.mixes(len(decoded))
        logits = over_blocks.mixed(decoded, pieces)
        assert torch.equal(logits[: len(decoded)], alone[-len(decoded) :])
        assert torch.equal(logits[len(decoded) :], read_alone) or pieces[0] is not piece
        for row, before in enumerate(kept):
            assert all(map(torch.equal, stored(over_blocks, row), before)), row


def mixing(kind: str, bits: Any, dtype: torch.dtype, kv_dtype: KvDtype = "auto") -> tuple[Forward, FusedPrefill]:
    """A packed model that may read and write in one pass, and has read something in the rows 0 and 1."""
    model = model_of(kind, vocab_size=5 * ops.BLOCK, num_attention_heads=8, num_key_value_heads=4)
    quantize(model.bfloat16() if dtype is torch.bfloat16 else model, bits, None, lambda _: None)
    over_blocks = over_blocks_of(model, kv_dtype)
    decode = fused_of(over_blocks)
    if not decode.has_own_rows:
        pytest.skip("PyTorch's own products are faster here")
    fused = fuse_prefill(decode, over_blocks.cache)
    assert isinstance(fused, FusedPrefill)
    over_blocks.use_prefill(fused, decode)
    over_blocks.offer(decode)
    for row in (0, 1):
        over_blocks.prefill([PromptChunk(models.table(row), 0, IDS[: AT[row]])])
    for rows in (1, 2):
        for _ in range(2):
            over_blocks.decode([5, 6][:rows], [models.table(row) for row in range(rows)], AT[:rows])
    return over_blocks, fused


def test_dense_layers_are_not_decoded_beside_prompts() -> None:
    """A row's product may be rounded otherwise there, beside other rows."""
    assert not fused_of(over_blocks_of(model_of("llama"))).has_own_rows


def test_no_rows_are_decoded_beside_prompts_before_the_step_is_checked() -> None:
    over_blocks, fused = mixing("wide", "int4", torch.float32)
    over_blocks.offer(fused.decode)
    assert not over_blocks.mixes(1)
    over_blocks.decode([5], [models.table(0)], [AT[0]])
    over_blocks.decode([5], [models.table(0)], [AT[0]])
    assert over_blocks.mixes(1)
    assert not over_blocks.mixes(2)


def test_after_an_error_nothing_is_decoded_beside_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    over_blocks, fused = mixing("wide", "int4", torch.float32)

    def failed(*_: Any) -> None:
        raise RuntimeError("the layers could not be computed")

    monkeypatch.setattr(fused, "compute", failed)
    row, piece = PromptChunk(models.table(0), AT[0], [5]), PromptChunk(models.table(2), 0, IDS)
    with pytest.raises(RuntimeError):
        over_blocks.mixed([row], [piece])
    assert not over_blocks.mixes(1)
    assert over_blocks.prefill([piece]).isfinite().all()


@pytest.mark.parametrize("bits", ["int4", "int8"])
def test_replies_are_the_same_whoever_comes_meanwhile(bits: Any) -> None:
    over_blocks, _ = mixing("wide", bits, torch.bfloat16)
    batch = Scheduler(over_blocks, 4, 6 * BLOCK)

    def write(prompt: list[int], seed: int, newcomers: Sequence[list[int]]) -> list[int]:
        """A reply, beside which somebody comes at every other step."""
        batch.pool.clear()
        row = batch.add(tuple(prompt), Sampler(GenerationSettings(temperature=1.0), seed))
        assert row is not None
        left, beside = list(newcomers), list[SequenceState]()
        while len(row.output_ids) < 12:
            if left and row.output_ids and batch.can_admit(left[0]):
                beside += filter(None, [batch.add(tuple(left.pop()), Sampler(GenerationSettings(), 1))])
            batch.step()
        assert not newcomers or any(other.output_ids for other in beside)
        for other in [row, *beside]:
            batch.finish(other)
        return row.output_ids

    with patch.object(over_blocks, "mixed", wraps=over_blocks.mixed) as mixed:
        for seed in range(3):
            alone = write(IDS[:20], seed, [])
            calls = mixed.call_count
            assert write(IDS[:20], seed, [IDS[30:60], IDS[:50], IDS[5:9]]) == alone
            assert mixed.call_count > calls


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
