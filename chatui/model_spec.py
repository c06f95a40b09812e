"""Which model to load, and how: names, folders, adapters. Reads no weights and knows no torch."""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from chatui.chat import LoadOptions
from chatui.errors import ModelError, SettingsError
from chatui.generation_settings import GenerationSettings
from chatui.setting_values import shorten
from chatui.settings import AppSettings, Compile, Dtype, KvDtype, Quantization
from chatui.stored_tensors import GGUF_LEVELS

PRECISIONS: Mapping[str, tuple[Dtype, Quantization]] = {
    "float32": ("float32", "none"),
    "bfloat16": ("bfloat16", "none"),
    "int8": ("bfloat16", "int8"),
    "int4": ("bfloat16", "int4"),
}
"""The precisions that every CPU supports, with the values of the flags for each."""
GPU_PRECISIONS: Mapping[str, tuple[Dtype, Quantization]] = {
    "float32": ("float32", "none"),
    "bfloat16": ("bfloat16", "none"),
    "8bit": ("bfloat16", "8bit"),
    "4bit": ("bfloat16", "4bit"),
}
"""The precisions on GPUs, with the values of the flags for each."""
DEVICE = re.compile(r"auto|cpu|mps|(?:cuda|xpu)(?::\d{1,2})?")
MIN_CONTEXT, MAX_CONTEXT = 256, 10_000_000
"""Tokens that may be chosen for a conversation; a model has at most what it was made for."""
HUB_PAGE = re.compile(
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<name>[\w.-]+/[\w.-]+)(?:/tree/(?P<revision>[\w.-]+))?/?"
    r"(?:[?#].*)?"
)
HUB_FILE = re.compile(
    r"(?:(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/)?(?P<name>[\w.-]+/[\w.-]+)/"
    r"(?:(?:blob|resolve|raw)/[\w.-]+/)?(?P<path>[\w./ -]+\.(?:gguf|safetensors|bin|json))(?:[?#].*)?"
)
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""The files of a LoRA adapter, as peft writes them."""


@dataclass(frozen=True)
class ModelSpec:
    """The model to load and how to run it, as the settings and LoadOptions request it. `kv_memory` and
    `kv_cache_size` are in bytes.

    For a LoRA adapter `name` is the adapter's, and `base` the model that it changes; None takes the one that its
    config names.
    """

    name: str
    revision: str | None = None
    dtype: Dtype = "auto"
    device_map: str = "auto"
    quantization: Quantization = "auto"
    trust_remote_code: bool = False
    slots: int = AppSettings.model_fields["slots"].default
    kv_memory: int | None = None
    compile: Compile = "auto"
    chat_template: Path | None = None
    generation: GenerationSettings = field(default_factory=GenerationSettings)
    """Fields that are set override the model's generation defaults."""
    base: "ModelSpec | None" = None
    context: int | None = None
    load_anyway: bool = False
    prompt_lookup_num_tokens: int = AppSettings.model_fields["prompt_lookup_num_tokens"].default
    kv_dtype: KvDtype = "auto"
    kv_cache_dir: Path | None = None
    kv_cache_size: int = int(AppSettings.model_fields["kv_cache_size"].default * 1e9)

    @classmethod
    def from_settings(cls, settings: AppSettings) -> "ModelSpec":
        """The default model."""
        return cls.all_from_settings(settings)[0]

    @classmethod
    def all_from_settings(cls, settings: AppSettings) -> "list[ModelSpec]":
        """All models to serve, the default one first. Its revision and chat template are for it alone."""
        folder_names = [] if settings.models_dir is None else find_models(settings.models_dir)
        names = dict.fromkeys([*settings.model, *(str(path) for path in folder_names)])
        specs = [cls._named(*parse_model_name(name), settings) for name in names]
        default = replace(
            specs[0], revision=settings.revision or specs[0].revision, chat_template=settings.chat_template
        )
        return with_bases([default, *specs[1:]])

    def with_options(self, options: LoadOptions) -> "ModelSpec":
        """The spec with what was chosen for one loading; an adapter's base has it too. Raises SettingsError."""
        base = None if self.base is None else self.base.with_options(options)
        spec = replace(self, context=options.context, load_anyway=options.load_anyway, base=base)
        if options.context is not None and not MIN_CONTEXT <= options.context <= MAX_CONTEXT:
            raise SettingsError("context", f"needs {MIN_CONTEXT:,} to {MAX_CONTEXT:,} tokens (got {options.context}).")
        if options.device:
            if not DEVICE.fullmatch(options.device):
                raise SettingsError("device", f"{shorten(options.device)} is none.", "Take auto, cpu, cuda or cuda:1.")
            spec = replace(spec, device_map=options.device)
        if options.precision:
            known = {**PRECISIONS, **GPU_PRECISIONS, **{kind.label: ("auto", "auto") for kind in GGUF_LEVELS.values()}}
            if options.precision not in known:
                choice = ", ".join(known)
                raise SettingsError("precision", f"{shorten(options.precision)} is none.", f"Take one of {choice}.")
            dtype, quantization = known[options.precision]
            spec = replace(spec, dtype=dtype, quantization=quantization)
        return spec

    @classmethod
    def _named(cls, name: str, revision: str | None, settings: AppSettings) -> "ModelSpec":
        return cls(
            name,
            revision,
            settings.dtype,
            settings.device_map,
            settings.quantization,
            settings.trust_remote_code,
            settings.slots,
            None if settings.kv_memory is None else int(settings.kv_memory * 1e9),
            settings.compile,
            None,
            settings.generation,
            prompt_lookup_num_tokens=settings.prompt_lookup_num_tokens,
            kv_dtype=settings.kv_dtype,
            kv_cache_dir=settings.kv_cache_dir,
            kv_cache_size=int(settings.kv_cache_size * 1e9),
        )


def find_models(folder: Path) -> list[Path]:
    """The models in a folder, by name: folders with a config.json, LoRA adapters, and GGUF files.

    Raises SettingsError.
    """
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise SettingsError("models_dir", f"{folder} cannot be read ({error.strerror}).", "Name a folder.") from None
    return [
        path
        for path in entries
        if path.suffix.lower() == ".gguf" or any((path / name).is_file() for name in ("config.json", ADAPTER_CONFIG))
    ]


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a LoRA adapter, and not a whole model."""
    if not (folder / ADAPTER_CONFIG).is_file():
        return False
    return all(file.name.startswith("adapter") for file in folder.glob("*.safetensors"))


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """The config of a LoRA adapter. Raises ModelError if it is damaged."""
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_bytes())
    except (OSError, ValueError):
        config = None
    if not isinstance(config, dict):
        raise ModelError(f"{folder / ADAPTER_CONFIG} is no valid JSON object.", "Download the adapter again.")
    return config


def adapter_base(folder: Path) -> str:
    """The name of the model that an adapter was trained on, as its config has it; "" if it does not say."""
    return str(read_adapter_config(folder).get("base_model_name_or_path") or "")


def with_bases(specs: Sequence[ModelSpec]) -> list[ModelSpec]:
    """The specs with the `base` of each adapter on this disk, where that is one of them.

    A base is found by its name or by the last part of it, because a local copy rarely has the name that the adapter
    was trained with.
    """
    folders = [Path(spec.name).expanduser() for spec in specs]
    whole = [spec for spec, folder in zip(specs, folders, strict=True) if not is_adapter(folder)]

    def base_of(folder: Path) -> ModelSpec | None:
        try:
            base = adapter_base(folder)
        except ModelError:  # told when the adapter is loaded
            return None
        named = [spec for spec in whole if base in (spec.name, display_name(Path(spec.name)))]
        last = [spec for spec in whole if base and Path(spec.name).name.lower() == Path(base).name.lower()]
        return next(iter([*named, *last]), None)

    return [
        replace(spec, base=spec.base or base_of(folder)) if is_adapter(folder) else spec
        for spec, folder in zip(specs, folders, strict=True)
    ]


def parse_model_name(model: str) -> tuple[str, str | None]:
    """Parse --model into (name, revision). It may be a name, a path, the URL of a page on the Hub, or a file:// URL."""
    if model.startswith("file://"):
        return unquote(urlsplit(model).path), None
    page = HUB_PAGE.fullmatch(model)
    if page:
        return page["name"], page["revision"]
    return (model.rstrip("/") if re.fullmatch(r"[\w.-]+/[\w.-]+/", model) else model), None


def check_name(name: str) -> None:
    """Raise ModelError for names of other programs and of single files. To be called for names that are not on disk."""
    file = HUB_FILE.fullmatch(name)
    if file:
        raise ModelError(
            f"{name} is a file on the Hub, which is not loaded from there by itself.",
            f"Run `hf download {file['name']} {file['path']} --local-dir .`, and give the file's path to --model.",
        )
    at = re.fullmatch(r"([\w.-]+/[\w.-]+)@([\w./-]+)", name)
    if at:
        raise ModelError(
            f"{name} names a revision with @, which is told apart here.", f"Say --model {at[1]} --revision {at[2]}."
        )
    quant = re.fullmatch(r"(?:hf\.co/|huggingface\.co/)?([\w.-]+/[\w.-]+):([\w.-]+)", name)
    if quant:
        raise ModelError(
            f"{name} names a GGUF file as Ollama and llama.cpp do, by what stands behind the colon.",
            f"Run `hf download {quant[1]} --include '*{quant[2]}*.gguf' --local-dir .`, and give the file's path to "
            "--model.",
        )
    if re.fullmatch(r"[\w.-]+:[\w.-]+", name):
        raise ModelError(f"{name} is a name of Ollama's.", "Find the model on the Hub, and give its name (owner/name).")
    if "\\" in name:
        raise ModelError(f"There is no model folder {name}.", "Check the path given to --model.")


def display_name(path: Path) -> str:
    """The display name of a model on disk: that of the file or folder, or of the repository in the Hub's cache.

    The cache has folders models--OWNER--NAME/snapshots/COMMIT with links to the files blobs/HASH.
    """
    path = Path(os.path.abspath(path))  # noqa: PTH100 - resolve() would follow links, whose own names are needed
    parts = path.parts
    repository = next((index for index, part in enumerate(parts) if part.startswith("models--")), None)
    if repository is None:
        return path.name
    owner_and_name = parts[repository].removeprefix("models--").replace("--", "/")
    if path.is_dir():
        return owner_and_name
    if path.parent.name == "blobs":
        links = path.parents[1].glob("snapshots/*/**/*")
        return next((link.name for link in links if link.resolve() == path.resolve()), owner_and_name)
    return path.name
