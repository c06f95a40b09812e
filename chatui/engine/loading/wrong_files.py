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
UNFINISHED = re.compile(r"\.(?:incomplete|crdownload|part|partial|download|aria2)$")
SHARD = re.compile(r"^model-\d{5}-of-\d{5}\.safetensors$")
INNER = ("*", "snapshots/*", "*/snapshots/*")
"""Where in a folder there may be a model: in one of its own, in the Hub's cache of one, in the whole cache."""
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
    for marker in OTHER_LIBRARIES:
        if (folder / marker).is_file() and not (folder / "generation_config.json").is_file():
            raise ModelError(
                f"{name} does not write text: it is of another kind of model ({marker}).",
                "Choose a text-generation model.",
            )
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.suffix in (".json", ".safetensors", ".model", ".jinja", ".txt"):
            check_pointer(file)
            if file.is_symlink() and not file.exists():
                raise _unfinished(name, file.name)
    check_heads(name, _json(folder / "config.json"))


def check_inside(name: str, folder: Path) -> None:
    """Raise ModelError where the folder holds no model itself, but has one in it."""
    _check_ggufs(name, folder)
    inner = next((file.parent for depth in INNER for file in sorted(folder.glob(f"{depth}/config.json"))), None)
    if inner is not None:
        raise ModelError(f"{name} holds no model itself, but there is one in it.", f"Say --model {inner}.")


def check_weights_inside(name: str, folder: Path) -> None:
    """Raise ModelError where a folder has weights, but not under the names by which transformers looks for them."""
    _check_ggufs(name, folder)
    for file in sorted(folder.iterdir()):
        if UNFINISHED.search(file.name) or SHARD.search(file.name):
            raise _unfinished(name, file.name if UNFINISHED.search(file.name) else "model.safetensors.index.json")
    other = next((file.name for file in sorted(folder.glob("*.safetensors")) if file.is_file()), None)
    if other is not None:
        raise ModelError(
            f"{name} has its weights in {other}, where transformers does not look for them.",
            "Rename the file to model.safetensors if it is in transformers' format, or choose a model that is.",
        )


def _check_ggufs(name: str, folder: Path) -> None:
    found = sorted(file for file in folder.glob("*.[gG][gG][uU][fF]") if file.is_file())
    if found:
        files = ", ".join(file.name for file in found[:5]) + (" ..." if len(found) > 5 else "")
        raise ModelError(
            f"{name} is a folder of GGUF files, which are loaded one by one: {files}.",
            f"Give the path of one to --model, as --model {found[0]}.",
        )


def _unfinished(name: str, file: str) -> ModelError:
    return ModelError(
        f"{name} was not downloaded to its end: {file} is missing or unfinished.",
        "Download it again; what is there already is kept.",
    )


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
    if path.suffix in (".safetensors", ".gguf", ".json") and start.lstrip().lower().startswith(
        (b"<!doctype html", b"<html")
    ):
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
