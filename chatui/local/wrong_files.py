"""Files that are no model to load although nothing is damaged: what they are, and what to do. Reads no weights."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers.integrations.gguf.reader import read_gguf_metadata

from chatui.errors import ModelError

GGUF_MAGIC = b"GGUF"
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
# Of the formats before GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#historical-state-of-affairs
OLDER_MAGICS = (b"lmgg", b"tjgg", b"fmgg", b"algg")
PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
OTHER_HEADS = re.compile("Classification|Reward|MultipleChoice|QuestionAnswering|Embedding")
OUTPUT_LAYERS = ("lm_head", "embed_out", "output")
OTHER_LIBRARIES = ("model_index.json", "modules.json")
"""Files of diffusers' and of sentence-transformers' folders."""
OTHER_KINDS = {
    "adapter": "a LoRA adapter, which changes another model",
    "mmproj": "the part of a model that sees pictures, not the one that writes",
    "clip": "the part of a model that sees pictures, not the one that writes",
    "imatrix": "statistics for quantizing a model",
    "vocab": "only the vocabulary of a model",
}


def check_folder(name: str, folder: Path) -> None:
    """Raise ModelError where the folder holds something else than a whole model that continues a text."""
    adapter = _json(folder / "adapter_config.json")
    if adapter and not (folder / "config.json").is_file():
        base = adapter.get("base_model_name_or_path") or "the model that it was trained on"
        raise ModelError(
            f"{name} is a LoRA adapter: it changes {base} and is no model of its own.",
            "Load that model, or merge the adapter into it (peft: merge_and_unload, then save_pretrained).",
        )
    for marker in OTHER_LIBRARIES:
        if (folder / marker).is_file() and not (folder / "generation_config.json").is_file():
            raise ModelError(
                f"{name} does not write text: it is of another kind of model ({marker}).",
                "Choose a text-generation model.",
            )
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.suffix in (".json", ".safetensors", ".model", ".jinja", ".txt"):
            check_pointer(file)
    check_heads(name, _json(folder / "config.json"))


def check_heads(name: str, config: dict[str, Any]) -> None:
    """Raise ModelError where the config names an architecture that does something else than write."""
    heads = [head for head in config.get("architectures") or [] if isinstance(head, str)]
    if heads and all(OTHER_HEADS.search(head) for head in heads):
        raise ModelError(
            f"{name} does not write text: it scores or classifies it ({', '.join(heads)}).",
            "Choose a text-generation model; their architectures end in ForCausalLM.",
        )


def check_output_layer(name: str, missing: Iterable[str]) -> None:
    """Raise ModelError where nothing is missing but the layer that writes."""
    if all(tensor.startswith(OUTPUT_LAYERS) for tensor in missing):
        raise ModelError(
            f"{name} does not write text: it has no output layer, as models that embed or score text have none.",
            "Choose a text-generation model; their architectures end in ForCausalLM.",
        )


def check_file(path: Path) -> None:
    """Raise ModelError where a file given as a model is something else than one whole GGUF model."""
    check_pointer(path)
    start = _start(path)
    if start[:4] in OLDER_MAGICS:
        raise ModelError(
            f"{path.name} is in a format from before GGUF.", "Download the model as GGUF, or convert it with llama.cpp."
        )
    if start[:4] != GGUF_MAGIC:
        return
    try:
        facts, _ = read_gguf_metadata(str(path))
    except Exception:  # a damaged file is told of where its header is read
        return
    part = PART.search(path.name)
    count = int(part[2]) if part else int(facts.get("split.count") or 1)
    if count > 1:
        number = int(part[1]) if part else int(facts.get("split.no") or 0) + 1
        raise ModelError(
            f"{path.name} is part {number} of {count} of a GGUF file that was split, which cannot be read in parts.",
            "Put them together with llama.cpp: llama-gguf-split --merge FIRST-PART WHOLE.gguf.",
        )
    kind = facts.get("general.type")
    kind = kind if kind in OTHER_KINDS else facts.get("general.architecture")
    if kind in OTHER_KINDS:
        raise ModelError(f"{path.name} is {OTHER_KINDS[kind]}.", "Name the GGUF file of the model itself.")


def check_pointer(path: Path) -> None:
    """Raise ModelError where a file only stands for another one that was not fetched."""
    start = _start(path)
    if start.startswith(LFS_POINTER):
        raise ModelError(
            f"{path.name} is a Git LFS pointer: the file that it stands for was not downloaded.",
            "Run `git lfs install` and `git lfs pull` in that folder, or download it from the Hub.",
        )
    if path.suffix in (".safetensors", ".gguf") and start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise ModelError(
            f"{path.name} is a web page that was saved under this name.",
            "Download the file itself: its address has /resolve/ in place of /blob/.",
        )


def is_gguf(path: Path) -> bool:
    """Whether a file says that it is a GGUF file, by its name or by its first bytes."""
    return path.suffix.lower() == ".gguf" or _start(path)[:4] == GGUF_MAGIC


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(64)
    except OSError:
        return b""


def _json(path: Path) -> dict[str, Any]:
    """The object in a file; empty where there is none."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
