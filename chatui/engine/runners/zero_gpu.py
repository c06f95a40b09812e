"""A model for a ZeroGPU Space: `spaces` emulates the GPU here, and lends a real one to a forked process per reply."""

import contextlib
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

from chatui.chat import ChatRequest, ReplyDelta
from chatui.engine.runners.contract import Loader, ModelRunner, ReportPhase, WriteReply
from chatui.errors import ChatError, GenerationError, ModelError
from chatui.model_spec import ModelSpec


def loader(gpu: Callable[[Any], Any]) -> Loader:
    """A loader of models on the emulated GPU, each of whose replies is generated on one that `gpu` (spaces.GPU) lends.

    To be called in the thread that imported `spaces`, the only one that emulates. transformers places weights in
    threads of its own, so they are loaded on the CPU and moved here; quantized ones cannot be moved.
    """

    def load(spec: ModelSpec, cache_dir: Path, report: ReportPhase) -> ModelRunner:
        if spec.quantization not in ("none", "auto"):
            raise ModelError("On ZeroGPU weights cannot be quantized.", "Leave CHATUI_QUANTIZATION out; there is room.")
        from chatui.engine.loading import loader
        from chatui.engine.runners.serial_runner import SerialRunner

        dense = replace(spec, device_map="cpu", quantization="none")
        loaded = loader.load(dense, cache_dir, report)
        moved: Any = loaded.model
        moved.to("cuda")
        # The GPU that will be lent is not at hand, and what it was measured on is another device.
        anatomy = loaded.info.anatomy and replace(loaded.info.anatomy, bandwidth=0.0)
        info = replace(loaded.info, device="ZeroGPU", anatomy=anatomy)
        return SerialRunner(replace(loaded, info=info), lambda write: _lent(gpu, write))

    return load


def _lent(gpu: Callable[[Any], Any], write: WriteReply) -> WriteReply:
    """`write` on a borrowed GPU. A ChatError must cross as a value: `spaces` drops all but its class."""

    def crossing(request: ChatRequest, queue_seconds: float) -> Generator[ReplyDelta | ChatError]:
        try:
            yield from write(request, queue_seconds)
        except Exception as error:
            from chatui.engine.batching.failures import to_generation_error

            yield to_generation_error(error)

    borrowed = gpu(crossing)

    def write_on_gpu(request: ChatRequest, queue_seconds: float) -> Generator[ReplyDelta]:
        with contextlib.closing(borrowed(request, queue_seconds)) as items:
            for item in _translate_errors(items):
                if isinstance(item, ChatError):
                    raise item
                yield item

    return write_on_gpu


def _translate_errors(items: Generator[Any]) -> Generator[Any]:
    """The items; an error of `spaces` for the user (no GPU is free, the quota is spent) becomes a GenerationError.

    Those are gr.Error, which has a title and a message.
    """
    try:
        yield from items
    except Exception as error:
        if not hasattr(error, "title"):
            raise
        raise GenerationError(f"{error.title}: {getattr(error, 'message', '')}", "Try again later.") from error
