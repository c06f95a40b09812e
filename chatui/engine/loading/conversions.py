"""GGUF files in transformers' format: unpacking one takes minutes, so what was made of it stays in the cache folder."""

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import transformers
from filelock import FileLock
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chatui.engine.kernels.built_files import discard_damaged, publish
from chatui.engine.kernels.levels import GgufLevels, save
from chatui.engine.kernels.quantized import linear_layers
from chatui.engine.loading.embedded import LEVELS, ReportPhase
from chatui.engine.loading.model_files import Files
from chatui.model_spec import ModelSpec

log = logging.getLogger(__name__)

# Raise when a conversion changes, so that old ones are made anew.
VERSION = 1
# All conversions together; those used longest ago go first.
MAX_BYTES = 20 * 2**30
# What stays free on the disk.
FREE_BYTES = 5 * 2**30


def serves(spec: ModelSpec, source: Files) -> bool:
    """Whether a conversion would be loaded as the file is; `spec` is resolved. It holds bfloat16 and levels."""
    return source.gguf_file is not None and spec.quantization in ("auto", "int4")


def find_conversion(source: Files, cache_dir: Path) -> Files | None:
    """What was made of this GGUF file before, or None. A damaged one is removed."""
    folder = _folder(source, cache_dir)
    discard_damaged(folder)
    if not folder.is_dir():
        return None
    with contextlib.suppress(OSError):
        os.utime(folder)
    return Files(folder, levels=folder / LEVELS, made_from=source.path)


def keep_conversion(
    source: Files, cache_dir: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, report: ReportPhase
) -> Files:
    """Write what was made of a GGUF file, before it is packed. Returns the source, with its levels if they are kept."""
    folder = _folder(source, cache_dir)
    size = sum(tensor.nbytes for tensor in model.parameters()) + source.path.stat().st_size
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if size > MAX_BYTES or size + FREE_BYTES > shutil.disk_usage(folder.parent).free:
            log.info("there is no room to keep %s unpacked", source.path.name)
            return source
        with FileLock(folder.parent / "lock"):
            if not folder.is_dir():
                report("keeping the unpacked weights for the next start")
                _evict(folder.parent, size)
                if not _write(source, folder, model, tokenizer):
                    return source
    except Exception as error:  # it is only slower without
        log.warning("%s is unpacked at each start: %s", source.path.name, error)
        return source
    return replace(source, levels=folder / LEVELS)


def _write(source: Files, folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Write the conversion, unless no weight keeps its levels."""
    levels = GgufLevels(source.path, {name: layer.weight for name, layer in linear_layers(model).items()})
    if not levels:
        return False
    scratch = Path(tempfile.mkdtemp(prefix=f"{folder.name}.tmp-", dir=folder.parent))
    try:
        save(levels, scratch / LEVELS)
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        publish(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return True


def _folder(source: Files, cache_dir: Path) -> Path:
    """The folder for what this version makes of the file's contents."""
    with source.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:32]
    return cache_dir / "gguf" / f"{digest}-v{VERSION}-{transformers.__version__}"


def _evict(parent: Path, size: int) -> None:
    """Remove what was cut off, and conversions until there is room for one more of so many bytes."""
    folders = [folder for folder in parent.iterdir() if folder.is_dir()]
    for folder in sorted(folders, key=lambda folder: (".tmp-" not in folder.name, folder.stat().st_mtime)):
        held = sum(file.stat().st_size for file in parent.rglob("*") if file.is_file())
        if ".tmp-" in folder.name or held + size > MAX_BYTES:
            shutil.rmtree(folder, ignore_errors=True)
