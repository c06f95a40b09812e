"""Tiny models with random weights, and a byte-level tokenizer, that load in a fraction of a second."""

import copy
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    AutoModelForCausalLM,
    BatchEncoding,
    Cohere2Config,
    DeepseekV3Config,
    FalconH1Config,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GptOssConfig,
    GraniteMoeHybridConfig,
    Lfm2Config,
    Llama4TextConfig,
    LlamaConfig,
    Mamba2Config,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
    Phi3Config,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    Starcoder2Config,
)

from chatui.engine.batching.attention_probe import probe_layout
from chatui.engine.batching.forward import Forward
from chatui.engine.batching.kv_cache import KVCache
from chatui.engine.kernels import ops
from chatui.engine.kernels.levels import GROUP, Levels, packed
from chatui.engine.loading.loaded_model import LoadedModel
from chatui.engine.loading.loader import load
from chatui.estimates import blocks_held
from chatui.model_spec import ModelSpec
from chatui.settings import AppSettings, KvDtype

# Matrices this small gain nothing from a second thread, and lose much to it on a busy machine.
torch.set_num_threads(1)

SPECIAL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "[INST]", "[/INST]", "<start_of_turn>", "<end_of_turn>")
PLAIN_ADDED = ("<think>", "</think>")
VOCABULARY = 256 + len(SPECIAL) + len(PLAIN_ADDED)

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
THINKING = CHATML.replace("assistant\n' }}{% endif %}", "assistant\n<think>\n' }}{% endif %}")
# Writes the thought of the reply to the last message, an empty one where there is none, as Qwen3's does.
THOUGHT = CHATML.replace(
    "m.content + ",
    "(('<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n') if m.role == 'assistant' and loop.last else '')"
    " + (m.content.lstrip('\n') if m.role == 'assistant' else m.content) + ",
)
# Begins with a thought, and takes no reply at the end.
REFUSES = THINKING + (
    "{% if messages[-1].role == 'assistant' %}{{ raise_exception('The last message must be a user\\'s') }}{% endif %}"
)
ALTERNATION = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/...') }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + ALTERNATION
    + "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + "
    "m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
# Drops the system message without a word.
MISTRAL = (
    "{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}"
    + ALTERNATION
    + "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + '<|im_end|>' }}{% endif %}{% endfor %}"
)
# Control words in plain text, as Zephyr has them; only the end of a turn is a token.
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|endoftext|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)

PROJECTIONS = ["q_proj", "v_proj", "down_proj"]
"""The layers that save_adapter() changes."""

NO_IDS: dict[str, Any] = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "tie_word_embeddings": False,
    "max_position_embeddings": 512,
    **NO_IDS,
}
LONG = {**SMALL, "max_position_embeddings": 2048}
WINDOWS: dict[str, Any] = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
MOE: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SMALL),
    "qwen3": Qwen3Config(**SMALL),
    "gemma2": Gemma2Config(
        **SMALL, **WINDOWS, query_pre_attn_scalar=8, attn_logit_softcapping=2.0, final_logit_softcapping=9.0
    ),
    "gemma3": Gemma3TextConfig(**SMALL, **WINDOWS, query_pre_attn_scalar=8),
    "gemma3_deep": Gemma3TextConfig(**{**SMALL, "num_hidden_layers": 6}, sliding_window=8, query_pre_attn_scalar=8),
    "mistral": MistralConfig(**SMALL, sliding_window=8),
    "mixtral": MixtralConfig(**SMALL, num_local_experts=4),
    "qwen3_moe": Qwen3MoeConfig(**SMALL, **MOE, num_experts=4),
    "gpt_oss": GptOssConfig(**SMALL, **WINDOWS, num_local_experts=4, num_experts_per_tok=2, rope_parameters=ROPE),
    "phi3": Phi3Config(**{name: value for name, value in SMALL.items() if name != "head_dim"}),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=512, bos_token_id=None, eos_token_id=None
    ),
    # Keys and values differ in size.
    "deepseek_v3": DeepseekV3Config(
        **{name: value for name, value in SMALL.items() if name not in ("head_dim", "num_key_value_heads")},
        **MOE,
        num_key_value_heads=4,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=4,
        qk_nope_head_dim=8,
        v_head_dim=8,
        n_routed_experts=4,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
    ),
    "llama4": Llama4TextConfig(**SMALL, num_local_experts=2, attention_chunk_size=8, intermediate_size_mlp=48),
    "mamba2": Mamba2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        state_size=16,
        num_hidden_layers=2,
        num_heads=8,
        head_dim=8,
        n_groups=2,
        chunk_size=16,
        **NO_IDS,
    ),
    "lfm2": Lfm2Config(**SMALL, layer_types=["conv", "full_attention"]),
}

WINDOWED: dict[str, PretrainedConfig] = {
    "mistral_100": MistralConfig(**LONG, sliding_window=100),
    "starcoder2_65": Starcoder2Config(**LONG, sliding_window=65),
    "phi3_10": Phi3Config(**{name: value for name, value in LONG.items() if name != "head_dim"}, sliding_window=10),
}
"""Further ones, all of whose layers have a window far shorter than their context."""

MIXED: dict[str, PretrainedConfig] = {
    "gemma2_100": Gemma2Config(
        **LONG,
        sliding_window=100,
        layer_types=WINDOWS["layer_types"],
        query_pre_attn_scalar=8,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=9.0,
    ),
    "gemma3_65": Gemma3TextConfig(
        **{**LONG, "num_hidden_layers": 3},
        sliding_window=65,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        query_pre_attn_scalar=8,
    ),
    "gpt_oss_64": GptOssConfig(
        **LONG,
        sliding_window=64,
        layer_types=WINDOWS["layer_types"],
        num_local_experts=4,
        num_experts_per_tok=2,
        rope_parameters=ROPE,
    ),
    "cohere2_10": Cohere2Config(
        **{**LONG, "num_hidden_layers": 3},
        sliding_window=10,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        logit_scale=1.0,
    ),
}
"""Further ones, some of whose layers have such a window, and others see all."""

PLAIN = tuple(kind for kind in CONFIGS if kind not in ("llama4", "mamba2", "lfm2"))
"""The kinds that keep keys and values only, which can live in blocks."""

LINEAR: dict[str, Any] = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 4,
}
MAMBA2: dict[str, Any] = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 16, "mamba_n_groups": 1}
HYBRID: dict[str, PretrainedConfig] = {
    "qwen3_5": Qwen3_5TextConfig(**SMALL, **LINEAR, layer_types=["linear_attention", "full_attention"]),
    "granite_hybrid": GraniteMoeHybridConfig(
        **SMALL,
        **MAMBA2,
        layer_types=["mamba", "attention"],
        mamba_expand=2,
        mamba_chunk_size=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        shared_intermediate_size=16,
    ),
    # Each layer has attention, and states beside it.
    "falcon_h1": FalconH1Config(**SMALL, **MAMBA2, mamba_d_ssm=64, mamba_chunk_size=16),
}
"""Further ones, which keep states beside keys and values."""

SERIAL: dict[str, PretrainedConfig] = {
    "mamba": MambaConfig(vocab_size=VOCABULARY, hidden_size=32, state_size=8, num_hidden_layers=2, **NO_IDS)
}
"""Further ones, whose prompts transformers cannot read in pieces."""

RECURRENT = ("mamba2", "lfm2", *HYBRID)
"""The kinds with states of which many sequences can be advanced at once."""


def tokenizer(chat_template: str | None = CHATML, thinks: bool = True, **options: Any) -> PreTrainedTokenizerFast:
    """One token per byte, and control tokens behind them, the tags of a thought among them if it `thinks`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    if thinks:
        backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in PLAIN_ADDED])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=chat_template,
        **{"eos_token": "<|im_end|>", "model_max_length": 10**30, **options},
    )


@cache
def model(kind: str = "llama", seed: int = 0) -> PreTrainedModel:
    """A model of this kind; weights are large enough for greedy replies that vary."""
    torch.manual_seed(seed)
    made: PreTrainedModel = AutoModelForCausalLM.from_config(
        {**CONFIGS, **WINDOWED, **MIXED, **HYBRID, **SERIAL}[kind]
    ).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() >= 2:
                parameter.mul_(8)
    made.generation_config.eos_token_id = None
    return made


def over_blocks(kind: str = "llama", blocks: int = 8, kv_dtype: KvDtype = "auto", rows: int | None = None) -> Forward:
    """A model of one's own, its attention over this many blocks.

    With a number of `rows`, layers with a window have no more than those see at once, where other layers see all.
    """
    own = copy.deepcopy(model(kind))
    shape = probe_layout(own)
    assert shape is not None
    shape, windowed = shape.in_int8() if kv_dtype == "int8" else shape, shape.windowed
    seen = None if rows is None or windowed is None else min(blocks, rows * blocks_held(10**6, windowed.window))
    return Forward(own, KVCache.allocate(shape, blocks, own.device, seen))


def cache_of(model: PreTrainedModel, blocks: int, kv_dtype: KvDtype = "auto") -> KVCache:
    """This many blocks, in which the attention of the model is put. Layers with a window have them in another order,
    where other layers see all.
    """
    shape = probe_layout(model)
    assert shape is not None
    shape = shape.in_int8() if kv_dtype == "int8" else shape
    cache = KVCache.allocate(shape, blocks, model.device, None if shape.windowed is None else blocks + 1)
    if cache.places is not None:
        cache.places[1:] = torch.arange(blocks + 1, 1, -1)
    return cache


def stored_in(cache: KVCache, numbers: Sequence[int]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """(keys, values) of these blocks in each layer, as KVCache has them."""
    at = torch.tensor(numbers)
    tables = [at if window is None else cache.places_in(at) for window in cache.windows]
    keys, values = (
        [tensor[each] for tensor, each in zip(part, tables, strict=True)] for part in (cache.keys, cache.values)
    )
    return keys, values


def table(sequence: int) -> tuple[int, int]:
    """The blocks of one of several sequences of up to two blocks, not in the order in which they lie."""
    return 2 * sequence + 2, 2 * sequence + 1


def two_planes(numbers: torch.Tensor, seed: int) -> Levels:
    """Numbers -128..127 [out, in] as levels with any scales and zeros."""
    outputs, inputs = numbers.shape
    generator = torch.Generator().manual_seed(seed)
    scale, zero = (torch.randn(2, inputs // GROUP, outputs, generator=generator) / 100).bfloat16()
    shifted = (numbers + 128).to(torch.uint8)
    pairs = [torch.stack((16 * scale, zero), -1), torch.stack((scale, 8 * scale), -1)]
    return Levels(torch.cat([packed(shifted >> 4), packed(shifted & 15)], 1), torch.cat(pairs))


def save(
    folder: Path, kind: str = "llama", chat_template: str | None = CHATML, generation: dict[str, Any] | None = None
) -> Path:
    """Write the model to `folder` as `save_pretrained` does, with `generation` in its generation config."""
    made = model(kind)
    made.save_pretrained(folder)
    tokenizer(chat_template).save_pretrained(folder)
    if generation:
        config = type(made.generation_config)(**generation)
        config.save_pretrained(folder)
    return folder


def save_adapter(base: Path, folder: Path, kind: str = "llama", **config: Any) -> Path:
    """Write a LoRA adapter of the model in `base` as peft does, with changes large enough to be seen."""
    import peft  # takes a second, and most tests need none of it

    torch.manual_seed(3)
    options = {"r": 4, "lora_alpha": 8, "target_modules": PROJECTIONS, **config}
    adapted = peft.get_peft_model(type(model(kind)).from_pretrained(base), peft.LoraConfig(**options))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.5)
    adapted.save_pretrained(str(folder))
    return folder


def loaded(folder: Path, **spec: Any) -> LoadedModel:
    """What chatui makes of the folder."""
    ops.load(AppSettings().cache_dir)  # built once for each version of their sources, not for each folder
    return load(ModelSpec(str(folder), **spec), folder, lambda _: None)


def generate(model: PreTrainedModel, ids: Sequence[int], count: int, **options: float) -> list[int]:
    """The greedy choice of transformers' own `generate` behind these tokens."""
    # To torch's types an attribute of a module is a tensor or a module.
    own: Callable[..., torch.Tensor] = model.generate  # type: ignore[assignment]
    made = own(torch.tensor([ids]), do_sample=False, max_new_tokens=count, **options)
    written: list[int] = made[0, len(ids) :].tolist()
    return written


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase,
    chat: list[dict[str, Any]],
    continue_final_message: bool = False,
    sanitize_control_tokens: bool = False,
) -> list[int]:
    """The tokens of the prompt that transformers' own `apply_chat_template` makes."""
    encoded = tokenizer.apply_chat_template(
        chat,
        add_generation_prompt=not continue_final_message,
        continue_final_message=continue_final_message,
        sanitize_control_tokens=sanitize_control_tokens,
    )
    assert isinstance(encoded, BatchEncoding)
    ids: list[int] = encoded["input_ids"]
    return ids


@cache
def ready(kind: str = "llama", chat_template: str = CHATML) -> LoadedModel:
    """A model that tests share, so they must not change it."""
    with tempfile.TemporaryDirectory() as folder:
        return loaded(save(Path(folder), kind, chat_template))
