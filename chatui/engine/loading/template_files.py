"""The chat template that takes the place of the tokenizer's own."""

import json
from pathlib import Path

from chatui.engine.loading.model_files import Files
from chatui.errors import ModelError
from chatui.model_spec import ModelSpec


def replaced_template(spec: ModelSpec, source: Files, own: object) -> str | None:
    """The template to take in place of the tokenizer's `own`, if any.

    The operator's; of several none of which is the default, the only one or that for chats; for a tokenizer that has
    none, that of the model's processor.
    """
    if spec.chat_template is not None:
        return read_template(spec.chat_template)
    if isinstance(own, dict) and "default" not in own:
        found = next(iter(own.values())) if len(own) == 1 else own.get("chat")
        return found if isinstance(found, str) else None
    processors = source.folder / "chat_template.json"
    return read_template(processors) if not own and not source.gguf_file and processors.is_file() else None


def adapter_template(spec: ModelSpec, folder: Path) -> str | None:
    """The chat template in an adapter's folder, where there is one."""
    if spec.chat_template is not None:
        return read_template(spec.chat_template)
    if (folder / "chat_template.jinja").is_file():
        return read_template(folder / "chat_template.jinja")
    config = folder / "tokenizer_config.json"
    try:
        found = json.loads(config.read_bytes()).get("chat_template") if config.is_file() else None
    except (ValueError, AttributeError):
        found = None
    return found if isinstance(found, str) else None


def read_template(file: Path) -> str:
    """The template in a text file, or in JSON under `chat_template` as in tokenizer_config.json. Raises ModelError."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ModelError(f"The chat template {file} cannot be read: {reason}.", "Check --chat-template.") from None
    if file.suffix == ".json":
        try:
            found = json.loads(text)["chat_template"]
        except (ValueError, KeyError, TypeError):
            found = None
        if not isinstance(found, str):
            raise ModelError(f"{file} holds no chat_template.", "Name a Jinja file, or a tokenizer_config.json.")
        text = found
    if not text.strip():
        raise ModelError(f"The chat template {file} is empty.", "Check --chat-template.")
    return text
