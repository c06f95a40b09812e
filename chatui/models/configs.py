"""What a config.json, or the metadata of a GGUF file, says about layers, keys and values (K/V), and experts.

Configs are those of transformers: https://github.com/huggingface/transformers/tree/main/src/transformers/models. The
fields of GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]

# The names by which configs call the number of experts, and of those that one token uses.
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts")
USED_EXPERTS = ("num_experts_per_tok", "top_k_experts", "moe_topk", "moe_top_k", "moe_k", "num_experts_per_token")
CONTEXT = ("max_position_embeddings", "n_positions", "max_sequence_length", "n_ctx", "max_seq_len", "seq_length")
WITHOUT_KEYS = frozenset({"linear_attention", "conv", "moe", "mamba", "recurrent", "mlp"})
"""Kinds of layers that have a state of fixed size, or none, in place of K/V."""
# What transformers has for values that published config.json files of these leave out.
DEFAULTS: Mapping[str, Config] = {
    "gemma3_text": {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262_208,
        "max_position_embeddings": 131_072,
    }
}
FUSED = frozenset({"phi3", "glm", "glm4"})
"""Two matrices of the feed-forward network are one layer in these."""
MAX_LAYERS = 10_000
TEXT_CONFIGS = ("text_config", "llm_config", "language_config", "thinker_config")
# In these, key/value heads × head size × 2 numbers are kept for each token and layer with attention.
# fmt: off
PLAIN = frozenset((
    "afmoe", "apertus", "arcee", "bamba", "bitnet", "cohere", "cohere2", "cwm", "dots1", "ernie4_5", "ernie4_5_moe",
    "exaone4", "falcon_h1", "flex_olmo", "gemma", "gemma2", "gemma3_text", "glm", "glm4", "glm4_moe", "gpt2",
    "gpt_bigcode", "gpt_neox", "gpt_oss", "granite", "granitemoe", "granitemoehybrid", "granitemoeshared", "helium",
    "hunyuan_v1_dense", "hunyuan_v1_moe", "jamba", "lfm2", "lfm2_moe", "llama", "llama4_text", "minimax_m2",
    "ministral3", "mistral", "mixtral", "nemotron", "olmo", "olmo2", "olmo3", "olmoe", "phi", "phi3", "phimoe",
    "qwen2", "qwen2_moe", "qwen3", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_moe", "qwen3_next", "seed_oss",
    "smollm3", "solar_open", "stablelm", "starcoder2", "vaultgemma",
))
LATENT = frozenset({"deepseek_v2", "deepseek_v3", "kimi_k2", "minicpm3"})
"""Multi-head latent attention: https://arxiv.org/abs/2405.04434. Caches may keep compressed K/V, blocks do not."""
STATE_ONLY = frozenset({"mamba", "mamba2", "falcon_mamba"})
# The same for the names of architectures in GGUF files.
GGUF_PLAIN = frozenset((
    "apertus", "arcee", "cohere2", "command-r", "dots1", "ernie4_5", "ernie4_5-moe", "exaone4", "gemma", "gemma2",
    "gemma3", "glm4", "glm4moe", "gpt-oss", "gpt2", "gptneox", "granite", "granitemoe", "hunyuan-dense",
    "hunyuan-moe", "lfm2", "llama", "mistral", "nemotron", "olmo", "olmo2", "olmoe", "phi2", "phi3", "phimoe",
    "qwen2", "qwen2moe", "qwen3", "qwen3moe", "seed_oss", "smollm3", "stablelm", "starcoder2",
))
# fmt: on


@dataclass(frozen=True)
class Layout:
    """Sizes that a config gives. `kv_elements` are the numbers in the K/V of one token, all layers together.

    `kv_elements` is None where the architecture is not known here. `latent_elements` are those of compressed K/V.
    `attention_layers` of the `layers` have K/V; `window_layers` of them need the last `window` tokens only.
    `expert_parameters` are those of all routed experts together. None and 0 stand for what the config does not say.
    """

    architecture: str
    layers: int = 0
    hidden_size: int = 0
    vocabulary: int = 0
    tied: bool = False
    context_length: int | None = None
    heads: int = 0
    kv_heads: int | None = None
    head_size: int | None = None
    attention_layers: int = 0
    kv_elements: int | None = None
    latent_elements: int | None = None
    window: int | None = None
    window_layers: int = 0
    experts: int = 1
    used_experts: int = 1
    expert_parameters: int = 0
    widest: int = 0
    writes_out_attention: bool = False

    @property
    def sliding_window(self) -> int | None:
        """The tokens of which no layer sees more than the last; None where some layer sees all, or sees chunks."""
        return self.window if self._slides and self.window_layers == self.layers else None

    @property
    def some_slide(self) -> bool:
        """Whether some of the layers have a sliding window, and the others see all."""
        return self._slides and 0 < self.window_layers < self.layers == self.attention_layers

    @property
    def _slides(self) -> bool:
        return self.window is not None and self.architecture != "llama4_text"


def layout(config: Config) -> Layout:
    """The layout by a config.json, whose text part counts. Never raises: what is absent or no number is left out."""
    text = text_config(config)
    kind = str(text.get("model_type") or config.get("model_type") or "")
    text = {**DEFAULTS.get(kind, {}), **text}
    layers = min(_number(text, "num_hidden_layers", "n_layer", "num_layers", "n_layers"), MAX_LAYERS)
    hidden = _number(text, "hidden_size", "n_embd", "d_model")
    heads = _number(text, "num_attention_heads", "n_head")
    kv_heads = _number(text, "num_key_value_heads") or (1 if text.get("multi_query") else heads)
    head_size = _number(text, "head_dim", "kv_channels") or (hidden // heads if heads else 0)
    used, experts = experts_used(text)
    with_keys = _attention_layers(kind, text, layers)
    latent = _number(text, "kv_lora_rank") if kind in LATENT else 0
    rope = _number(text, "qk_rope_head_dim") if latent else 0
    head_sizes = _number(text, "qk_nope_head_dim") + rope + _number(text, "v_head_dim")
    each = heads * head_sizes if latent else 2 * kv_heads * head_size
    known = kind in PLAIN | LATENT | STATE_ONLY and bool(layers and (each or kind in STATE_ONLY))
    window, window_layers = _windows(kind, text, layers)
    expert_size, expert_width = _expert_size(kind, text, hidden)
    return Layout(
        architecture=kind,
        layers=layers,
        hidden_size=hidden,
        vocabulary=_number(text, "vocab_size"),
        tied=is_tied(config) is not False,
        context_length=_number(text, *CONTEXT) or None,
        heads=heads,
        kv_heads=kv_heads or None,
        head_size=head_size or None,
        attention_layers=with_keys,
        kv_elements=with_keys * each if known else None,
        latent_elements=with_keys * (latent + rope) if latent else None,
        window=window,
        window_layers=window_layers,
        experts=experts,
        used_experts=used,
        expert_parameters=_expert_layers(kind, text, layers) * experts * expert_size if experts > 1 else 0,
        widest=_widest(kind, text, hidden, 2 * used * expert_width if experts > 1 else 0),
        writes_out_attention=bool(text.get("attn_logit_softcapping")) or kind == "gpt_oss",
    )


def gguf_layout(fields: Mapping[str, Any]) -> Layout:
    """The layout by the metadata fields of a GGUF file. Never raises."""
    kind = str(fields.get("general.architecture") or "")
    own = {name.removeprefix(f"{kind}."): value for name, value in fields.items() if name.startswith(f"{kind}.")}
    layers, hidden = min(_number(own, "block_count"), MAX_LAYERS), _number(own, "embedding_length")
    heads = _first(own.get("attention.head_count"))
    key_size = _number(own, "attention.key_length") or (hidden // heads if heads else 0)
    value_size = _number(own, "attention.value_length") or key_size
    by_layer = _by_layer(own.get("attention.head_count_kv"), layers, heads)
    latent = _number(own, "attention.kv_lora_rank")
    known = bool(layers and key_size and kind in GGUF_PLAIN)
    experts = max(1, _number(own, "expert_count"))
    window = _number(own, "attention.sliding_window") or None
    expert_width = _number(own, "expert_feed_forward_length")
    used = min(max(1, _number(own, "expert_used_count")), experts)
    return Layout(
        architecture=kind,
        layers=layers,
        hidden_size=hidden,
        context_length=_number(own, "context_length") or None,
        heads=heads,
        kv_heads=max(by_layer, default=0) or None,
        head_size=key_size or None,
        attention_layers=sum(count > 0 for count in by_layer),
        kv_elements=sum(by_layer) * (key_size + value_size) if known and not latent else None,
        window=window,
        experts=experts,
        used_experts=used,
        widest=max(_first(own.get("feed_forward_length")) or 4 * hidden, 2 * used * expert_width),
        writes_out_attention=kind in ("gpt-oss", "gemma2"),
    )


def text_config(config: Config) -> Config:
    """The part of a config that describes the model that writes text, the config itself for most models."""
    parts = (config.get(name) for name in TEXT_CONFIGS)
    part = next((part for part in parts if isinstance(part, Mapping)), None)
    return config if part is None else {**part, **_nested(part)}


def _nested(config: Config) -> Config:
    """The text part of a part, as the `thinker_config` of models that also speak has one."""
    part = config.get("text_config")
    return part if isinstance(part, Mapping) else {}


def is_tied(config: Config) -> bool | None:
    """Whether the output layer is the embedding; None if the config does not say, for which transformers has True."""
    values = (part.get("tie_word_embeddings") for part in (text_config(config), config))
    return next((value for value in values if isinstance(value, bool)), None)


def experts_used(config: Config) -> tuple[int, int]:
    """(experts that one token uses, routed experts) of a layer, (1, 1) for a model without experts."""
    count, used = _number(config, *EXPERTS) or 1, _number(config, *USED_EXPERTS) or 1
    return min(used, count), count


def _number(config: Config, *names: str) -> int:
    """The first of the names that has a positive integer, else 0."""
    values = (config.get(name) for name in names)
    return next((value for value in values if isinstance(value, int) and value > 0), 0)


def _first(value: Any) -> int:
    """A number, or the largest of a list of numbers for each layer."""
    items = value if isinstance(value, Iterable) and not isinstance(value, str) else (value,)
    return max((item for item in items if isinstance(item, int)), default=0)


def _by_layer(value: Any, layers: int, default: int) -> list[int]:
    """A number for each layer, from one number for all, a list of them, or nothing."""
    if isinstance(value, list | tuple):
        return [item if isinstance(item, int) else 0 for item in value]
    return layers * [value if isinstance(value, int) else default]


def _attention_layers(kind: str, text: Config, layers: int) -> int:
    """How many layers have K/V."""
    if kind in STATE_ONLY:
        return 0
    kinds = text.get("layer_types") or text.get("layers_block_type")
    if isinstance(kinds, list | tuple):
        return sum(str(name) not in WITHOUT_KEYS for name in kinds)
    period, offset = _number(text, "full_attention_interval"), 0
    if kind == "jamba":
        period, offset = _number(text, "attn_layer_period") or 8, _number(text, "attn_layer_offset") or 4
        return len(range(offset, layers, period))
    indices = text.get("attn_layer_indices")
    if kind == "bamba":
        return len(indices) if isinstance(indices, list | tuple) else 0
    return layers // period if period else layers


def _windows(kind: str, text: Config, layers: int) -> tuple[int | None, int]:
    """(tokens of the sliding window or chunk, layers that have one)."""
    window = _number(text, "sliding_window", "attention_chunk_size")
    if not window or text.get("use_sliding_window") is False:
        return None, 0
    kinds = text.get("layer_types")
    if isinstance(kinds, list | tuple):
        return window, sum(name in ("sliding_attention", "chunked_attention") for name in kinds)
    pattern = _number(text, "sliding_window_pattern", "_sliding_window_pattern") or {
        "gemma2": 2,
        "gemma3_text": 6,
        "cohere2": 4,
        "gpt_oss": 2,
    }.get(kind, 0)
    if pattern:
        return window, layers - layers // pattern
    return window, layers if kind in ("mistral", "mixtral", "phi3", "starcoder2") else 0


def _expert_size(kind: str, text: Config, hidden: int) -> tuple[int, int]:
    """(parameters, intermediate size) of one routed expert: three matrices, in gpt-oss with biases."""
    width = _number(text, "moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size")
    if kind == "llama4_text":
        width = _number(text, "intermediate_size")
    biases = 2 * width + hidden if kind == "gpt_oss" else 0
    return 3 * hidden * width + biases, width


def _widest(kind: str, text: Config, hidden: int, experts: int) -> int:
    """The most outputs of a layer. `experts` are those of the experts that one token uses."""
    intermediate = _number(text, "intermediate_size", "n_inner") or 4 * hidden
    return max(2 * intermediate if kind in FUSED else intermediate, experts)


def _expert_layers(kind: str, text: Config, layers: int) -> int:
    """How many layers have experts. The others have one dense feed-forward network."""
    dense = text.get("mlp_only_layers")
    kinds = text.get("mlp_layer_types")
    if isinstance(kinds, list | tuple):
        return sum(name == "sparse" for name in kinds)
    if kind == "llama4_text":
        moe_layers = text.get("moe_layers")
        step = _number(text, "interleave_moe_layer_step") or 1
        return len(moe_layers) if isinstance(moe_layers, list | tuple) else layers // step
    if kind == "ernie4_5_moe":
        end = _number(text, "moe_layer_end_index") or layers - 1
        start, interval = _number(text, "moe_layer_start_index"), _number(text, "moe_layer_interval") or 1
        return sum((index + 1) % interval == 0 for index in range(start, min(end, layers - 1) + 1))
    if kind == "jamba":
        period = _number(text, "expert_layer_period") or 2
        return len(range(_number(text, "expert_layer_offset"), layers, period))
    first = _number(text, "first_k_dense_replace", "num_dense_layers")
    step = _number(text, "decoder_sparse_step") or 1
    skipped = dense if isinstance(dense, list | tuple) else ()
    return sum(index >= first and (index + 1) % step == 0 and index not in skipped for index in range(layers))
