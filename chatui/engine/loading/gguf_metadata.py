"""What a GGUF file says beside its weights that transformers does not take over: how text is split, how to sample."""

from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerBase
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS
from transformers.integrations.gguf.reader import read_gguf_metadata

from chatui.engine.loading import embedded

# What `tokenizer.ggml.pre` stands for: https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
CJK = "[一-龥ࠀ-一가-퟿]+"
DIGITS_APART = (r"\p{N}", GPT2)
PUNCTUATION_APART = r"[\p{P}\$\+<=>\^~\|`]+"
WORDS = " ?[^(\\s|.,!?…。，、।۔،)]+"
DEEPSEEK_3 = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+",
)
SPLITS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"), DIGITS_APART),
    **dict.fromkeys(
        ("gpt-2", "phi-2", "mpt", "olmo", "jais", "gigachat", "trillion", "granite-docling", "dolma"), (GPT2,)
    ),
    **dict.fromkeys(("stablelm2", "hunyuan"), (QWEN2,)),
    **dict.fromkeys(("chatglm-bpe", "glm4"), (LLAMA3,)),
    **dict.fromkeys(("deepseek-v3", "hunyuan-dense"), DEEPSEEK_3),
    "deepseek-coder": ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK, r"\p{N}"),
    "falcon": (PUNCTUATION_APART, GPT2, "[0-9][0-9][0-9]"),
    **dict.fromkeys(("bloom", "poro-chat", "gpt3-finnish"), (WORDS,)),
    "viking": (WORDS, r"\p{N}"),
    "default": (PUNCTUATION_APART.replace("`", ""), GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
}
"""The patterns by which text is split before byte-level BPE, one after the other, of those that transformers lacks."""

SAMPLING = {
    "general.sampling.temp": "temperature",
    "general.sampling.top_k": "top_k",
    "general.sampling.top_p": "top_p",
    "general.sampling.min_p": "min_p",
    "general.sampling.penalty_repeat": "repetition_penalty",
}
"""llama.cpp's keys for what a model's authors recommend, and transformers' names."""


def read(path: Path) -> dict[str, Any]:
    """The scalar facts of the file by their keys."""
    facts, _ = read_gguf_metadata(str(path))
    return dict(facts)


def split_text(tokenizer: PreTrainedTokenizerBase, facts: dict[str, Any]) -> tuple[str, ...]:
    """Make the tokenizer split text as the file says. Returns what a user should know where that is not known here."""
    kind = facts.get("tokenizer.ggml.pre")
    if facts.get("tokenizer.ggml.model") != "gpt2" or kind in GGUF_PRE_TOKENIZER_SPLITS:
        return ()
    if kind not in SPLITS:
        return (f"How this file wants text to be split ({kind or 'it does not say'}) is not known: tokens may differ.",)
    backend: Tokenizer = tokenizer.backend_tokenizer
    splits = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in SPLITS[kind]]
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    return ()


def sampling(facts: dict[str, Any]) -> dict[str, Any]:
    """The sampling defaults of the file under transformers' names; of the default model's files, its authors'."""
    found = {name: facts[key] for key, name in SAMPLING.items() if key in facts}
    if found:
        return {"do_sample": True, **found}
    return dict(embedded.SAMPLING) if is_default_model(facts) else {}


def is_default_model(facts: dict[str, Any]) -> bool:
    """Whether this is the default model, in whatever precision."""
    expected = {"general.organization": "HuggingFaceTB", "general.basename": "smollm2", "general.size_label": "135M"}
    return all(facts.get(key) == value for key, value in expected.items())
