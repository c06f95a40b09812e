"""Facts of models that are not loaded: published sizes, quantized checkpoints, GGUF files, cards, damaged files."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatui.errors import ModelError
from chatui.models.configs import Layout, gguf_layout, layout
from chatui.models.facts import GGUF_TYPES, ModelFacts, from_config, from_hub, read_facts
from chatui.models.hub import HubFile, HubModel
from chatui.models.model_card import Evaluation, from_card_data
from chatui.models.tensors import model_tensors
from chatui.stored_tensors import StoredTensor
from tests.configs import PUBLISHED, dense

# Layers with K/V × numbers for each × 2 bytes, of the configs in tests/configs.py.
KV_PER_TOKEN = {
    "meta-llama/Llama-3.1-8B": 32 * 2 * 8 * 128 * 2,
    "Qwen/Qwen2.5-7B": 28 * 2 * 4 * 128 * 2,
    "Qwen/Qwen3-235B-A22B": 94 * 2 * 4 * 128 * 2,
    "mistralai/Mixtral-8x22B-v0.1": 56 * 2 * 8 * 128 * 2,
    "openai/gpt-oss-120b": 36 * 2 * 8 * 64 * 2,
    "google/gemma-3-1b-it": 26 * 2 * 1 * 256 * 2,
    "deepseek-ai/DeepSeek-V3": 61 * 128 * (128 + 64 + 128) * 2,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_follow_from_config_and_count(name: str) -> None:
    published = PUBLISHED[name]
    facts = from_config(name, published.config, parameters=published.parameters)
    assert facts.parameters == published.parameters
    assert facts.anatomy is not None
    assert facts.active is not None
    assert facts.anatomy.weights["bfloat16"] == 2 * published.parameters
    assert facts.anatomy.weights["float32"] == 4 * published.parameters
    if published.active is None:
        assert facts.active == published.parameters
    else:
        table = 0 if published.with_embeddings else facts.layout.vocabulary * facts.layout.hidden_size
        assert (facts.active - table) / 1e9 == pytest.approx(published.active, abs=0.06, rel=0.011)
    assert facts.kv_per_token == KV_PER_TOKEN.get(name, facts.kv_per_token)
    assert not facts.is_exact


def test_compressed_keys_and_values_are_told_beside_those_that_are_kept() -> None:
    facts = from_config("v3", PUBLISHED["deepseek-ai/DeepSeek-V3"].config, parameters=1)
    # 512 + 64 numbers for each layer: section 2.1.1 of https://arxiv.org/abs/2412.19437
    assert facts.latent_kv_per_token == 61 * (512 + 64) * 2
    assert any("70,272 bytes" in note for note in facts.notes)


def test_layers_without_keys_and_with_windows_are_counted() -> None:
    hybrid = layout(dense("qwen3_next", 64, 96, 4, 4, 2, 128, False, head_dim=16, full_attention_interval=4))
    assert (hybrid.attention_layers, hybrid.kv_elements) == (1, 2 * 2 * 16)
    windows = layout({**PUBLISHED["openai/gpt-oss-20b"].config, "sliding_window": 128})
    assert (windows.window, windows.window_layers) == (128, 12)
    off = layout({**PUBLISHED["Qwen/Qwen2.5-7B"].config, "sliding_window": 4096, "use_sliding_window": False})
    assert (off.window, off.window_layers) == (None, 0)


def test_a_window_counts_where_all_layers_have_it() -> None:
    mistral = {**PUBLISHED["mistralai/Mixtral-8x7B-v0.1"].config, "sliding_window": 4096}
    gpt_oss = {**PUBLISHED["openai/gpt-oss-20b"].config, "sliding_window": 128}
    found = [from_config("x", config, parameters=10**9).anatomy for config in (mistral, gpt_oss)]
    assert [anatomy and anatomy.window for anatomy in found] == [4096, None]


def test_a_config_may_leave_out_what_its_architecture_has() -> None:
    # The text part of https://huggingface.co/google/gemma-3-4b-it/blob/main/config.json names no heads.
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34, "sliding_window": 1024}
    found = layout({"model_type": "gemma3", "text_config": text})
    assert found.kv_elements == 34 * 2 * 4 * 256
    assert (found.window, found.window_layers) == (1024, 29)


def test_an_architecture_that_is_not_known_says_so() -> None:
    facts = from_config("new", dense("brand_new", 64, 96, 4, 4, 2, 128, False), parameters=10**6)
    assert facts.kv_per_token is None
    assert facts.parameters == 10**6
    assert "The size of the K/V is not known for the architecture brand_new." in facts.notes


def test_the_text_part_of_a_model_that_sees_counts() -> None:
    text = PUBLISHED["Qwen/Qwen3-8B"].config
    assert layout({"model_type": "sees", "text_config": text}) == layout(text)


LLAMA: dict[str, Any] = dense("llama", 64, 96, 2, 4, 2, 128, False)


class TestQuantized:
    """Checkpoints whose tensors are packed: their parameters are those of the weights that are packed in them."""

    @pytest.mark.parametrize(
        ("quantization", "tensors"),
        [
            ({"quant_method": "gptq", "bits": 4}, [("q.qweight", "I32", (8, 96)), ("q.scales", "F16", (1, 96))]),
            ({"quant_method": "gptq", "bits": 8}, [("q.qweight", "I32", (16, 96)), ("q.g_idx", "I32", (64,))]),
            ({"quant_method": "awq", "bits": 4}, [("q.qweight", "I32", (64, 12)), ("q.qzeros", "I32", (1, 12))]),
            (
                {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 4}}}},
                [("q.weight_packed", "I32", (96, 8)), ("q.weight_shape", "I64", (2,))],
            ),
            ({"quant_method": "fp8"}, [("q.weight", "F8_E4M3", (96, 64)), ("q.weight_scale_inv", "F32", (1, 1))]),
            ({"quant_method": "bitsandbytes"}, [("q.weight", "U8", (3072, 1)), ("q.weight.absmax", "U8", (96,))]),
            ({"quant_method": "bitsandbytes"}, [("q.weight", "I8", (96, 64)), ("q.SCB", "F32", (96,))]),
            ({"quant_method": "mxfp4"}, [("q_blocks", "U8", (96, 2, 16)), ("q_scales", "U8", (96, 2))]),
        ],
    )
    def test_every_method(self, quantization: dict[str, Any], tensors: list[tuple[str, str, tuple[int, ...]]]) -> None:
        config = {**LLAMA, "quantization_config": quantization}
        stored = [StoredTensor(f"model.layers.0.{name}", dtype, shape) for name, dtype, shape in tensors]
        facts = from_config("packed", config, stored)
        assert facts.parameters == 96 * 64
        assert facts.stored == quantization["quant_method"]
        assert any("unpacked" in note for note in facts.notes)

    def test_matrices_get_their_shape_back(self) -> None:
        gptq = {**LLAMA, "quantization_config": {"quant_method": "gptq", "bits": 4}}
        awq = {**LLAMA, "quantization_config": {"quant_method": "awq", "bits": 4}}
        for config, shape in ((gptq, (8, 96)), (awq, (64, 12))):
            held = model_tensors([StoredTensor("q.qweight", "I32", shape)], Layout("llama"), config)
            assert held == [StoredTensor("q.weight", "BF16", (96, 64))]


def test_what_transformers_does_not_hold_is_left_out() -> None:
    names = ("model.layers.2.q.weight", "mtp.layers.0.q.weight", "lm_head.weight", "rotary_emb.inv_freq")
    tensors = [StoredTensor(name, "BF16", (8, 8)) for name in names]
    config = {**LLAMA, "tie_word_embeddings": True}
    kept = StoredTensor("model.layers.1.q.weight", "BF16", (8, 8))
    assert model_tensors([*tensors, kept], layout(config), config) == [kept]


class TestGguf:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """A tiny mixture of experts with a type that is unpacked here."""
        path = tmp_path / "tiny-Q5_0.gguf"
        writer = gguf.GGUFWriter(path, "qwen3moe")
        writer.add_context_length(4096)
        writer.add_embedding_length(32)
        writer.add_block_count(2)
        writer.add_feed_forward_length(64)
        writer.add_expert_feed_forward_length(32)
        writer.add_head_count(4)
        writer.add_head_count_kv([2, 1])
        writer.add_key_length(16)
        writer.add_value_length(8)
        writer.add_expert_count(8)
        writer.add_expert_used_count(2)
        writer.add_license("apache-2.0")
        writer.add_languages(["en", "de"])
        writer.add_chat_template("{{ messages }}")
        kind = gguf.GGMLQuantizationType.Q5_0
        for name, shape in {"token_embd": (96, 32), "blk.0.attn_q": (32, 32), "blk.0.ffn_up_exps": (8, 32, 32)}.items():
            data = gguf.quants.quantize(np.ones(shape, dtype=np.float32), kind)
            writer.add_tensor(f"{name}.weight", data, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def test_its_header_says_all(self, path: Path) -> None:
        facts = read_facts(path)
        assert facts.parameters == 96 * 32 + 32 * 32 + 8 * 32 * 32
        assert facts.active == 96 * 32 + 32 * 32 + 2 * 32 * 32
        assert facts.kv_per_token == (2 + 1) * (16 + 8) * 2
        assert (facts.stored, facts.file_bytes, facts.has_chat_template) == ("Q5_0", path.stat().st_size, True)
        assert (facts.card.license, facts.card.languages) == ("apache-2.0", ("en", "de"))
        found = facts.layout
        assert (found.context_length, found.layers, found.experts, found.used_experts) == (4096, 2, 8, 2)
        assert facts.notes == (
            "Experts stay in bfloat16 where the other layers are int8 or int4.",
            "Weights of these types are unpacked to bfloat16 when they are loaded here.",
        )

    def test_a_cut_off_file_is_refused(self, path: Path) -> None:
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(ModelError, match="incomplete or damaged"):
            read_facts(path)

    def test_types_have_the_names_of_the_library(self) -> None:
        names = {kind.value: kind.name for kind in gguf.GGMLQuantizationType}
        assert {number: names[number] for number in GGUF_TYPES if number in names} == GGUF_TYPES


class TestFolder:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "config.json").write_text(json.dumps(LLAMA))
        return tmp_path

    def test_without_weights_the_parameters_are_not_known(self, folder: Path) -> None:
        facts = read_facts(folder)
        assert (facts.parameters, facts.active, facts.file_bytes, facts.has_chat_template) == (None, None, None, False)
        assert facts.kv_per_token == 2 * 2 * 2 * 16 * 2
        assert any("not known" in note for note in facts.notes)

    @pytest.mark.parametrize("text", ["", "[]", "{", "null"])
    def test_a_config_that_is_none_is_refused(self, folder: Path, text: str) -> None:
        (folder / "config.json").write_text(text)
        with pytest.raises(ModelError, match="no valid JSON object"):
            read_facts(folder)

    def test_a_folder_without_a_model_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"config\.json is missing"):
            read_facts(tmp_path / "nowhere")

    @pytest.mark.parametrize(
        ("file", "text", "there"),
        [
            ("chat_template.jinja", "{{ x }}", True),
            ("tokenizer_config.json", '{"chat_template": "{{ x }}"}', True),
            ("tokenizer_config.json", "{}", False),
            ("tokenizer_config.json", "[", False),
        ],
    )
    def test_the_chat_template_is_found(self, folder: Path, file: str, text: str, there: bool) -> None:
        (folder / file).write_text(text)
        assert read_facts(folder).has_chat_template is there

    def test_the_card_is_read(self, folder: Path) -> None:
        (folder / "README.md").write_text(CARD)
        card = read_facts(folder).card
        assert (card.license, card.languages, card.base_models) == ("llama3.1", ("en", "fr"), ("owner/base",))
        assert card.evaluations == (
            Evaluation("Questions", "Accuracy", 61.5, "A leaderboard", "https://example.org/x"),
        )

    @pytest.mark.parametrize(
        "text", ["", "no header", "---\n[\n---\n", "---\nlicense: [1, {}]\n---\n", "---\n- a\n---\n"]
    )
    def test_a_card_may_be_anything(self, folder: Path, text: str) -> None:
        (folder / "README.md").write_text(text)
        assert isinstance(read_facts(folder), ModelFacts)


CARD = """---
license: other
license_name: llama3.1
language: [en, fr]
base_model: owner/base
model-index:
- name: tiny
  results:
  - task: {type: text-generation}
    dataset: {name: Questions, type: questions}
    metrics: [{type: acc, name: Accuracy, value: 61.5}]
    source: {name: A leaderboard, url: https://example.org/x}
---
# Tiny
"""


def test_the_newer_evaluation_results_have_source_and_date() -> None:
    from huggingface_hub import EvalResultEntry, ModelCardData

    entry = EvalResultEntry(
        "cais/hle", "default", 20.9, date="2025-01-15", source_url="https://example.org", source_name="CAIS"
    )
    facts = from_card_data(ModelCardData(license="mit"), [entry])
    assert facts.license == "mit"
    assert facts.evaluations == (Evaluation("cais/hle", "default", 20.9, "CAIS", "https://example.org", "2025-01-15"),)
    assert from_card_data(None).evaluations == ()


class TestHub:
    def test_numbers_of_packed_weights_are_unpacked(self) -> None:
        config = {**LLAMA, "quantization_config": {"quant_method": "gptq", "bits": 4}}
        model = HubModel("owner/Tiny-GPTQ", parameters={"I32": 1000, "F16": 24})
        assert from_hub(model, config).parameters == 8 * 1000 + 24
        assert from_hub(model, LLAMA).parameters == 1024

    def test_card_files_and_gguf(self) -> None:
        files = (HubFile("model.safetensors", 2048, ""), HubFile("chat_template.jinja", 10, ""))
        result = Evaluation("GSM8K", "accuracy", 57.2, "A leaderboard", date="2026-10-01")
        model = HubModel("owner/tiny", licence="mit", gated=True, files=files, evaluations=(result,))
        facts = from_hub(model, LLAMA)
        assert (facts.file_bytes, facts.has_chat_template, facts.gated, facts.card.license) == (2048, True, True, "mit")
        assert facts.card.evaluations == (result,)
        gguf_only = HubModel("owner/x-GGUF", gguf={"total": 10**9, "architecture": "llama", "context_length": 8192})
        facts = from_hub(gguf_only, {})
        assert (facts.parameters, facts.layout.context_length, facts.kv_per_token) == (10**9, 8192, None)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
NAMES = sorted({name for published in PUBLISHED.values() for name in published.config} | {"layer_types", "text_config"})


@given(
    st.dictionaries(st.sampled_from([*NAMES, "mlp_only_layers", "quantization_config", "sliding_window"]), VALUES),
    st.sampled_from(["llama", "jamba", "gpt_oss", "deepseek_v3", "ernie4_5_moe", "llama4_text", "other"]),
    st.integers(0, 10**12),
)
def test_any_config_gives_facts(config: dict[str, Any], kind: str, parameters: int) -> None:
    tensors = [StoredTensor("model.layers.0.q.qweight", "I32", (8, 8)), StoredTensor("q.weight", "BF16", (8,))]
    for found in (
        from_config("any", {**config, "model_type": kind}, parameters=parameters),
        from_config("any", {**config, "model_type": kind}, tensors),
    ):
        assert found.anatomy is None or found.anatomy.active <= found.anatomy.parameters


@given(st.dictionaries(st.sampled_from(["block_count", "expert_count", "attention.head_count_kv"]), VALUES))
def test_any_gguf_fields_give_a_layout(fields: dict[str, Any]) -> None:
    own = {f"llama.{name}": value for name, value in fields.items()}
    assert gguf_layout({"general.architecture": "llama", **own}).architecture == "llama"
