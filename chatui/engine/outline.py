"""What a model would take here, found out without its weights: from its config and the headers of its files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from huggingface_hub import get_safetensors_metadata, snapshot_download
from huggingface_hub.errors import NotASafetensorsRepoError
from transformers import AutoConfig, PreTrainedConfig

from chatui import estimates
from chatui.chat import ModelAnatomy
from chatui.engine.batching.attention_probe import probe_layout
from chatui.engine.loading import adapters, anatomy, bandwidth, embedded, load_arguments, loader, model_files
from chatui.engine.loading.failures import to_model_error
from chatui.engine.loading.model_files import Files
from chatui.engine.loading.weights import CONFIG_DTYPES, extra_memory, free_memory
from chatui.engine.runners.batch_runner import KV_SHARE, fit_kv_cache
from chatui.errors import ChatError, ModelError
from chatui.estimates import ATTENTION_BLOCK
from chatui.gguf_file import read_gguf_header
from chatui.kv_size import KVSize
from chatui.model_spec import ADAPTER_WEIGHTS, GPU_PRECISIONS, PRECISIONS, ModelSpec, is_adapter
from chatui.models.fit import Device, remedies
from chatui.models.tensors import gguf_label
from chatui.settings import DEFAULT_MODEL, Dtype, Quantization
from chatui.stored_tensors import StoredTensor, read_header, weight_bytes
from chatui.units import human_bytes

SHORT_CONTEXT = 4096
"""Tokens."""


@dataclass(frozen=True)
class Outline:
    """A model that is not loaded, and this machine.

    `anatomy` has, beside the usual precisions, the one that is `asked` for; its keys and values are bfloat16, and it
    knows no bandwidth. `stored` bytes of weights are in its files, None where nobody knows, and `free` bytes of memory
    are left here. At most `slots` conversations would be answered at once. A LoRA adapter has `adapter_bytes` more, and
    `shares` the weights of its base if those are in memory.
    """

    spec: ModelSpec
    anatomy: ModelAnatomy
    asked: str
    kind: str
    context_length: int
    slots: int
    device: str
    free: int
    stored: int | None
    notes: tuple[str, ...] = ()
    adapter_bytes: int = 0
    shares: bool = False

    def anatomy_in(self, precision: str) -> ModelAnatomy:
        """The anatomy with what goes with such weights: the type of keys and values, and the speed of reading them."""
        speed = bandwidth.measure_bandwidth(torch.device(self.device), self.anatomy.read[precision])
        return estimates.in_precision(self.anatomy, precision, speed, self.spec.kv_dtype)

    def needed_bytes(self) -> int:
        """Predicted bytes: the weights, and the K/V of the conversations asked for, or of one short one."""
        anatomy = estimates.in_precision(self.anatomy, self.asked, 0, self.spec.kv_dtype)
        tokens = min(self.context_length, self.spec.context or SHORT_CONTEXT)
        kv_bytes = int(estimates.kv_held(anatomy, tokens).value)
        if self.spec.kv_memory is not None:
            held = estimates.tokens_held(anatomy.window, self.context_length)
            kv_bytes = min(self.spec.kv_memory, self.slots * held * anatomy.kv_per_token)
        return (0 if self.shares else self.anatomy.weights[self.asked]) + self.adapter_bytes + kv_bytes

    def kv_capacity(self, precision: str) -> tuple[int, int]:
        """(tokens of all conversations, tokens of one) that `run` would keep beside such weights; (0, 0) if none."""
        left = self.free - self.anatomy.weights[precision]
        if left < 0:
            return 0, 0
        budget = self.spec.kv_memory or int(KV_SHARE * left)
        spec = replace(self.spec, slots=self.slots)
        anatomy = self.anatomy_in(precision)
        size = KVSize(max(1, anatomy.kv_per_token), anatomy.window, anatomy.windowed, anatomy.state_bytes)
        capacity = fit_kv_cache(spec, size, self.context_length, budget)
        return ATTENTION_BLOCK * capacity.blocks, capacity.context

    def check_memory(self) -> None:
        """Raise ModelError if the weights and one conversation of the chosen context need more than the free memory."""
        device = Device(self.device, self.free, kv_dtype=self.spec.kv_dtype)
        anatomy = estimates.in_precision(self.anatomy, self.asked, 0, self.spec.kv_dtype)
        total = estimates.memory(anatomy, self.asked, 1, self.context_length)[-1]
        if total.value <= self.free + extra_memory(self.spec, self.device):
            return
        swap = "Free swap space is not enough for the rest." if self.spec.load_anyway else ""
        found = remedies(self.anatomy, device, self.asked, self.context_length, total.value)
        raise ModelError(
            f"{self.spec.name} needs {total.text} of memory in {self.asked} with a context of {self.context_length:,} "
            f"tokens; {human_bytes(self.free)} are free.",
            " ".join([*([swap] if swap else []), *found]),
        )


def outline(spec: ModelSpec) -> Outline:
    """The outline of the model that the spec names; the Hub is asked for its config only. Raises ModelError."""
    try:
        here = model_files.on_disk(spec)
        if here is not None and here.gguf_file is None and is_adapter(here.folder):
            return _adapter_outline(spec, here.folder)
        return _outline(spec)
    except ChatError:
        raise
    except Exception as error:
        raise to_model_error(spec, error) from error


def _adapter_outline(spec: ModelSpec, folder: Path) -> Outline:
    """The outline of the adapter's base, with what the adapter adds."""
    base = adapters.base_spec(spec, folder)
    weights = folder / ADAPTER_WEIGHTS
    note = f"A LoRA adapter of {base.name}, whose weights it shares."
    found = outline(base)
    return replace(
        found,
        notes=(*found.notes, note),
        adapter_bytes=weights.stat().st_size if weights.is_file() else 0,
        shares=loader.is_loaded(base),
    )


def _outline(spec: ModelSpec) -> Outline:
    files = _files(spec)
    gguf = files.levels or (files.path if files.gguf_file else None)
    device_map = load_arguments.device_map_of(spec.device_map)
    resolved = load_arguments.resolve_auto(spec, files, device_map)
    tensors = read_gguf_header(gguf) if gguf else []
    config = _gguf_config(gguf) if gguf else loader.config_of(spec, files, _trusted(spec))
    resolved = load_arguments.resolve_dtype(resolved, None if gguf else config, device_map)
    stored, notes = (gguf.stat().st_size, ()) if gguf else _stored(spec, files.folder)
    model = anatomy.blank(config, torch.bfloat16, spec.trust_remote_code)
    asked, how = _asked(resolved, config, tensors)
    precisions = {**(PRECISIONS if device_map == "cpu" else GPU_PRECISIONS), asked: how}
    found = anatomy.of(model, precisions)
    if tensors:
        found = _with_levels(found, {name: precisions[name] for name in {"int4", asked} & set(precisions)}, tensors)
    device = torch.device("cpu")
    if device_map != "cpu":
        device = torch.accelerator.current_accelerator() or device
    return Outline(
        spec=resolved,
        anatomy=found,
        asked=asked,
        kind=config.model_type,
        context_length=load_arguments.chosen_context(
            spec, load_arguments.context_length(config.get_text_config(decoder=True))
        ),
        slots=spec.slots if probe_layout(model) is not None else 1,
        device=device.type,
        free=free_memory(device_map),
        stored=stored,
        notes=(*notes, *load_arguments.notes_of_auto(spec, resolved), *_notes(config)),
    )


def _files(spec: ModelSpec) -> Files:
    """Where the config is. The default model's is in the package, which need not be converted for this."""
    found = model_files.on_disk(spec)
    if found is not None:
        return found
    package = embedded.find() if spec.name == DEFAULT_MODEL and spec.revision is None else None
    if package is not None:
        return Files(package.parent, levels=package)
    own_code = ["*.py"] if spec.trust_remote_code else []
    folder = Path(snapshot_download(spec.name, revision=spec.revision, allow_patterns=["config.json", *own_code]))
    if not (folder / "config.json").is_file():
        raise ModelError(f"{spec.name} has no config.json, so it is no model for transformers.", "Choose another.")
    return Files(folder, commit=folder.name)


def _trusted(spec: ModelSpec) -> dict[str, bool]:
    return {"trust_remote_code": spec.trust_remote_code}


def _gguf_config(path: Path) -> PreTrainedConfig:
    config: PreTrainedConfig = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    return config


def _stored(spec: ModelSpec, folder: Path) -> tuple[int | None, tuple[str, ...]]:
    """Bytes of the weights in the safetensors files here or on the Hub, None if nobody knows; and what is to be said.

    Raises ModelError where a file here is damaged.
    """
    here = sorted(folder.glob("model*.safetensors"))
    if here:
        for path in here:
            read_header(path)
        return sum(path.stat().st_size for path in here), ()
    if model_files.on_disk(spec) is not None:
        return None, ("There are no weights in safetensors format in this folder.",)
    try:
        metadata = get_safetensors_metadata(spec.name, revision=spec.revision)
    except NotASafetensorsRepoError:
        return None, ("It has no weights in safetensors format on the Hub, so it cannot be run.",)
    except Exception:  # whatever keeps the Hub from telling a size, the config is there
        return None, ()
    tensors = [tensor for file in metadata.files_metadata.values() for tensor in file.tensors.values()]
    return sum(end - start for start, end in (tensor.data_offsets for tensor in tensors)), ()


def _asked(
    resolved: ModelSpec, config: PreTrainedConfig, tensors: Sequence[StoredTensor]
) -> tuple[str, tuple[Dtype, Quantization]]:
    """The precision that the weights would be held in: its name, and the flags for it."""
    if resolved.quantization == "auto":
        label = gguf_label(tensors)
        return (label, ("bfloat16", "auto")) if label else ("bfloat16", PRECISIONS["bfloat16"])
    if resolved.quantization != "none":
        return resolved.quantization, ("bfloat16", resolved.quantization)
    own: Dtype = "bfloat16" if tensors else CONFIG_DTYPES.get(getattr(config, "dtype", None), "float32")
    dtype: Dtype = own if resolved.dtype == "auto" else resolved.dtype
    return dtype, (dtype, "none")


def _with_levels(
    known: ModelAnatomy, precisions: Mapping[str, tuple[Dtype, Quantization]], tensors: Sequence[StoredTensor]
) -> ModelAnatomy:
    """The anatomy with what a GGUF file's levels take; experts, of which a token reads only some, stay dense."""
    unread = 2 * (known.parameters - known.active)
    headed = any(tensor.name == "output.weight" for tensor in tensors)
    read = [
        replace(tensor, name="output.weight") if tensor.name == "token_embd.weight" else tensor
        for tensor in tensors
        if tensor.name != "token_embd.weight" or not headed
    ]
    return replace(
        known,
        weights={**known.weights, **{name: weight_bytes(tensors, *how) for name, how in precisions.items()}},
        read={**known.read, **{name: weight_bytes(read, *how) - unread for name, how in precisions.items()}},
    )


def _notes(config: PreTrainedConfig) -> tuple[str, ...]:
    quantized = getattr(config, "quantization_config", None)
    if not quantized:
        return ()
    method = quantized.get("quant_method") if isinstance(quantized, dict) else getattr(quantized, "quant_method", "")
    return (f"The files are quantized already ({method}); all figures are for weights unpacked from them.",)
