"""What a model is made of, from its config: the published sizes, and what this program holds once it is loaded."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, Gemma3Config, PretrainedConfig, PreTrainedModel

from chatui.chat import ModelAnatomy
from chatui.engine.batching.attention_probe import probe_layout
from chatui.engine.kernels.quantized import PackedLinear
from chatui.engine.loading import anatomy, bandwidth
from chatui.engine.loading.loaded_model import LoadedModel
from chatui.model_spec import PRECISIONS
from chatui.stored_tensors import StoredTensor, weight_bytes
from tests import models
from tests.configs import PUBLISHED, Published

# Bytes of keys and values for one token in bfloat16: layers x kv heads x (key size + value size) x 2.
KV_PER_TOKEN = {
    "meta-llama/Llama-3.1-8B": 32 * 8 * (128 + 128) * 2,
    "HuggingFaceTB/SmolLM2-135M": 30 * 3 * (64 + 64) * 2,
    "Qwen/Qwen3-0.6B": 28 * 8 * (128 + 128) * 2,
    "google/gemma-2-2b": 26 * 4 * (256 + 256) * 2,
    "google/gemma-3-1b-it": 26 * 1 * (256 + 256) * 2,
    "openai-community/gpt2": 12 * 12 * (64 + 64) * 2,
    "Qwen/Qwen3-30B-A3B": 48 * 4 * (128 + 128) * 2,
    # Compressed keys are unpacked before attention sees them: 128 and 64 for the position.
    "deepseek-ai/DeepSeek-V2-Lite": 27 * 16 * (128 + 64 + 128) * 2,
    "deepseek-ai/DeepSeek-V3": 61 * 128 * (128 + 64 + 128) * 2,
    "mistralai/Mixtral-8x22B-v0.1": 56 * 8 * (128 + 128) * 2,
    "Qwen/Qwen3-235B-A22B": 94 * 4 * (128 + 128) * 2,
}
# A model that blocks cannot keep has the config's.
WITHOUT_SLOTS = {"llama4": 2 * 2 * (8 + 8) * 4}


def blank(published: Published) -> PreTrainedModel:
    return anatomy.blank(AutoConfig.for_model(**published.config), torch.bfloat16)


def of(config: PretrainedConfig, dtype: torch.dtype = torch.float32) -> ModelAnatomy:
    return anatomy.of(anatomy.blank(config, dtype))


@pytest.mark.parametrize(
    "name",
    [name if at % 4 == 0 else pytest.param(name, marks=pytest.mark.exhaustive) for at, name in enumerate(PUBLISHED)],
)
def test_published_models_have_their_published_size(name: str) -> None:
    published = PUBLISHED[name]
    model = blank(published)
    found = anatomy.of(model)
    assert found.parameters == published.parameters
    assert found.layers == model.config.num_hidden_layers
    assert found.weights["bfloat16"] == 2 * published.parameters
    assert found.weights["float32"] == 4 * published.parameters
    if published.active is None:
        assert found.active == found.parameters
    else:
        embedding = model.get_input_embeddings()
        assert isinstance(embedding, torch.nn.Embedding)
        table = 0 if published.with_embeddings else embedding.weight.numel()
        assert (found.active - table) / 1e9 == pytest.approx(published.active, abs=0.06, rel=0.011)
    if name in KV_PER_TOKEN:
        assert found.kv_per_token == KV_PER_TOKEN[name]


def held(loaded: LoadedModel) -> int:
    """Bytes of the weights; buffers of dense layers are no weights, such as the numbers of a rotary embedding."""
    packed = [module for module in loaded.model.modules() if isinstance(module, PackedLinear)]
    tensors = [*loaded.model.parameters(), *(buffer for module in packed for buffer in module.buffers())]
    return sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize(
    ("kind", "precision"),
    [
        # Every run has each kind in two precisions, and each precision with many kinds.
        pytest.param(kind, precision, marks=[] if (number + at) % len(PRECISIONS) < 2 else pytest.mark.exhaustive)
        for number, kind in enumerate(models.CONFIGS)
        for at, precision in enumerate(PRECISIONS)
    ],
)
def test_the_weights_take_what_was_counted(tmp_path: Path, kind: str, precision: str) -> None:
    dtype, quantization = PRECISIONS[precision]
    folder = models.save(tmp_path, kind)
    packs = quantization != "none"
    loaded = models.loaded(folder, dtype="auto" if packs else dtype, quantization=quantization)
    found = loaded.info.anatomy
    assert found is not None
    counted = anatomy.of(anatomy.blank(models.CONFIGS[kind], loaded.model.dtype))
    assert counted.weights[precision] == held(loaded)
    assert found.weights[precision] == counted.weights[precision]
    others = loaded.info.weight_bytes - held(loaded)
    if counted.active == counted.parameters and kind != "gpt2":
        assert counted.read[precision] == loaded.info.read_bytes - others
    shape = probe_layout(loaded.model)
    if kind in WITHOUT_SLOTS:
        assert shape is None
        assert found.kv_per_token == WITHOUT_SLOTS[kind] * loaded.model.dtype.itemsize // 4
    else:
        assert shape is not None
        assert found.kv_per_token == shape.bytes_per_token


def test_a_token_uses_some_of_the_experts() -> None:
    found = of(models.CONFIGS["mixtral"])
    # Two layers of four experts, of which two are used: three matrices each.
    experts = 2 * 4 * 3 * 32 * 48
    assert found.parameters - found.active == experts // 2
    table = models.VOCABULARY * 32
    assert found.read["bfloat16"] == 2 * (found.active - table)
    assert found.read["int4"] > 2 * experts // 2, "experts are not packed"


@pytest.mark.parametrize("tied", [True, False])
def test_a_table_that_is_looked_up_is_not_read(tied: bool) -> None:
    config = type(models.CONFIGS["llama"])(**{**models.SMALL, "tie_word_embeddings": tied})
    found, table = of(config), models.VOCABULARY * 32
    assert found.read["float32"] == 4 * (found.parameters if tied else found.parameters - table)
    # The output layer of packed weights is its own.
    assert found.weights["int8"] - found.read["int8"] == 2 * table


def test_of_a_model_that_sees_only_the_part_that_writes_is_read() -> None:
    text = {**models.SMALL, "query_pre_attn_scalar": 8}
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(text_config=text, vision_config={**vision, "image_size": 28, "patch_size": 14})
    config.tie_word_embeddings = False
    model = anatomy.blank(config, torch.float32)
    writing = sum(weight.numel() for weight in (*model.get_decoder().parameters(), *model.lm_head.parameters()))
    found = anatomy.of(model)
    assert found.parameters == model.num_parameters()
    assert found.read["float32"] == 4 * (writing - models.VOCABULARY * 32)
    assert found.layers == 2


def test_a_checkpoints_own_quantization_makes_the_model_no_smaller() -> None:
    config = copy.deepcopy(models.CONFIGS["llama"])
    config.quantization_config = {"quant_method": "gptq", "bits": 4}
    assert of(config) == of(models.CONFIGS["llama"])
    assert config.quantization_config["bits"] == 4


def test_reading_a_prompt_takes_more_where_attention_is_written_out() -> None:
    plain, capped, with_sinks = (of(models.CONFIGS[kind]) for kind in ("gemma3", "gemma2", "gpt_oss"))
    assert 0 < plain.activations_per_token < min(capped.activations_per_token, with_sinks.activations_per_token)
    assert plain.activations > 256 * (3 * 32 * 4 + 3 * 48 * 4) - 1


def test_what_cannot_be_counted_can_be_loaded_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anatomy, "of", lambda model: 1 // 0)
    info = models.loaded(models.save(tmp_path)).info
    assert info.anatomy is None
    assert info.parameters == models.model("llama").num_parameters()


class TestCheckpoints:
    """Tensors as files name them, which are counted before a model is loaded."""

    @pytest.mark.parametrize(
        "name", ["layers.0.mlp.experts.3.w1.weight", "layers.0.mlp.gate.weight", "layers.0.mlp.router.weight"]
    )
    def test_experts_and_routers_stay_dense(self, name: str) -> None:
        tensor = StoredTensor(name, "BF16", (64, 64))
        assert weight_bytes([tensor], "bfloat16", "int4") == 64 * 64 * 2

    def test_a_gate_of_a_dense_layer_is_packed(self) -> None:
        tensor = StoredTensor("layers.0.mlp.gate_proj.weight", "BF16", (64, 64))
        assert weight_bytes([tensor], "bfloat16", "int4") == 64 * 64 * 5 // 8


class TestLoaded:
    def test_what_is_known_of_a_loaded_model(self, tmp_path: Path) -> None:
        loaded = models.loaded(models.save(tmp_path))
        info = loaded.info
        assert (info.source, info.dtype) == (str(tmp_path), "float32")
        assert set(info.stop_ids) == loaded.stop_ids
        assert info.stop_ids == tuple(sorted(info.stop_ids))
        assert info.template == loaded.template.facts(models.CHATML)
        assert info.anatomy is not None
        assert info.anatomy.parameters == info.parameters == loaded.model.num_parameters()
        assert info.anatomy.bandwidth > 1e8
        assert info.measured_bytes >= 0

    @pytest.mark.parametrize(
        ("spec", "precision"),
        [({"dtype": "float16"}, "float16"), ({"quantization": "8bit"}, "8bit bitsandbytes")],
    )
    def test_precisions_that_are_not_everywhere_are_as_they_were_loaded(
        self, tmp_path: Path, spec: dict[str, Any], precision: str
    ) -> None:
        info = models.loaded(models.save(tmp_path), **spec).info
        assert info.anatomy is not None
        assert info.anatomy.weights[precision] == info.weight_bytes
        assert info.anatomy.read[precision] == info.read_bytes
        assert set(info.anatomy.weights) == {precision, *PRECISIONS}
        assert info.anatomy.parameters == models.model("llama").num_parameters()


class TestBandwidth:
    def test_it_is_measured_once_for_each_size(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cpu = torch.device("cpu")
        first = bandwidth.measure_bandwidth(cpu, 1)
        assert first > 1e8
        monkeypatch.setattr(bandwidth, "_best", None)
        assert bandwidth.measure_bandwidth(cpu, bandwidth.MIN_PART_BYTES) == first

    def test_threads_are_as_many_afterwards(self) -> None:
        before = torch.get_num_threads()
        bandwidth.measure_bandwidth(torch.device("cpu"), bandwidth.MIN_PART_BYTES + 4 * 12345)
        assert torch.get_num_threads() == before
