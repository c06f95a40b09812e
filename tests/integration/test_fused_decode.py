"""A step whose layers are C++ gives the logits of the model's own, for the usual layers and for nothing else."""

import copy
import weakref
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, MistralConfig, Phi3Config, PretrainedConfig, PreTrainedModel, Qwen2Config

from chatui.engine.batching import forward, fused_decode, fused_layers
from chatui.engine.batching.forward import PromptChunk
from chatui.engine.batching.fused_decode import FusedDecode, fuse
from chatui.engine.batching.kv_cache import KVCache, KVLayout
from chatui.engine.kernels import dense, layer_ops, ops, processors
from chatui.engine.kernels.int8_kv import from_stored, to_stored
from chatui.engine.kernels.quantized import Int8GroupLinear, Int8Linear, linear_layers, quantize
from chatui.settings import AppSettings, KvDtype
from tests import models

HEADS_BY_WIDTH = {name: value for name, value in models.SMALL.items() if name != "head_dim"}
LONGROPE: dict[str, Any] = {
    **{"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 24},
    **{"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 3.0, 9.0, 20.0]},
}
WIDE = {**models.SMALL, "hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
CONFIGS: dict[str, PretrainedConfig] = {
    **{kind: models.CONFIGS[kind] for kind in ("llama", "qwen3", "gemma2", "gemma3", "gemma3_deep", "mistral", "phi3")},
    "qwen2": Qwen2Config(**models.SMALL),
    "longrope": Phi3Config(**HEADS_BY_WIDTH, original_max_position_embeddings=24, rope_parameters=LONGROPE),
    "half_rope": Phi3Config(**HEADS_BY_WIDTH, rope_parameters={**models.ROPE, "partial_rotary_factor": 0.5}),
    "wide": MistralConfig(**WIDE, sliding_window=8),
    "biased": Qwen2Config(**WIDE),
}
FUSED = ("llama", "qwen2", "qwen3", "gemma2", "gemma3", "gemma3_deep", "mistral", "phi3", "longrope", "half_rope")
OTHERS = sorted(set(models.PLAIN) - set(FUSED))
ROWS = 3
AT = (0, 5, 59, 64)
"""So many tokens behind the prompts: within a window of 8 and beyond it, in a first block and in a second."""


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    ops.load(AppSettings().cache_dir)  # once for each version of their sources
    if processors.current() is None or ops.compiler() is None:
        pytest.skip("there is no C++ compiler here")
    assert ops.function(layer_ops.FUNCTION) is not None


def model_of(kind: str, **options: int) -> PreTrainedModel:
    """A model whose norms and biases matter."""
    torch.manual_seed(0)
    config = copy.deepcopy(CONFIGS[kind])
    config.update(options)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8)
            else:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def over_blocks_of(model: PreTrainedModel, kv_dtype: KvDtype = "auto") -> forward.Forward:
    over_blocks = forward.Forward(model, models.cache_of(model, 2 * ROWS, kv_dtype))
    for row in range(ROWS):
        over_blocks.prefill([PromptChunk(models.table(row), 0, range(20 + row, 26 + row))])
    return over_blocks


def caches_of_checks(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> list[weakref.ref[torch.Tensor]]:
    """The keys and values that this module makes from now on to compare layers."""
    made, make = list[weakref.ref[torch.Tensor]](), fused_layers.random_cache

    def noted(cache: KVCache, blocks: int) -> KVCache:
        found = make(cache, blocks)
        made.extend(weakref.ref(tensor) for tensor in found.tensors)
        return found

    monkeypatch.setattr(module, "random_cache", noted)
    return made


def fused_of(over_blocks: forward.Forward) -> FusedDecode:
    fused = fuse(over_blocks.step, over_blocks.cache)
    assert isinstance(fused, FusedDecode)
    return fused


def decoded(over_blocks: forward.Forward, decode: Any, rows: list[int], after: int) -> tuple[torch.Tensor, ...]:
    """Logits and what is stored then, by this way to decode; what was stored before comes back."""
    before = [tensor.clone() for tensor in over_blocks._tensors]
    over_blocks._decode = decode
    logits = over_blocks.decode(
        [5 + row for row in rows], [models.table(row) for row in rows], [6 + row % 2 + after for row in rows]
    )
    dtype, half = over_blocks.model.dtype, len(before) // 2
    stored = [
        from_stored(tensor, dtype, 2 if at < half else 3).clone() for at, tensor in enumerate(over_blocks._tensors)
    ]
    for tensor, old in zip(over_blocks._tensors, before, strict=True):
        tensor.copy_(old)
    return logits, *stored


def check(model: PreTrainedModel, allowed: float, same_bits: bool = False, kv_dtype: KvDtype = "auto") -> None:
    """The same logits, keys and values as by the model's own step, and for a row alone as in a batch: with the
    `same_bits`, unless PyTorch's dense product of one row has others than that of several.
    """
    over_blocks = over_blocks_of(model, kv_dtype)
    fused = fused_of(over_blocks)
    for after in AT:
        found = decoded(over_blocks, fused, [0, 1, 2], after)
        expected = decoded(over_blocks, over_blocks.step, [0, 1, 2], after)
        for one, other in zip(found, expected, strict=True):
            assert (one.float() - other.float()).norm() <= allowed * other.float().norm()
        for row in range(ROWS):
            alone, together = decoded(over_blocks, fused, [row], after)[0][0], found[0][row]
            assert (alone.float() - together.float()).norm() <= allowed * together.float().norm()
            assert torch.equal(alone, together) or not same_bits


@pytest.mark.parametrize("kind", FUSED)
def test_the_usual_layers(kind: str) -> None:
    check(model_of(kind), 1e-5)


@pytest.mark.parametrize("kind", FUSED)
def test_greedy_tokens_are_those_of_generate(kind: str) -> None:
    over_blocks, ids = over_blocks_of(model_of(kind)), list(range(20, 26))
    over_blocks._decode = fused_of(over_blocks)
    [logits] = over_blocks.prefill([PromptChunk(models.table(0), 0, ids)])
    written = list[int]()
    while len(written) < 10:
        written.append(int(logits.argmax()))
        [logits] = over_blocks.decode(written[-1:], [models.table(0)], [len(ids) + len(written) - 1])
    model = model_of(kind)
    model.generation_config.eos_token_id = None
    assert written == models.generate(model, ids, 10)


@pytest.mark.parametrize("kv_dtype", ["auto", "int8"])
@pytest.mark.parametrize("in_bfloat16", [False, True])
def test_blocks_before_the_window_are_not_looked_at(in_bfloat16: bool, kv_dtype: KvDtype) -> None:
    """A sequence has given those back: see blocks.py."""
    model = model_of("mistral")
    over_blocks = over_blocks_of(model.bfloat16() if in_bfloat16 else model, kv_dtype)
    over_blocks._decode = fused_of(over_blocks)
    first, second = models.table(0)
    over_blocks.prefill([PromptChunk((first, second), 0, range(80))])
    expected = over_blocks.decode([5], [(first, second)], [80]).clone()
    for tensor in over_blocks._tensors:
        tensor[0] = -1 if kv_dtype == "int8" else float("nan")
    assert torch.equal(over_blocks.decode([5], [(0, second)], [80]), expected)


@pytest.mark.parametrize("kind", FUSED)
def test_in_bfloat16(kind: str) -> None:
    check(model_of(kind).bfloat16(), 0.06)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "mistral", "half_rope", "wide"])
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 0.01), (torch.bfloat16, 0.06)])
def test_keys_and_values_in_int8(kind: str, dtype: torch.dtype, allowed: float) -> None:
    """In float32 a number may be rounded to the next level by another rounding before."""
    model = model_of(kind)
    check(model.bfloat16() if dtype is torch.bfloat16 else model, allowed, kv_dtype="int8")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("width", [16, 24, 72])
def test_in_int8_the_bytes_are_those_that_reading_a_prompt_stores(dtype: torch.dtype, width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    heads, shared, size = 6, 2, 8
    shape = layer_ops.AttentionShape(heads, shared, size, width, 1.0, None, None)
    projected = [
        torch.randn(ROWS, n, generator=generator).to(dtype) for n in (heads * size, shared * size, shared * width)
    ]
    projected[1][0, :size], projected[2][1, 0] = 0, float("inf")
    layout = KVLayout(((shared, size, width),), dtype).in_int8()
    cache = KVCache.allocate(layout, ROWS, torch.device("cpu"))
    program, target = layer_ops.LayerProgram(ROWS, dtype), torch.zeros(ROWS, heads * width, dtype=dtype)
    program.attend(shape, 0, projected, None, (cache.keys[0], cache.values[0]), target)
    rope = torch.ones(ROWS, size, dtype=dtype), torch.zeros(ROWS, size, dtype=dtype)
    positions = torch.tensor([3, 5, 63])
    tables = torch.arange(1, ROWS + 1)[:, None].contiguous()
    program.run(layer_ops.Pieces(tables, torch.arange(ROWS + 1), positions), [rope])
    for row, at in enumerate(positions):
        for stored, found in (
            (projected[1], cache.keys[0][row + 1, :, :, at]),
            (projected[2], cache.values[0][row + 1, :, at]),
        ):
            assert torch.equal(found, to_stored(stored[row].view(shared, -1), torch.int8))
    assert target[0].isfinite().all()
    assert target[1].view(heads, width)[: heads // shared].isnan().all()


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_pytorchs_product_of_int8_levels_reads_aligned_memory(rows: int) -> None:
    """Of so many float32 numbers those in bfloat16 lay 16 bytes behind a page: with AVX-512 that crashed."""
    torch.manual_seed(0)
    layer = Int8Linear(torch.randn(48, 4096))
    program = layer_ops.LayerProgram(rows, torch.float32)
    source, target = torch.randn(rows, 4096), torch.zeros(rows, 48)
    program.product(layer, source, target)
    zeros = torch.zeros(rows, dtype=torch.long)
    program.run(layer_ops.Pieces(zeros[:, None], torch.arange(rows + 1), zeros), [])
    assert torch.equal(target, layer(source))


@pytest.mark.parametrize("kind", ["wide", "biased"])
def test_dense_layers_with_our_kernel(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(dense, "is_faster", lambda: True)
    model = model_of(kind).bfloat16()
    dense.use_kernel(model)
    assert not any(type(module) is nn.Linear for module in model.modules())
    check(model, 0.06, same_bits=True)


@pytest.mark.parametrize("kind", ["wide", "biased"])
@pytest.mark.parametrize("bits", ["int4", "int8"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_packed_layers(kind: str, bits: Any, dtype: torch.dtype) -> None:
    model = model_of(kind).bfloat16() if dtype is torch.bfloat16 else model_of(kind)
    quantize(model, bits, None, lambda _: None)
    if bits == "int8" and ops.pays_in_8_bits(ops.BLOCK):
        assert isinstance(model.get_submodule("model.layers.1.mlp.down_proj"), Int8GroupLinear)
    check(model, 0.06, same_bits=True)
    check(model, 0.06, same_bits=True, kv_dtype="int8")


@pytest.mark.parametrize("kind", ["wide", "biased"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_layers_with_levels_of_8_bits(kind: str, dtype: torch.dtype) -> None:
    model = model_of(kind, vocab_size=5 * ops.BLOCK)
    model = model.bfloat16() if dtype is torch.bfloat16 else model
    shapes = {name: layer.weight.shape for name, layer in linear_layers(model).items()}
    generator = torch.Generator().manual_seed(0)
    numbers = {name: torch.randint(-128, 128, shape, generator=generator) for name, shape in shapes.items()}
    quantize(model, None, {name: models.two_planes(each, 0) for name, each in numbers.items()}, lambda _: None)
    made = [module for module in model.modules() if isinstance(module, Int8GroupLinear)]
    assert len(made) == sum(outputs % ops.BLOCK == 0 for outputs, _ in shapes.values())
    assert isinstance(model.get_output_embeddings(), Int8GroupLinear)
    check(model, 0.06, same_bits=True)


def test_more_rows_than_before() -> None:
    over_blocks = over_blocks_of(model_of("llama"))
    fused = fused_of(over_blocks)
    alone = decoded(over_blocks, fused, [0], 0)[0]
    many = over_blocks.decode([5] * 9, [models.table(0)] * 9, [6] * 9)
    torch.testing.assert_close(many, alone.expand(9, -1), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", OTHERS)
def test_other_layers_are_left_to_the_model(kind: str) -> None:
    over_blocks = models.over_blocks(kind)
    assert fuse(over_blocks.step, over_blocks.cache) is None


def test_what_looks_usual_and_computes_something_else_is_left_to_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    over_blocks = over_blocks_of(model_of("llama"))
    layer: Any = over_blocks.model.get_submodule("model.layers.1")
    whole = layer.forward

    def scaled(hidden_states: torch.Tensor, **options: Any) -> torch.Tensor:
        """As Granite's residual multiplier."""
        result: torch.Tensor = hidden_states + 0.9 * (whole(hidden_states, **options) - hidden_states)
        return result

    monkeypatch.setattr(layer, "forward", scaled)
    assert fuse(over_blocks.step, over_blocks.cache) is None


def test_keys_and_values_of_the_check_do_not_stay_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    made = caches_of_checks(monkeypatch, fused_decode)
    fused = fused_of(over_blocks_of(model_of("llama")))
    assert made
    assert all(tensor() is None for tensor in made), fused


def test_it_is_offered_and_used() -> None:
    over_blocks = over_blocks_of(model_of("llama"))
    fused, calls = fused_of(over_blocks), list[int]()
    expected = decoded(over_blocks, over_blocks.step, [0, 1], 0)[0]

    def counted(*inputs: Any) -> torch.Tensor:
        calls.append(len(inputs[0]))
        return fused(*inputs)

    over_blocks.offer(counted)
    for _ in range(3):
        found = over_blocks.decode([5, 6], [models.table(0), models.table(1)], [6, 7])
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert over_blocks.faster
    assert len(calls) == 4, "twice at first, when it is compared"


def test_a_model_is_shared_and_not_changed() -> None:
    model = model_of("gemma3")
    layers = model.get_submodule("model.layers")
    over_blocks = over_blocks_of(model)
    ids = torch.tensor([[1, 2, 3]])
    own = copy.deepcopy(model)
    fused_of(over_blocks)
    assert model.get_submodule("model.layers") is layers
    assert not any(layer._forward_hooks for layer in model.modules())
    own.set_attn_implementation("eager")
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, own(ids).logits)
