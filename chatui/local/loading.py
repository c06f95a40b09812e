"""ModelSpec -> LoadedModel: finds the files, checks them and loads what they hold."""

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GgufConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

from chatui.catalogue import ModelSpec
from chatui.chat import ModelInfo
from chatui.errors import ChatError, ModelError
from chatui.local import embedded
from chatui.local.failures import explain, incomplete, no_tokenizer, not_a_chat_model
from chatui.local.prompt import Template, guard, probe
from chatui.local.weights import check_weights
from chatui.settings import DEFAULT_MODEL, GenerationSettings

Report = Callable[[str], None]

THINKING_TAGS = {"<think>", "</think>"}
WANTED_FILES = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
UNWANTED_FILES = ["*/*", "consolidated*.safetensors"]
UNKNOWN_CONTEXT = 8192
# The names by which configs that have no `max_position_embeddings` call it: MPT, Bloom, OpenELM, RWKV, Baichuan.
CONTEXT_NAMES = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_context_length",
    "context_length",
    "model_max_length",
)


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to answer, with what was found out about it once."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    template: Template
    info: ModelInfo
    stop_ids: frozenset[int]
    hidden_ids: frozenset[int]

    def decode(self, ids: list[int]) -> str:
        """The text of reply tokens, without the control tokens among them."""
        shown = [token_id for token_id in ids if token_id not in self.hidden_ids]
        return str(self.tokenizer.decode(shown, skip_special_tokens=False, clean_up_tokenization_spaces=False))


@dataclass(frozen=True)
class _Source:
    """Files on this disk: a folder in transformers' format, or one GGUF file in it."""

    folder: Path
    gguf_file: str | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        return {"gguf_file": self.gguf_file} if self.gguf_file else {}


def load(spec: ModelSpec, cache_dir: Path, report: Report) -> LoadedModel:
    """Find, check and load the model; `report` is told each phase in a few words.

    Raises ModelError, whatever goes wrong.
    """
    try:
        source = _locate(spec, cache_dir, report)
        return _load(spec, source, report)
    except ChatError:
        raise
    except Exception as error:
        raise explain(spec, error) from error


def _load(spec: ModelSpec, source: _Source, report: Report) -> LoadedModel:
    report("reading the tokenizer")
    trusted = {"trust_remote_code": spec.trust_remote_code}
    quantization = _quantization(spec, source)
    device_map = _device_map(spec.device_map)
    config = None if source.gguf_file else _config(spec, source, trusted)
    check_weights(spec, source.folder, source.gguf_file, getattr(config, "dtype", None), device_map)
    tokenizer = _tokenizer(spec, source, trusted)
    template = probe(tokenizer)
    guard(tokenizer)
    report("loading the weights")
    _quiet_quantization()
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        source.folder,
        dtype=_dtype(spec, source),
        device_map=device_map,
        quantization_config=quantization,
        use_safetensors=True,
        output_loading_info=True,
        **source.arguments,
        **trusted,
    )
    model, found = loaded
    if found["missing_keys"]:
        raise incomplete(spec, f"{len(found['missing_keys'])} tensors are missing")
    special = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    kept = {tokenizer.convert_tokens_to_ids(tag) for tag in THINKING_TAGS & set(tokenizer.get_vocab())}
    return LoadedModel(
        model=model.eval(),
        tokenizer=tokenizer,
        template=template,
        info=_info(spec, model, tokenizer, template),
        stop_ids=_stop_ids(model, tokenizer) | template.end_ids,
        hidden_ids=frozenset(special.union(tokenizer.all_special_ids) - kept),
    )


def _config(spec: ModelSpec, source: _Source, trusted: dict[str, bool]) -> PreTrainedConfig:
    """The model's config. Raises ModelError where the model does not write text after text."""
    config: PreTrainedConfig = AutoConfig.from_pretrained(source.folder, **trusted)
    own_code = getattr(config, "auto_map", None) and spec.trust_remote_code
    known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    encodes = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    if config.is_encoder_decoder or (not own_code and (encodes or not known)):
        raise not_a_chat_model(spec, config.model_type)
    return config


def _tokenizer(spec: ModelSpec, source: _Source, trusted: dict[str, bool]) -> PreTrainedTokenizerBase:
    """The tokenizer. Raises ModelError where its files are missing or damaged, whatever the libraries call it."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source.folder, **source.arguments, **trusted)
    except Exception as error:
        if source.gguf_file or isinstance(error, ImportError | MemoryError) or "trust_remote_code" in str(error):
            raise
        raise no_tokenizer(spec, source.folder) from error
    return tokenizer


def _dtype(spec: ModelSpec, source: _Source) -> "torch.dtype | str":
    """The precision to load in; a GGUF file's weights are unpacked to bfloat16, having no such type of their own."""
    if spec.dtype != "auto":
        return {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}[spec.dtype]
    return torch.bfloat16 if source.gguf_file else "auto"


def _locate(spec: ModelSpec, cache_dir: Path, report: Report) -> _Source:
    path = Path(spec.name).expanduser()
    if spec.name.lower().endswith(".gguf"):
        if not path.is_file():
            raise ModelError(f"There is no file {spec.name}.", "Check the path given to --model.")
        return _Source(path.parent.absolute(), path.name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(
                f"The folder {spec.name} holds no model: config.json is missing.",
                "Name the folder that `save_pretrained` wrote or that was downloaded from the Hub, or a GGUF file.",
            )
        return _Source(path.absolute())
    if path.is_file():
        raise ModelError(f"{spec.name} is a file, but not in GGUF format.", "Name the folder that it is in.")
    if path.is_absolute() or spec.name.startswith((".", "~")):
        raise ModelError(f"There is no model folder {spec.name}.", "Check the path given to --model.")
    package = embedded.find() if spec.name == DEFAULT_MODEL and spec.revision is None else None
    if package is not None:
        return _Source(embedded.converted(package, cache_dir, report))
    report("downloading from the Hub")
    own_code = ["*.py"] if spec.trust_remote_code else []
    folder = snapshot_download(
        spec.name, revision=spec.revision, allow_patterns=WANTED_FILES + own_code, ignore_patterns=UNWANTED_FILES
    )
    return _Source(Path(folder))


def _device_map(asked: str) -> str:
    """What transformers is told; on a machine without an accelerator auto is the CPU."""
    if torch.accelerator.is_available() or asked == "cpu":
        return asked
    if asked.startswith(("cuda", "mps", "xpu")):
        raise ModelError(f"PyTorch finds no {asked} device here.", "Leave out --device-map, or say --device-map cpu.")
    return "cpu" if asked == "auto" else asked


def _quantization(spec: ModelSpec, source: _Source) -> BitsAndBytesConfig | GgufConfig | None:
    if source.gguf_file:
        if spec.quantization != "none":
            raise ModelError(
                "A GGUF file is quantized already.", "Leave out --quantization, or load the original model."
            )
        return GgufConfig(dequantize=True)
    if spec.quantization == "none":
        return None
    four_bit = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16}
    options = four_bit if spec.quantization == "4bit" else {"load_in_8bit": True}
    return BitsAndBytesConfig(**options)  # type: ignore[no-untyped-call]


def _quiet_quantization() -> None:
    """Silence what bitsandbytes says once per layer and token (it casts inputs on the CPU)."""
    warnings.filterwarnings("ignore", module="bitsandbytes")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Every id that config, generation config or tokenizer call the end."""
    ids: set[int] = set()
    config = model.config.get_text_config(decoder=True)
    for found in (
        getattr(config, "eos_token_id", None),
        getattr(model.generation_config, "eos_token_id", None),
        tokenizer.eos_token_id,
    ):
        ids.update(found if isinstance(found, list) else [] if found is None else [found])
    return frozenset(ids)


def _info(spec: ModelSpec, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, template: Template) -> ModelInfo:
    defaults = model.generation_config.to_diff_dict() if model.generation_config else {}
    precision = str(model.dtype).removeprefix("torch.")
    return ModelInfo(
        name=path.resolve().name if (path := Path(spec.name).expanduser()).exists() else spec.name,
        precision=precision if spec.quantization == "none" else f"{spec.quantization} bitsandbytes",
        parameters=model.num_parameters(),
        weight_bytes=sum(weights.nbytes for weights in (*model.parameters(), *model.buffers())),
        context_length=context_length(model.config.get_text_config(decoder=True), tokenizer),
        device=str(model.device),
        defaults=GenerationSettings.from_generation_config(defaults),
        notes=template.notes,
    )


def context_length(config: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens that the model was made for; 8192 where neither config nor tokenizer says."""
    for name in CONTEXT_NAMES:
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    known = tokenizer.model_max_length
    return int(known) if 0 < known < 10**9 else UNKNOWN_CONTEXT
