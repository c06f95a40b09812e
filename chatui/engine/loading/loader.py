"""ModelSpec -> LoadedModel: finds the files, checks them and loads what they hold."""

import copy
import hashlib
import json
import logging
import threading
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, replace
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

from chatui.chat import ModelInfo
from chatui.engine.kernels import ops
from chatui.engine.kernels.quantized import pack
from chatui.engine.loading import anatomy, embedded, gguf_metadata, lora, model_info, wrong_files
from chatui.engine.loading.cpu_quota import follow_cpu_quota
from chatui.engine.loading.failures import incomplete, no_tokenizer, not_a_chat_model, to_model_error
from chatui.engine.loading.weights import check_weights, total_memory
from chatui.engine.text import thinking, thinking_tags
from chatui.engine.text.chat_template import Template, probe
from chatui.engine.text.prompt import set_control_tokens
from chatui.errors import ChatError, ModelError
from chatui.i18n import N_
from chatui.model_spec import (
    ModelSpec,
    adapter_base,
    check_name,
    display_name,
    is_adapter,
    parse_model_name,
)
from chatui.settings import DEFAULT_MODEL

ReportPhase = Callable[[str], None]

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
    """A model ready to answer, with what was found out about it once; `spelling` of the tokens asked for so far.

    `shares` is the loaded model whose weights this one has too: a LoRA adapter's base, for example.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    template: Template
    info: ModelInfo
    stop_ids: frozenset[int]
    hidden_ids: frozenset[int]
    spelling: dict[int, str] = field(default_factory=dict)
    shares: "LoadedModel | None" = None

    def decode(self, ids: list[int]) -> str:
        """The text of reply tokens, without the control tokens among them."""
        shown = [token_id for token_id in ids if token_id not in self.hidden_ids]
        return str(self.tokenizer.decode(shown, skip_special_tokens=False, clean_up_tokenization_spaces=False))


@dataclass(frozen=True)
class Files:
    """Files on this disk: a folder in transformers' format, or one GGUF file in it, or such a folder and levels.

    Where known, `commit` is the folder's on the Hub, and `made_from` the GGUF file that it was converted from.
    """

    folder: Path
    gguf_file: str | None = None
    levels: Path | None = None
    commit: str = ""
    made_from: Path | None = None

    @property
    def path(self) -> Path:
        """The folder or the GGUF file."""
        return self.folder / self.gguf_file if self.gguf_file else self.folder

    @property
    def arguments(self) -> dict[str, Any]:
        """What transformers is told beside the folder."""
        return {"gguf_file": self.gguf_file} if self.gguf_file else {}

    @property
    def revision(self) -> str:
        """What tells it from others of its name; the whole of a GGUF file is read, in a small part of its loading."""
        original = self.path if self.gguf_file else self.made_from
        if original is None:
            return self.commit
        with original.open("rb") as file:
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()[:12]


def load(spec: ModelSpec, cache_dir: Path, report: ReportPhase) -> LoadedModel:
    """Find, check and load the model; `report` is told each phase in a few words.

    Raises ModelError, whatever goes wrong.
    """
    follow_cpu_quota()
    try:
        loaded = _load_once(spec, cache_dir, report)
    except ChatError:
        raise
    except Exception as error:
        raise to_model_error(spec, error) from error
    if spec.compile == "auto" and loaded.model.device.type == "cpu":
        report("building the kernels")
        ops.load(cache_dir)
    return loaded


_loaded: "weakref.WeakValueDictionary[str, LoadedModel]" = weakref.WeakValueDictionary()
"""What is in memory now, by its spec: a LoRA adapter and its base share their weights."""
_loading = threading.RLock()


def is_loaded(spec: ModelSpec) -> bool:
    """Whether the weights of this model are in memory."""
    return repr(spec) in _loaded


def _load_once(spec: ModelSpec, cache_dir: Path, report: ReportPhase) -> LoadedModel:
    """The model if it is in memory, else load it. An adapter is put on its base, which is loaded if it is not."""
    with _loading:
        if (found := _loaded.get(repr(spec))) is not None:
            return found
        source = _locate(spec, cache_dir, report)
        if source.gguf_file is None and is_adapter(source.folder):
            base = _load_once(base_spec(spec, source.folder), cache_dir, report)
            loaded = _adapted(spec, source, base, report)
        else:
            loaded = _load(spec, source, report)
        _loaded[repr(spec)] = loaded
        return loaded


def base_spec(spec: ModelSpec, folder: Path) -> ModelSpec:
    """The spec of the model that the adapter in `folder` changes. Raises ModelError."""
    if spec.base is not None:
        return spec.base
    wanted = adapter_base(folder)
    if not wanted:
        raise ModelError(
            f"{spec.name} is a LoRA adapter that does not say which model it changes.",
            "Put the model's name into base_model_name_or_path of its adapter_config.json.",
        )
    name, revision = parse_model_name(wanted)
    try:
        on_disk(replace(spec, name=name))
    except ModelError:
        raise ModelError(
            f"{spec.name} is a LoRA adapter of {wanted}, which is not here.",
            "Serve that model too: give it to a --model of its own.",
        ) from None
    return replace(spec, name=name, revision=revision, chat_template=None)


def _adapted(spec: ModelSpec, source: Files, base: LoadedModel, report: ReportPhase) -> LoadedModel:
    """The base with the adapter's changes, and with its chat template where it has one."""
    report("reading the adapter")
    adapter = lora.read_adapter(spec.name, source.folder)
    model = lora.apply_adapter(spec.name, base.model, adapter)
    tokenizer, template, info = base.tokenizer, base.template, base.info
    text = _adapter_template(spec, source.folder)
    if text is not None and text != tokenizer.chat_template:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.chat_template = text
        template = probe(tokenizer)
        info = replace(info, template=replace(template.facts(tokenizer.get_chat_template()), replaced=True))
    weight_bytes = adapter.elements * model.dtype.itemsize
    path, base_name = Path(spec.name).expanduser(), base.info.name
    info = replace(
        info,
        name=display_name(path) if path.exists() else spec.name,
        adapter=_from_home(source.folder) if path.exists() else spec.name,
        parameters=info.parameters + adapter.elements,
        weight_bytes=info.weight_bytes + weight_bytes,
        read_bytes=info.read_bytes + weight_bytes,
        measured_bytes=0,
        notes=(*info.notes, N_(f"A LoRA adapter of {base_name}, whose weights it shares.")),
    )
    return replace(base, model=model, tokenizer=tokenizer, template=template, info=info, spelling={}, shares=base)


def _adapter_template(spec: ModelSpec, folder: Path) -> str | None:
    """The chat template in an adapter's folder, where there is one."""
    if spec.chat_template is not None:
        return _read_template(spec.chat_template)
    if (folder / "chat_template.jinja").is_file():
        return _read_template(folder / "chat_template.jinja")
    config = folder / "tokenizer_config.json"
    try:
        found = json.loads(config.read_bytes()).get("chat_template") if config.is_file() else None
    except (ValueError, AttributeError):
        found = None
    return found if isinstance(found, str) else None


def _load(spec: ModelSpec, source: Files, report: ReportPhase) -> LoadedModel:
    if source.gguf_file:
        wrong_files.check_file(source.path)
    else:
        wrong_files.check_folder(spec.name, source.folder)
    report("reading the tokenizer")
    trusted = {"trust_remote_code": spec.trust_remote_code}
    device_map = device_map_of(spec.device_map)
    spec = resolve_auto(spec, source, device_map)
    config = None if source.gguf_file else config_of(spec, source, trusted)
    check_weights(spec, source.folder, source.gguf_file, source.levels, getattr(config, "dtype", None), device_map)
    tokenizer = _tokenizer(spec, source, trusted)
    from_gguf = gguf_metadata.read(source.path) if source.gguf_file else {}
    unknown = gguf_metadata.split_text(tokenizer, from_gguf)
    replaced = _replaced_template(spec, source, tokenizer.chat_template)
    if replaced is not None:
        tokenizer.chat_template = replaced
    template = probe(tokenizer)
    set_control_tokens(tokenizer)
    report("loading the weights")
    _quiet_quantization()
    before = model_info.memory_in_use(device_map)
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        source.folder,
        dtype=_dtype(spec, source),
        device_map=device_map,
        quantization_config=_quantization(spec, source),
        use_safetensors=True,
        output_loading_info=True,
        **source.arguments,
        **trusted,
    )
    model, found = loaded
    if model.generation_config is not None:
        model.generation_config.update(**gguf_metadata.sampling(from_gguf))
    if found["missing_keys"]:
        wrong_files.check_output_layer(spec.name, found["missing_keys"])
        raise incomplete(spec, f"{len(found['missing_keys'])} tensors are missing")
    model.eval()
    parameters, made = model.num_parameters(), anatomy.from_config(model.config, model.dtype, spec.trust_remote_code)
    gguf = source.path if source.gguf_file else None
    precision, notes = pack(model, spec.quantization, gguf, source.levels, report)
    model_info.copy_mapped_tensors(model)
    model_info.touch_pages(model)
    special = {token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    kept = {tokenizer.convert_tokens_to_ids(tag) for tag in _marks(tokenizer, template)}
    described = model_info.describe(model, tokenizer, template, precision, parameters, made)
    if described.template is not None and replaced is not None:
        described = replace(described, template=replace(described.template, replaced=True))
    info = replace(
        described,
        name=display_name(path) if (path := Path(spec.name).expanduser()).exists() else spec.name,
        context_length=chosen_context(spec, context_length(model.config.get_text_config(decoder=True), tokenizer)),
        notes=(*template.notes, *unknown, *notes),
        defaults=described.defaults.model_copy(update=spec.generation.model_dump(exclude_unset=True)),
        revision=source.revision,
        source=_from_home(source.path) if path.exists() or source.levels else spec.name,
        measured_bytes=model_info.memory_in_use(device_map) - before,
        memory_bytes=total_memory(model.device),
    )
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        template=template,
        info=info,
        stop_ids=frozenset(info.stop_ids),
        hidden_ids=frozenset(special.union(tokenizer.all_special_ids) - kept),
    )


def _marks(tokenizer: PreTrainedTokenizerBase, template: Template) -> set[str]:
    """The control tokens that part what a model thinks from what it says."""
    tokens = tokenizer.get_added_vocab()
    if template.response is not None:
        return thinking.tokens_of(template.response, tokens)
    own = template.tags not in (None, thinking_tags.HARMONY)  # those of harmony are read by their ids
    tags = [*thinking_tags.TAGS, *([template.tags] if template.tags and own else [])]
    parts = [part.strip() for one in tags for part in (one.open, one.close)]
    return {token for token in tokens if len(token) > 1 and any(part.startswith(token) for part in parts)}


def _from_home(path: Path) -> str:
    """As ~/..., where it is in the user's home: what a page shows should not name the user."""
    try:
        home = Path.home()
    except RuntimeError:
        return str(path)
    return f"~/{path.relative_to(home).as_posix()}" if path.is_relative_to(home) else str(path)


def config_of(spec: ModelSpec, source: Files, trusted: dict[str, bool]) -> PreTrainedConfig:
    """The model's config. Raises ModelError where the model does not write text after text."""
    config: PreTrainedConfig = AutoConfig.from_pretrained(source.folder, **trusted)
    own_code = getattr(config, "auto_map", None) and spec.trust_remote_code
    known = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    encodes = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    if config.is_encoder_decoder or (not own_code and (encodes or not known)):
        raise not_a_chat_model(spec, config.model_type)
    return config


def _tokenizer(spec: ModelSpec, source: Files, trusted: dict[str, bool]) -> PreTrainedTokenizerBase:
    """The tokenizer. Raises ModelError where its files are missing or damaged, whatever the libraries call it."""
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source.folder, **source.arguments, **trusted)
    except Exception as error:
        if source.gguf_file or isinstance(error, ImportError | MemoryError) or "trust_remote_code" in str(error):
            raise
        raise no_tokenizer(spec, source.folder) from error
    return tokenizer


def _replaced_template(spec: ModelSpec, source: Files, own: object) -> str | None:
    """The template to take in place of the tokenizer's `own`, if any.

    The operator's; of several none of which is the default, the only one or that for chats; for a tokenizer that has
    none, that of the model's processor.
    """
    if spec.chat_template is not None:
        return _read_template(spec.chat_template)
    if isinstance(own, dict) and "default" not in own:
        found = next(iter(own.values())) if len(own) == 1 else own.get("chat")
        return found if isinstance(found, str) else None
    processors = source.folder / "chat_template.json"
    return _read_template(processors) if not own and not source.gguf_file and processors.is_file() else None


def _read_template(file: Path) -> str:
    """The template in a text file, or in JSON under `chat_template` as in tokenizer_config.json. Raises ModelError."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ModelError(f"The chat template {file} cannot be read: {reason}.", "Check --chat-template.") from None
    if file.suffix == ".json":
        try:
            found = json.loads(text)["chat_template"]
        except (ValueError, KeyError, TypeError):
            found = None
        if not isinstance(found, str):
            raise ModelError(f"{file} holds no chat_template.", "Name a Jinja file, or a tokenizer_config.json.")
        text = found
    if not text.strip():
        raise ModelError(f"The chat template {file} is empty.", "Check --chat-template.")
    return text


def _dtype(spec: ModelSpec, source: Files) -> "torch.dtype | str":
    """The precision to load in; a GGUF file's weights are unpacked to bfloat16, having no such type of their own."""
    if spec.dtype != "auto":
        return {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}[spec.dtype]
    return torch.bfloat16 if source.gguf_file else "auto"


def _locate(spec: ModelSpec, cache_dir: Path, report: ReportPhase) -> Files:
    found = on_disk(spec)
    if found is not None:
        return found
    package = embedded.find() if spec.name == DEFAULT_MODEL and spec.revision is None else None
    if package is not None:
        converted = embedded.converted(package, cache_dir, report)
        return Files(converted, levels=converted / embedded.LEVELS, made_from=package)
    report("downloading from the Hub")
    own_code = ["*.py"] if spec.trust_remote_code else []
    folder = snapshot_download(
        spec.name, revision=spec.revision, allow_patterns=WANTED_FILES + own_code, ignore_patterns=UNWANTED_FILES
    )
    if not (Path(folder) / "config.json").is_file() and not is_adapter(Path(folder)):
        raise ModelError(
            f"{spec.name} has no config.json, so it is no model for transformers.",
            "If it has GGUF files, download one of them and give its path to --model.",
        )
    return Files(Path(folder), commit=Path(folder).name)


def on_disk(spec: ModelSpec) -> Files | None:
    """The folder or file that the spec names, None for a name on the Hub. Raises ModelError where it is not there."""
    path = Path(spec.name).expanduser()
    if path.is_file() and wrong_files.is_gguf(path):
        return Files(path.parent.absolute(), path.name)
    if spec.name.lower().endswith(".gguf") and not path.is_dir():
        if not path.parent.is_dir():
            check_name(spec.name)
        raise ModelError(f"There is no file {spec.name}.", "Check the path given to --model.")
    if path.is_dir():
        if is_adapter(path):
            return Files(path.absolute())
        wrong_files.check_folder(spec.name, path)
        if not (path / "config.json").is_file():
            wrong_files.check_inside(spec.name, path)
            raise ModelError(
                f"The folder {spec.name} holds no model: config.json is missing.",
                "Name the folder that `save_pretrained` wrote or that was downloaded from the Hub, or a GGUF file.",
            )
        return Files(path.absolute())
    if path.is_file():
        wrong_files.check_file(path)
        raise ModelError(f"{spec.name} is a file, but not in GGUF format.", "Name the folder that it is in.")
    if path.is_absolute() or spec.name.startswith((".", "~")):
        raise ModelError(f"There is no model folder {spec.name}.", "Check the path given to --model.")
    check_name(spec.name)
    return None


def device_map_of(asked: str) -> str:
    """What transformers is told; on a machine without an accelerator auto is the CPU."""
    if torch.accelerator.is_available() or asked == "cpu":
        return asked
    if asked.startswith(("cuda", "mps", "xpu")):
        raise ModelError(f"PyTorch finds no {asked} device here.", "Leave out --device-map, or say --device-map cpu.")
    return "cpu" if asked == "auto" else asked


def resolve_auto(spec: ModelSpec, source: Files, device_map: str) -> ModelSpec:
    """The spec with `auto` decided by device and files. Raises ModelError where the parts do not go together."""
    if spec.quantization == "auto":
        has_levels = source.gguf_file is not None or source.levels is not None
        keeps = has_levels and device_map == "cpu" and spec.dtype in ("auto", "bfloat16")
        return spec if keeps else replace(spec, quantization="none")
    if spec.quantization in ("8bit", "4bit") and source.gguf_file:
        raise ModelError("A GGUF file is quantized already.", "Leave out --quantization, or load the original model.")
    if spec.quantization not in ("int8", "int4"):
        return spec
    if device_map != "cpu":
        bits = spec.quantization.removeprefix("int")
        raise ModelError(
            f"--quantization {spec.quantization} is for the CPU only.",
            f"Say --quantization {bits}bit, or --device-map cpu.",
        )
    if spec.dtype not in ("auto", "bfloat16"):
        raise ModelError(
            f"--quantization {spec.quantization} works in bfloat16, not in {spec.dtype}.",
            "Leave out --dtype, or --quantization.",
        )
    return replace(spec, dtype="bfloat16")


def _quantization(spec: ModelSpec, source: Files) -> BitsAndBytesConfig | GgufConfig | None:
    """What transformers is told."""
    if source.gguf_file:
        return GgufConfig(dequantize=True)
    if spec.quantization not in ("8bit", "4bit"):
        return None
    four_bit = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16}
    options = four_bit if spec.quantization == "4bit" else {"load_in_8bit": True}
    return BitsAndBytesConfig(**options)


def _quiet_quantization() -> None:
    """Silence what bitsandbytes says once per layer and token (it casts inputs on the CPU)."""
    warnings.filterwarnings("ignore", module="bitsandbytes")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def chosen_context(spec: ModelSpec, most: int) -> int:
    """The tokens of context: those chosen for this loading, but no more than the model was made for."""
    return most if spec.context is None else min(spec.context, most)


def context_length(config: Any, tokenizer: PreTrainedTokenizerBase | None = None) -> int:
    """Tokens that the model was made for; 8192 where neither config nor tokenizer says."""
    for name in CONTEXT_NAMES:
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    known = tokenizer.model_max_length if tokenizer is not None else 0
    return int(known) if 0 < known < 10**9 else UNKNOWN_CONTEXT
