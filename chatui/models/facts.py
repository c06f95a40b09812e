"""ModelFacts: what headers, config and card say about a model that is not loaded, on this machine or on the Hub."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatui.chat import ModelAnatomy
from chatui.errors import ModelError
from chatui.gguf_file import GgufValue, read_gguf_fields, read_gguf_header
from chatui.i18n import N_
from chatui.model_spec import ADAPTER_WEIGHTS, adapter_base, display_name, is_adapter
from chatui.models.configs import Config, Layout, gguf_layout, layout
from chatui.models.model_card import ModelCardFacts, read_card
from chatui.models.names import ParsedName, parse
from chatui.models.tensors import anatomy, gguf_label, model_tensors, quantization_bits, synthetic_tensors
from chatui.stored_tensors import StoredTensor, read_header
from chatui.units import human_count

if TYPE_CHECKING:
    from chatui.models.hub import HubModel

GGUF_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K",
    12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0",
    39: "MXFP4",
}  # fmt: skip
"""Names of the types of GGUF: https://github.com/ggml-org/ggml/blob/master/include/ggml.h (enum ggml_type)."""
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")


@dataclass(frozen=True)
class ModelFacts:
    """What is known about a model without loading it.

    `parameters` counts what transformers would hold, exactly if `is_exact`, and is None where nothing says it. `active`
    of them take part in one token. `stored` is the type of most weights in the files ("bfloat16", "Q4_K", "awq").
    `kv_per_token` is in bytes in bfloat16, None for architectures that are not known here; `latent_kv_per_token` the
    same for compressed K/V. `anatomy` has the sizes that estimates.py needs. `gated` is None where only the Hub knows.
    """

    name: str
    parsed: ParsedName
    layout: Layout
    anatomy: ModelAnatomy | None = None
    is_exact: bool = False
    file_bytes: int | None = None
    stored: str = ""
    has_chat_template: bool | None = None
    gated: bool | None = None
    card: ModelCardFacts = field(default_factory=ModelCardFacts)
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> int | None:
        """The number of parameters, None if unknown."""
        return self.anatomy.parameters if self.anatomy else None

    @property
    def active(self) -> int | None:
        """The number of parameters that take part in one token, None if unknown."""
        return self.anatomy.active if self.anatomy else None

    @property
    def kv_per_token(self) -> int | None:
        """Bytes of K/V for one token in bfloat16, None if unknown."""
        return None if self.layout.kv_elements is None else 2 * self.layout.kv_elements

    @property
    def latent_kv_per_token(self) -> int | None:
        """Bytes of compressed K/V for one token in bfloat16; None for attention without compression."""
        return None if self.layout.latent_elements is None else 2 * self.layout.latent_elements


def from_config(
    name: str,
    config: Config,
    tensors: Iterable[StoredTensor] = (),
    parameters: int | None = None,
    card: ModelCardFacts | None = None,
    **more: Any,
) -> ModelFacts:
    """Facts from a config.json with the tensors of the headers, or else with the number of parameters only.

    The Hub has that number as `ModelInfo.safetensors.total`. `more` are other fields of ModelFacts.
    """
    found = layout(config)
    tensors = list(tensors)
    held = model_tensors(tensors, found, config)
    if not held and parameters:
        held = synthetic_tensors(found, parameters)
    return ModelFacts(
        name=name,
        parsed=parse(name),
        layout=found,
        anatomy=anatomy(held, found) if held else None,
        is_exact=bool(tensors),
        stored=_stored(tensors, config),
        card=card or ModelCardFacts(),
        notes=_notes(config, found, tensors, held),
        **more,
    )


def from_gguf(name: str, fields: Mapping[str, GgufValue], tensors: Iterable[StoredTensor], **more: Any) -> ModelFacts:
    """Facts from the fields and tensors of a GGUF header."""
    found, tensors = gguf_layout(fields), list(tensors)
    languages = fields.get("general.languages")
    card = ModelCardFacts(
        license=str(fields.get("general.license", "")),
        languages=tuple(map(str, languages)) if isinstance(languages, tuple) else (),
    )
    return ModelFacts(
        name=name,
        parsed=parse(name),
        layout=found,
        anatomy=anatomy(tensors, found) if tensors else None,
        is_exact=True,
        stored=_gguf_type(tensors),
        has_chat_template="tokenizer.chat_template" in fields,
        card=card,
        notes=_gguf_notes(found, tensors),
        **more,
    )


def from_hub(model: "HubModel", config: Config) -> ModelFacts:
    """Facts of a model on the Hub, from what the Hub says about it and its config.json."""
    card = ModelCardFacts(
        license=model.licence,
        languages=model.languages,
        tags=model.tags,
        evaluations=model.evaluations,
    )
    if not config and model.gguf:
        context = model.gguf.get("context_length")
        config = {"model_type": model.gguf.get("architecture", ""), "max_position_embeddings": context}
    has_template = any(file.path == "chat_template.jinja" for file in model.files) or "chat_template" in model.gguf
    return from_config(
        model.id,
        config,
        parameters=_unpacked_count(model.parameters, config) or model.total_parameters,
        card=card,
        file_bytes=sum(file.size for file in model.files if file.path.endswith(".safetensors")) or None,
        has_chat_template=True if has_template else None,
        gated=model.gated,
    )


def _unpacked_count(counts: Mapping[str, int], config: Config) -> int:
    """Numbers of parameters by dtype as one number, several parameters for each number of a packed weight."""
    if not config.get("quantization_config"):
        return sum(counts.values())
    factors = {"I32": 32 // quantization_bits(config), "U8": 2}
    return sum(count * factors.get(dtype, 1) for dtype, count in counts.items())


def read_facts(path: Path) -> ModelFacts:
    """Facts of a folder with a model, or of a GGUF file. Raises ModelError where there is none, or it is damaged."""
    try:
        return _read_gguf(path) if path.suffix.lower() == ".gguf" and path.is_file() else _read_folder(path)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.", "Check the path.") from error


def _read_gguf(path: Path) -> ModelFacts:
    parts = [path]
    part = PART.search(path.name)
    if part:
        start = path.name[: part.start()]
        parts = [path.with_name(f"{start}-{index:05}-of-{part[2]}.gguf") for index in range(1, int(part[2]) + 1)]
        parts = [other for other in parts if other.is_file()]
    tensors = [tensor for other in parts for tensor in read_gguf_header(other)]
    file_bytes = sum(other.stat().st_size for other in parts)
    return from_gguf(display_name(path), read_gguf_fields(parts[0]), tensors, file_bytes=file_bytes)


def _read_adapter(folder: Path) -> ModelFacts:
    """Facts of a LoRA adapter. Its base says the rest."""
    weights = folder / ADAPTER_WEIGHTS
    base, elements = adapter_base(folder), sum(tensor.elements for tensor in read_header(weights))
    return ModelFacts(
        name=display_name(folder),
        parsed=parse(display_name(folder)),
        layout=layout({}),
        file_bytes=weights.stat().st_size,
        card=read_card(folder / "README.md"),
        notes=(
            f"A LoRA adapter of {base or 'a model that it does not name'}: {human_count(elements)} parameters on top "
            "of that model, whose weights it shares.",
        ),
    )


def _read_folder(folder: Path) -> ModelFacts:
    if is_adapter(folder):
        return _read_adapter(folder)
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"There is no model in {folder}: config.json is missing.", "Name a model folder or GGUF file.")
    try:
        config = json.loads(path.read_bytes())
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise ModelError(f"{path} is no valid JSON object.", "Download the model again.")
    files = sorted({file for file in folder.glob("*.safetensors") if file.is_file()})
    if (folder / "model.safetensors").is_file():
        files = [folder / "model.safetensors"]
    elif any(file.name.startswith("model-") for file in files):
        files = [file for file in files if file.name.startswith("model-")]
    return from_config(
        display_name(folder),
        config,
        [tensor for file in files for tensor in read_header(file)],
        card=read_card(folder / "README.md"),
        file_bytes=sum(file.stat().st_size for file in files) if files else None,
        has_chat_template=_has_chat_template(folder),
    )


def _has_chat_template(folder: Path) -> bool:
    """Whether the tokenizer's files have a chat template: in a file of its own, or in tokenizer_config.json."""
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    try:
        tokenizer = json.loads((folder / "tokenizer_config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(tokenizer, dict) and bool(tokenizer.get("chat_template"))


def _stored(tensors: Iterable[StoredTensor], config: Config) -> str:
    """The method of a quantized checkpoint, else the type of most weights."""
    quantization = config.get("quantization_config")
    if isinstance(quantization, Mapping) and quantization.get("quant_method"):
        return str(quantization["quant_method"])
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.elements
    stored = max(sizes, key=sizes.__getitem__, default="")
    return DTYPES.get(stored, stored) or str(config.get("dtype") or config.get("torch_dtype") or "")


def _gguf_type(tensors: Iterable[StoredTensor]) -> str:
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.elements
    number = max(sizes, key=sizes.__getitem__, default="").removeprefix("GGUF-")
    return GGUF_TYPES.get(int(number), f"type {number}") if number else ""


def _notes(config: Config, found: Layout, tensors: list[StoredTensor], held: list[StoredTensor]) -> tuple[str, ...]:
    notes = list(_layout_notes(found))
    if config.get("quantization_config"):
        notes.append(
            N_("The files are quantized. All sizes are those of weights that are unpacked when they are loaded.")
        )
    if held and not tensors:
        notes.append(N_("The number of parameters is the Hub's. Their sizes by layer are estimated from the config."))
    if not held:
        notes.append(N_("There are no weights in safetensors format, so the number of parameters is not known."))
    return tuple(notes)


def _gguf_notes(found: Layout, tensors: list[StoredTensor]) -> tuple[str, ...]:
    notes = list(_layout_notes(found))
    if tensors and not gguf_label(tensors):
        notes.append(N_("Weights of these types are unpacked to bfloat16 when they are loaded here."))
    return tuple(notes)


def _layout_notes(found: Layout) -> Iterable[str]:
    layers = found.layers
    if found.kv_elements is None:
        architecture = found.architecture
        yield (
            N_(f"The size of the K/V is not known for the architecture {architecture}.")
            if architecture
            else N_("The size of the K/V is not known, because no architecture is named.")
        )
    elif found.attention_layers < layers:
        count = found.attention_layers
        yield N_(f"{count} of {layers} layers have K/V. The others have a state of fixed size.")
    if found.experts > 1:
        yield N_("Experts stay in bfloat16 where the other layers are int8 or int4.")
    count, window = found.window_layers, found.window
    if found.sliding_window:
        yield N_(f"Each token sees the last {window:,} tokens only, and the K/V of no more are kept.")
    elif found.some_slide:
        yield N_(f"{count} of {layers} layers see the last {window:,} tokens only, and keep the K/V of no more.")
    elif window and count:
        yield N_(
            f"{count} of {layers} layers need the K/V of the last {window:,} tokens only. All are kept here, and "
            "counted."
        )
    if found.latent_elements:
        size = 2 * found.latent_elements
        yield N_(
            f"Compressed, the K/V would take {size:,} bytes for a token. They are kept unpacked here, and counted so."
        )
