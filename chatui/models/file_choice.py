"""Which files of a model on the Hub are needed to run it: safetensors, never pickles, or one GGUF file of several."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from chatui.errors import HubError
from chatui.models.hub import HubFile
from chatui.units import human_bytes

SMALL_FILES = re.compile(r"(?:.+\.(?:json|jinja|model|tiktoken)|merges\.txt|vocab\.txt|chat_template\..+)")
"""Files beside the weights that transformers reads, at the top of a repository."""
NOT_NEEDED = re.compile(r".*\.(?:bin|h5|msgpack|onnx)\.index\.json|(?:trainer_state|all_results|train_results)\.json")
WEIGHTS = re.compile(r"model(?:-\d{5}-of-\d{5})?\.safetensors")
ADAPTER = "adapter_model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")
GGUF_TYPE = re.compile(
    r"(?<![A-Za-z0-9])(I?Q[1-8](?:_[01K](?:_(?:XS|XL|S|M|L))?|_(?:XXS|XS|S|M|NL))?|TQ\d_0|BF16|F16|F32)(?![A-Za-z0-9])",
    re.IGNORECASE,
)
GGUF_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
NOT_A_MODEL = re.compile(r"mmproj|imatrix", re.IGNORECASE)
QUALITIES = {
    1: "heavy loss, for very large models only",
    2: "heavy loss",
    3: "clear loss",
    4: "small loss, the usual choice",
    5: "very small loss",
    6: "hardly any loss",
    8: "nearly no loss",
    16: "no loss",
    32: "no loss, larger than needed",
}
"""Loss of quality by bits of a weight, after the perplexities in the help of llama.cpp's quantize tool:
https://github.com/ggml-org/llama.cpp/blob/master/tools/quantize/README.md"""
PREFERRED = ("Q4_K_M", "Q4_0", "Q4_K_S", "Q5_K_M", "Q4_1", "Q5_K_S", "Q6_K", "Q8_0")
"""Quantizations by preference where none was asked for."""


@dataclass(frozen=True)
class GgufChoice:
    """A GGUF file of a repository. `quantization` is in capitals, as in "Q4_K_M"; empty if the name has none."""

    file: HubFile
    quantization: str

    @property
    def quality(self) -> str:
        """The loss of quality in words; empty where it is not known."""
        digits = re.search(r"\d+", self.quantization)
        return QUALITIES.get(int(digits[0]), "") if digits else ""

    def __str__(self) -> str:
        quality = f", {self.quality}" if self.quality else ""
        return f"{self.quantization or self.file.path} ({human_bytes(self.file.size)}{quality})"


def gguf_choices(files: Iterable[HubFile]) -> tuple[GgufChoice, ...]:
    """The GGUF files that are whole models, the smallest first."""
    found = []
    for file in files:
        name = PurePosixPath(file.path).name
        if name.lower().endswith(".gguf") and not GGUF_PART.search(name) and not NOT_A_MODEL.search(name):
            types = GGUF_TYPE.findall(name)
            found.append(GgufChoice(file, types[-1].upper() if types else ""))
    return tuple(sorted(found, key=lambda choice: choice.file.size))


def files_to_fetch(name: str, files: Sequence[HubFile], gguf: str = "") -> tuple[HubFile, ...]:
    """The files that running the model needs.

    `gguf` is a quantization or a file's path; without it, safetensors are preferred to GGUF files.
    Raises HubError where there is nothing that can be run, or not the GGUF file that was asked for.
    """
    weights = [file for file in files if WEIGHTS.fullmatch(file.path)]
    weights = weights or [file for file in files if file.path == ADAPTER]
    weights = weights or [file for file in files if re.fullmatch(r"[^/]+\.safetensors", file.path)]
    choices = gguf_choices(files)
    if gguf or (choices and not weights):
        return (_chosen_gguf(name, choices, gguf).file,)
    if not weights:
        raise _nothing_to_run(name, files)
    small = [file for file in files if SMALL_FILES.fullmatch(file.path) and not NOT_NEEDED.fullmatch(file.path)]
    small = [file for file in small if "/" not in file.path or file.path.startswith("additional_chat_templates/")]
    return (*small, *weights)


def _chosen_gguf(name: str, choices: Sequence[GgufChoice], gguf: str) -> GgufChoice:
    offered = ", ".join(map(str, choices)) or "none"
    if not gguf:
        by_type = {choice.quantization: choice for choice in reversed(choices)}
        return next((by_type[kind] for kind in PREFERRED if kind in by_type), choices[-1])
    for choice in choices:
        if gguf in (choice.file.path, PurePosixPath(choice.file.path).name) or gguf.upper() == choice.quantization:
            return choice
    raise HubError("unsuitable", f"{name} has no GGUF file {gguf!r} in one part.", f"It offers: {offered}.")


def _nothing_to_run(name: str, files: Sequence[HubFile]) -> HubError:
    if any(GGUF_PART.search(file.path) for file in files):
        return HubError(
            "unsuitable",
            f"{name} has its GGUF file in parts, which are not read here.",
            "Choose another quantization or model.",
        )
    if any(file.path.endswith(PICKLES) for file in files):
        return HubError(
            "unsuitable",
            f"{name} has its weights only as pickles, which can run code when they are loaded.",
            "Choose a model with safetensors or GGUF files.",
        )
    return HubError(
        "unsuitable", f"{name} has no weights in safetensors or GGUF files.", "Choose a text-generation model."
    )
