"""The names of models taken apart: every convention of the Hub's large families, and texts that are no names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatui.models import names
from chatui.models.names import ParsedName

B, M = 10**9, 10**6


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "mistralai/Mixtral-8x7B-Instruct-v0.1",
            {"experts": 8, "expert_size": 7 * B, "size": 56 * B, "version": "v0.1"},
        ),
        ("mistralai/Mixtral-8x22B-v0.1", {"experts": 8, "expert_size": 22 * B, "size": 176 * B, "family": "Mixtral"}),
        ("Qwen/Qwen3-30B-A3B", {"family": "Qwen", "version": "3", "size": 30 * B, "active": 3 * B, "owner": "Qwen"}),
        ("Qwen3-235B-A22B-Instruct-2507-FP8", {"size": 235 * B, "active": 22 * B, "quantization": "FP8", "bits": 8}),
        ("Qwen/Qwen1.5-MoE-A2.7B-Chat", {"active": 2_700 * M, "size": None, "tunings": ("chat",)}),
        ("ibm-granite/granite-3.0-1b-a400m-instruct", {"size": B, "active": 400 * M, "version": "3.0"}),
        ("allenai/OLMoE-1B-7B-0924", {"size": 7 * B, "active": B, "family": "OLMoE"}),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", {"experts": 16, "active": 17 * B, "size": None, "version": "4"}),
        ("google/gemma-3n-E4B-it", {"effective": 4 * B, "size": None, "tunings": ("it",)}),
        ("google/gemma-2-2b-it", {"family": "gemma", "version": "2", "size": 2 * B}),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", {"family": "SmolLM", "version": "2", "size": 135 * M}),
        ("Qwen/Qwen2.5-7B-Instruct-1M", {"size": 7 * B, "context": M}),
        ("microsoft/Phi-3-mini-4k-instruct", {"context": 4000, "size": None, "tunings": ("instruct",)}),
        ("TheBloke/Llama-2-7B-Chat-GPTQ", {"quantization": "GPTQ", "bits": None, "tunings": ("chat",)}),
        ("Qwen2.5-0.5B-Instruct-GPTQ-Int4", {"quantization": "GPTQ-Int4", "bits": 4, "size": 500 * M}),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", {"quantization": "AWQ", "bits": 4}),
        ("unsloth/Llama-3.2-1B-Instruct-bnb-4bit", {"quantization": "bnb-4bit", "bits": 4}),
        ("mlx-community/Qwen3-4B-6bit", {"quantization": "6bit", "bits": 6}),
        ("models/Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf", {"quantization": "Q4_K_M", "is_gguf": True, "bits": 4}),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", {"quantization": "Q4_1", "is_gguf": True}),
        ("model-IQ2_XXS.gguf", {"quantization": "IQ2_XXS", "bits": 2}),
        ("bartowski/Llama-3.3-70B-Instruct-GGUF", {"is_gguf": True, "quantization": "", "size": 70 * B}),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", {"size": 1_500 * M, "tunings": ("distill",)}),
        ("deepseek-ai/DeepSeek-V3-Base", {"version": "V3", "tunings": ("base",), "size": None}),
        ("openai/gpt-oss-20b", {"family": "gpt-oss", "size": 20 * B}),
        ("openai-community/gpt2", {"family": "gpt", "version": "2"}),
        (r"C:\models\Qwen3-4B", {"family": "Qwen", "size": 4 * B}),
    ],
)
def test_every_part_of_a_name_is_found(name: str, expected: dict[str, object]) -> None:
    parsed = names.parse(name)
    assert {field: getattr(parsed, field) for field in expected} == expected


def test_the_rule_of_thumb_and_the_exact_numbers_stand_side_by_side() -> None:
    parsed = names.parse("mistralai/Mixtral-8x7B-v0.1")
    sentences = names.explain(parsed, 46_702_792_704, 12_879_925_248)
    sentence = next(text for text in sentences if "8x7B" in text)
    assert sentence.startswith("8x7B: eight experts; 56B by the tutorial's rule of thumb (8 × 7), ")
    assert "46.7B by its headers, 12.9B active for each token." in sentences


def test_active_parameters_and_types_of_gguf_are_explained() -> None:
    text = " ".join(names.explain(names.parse("Qwen3-30B-A3B-Q4_K_M.gguf")))
    assert "30B: about 30B parameters, 60.0 GB in bfloat16" in text
    assert "3B active: one token uses that many of the parameters" in text
    assert "Q4_K_M: a type of GGUF with about 4 bits" in text


def test_a_name_without_parts_has_no_explanation() -> None:
    assert names.parse("") == ParsedName("")
    assert names.explain(names.parse("///")) == ()


PARTS = st.sampled_from(
    ["8x7B", "A3B", "E4B", "1.5B", "7b", "1M", "4k", "16E", "Q4_K_M", "it", "GGUF", "v0.3", "Qwen2.5"]
)


@given(
    st.one_of(st.text(max_size=60), st.lists(PARTS, max_size=8).map("-".join), st.from_regex(r"[0-9A-Zx._/-]{0,40}"))
)
def test_any_text_is_taken_apart_and_explained(text: str) -> None:
    parsed = names.parse(text)
    for number in (parsed.size, parsed.active, parsed.effective, parsed.context, parsed.experts):
        assert number is None or number >= 0
    assert all(sentence.strip().endswith((".", ")")) for sentence in names.explain(parsed, 10, 5))
