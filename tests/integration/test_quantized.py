"""Packed linear layers: a GGUF file's levels to the last one, rounding within its bounds, and what stays as it was."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForCausalLM, MambaConfig

from chatui.engine.kernels import ops
from chatui.engine.kernels.levels import GROUP, GgufLevels, Levels, LevelsFile, joined, packed, save, unpacked
from chatui.engine.kernels.quantized import Int4Linear, Int8GroupLinear, Int8Linear, of_levels, quantize
from chatui.engine.kernels.rounding import rounded
from chatui.engine.loading import embedded, loader
from chatui.model_spec import ModelSpec
from chatui.settings import DEFAULT_MODEL, AppSettings
from tests import models

KINDS = {
    "Q4_0": gguf.GGMLQuantizationType.Q4_0,
    "Q4_1": gguf.GGMLQuantizationType.Q4_1,
    "Q8_0": gguf.GGMLQuantizationType.Q8_0,
}
K_KINDS = {
    "Q4_K": gguf.GGMLQuantizationType.Q4_K,
    "Q5_K": gguf.GGMLQuantizationType.Q5_K,
    "Q6_K": gguf.GGMLQuantizationType.Q6_K,
}
# How far off bfloat16 can be, relative to the number.
HALF_STEP = 2**-8


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def write_gguf(path: Path, tensors: dict[str, tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Quantize and write the tensors; returns what a reader makes of them, float32."""
    data = {
        name: (gguf.quants.quantize(weight.numpy(), KINDS[kind]), KINDS[kind])
        for name, (kind, weight) in tensors.items()
    }
    return write_blocks(path, data)


def write_blocks(path: Path, tensors: Mapping[str, tuple[Any, gguf.GGMLQuantizationType]]) -> dict[str, torch.Tensor]:
    """Write quantized tensors, uint8 [rows, bytes]; returns what a reader makes of them, float32."""
    writer = gguf.GGUFWriter(path, "llama")
    read = {}
    for name, (data, kind) in tensors.items():
        writer.add_tensor(name, data, raw_dtype=kind)
        read[name] = torch.from_numpy(gguf.quants.dequantize(data, kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return read


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_a_gguf_files_levels_are_kept_with_their_rows_in_any_order(
    tmp_path: Path, kind: str, dtype: torch.dtype
) -> None:
    order = torch.randperm(48, generator=torch.Generator().manual_seed(1))
    read = write_gguf(tmp_path / "a.gguf", {"x": (kind, noise(48, 64)), "y": (kind, noise(48, 64, seed=2))})
    weights = {"first": read["y"].to(dtype), "second": read["x"][order].to(dtype), "other": noise(48, 64, seed=3)}
    levels = GgufLevels(tmp_path / "a.gguf", weights)
    assert set(levels) == {"first", "second"}
    assert levels.label == kind
    for name, tensor, expected in (("first", "y", read["y"]), ("second", "x", read["x"][order])):
        scale, low, numbers = blocks(tmp_path / "a.gguf", tensor)
        if name == "second":
            scale, low, numbers = scale[order], low[order], numbers[order]
        found = levels[name]
        assert torch.equal(kept_numbers(found, kind, 64), numbers.flatten(1))
        error = (found.dequantized(64) - expected).abs().reshape(48, -1, GROUP)
        # Scale and zero are rounded to bfloat16, by which the weight is off as far as they reach.
        reach = 16 * scale.abs() + low.abs() if kind != "Q8_0" else 128 * scale
        assert (error <= HALF_STEP * reach).all()


def k_blocks(kind: str, rows: int, blocks: int, seed: int) -> Any:
    """Any numbers and small scales, uint8 [rows, bytes]: the gguf package reads these types, but writes none."""
    random = np.random.default_rng(seed)
    size = gguf.GGML_QUANT_SIZES[K_KINDS[kind]][1]
    data = random.integers(0, 256, (rows, blocks, size), dtype=np.uint8)
    scales = random.uniform(-0.02, 0.02, (rows, blocks, 2)).astype(np.float16).view(np.uint8)
    if kind == "Q6_K":
        data[..., 208:] = scales[..., :2]
    else:
        data[..., :4] = scales
    return data.reshape(rows, -1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", K_KINDS)
def test_the_levels_of_k_quants_are_kept(tmp_path: Path, kind: str, dtype: torch.dtype) -> None:
    read = write_blocks(tmp_path / "a.gguf", {"x": (k_blocks(kind, 48, 2, seed=1), K_KINDS[kind])})["x"]
    levels = GgufLevels(tmp_path / "a.gguf", {"layer": read.to(dtype), "other": noise(48, 512)})
    assert (set(levels), levels.label) == ({"layer"}, kind)
    kept = levels["layer"].dequantized(512)
    error, groups = (kept - read).reshape(48, -1, GROUP).abs(), read.reshape(48, -1, GROUP)
    reach = groups.amax(-1, keepdim=True) - groups.amin(-1, keepdim=True)
    # Besides the rounding of scales and minima: of two scales of Q6_K the smaller one's numbers move by an eighth of
    # the larger one's unit, which is a 63rd of what it reaches.
    moved = reach / 32 / 8 if kind == "Q6_K" else 0
    assert (error <= HALF_STEP * (reach + groups.abs().amax(-1, keepdim=True)) + moved).all()
    unrounded = (groups - groups.mean(-1, keepdim=True)).norm()
    assert error.norm() < 0.01 * unrounded


def blocks(path: Path, name: str) -> tuple[torch.Tensor, ...]:
    """Scale, minimum and numbers of each block as the gguf package reads them: float32 [48, blocks, 1 or 32]."""
    (tensor,) = (tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == name)
    kind = tensor.tensor_type
    size = gguf.GGML_QUANT_SIZES[kind][1]
    raw = np.array(tensor.data).reshape(48, -1, size)
    scale = torch.from_numpy(raw[..., :2].copy().view(np.float16).astype(np.float32))
    low = torch.zeros_like(scale)
    if kind == KINDS["Q4_1"]:
        low = torch.from_numpy(raw[..., 2:4].copy().view(np.float16).astype(np.float32))
    values = torch.from_numpy(gguf.quants.dequantize(np.array(tensor.data), kind)).reshape(48, -1, GROUP)
    return scale, low, ((values - low) / scale).round()


def kept_numbers(levels: Levels, kind: str, columns: int) -> torch.Tensor:
    """The numbers that a block holds: -8..7, 0..15 or -128..127."""
    numbers = unpacked(levels.nibbles).float()
    if kind == "Q8_0":
        return 16 * (numbers[:, :columns] - 8) + numbers[:, columns:]
    return numbers - 8 if kind == "Q4_0" else numbers


def test_a_tied_embedding_gives_the_output_layer_its_levels_of_two_planes(tmp_path: Path) -> None:
    model = tied_model()
    read = write_gguf(tmp_path / "a.gguf", {"token_embd.weight": ("Q8_0", noise(272, 32))})
    with torch.no_grad():
        model.lm_head.weight.copy_(read["token_embd.weight"])
    levels = GgufLevels(tmp_path / "a.gguf", {"lm_head": model.lm_head.weight})
    dense = quantize(model, None, levels, lambda _: None)
    assert "lm_head" not in dense
    assert model.lm_head.planes == 2
    assert type(model.get_input_embeddings()) is nn.Embedding
    assert not model.config.tie_word_embeddings
    model.tie_weights()
    assert isinstance(model.lm_head, Int4Linear)
    x = noise(3, 32)
    exact = x.bfloat16().float() @ read["token_embd.weight"].T
    assert (model.lm_head(x) - exact).abs().max() < 0.01 * exact.abs().max()


def test_levels_are_written_and_read_as_they_are(tmp_path: Path) -> None:
    read = write_gguf(tmp_path / "a.gguf", {"x": ("Q4_1", noise(16, 64))})
    levels = GgufLevels(tmp_path / "a.gguf", {"layer": read["x"]})
    save(levels, tmp_path / "levels.safetensors")
    kept = LevelsFile(tmp_path / "levels.safetensors")
    assert (list(kept), len(kept), kept.label) == (["layer"], 1, "Q4_1")
    assert torch.equal(kept["layer"].nibbles, levels["layer"].nibbles)
    assert torch.equal(kept["layer"].scales_and_zeros, levels["layer"].scales_and_zeros)
    assert kept.get("other") is None


@given(st.binary(min_size=32, max_size=32))
def test_nibbles_come_back(data: bytes) -> None:
    levels = torch.frombuffer(bytearray(data), dtype=torch.uint8) & 15
    assert torch.equal(unpacked(packed(levels)), levels)


@given(st.binary(min_size=64, max_size=64), st.integers(0, 1000))
def test_two_planes_joined_are_the_same_weights(data: bytes, seed: int) -> None:
    numbers = torch.frombuffer(bytearray(data), dtype=torch.int8).view(2, 32)
    levels = models.two_planes(numbers.short(), seed)
    assert torch.equal(joined(levels.nibbles), numbers)
    factors = levels.of_joined(32)
    assert factors is not None
    scale, zero = factors[0].float().unsqueeze(-1).unbind(1)
    torch.testing.assert_close(numbers * scale + zero, levels.dequantized(32), atol=1e-6, rtol=1e-5)
    assert Levels(levels.nibbles[:, :16], levels.scales_and_zeros[:1]).of_joined(32) is None


@pytest.mark.parametrize("kind", ["Q8_0", *K_KINDS])
def test_levels_of_8_bits_in_a_gguf_file_can_be_joined(tmp_path: Path, kind: str) -> None:
    if kind == "Q8_0":
        read = write_gguf(tmp_path / "a.gguf", {"x": (kind, noise(64, 256))})["x"]
    else:
        read = write_blocks(tmp_path / "a.gguf", {"x": (k_blocks(kind, 64, 1, seed=1), K_KINDS[kind])})["x"]
    levels = GgufLevels(tmp_path / "a.gguf", {"layer": read})["layer"]
    assert (levels.of_joined(256) is None) == (kind == "Q4_K")


@pytest.mark.parametrize("kind", ["int4", "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_packed_layer_is_its_dense_one_in_any_type_and_shape(kind: str, dtype: torch.dtype) -> None:
    layer = nn.Linear(64, 48)
    made: Any = pack(layer, kind)
    x = noise(2, 3, 64).to(dtype)
    y = made(x)
    dense = layer(x.float())
    assert (y.dtype, y.shape) == (dtype, (2, 3, 48))
    assert (y.float() - dense).norm() < 0.1 * dense.norm()
    assert torch.equal(made.bias, layer.bias.bfloat16())
    assert (made.weight.float() - layer.weight).norm() < 0.1 * layer.weight.norm()
    assert made(x[:0]).shape == (0, 3, 48)
    assert (made.in_features, made.out_features) == (64, 48)
    assert "in_features=64" in repr(made)


def pack(layer: nn.Linear, kind: str) -> nn.Module:
    if kind == "int8":
        return Int8Linear(layer.weight, layer.bias)
    if kind == "two planes":
        return of_levels(models.two_planes((layer.weight * 1000).round().short(), 0), layer.in_features, layer.bias)
    return Int4Linear(rounded(layer.weight), layer.in_features, layer.bias)


@pytest.mark.parametrize("kind", ["int4", "int8", "two planes"])
def test_a_packed_layer_can_be_exported(kind: str) -> None:
    made = pack(nn.Linear(64, 64), kind)
    x = noise(2, 64).bfloat16()
    assert torch.equal(torch.export.export(made, (x,)).module()(x), made(x))


def test_many_rows_are_packed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, kinds = nn.Linear(64, 448), ("int4", "int8", "two planes")
    whole = [pack(layer, kind).state_dict() for kind in kinds]
    for module in ("levels", "rounding", "quantized"):
        monkeypatch.setattr(f"chatui.engine.kernels.{module}.CHUNK", 64 * 64)
    for kind, expected in zip(kinds, whole, strict=True):
        parts = pack(layer, kind).state_dict()
        assert all(torch.equal(parts[name], expected[name]) for name in expected)


def tied_model() -> Any:
    config = type(models.CONFIGS["llama"])(**{**models.SMALL, "vocab_size": 272, "tie_word_embeddings": True})
    return AutoModelForCausalLM.from_config(config).bfloat16().eval()


def test_shapes_that_do_not_fit_stay_dense_and_phases_are_told() -> None:
    model: Any = AutoModelForCausalLM.from_config(models.CONFIGS["llama"]).bfloat16()
    phases: list[str] = []
    dense = quantize(model, "int4", None, phases.append)
    # 48 columns are no whole groups of 32; the output layer of 265 rows is int8.
    assert dense == ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"]
    assert type(model.model.layers[0].mlp.down_proj) is nn.Linear
    assert isinstance(model.model.layers[0].self_attn.q_proj, Int4Linear)
    assert isinstance(model.lm_head, Int8Linear)
    assert phases[0] == "packing the weights: 0 %"


@pytest.mark.parametrize("kind", ["int4", "int8"])
def test_mamba_is_packed_but_for_the_weights_that_it_reads_itself(kind: Any) -> None:
    config = MambaConfig(vocab_size=272, hidden_size=64, state_size=8, num_hidden_layers=2, time_step_rank=32)
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config).bfloat16().eval()
    ids = torch.arange(12)[None]
    with torch.no_grad():
        expected = model(ids).logits.float()
        assert quantize(model, kind, None, lambda _: None) == [f"backbone.layers.{n}.mixer.dt_proj" for n in range(2)]
        found = model(ids).logits.float()
    assert (found - expected).norm() < 0.2 * expected.norm()


@pytest.mark.parametrize("kind", ["int4", "int8"])
def test_a_packed_layer_takes_numbers_that_lie_apart(kind: str) -> None:
    layer = pack(nn.Linear(64, 64).bfloat16(), kind)
    apart = noise(64, 5).bfloat16().T
    assert torch.equal(layer(apart), layer(apart.contiguous()))


@pytest.mark.parametrize("kind", ["mamba2", "lfm2", "gemma3", "qwen3_moe", "mixtral"])
@pytest.mark.parametrize("quantization", ["int4", "int8"])
def test_other_kinds_of_model_answer(tmp_path: Path, kind: str, quantization: str) -> None:
    loaded = models.loaded(models.save(tmp_path, kind), quantization=quantization)
    with torch.no_grad():
        logits = loaded.model(torch.arange(12)[None]).logits
    assert loaded.info.precision == quantization
    assert logits.isfinite().all()
    assert any("experts" in note for note in loaded.info.notes) == (kind in ("qwen3_moe", "mixtral"))


real = pytest.mark.skipif(embedded.find() is None, reason=f"needs the default model: {embedded.INSTALL}")


@pytest.mark.exhaustive  # the tests of written files above, and of the default model below, are in every run
@pytest.mark.real
@real
def test_a_gguf_file_keeps_its_levels_as_the_default_model_does(tmp_path: Path) -> None:
    loaded = loader.load(ModelSpec(str(embedded.find()), device_map="cpu"), tmp_path, lambda _: None)
    assert (loaded.info.precision, loaded.info.parameters) == ("Q4_1", 134_515_008)
    default = loader.load(ModelSpec(DEFAULT_MODEL, device_map="cpu"), AppSettings().cache_dir, lambda _: None)
    theirs = default.model.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in loaded.model.state_dict().items())


@pytest.mark.real
@real
def test_the_default_model_keeps_its_levels() -> None:
    cache = AppSettings().cache_dir
    dense, own = (
        loader.load(ModelSpec(DEFAULT_MODEL, device_map="cpu", quantization=quantization), cache, lambda _: None)
        for quantization in ("none", "auto")
    )
    assert (dense.info.precision, own.info.precision) == ("bfloat16", "Q4_1")
    assert own.info.parameters == dense.info.parameters
    head = own.model.get_output_embeddings()
    assert isinstance(head, Int8GroupLinear if ops.takes(head.out_features) else Int4Linear)
    assert own.info.weight_bytes < 0.6 * dense.info.weight_bytes
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    asked = models.prompt_ids(own.tokenizer, chat)
    with torch.no_grad():
        ids = torch.tensor([[*asked, *models.generate(own.model, asked, 20)]])  # token by token: other kernels
        ours, theirs = (loaded.model(ids).logits.float().log_softmax(-1) for loaded in (own, dense))
    divergence = nn.functional.kl_div(ours, theirs, log_target=True, reduction="none")
    assert divergence.sum(-1).mean() < 0.03, "more than the rounding of activations explains"
    written, begins = ids[0, len(asked) :], len(asked) - 1
    lost = theirs[0, begins:-1].amax(-1) - theirs[0, begins:-1].gather(-1, written[:, None])[:, 0]
    assert lost.mean() < 0.1, "the dense model finds the written tokens unlikely"
