"""A model for a ZeroGPU Space: `spaces` emulates the GPU here, and lends a real one to a forked process per reply."""

import contextlib
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

from chatui.catalogue import ModelSpec
from chatui.chat import ChatRequest, ReplyDelta
from chatui.errors import ChatError, GenerationError, ModelError
from chatui.local.engine import Model, Reply, Report


def load(spec: ModelSpec, cache_dir: Path, report: Report) -> Model:
    """The model on the emulated GPU; to be called in the thread that imported `spaces`, the only one that emulates.

    transformers places weights in threads of its own, so they are loaded on the CPU and moved here; quantized ones
    cannot be moved. Raises ModelError.
    """
    if spec.quantization != "none":
        raise ModelError("On ZeroGPU weights cannot be quantized.", "Leave CHATUI_QUANTIZATION out; there is room.")
    from chatui.local import loading
    from chatui.local.reply import Writer

    loaded = loading.load(replace(spec, device_map="cpu"), cache_dir, report)
    moved: Any = loaded.model
    moved.to("cuda")
    return Writer(replace(loaded, info=replace(loaded.info, device="ZeroGPU")))


def lend(gpu: Callable[[Any], Any]) -> Callable[[Reply], Reply]:
    """`spaces.GPU` as LocalBackend's `wrap`. A ChatError must cross as a value: `spaces` drops all but its class."""

    def wrap(reply: Reply) -> Reply:
        def crossing(request: ChatRequest, queue_seconds: float) -> Generator[ReplyDelta | ChatError]:
            try:
                yield from reply(request, queue_seconds)
            except ChatError as error:
                yield error

        borrowed = gpu(crossing)

        def written(request: ChatRequest, queue_seconds: float) -> Generator[ReplyDelta]:
            with contextlib.closing(borrowed(request, queue_seconds)) as items:
                for item in _told(items):
                    if isinstance(item, ChatError):
                        raise item
                    yield item

        return written

    return wrap


def _told(items: Generator[Any]) -> Generator[Any]:
    """The items; what `spaces` says to the user (no GPU is free, the quota is spent) becomes a GenerationError.

    It says so with gr.Error, which has a title and a message.
    """
    try:
        yield from items
    except Exception as error:
        if not hasattr(error, "title"):
            raise
        raise GenerationError(f"{error.title}: {getattr(error, 'message', '')}", "Try again later.") from error
