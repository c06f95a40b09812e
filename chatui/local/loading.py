"""ModelSpec -> LoadedModel, and every way this can fail in one sentence with its remedy."""

import errno
import logging
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from chatui.catalogue import ModelSpec, human_bytes, read_header, weight_bytes
from chatui.chat import ModelInfo
from chatui.errors import ChatError, ModelError
from chatui.local import embedded
from chatui.local.prompt import Template, probe
from chatui.settings import DEFAULT_MODEL, GenerationSettings

Report = Callable[[str], None]

THINKING_TAGS = {"<think>", "</think>"}
WANTED_FILES = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
UNWANTED_FILES = ["*/*", "consolidated*.safetensors"]
UNKNOWN_CONTEXT = 8192


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to answer, with what was found out about it once."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    template: Template
    info: ModelInfo
    stop_ids: frozenset[int]
    hidden_ids: frozenset[int]

    def decode(self, ids: list[int]) -> str:
        """The text of reply tokens, without the control tokens among them."""
        shown = [token_id for token_id in ids if token_id not in self.hidden_ids]
        return str(self.tokenizer.decode(shown, skip_special_tokens=False, clean_up_tokenization_spaces=False))


@dataclass(frozen=True)
class _Source:
    """Files on this disk: a folder in transformers' format, or one GGUF file in it."""

    folder: Path
    gguf_file: str | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        return {"gguf_file": self.gguf_file} if self.gguf_file else {}


def load(spec: ModelSpec, cache_dir: Path, report: Report) -> LoadedModel:
    """Find, check and load the model; `report` is told each phase in a few words.

    Raises ModelError, whatever goes wrong.
    """
    try:
        source = _locate(spec, cache_dir, report)
        return _load(spec, source, report)
    except ChatError:
        raise
    except Exception as error:
        raise explain(spec, error) from error


def _load(spec: ModelSpec, source: _Source, report: Report) -> LoadedModel:
    report("reading the tokenizer")
    trusted = {"trust_remote_code": spec.trust_remote_code}
    tokenizer = AutoTokenizer.from_pretrained(source.folder, **source.arguments, **trusted)
    template = probe(tokenizer)
    tokenizer.chat_control_tokens = [token.content for token in tokenizer.added_tokens_decoder.values()]
    device_map = _device_map(spec.device_map)
    if not source.gguf_file:
        _check_memory(spec, source.folder, device_map)
    report("loading the weights")
    _quiet_quantization()
    model = AutoModelForCausalLM.from_pretrained(
        source.folder,
        dtype=spec.dtype if spec.dtype == "auto" else getattr(torch, spec.dtype),
        device_map=device_map,
        quantization_config=_quantization(spec, source),
        use_safetensors=True,
        **source.arguments,
        **trusted,
    ).eval()
    stop_ids = _stop_ids(model, tokenizer) | template.end_ids
    kept = {tokenizer.convert_tokens_to_ids(tag) for tag in THINKING_TAGS & set(tokenizer.get_vocab())}
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        template=template,
        info=_info(spec, model, tokenizer, template),
        stop_ids=stop_ids,
        hidden_ids=frozenset(tokenizer.all_special_ids) - kept,
    )


def _locate(spec: ModelSpec, cache_dir: Path, report: Report) -> _Source:
    path = Path(spec.name).expanduser()
    if spec.name.endswith(".gguf"):
        if not path.is_file():
            raise ModelError(f"There is no file {spec.name}.", "Check the path given to --model.")
        return _Source(path.parent.absolute(), path.name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(
                f"The folder {spec.name} holds no model: config.json is missing.",
                "Name the folder that `save_pretrained` wrote or that was downloaded from the Hub.",
            )
        return _Source(path.absolute())
    if path.is_absolute() or spec.name.startswith((".", "~")) or path.is_file():
        raise ModelError(f"There is no model folder {spec.name}.", "Check the path given to --model.")
    package = embedded.find() if spec.name == DEFAULT_MODEL and spec.revision is None else None
    if package is not None:
        return _Source(embedded.converted(package, cache_dir, report))
    report("downloading from the Hub")
    return _Source(_download(spec))


def _download(spec: ModelSpec) -> Path:
    patterns: dict[str, Any] = {
        "allow_patterns": WANTED_FILES + (["*.py"] if spec.trust_remote_code else []),
        "ignore_patterns": UNWANTED_FILES,
    }
    folder = Path(snapshot_download(spec.name, revision=spec.revision, **patterns))
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{spec.name} has no safetensors weights.",
            "Pickled weights are not loaded because they can run code. Choose a repository with safetensors, "
            "or download a GGUF file and give its path to --model.",
        )
    return folder


def _check_memory(spec: ModelSpec, folder: Path, device_map: str) -> None:
    """Raise ModelError where a file is cut off or the weights cannot fit where they are to go."""
    tensors = [tensor for path in sorted(folder.glob("*.safetensors")) for tensor in read_header(path)]
    needed = weight_bytes(tensors, spec.dtype, spec.quantization)
    free = free_memory(device_map)
    if needed > free:
        smaller = weight_bytes(tensors, spec.dtype, "4bit")
        four_bit = f"Try --quantization 4bit (about {human_bytes(smaller)}), or a" if smaller <= free else "Choose a"
        raise ModelError(
            f"{spec.name} needs {human_bytes(needed)} of memory for its weights; {human_bytes(free)} are free.",
            f"{four_bit} smaller model.",
        )


def free_memory(device_map: str) -> int:
    """Bytes free for weights: of the GPU for cuda, of this machine (or its container) for cpu, of both for auto."""
    free: int = psutil.virtual_memory().available
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and (text := limit.read_text().strip()).isdigit():
        free = min(free, int(text) - int(used.read_text()))
    if device_map == "cpu" or not torch.cuda.is_available():
        return free
    on_gpu = sum(torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count()))
    return on_gpu if device_map.startswith("cuda") else free + on_gpu


def _device_map(asked: str) -> str:
    """What transformers is told; on a machine without an accelerator auto is the CPU."""
    if asked == "auto" and not torch.accelerator.is_available():
        return "cpu"
    return asked


def _quantization(spec: ModelSpec, source: _Source) -> BitsAndBytesConfig | GgufConfig | None:
    if source.gguf_file:
        if spec.quantization != "none":
            raise ModelError(
                "A GGUF file is quantized already.", "Leave out --quantization, or load the original model."
            )
        return GgufConfig(dequantize=True)
    if spec.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    if spec.quantization == "4bit":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    return None


def _quiet_quantization() -> None:
    """Silence what bitsandbytes says once per layer and token (it casts inputs on the CPU)."""
    warnings.filterwarnings("ignore", module="bitsandbytes")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Every id that config, generation config or tokenizer call the end."""
    ids: set[int] = set()
    config = model.config.get_text_config(decoder=True)
    for found in (
        getattr(config, "eos_token_id", None),
        getattr(model.generation_config, "eos_token_id", None),
        tokenizer.eos_token_id,
    ):
        ids.update(found if isinstance(found, list) else [] if found is None else [found])
    return frozenset(ids)


def _info(spec: ModelSpec, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, template: Template) -> ModelInfo:
    defaults = model.generation_config.to_diff_dict() if model.generation_config else {}
    precision = str(model.dtype).removeprefix("torch.")
    return ModelInfo(
        name=Path(spec.name).name if Path(spec.name).exists() else spec.name,
        precision=precision if spec.quantization == "none" else f"{spec.quantization} bitsandbytes",
        parameters=model.num_parameters(),
        weight_bytes=model.get_memory_footprint(),
        context_length=context_length(model.config.get_text_config(decoder=True), tokenizer),
        device=str(model.device),
        defaults=GenerationSettings.from_generation_config(defaults),
        notes=template.notes,
    )


def context_length(config: Any, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens that the model was made for; 8192 where neither config nor tokenizer says."""
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    known = tokenizer.model_max_length
    return int(known) if 0 < known < 10**9 else UNKNOWN_CONTEXT


def explain(spec: ModelSpec, error: Exception) -> ModelError:
    """The ModelError for whatever the libraries raised while loading."""
    name, text = spec.name, str(error)
    first = (text.strip().splitlines() or [type(error).__name__])[0]
    page = f"https://huggingface.co/{name}"
    if isinstance(error, GatedRepoError):
        return ModelError(
            f"{name} is gated: its authors ask you to accept a licence first.",
            f"Accept it at {page}, then set HF_TOKEN to a token of yours or run `hf auth login`.",
        )
    if isinstance(error, RevisionNotFoundError):
        return ModelError(f"{name} has no revision {spec.revision!r}.", f"See its branches and tags at {page}.")
    if isinstance(error, RepositoryNotFoundError | HFValidationError):
        return ModelError(
            f"There is no model {name!r} on the Hub, or it is private.",
            "Check the spelling (owner/name); for a private one set HF_TOKEN or run `hf auth login`.",
        )
    if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled | HfHubHTTPError | ConnectionError):
        return _unreachable(spec)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return ModelError(
            f"The disk is full, so {name} could not be stored.",
            f"Free some space, or set HF_HOME to a folder on another disk (now {os.path.expanduser('~')}).",
        )
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in text:
        return ModelError(
            f"There was not enough memory to load {name}.", "Try --quantization 4bit, or a smaller model."
        )
    if isinstance(error, SafetensorError):
        return ModelError(
            f"The weights of {name} are incomplete or damaged ({first}).",
            "Delete the file and load the model again, or copy it anew.",
        )
    if "trust_remote_code" in text:
        return ModelError(
            f"{name} brings Python code of its own, which is not run by default.",
            "Read that code; if you trust it, start with --trust-remote-code.",
        )
    if isinstance(error, ValueError | KeyError) and ("model type" in text or "Unrecognized" in text):
        return ModelError(
            f"{name} is of a kind that transformers {transformers.__version__} does not know as a chat model.",
            "Choose a text-generation model, or upgrade transformers.",
        )
    return ModelError(f"{name} could not be loaded: {first.rstrip('.')}.", "The console has the details.")


def _unreachable(spec: ModelSpec) -> ModelError:
    if spec.name == DEFAULT_MODEL:
        return ModelError(
            "The default model is neither installed as a package nor reachable on the Hub.",
            f"Run `{embedded.INSTALL}` and start again, or connect to the internet.",
        )
    return ModelError(
        f"{spec.name} is not on this computer, and the Hub cannot be reached.",
        "Connect to the internet, or give --model a local folder or GGUF file.",
    )
