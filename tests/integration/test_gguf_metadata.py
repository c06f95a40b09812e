"""A GGUF file's text is split as its makers meant, and sampled as they recommend."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from chatui.engine.loading import embedded, gguf_metadata
from chatui.settings import AppSettings
from tests import models

TEXT = "It's 2024, isn't it?\n\n\n42 and\t\t漢字 x<=y"


def pieces(kind: str, text: str) -> list[str]:
    """What the text is split into before byte-level BPE, spaces and line ends as they are."""
    tokenizer = models.tokenizer()
    assert gguf_metadata.split_text(tokenizer, {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": kind}) == ()
    found = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
    return [text[start:end] for _, (start, end) in found]


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("smollm", "in 2024", ["in", " ", "2", "0", "2", "4"]),
        ("smollm", "a\n\n\n1", ["a", "\n\n\n", "1"]),
        ("gpt-2", "in 2024", ["in", " 2024"]),
        ("deepseek-v3", "x 12345", ["x", " ", "123", "45"]),
        ("deepseek-coder", "x=12", ["x", "=", "1", "2"]),
        ("stablelm2", "I'LL 12", ["I", "'LL", " ", "1", "2"]),
        ("glm4", "I'LL 12345", ["I", "'LL", " ", "123", "45"]),
        ("falcon", "a`b 1234", ["a", "`", "b", " ", "123", "4"]),
        ("default", "a+b", ["a", "+", "b"]),
    ],
)
def test_text_is_split_as_the_file_says(kind: str, text: str, expected: list[str]) -> None:
    assert pieces(kind, text) == expected


@pytest.mark.parametrize("kind", gguf_metadata.SPLITS)
def test_no_way_to_split_loses_a_letter(kind: str) -> None:
    assert "".join(pieces(kind, TEXT)) == TEXT


def test_what_transformers_knows_is_left_to_it_and_what_nobody_knows_is_told() -> None:
    assert not gguf_metadata.SPLITS.keys() & GGUF_PRE_TOKENIZER_SPLITS.keys()
    for facts in ({"tokenizer.ggml.model": "llama"}, {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2"}):
        assert gguf_metadata.split_text(models.tokenizer(), facts) == ()
    for kind in ({"tokenizer.ggml.pre": "zorp"}, {}):
        (note,) = gguf_metadata.split_text(models.tokenizer(), {"tokenizer.ggml.model": "gpt2", **kind})
        assert "tokens may differ" in note


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        ({}, {}),
        ({"general.sampling.temp": 0.6, "general.sampling.top_k": 20}, {"temperature": 0.6, "top_k": 20}),
        (
            {"general.organization": "HuggingFaceTB", "general.basename": "smollm2", "general.size_label": "135M"},
            {"temperature": 0.2, "top_p": 0.9},
        ),
        ({"general.organization": "HuggingFaceTB", "general.basename": "smollm2", "general.size_label": "1.7B"}, {}),
    ],
)
def test_what_the_authors_recommend_is_taken_over(facts: dict[str, Any], found: dict[str, Any]) -> None:
    assert gguf_metadata.sampling(facts) == ({"do_sample": True, **found} if found else {})


@pytest.fixture(scope="module")
def both() -> tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]:
    """The default model's tokenizer, and that of the same file given by its path."""
    file = embedded.find()
    if file is None:
        pytest.skip(f"needs the default model: {embedded.INSTALL}")
    default = AutoTokenizer.from_pretrained(embedded.converted(file, AppSettings().cache_dir, lambda _: None))
    by_path = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    gguf_metadata.split_text(by_path, gguf_metadata.read(file))
    assert isinstance(default, PreTrainedTokenizerFast)
    assert isinstance(by_path, PreTrainedTokenizerFast)
    return default, by_path


@given(text=st.text(st.sampled_from("\n\r\t 1２٣½Ⅷaé'sS!<你👩\u200d x"), max_size=30) | st.text(max_size=60))
@settings(max_examples=2 * settings().max_examples)
def test_a_file_given_by_its_path_is_tokenized_as_the_default(
    both: tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast], text: str
) -> None:
    default, by_path = both
    assert by_path.encode(text) == default.encode(text)
