"""One reply at a time with any transformers model, for state that is no plain K/V and for borrowed GPUs."""

import contextlib
import contextvars
import inspect
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from chatui.chat import ChatRequest, ReplyDelta
from chatui.engine.batching.failures import to_generation_error
from chatui.engine.loading.loaded_model import LoadedModel
from chatui.engine.runners.contract import Interrupted, IsCancelled, StepResult, WriteReply
from chatui.engine.runners.loaded_runner import LoadedRunner
from chatui.engine.runners.reply_builder import ReplyBuilder
from chatui.engine.sampling.sampler import Sampler


class SerialRunner(LoadedRunner):
    """One reply at a time, for models whose state is no plain K/V, and for borrowed GPUs.

    `wrap` may decorate the function that writes a reply (ZeroGPU's `spaces.GPU` runs it on a borrowed GPU).
    """

    def __init__(self, loaded: LoadedModel, wrap: Callable[[WriteReply], WriteReply] = lambda write: write) -> None:
        super().__init__(loaded)
        self._write = wrap(self._alone)
        self._running: _RunningReply | None = None
        self._answers_now = False

    def can_begin(self, prepared: object = None) -> bool:  # noqa: ARG002 - any, when no other is running
        """Whether another reply can begin."""
        return self._running is None

    def prepare(self, request: ChatRequest) -> ChatRequest:
        """Nothing: all of a reply may have to happen in one place, on a GPU that is lent for it."""
        return request

    def begin(self, prepared: object, queue_seconds: float, is_cancelled: IsCancelled) -> object:
        """Begin the one reply; `is_cancelled` is asked inside the pass that reads its prompt."""
        if not isinstance(prepared, ChatRequest):
            raise TypeError("begin() takes what prepare() made")
        self._answers_now = False
        stack = contextlib.ExitStack()
        deltas = stack.enter_context(contextlib.closing(self._write(prepared, queue_seconds)))
        reading = stack.enter_context(contextlib.ExitStack())
        reading.enter_context(interruptible(self.loaded.model, is_cancelled))
        self._running = _RunningReply(deltas, stack, reading, contextvars.copy_context())
        return self._running

    def step(self) -> list[StepResult]:
        """The next delta of the one reply."""
        running = self._running
        if running is None:
            return []
        try:
            delta = running.context.run(next, running.deltas)
        except Interrupted:
            self.end(running)
            return []
        except Exception as error:
            self.end(running)
            return [(running, to_generation_error(error))]
        if delta.tokens:
            running.reading.close()
        if delta.finish is not None:
            self.end(running)
        return [(running, delta)]

    def end(self, handle: object) -> None:
        """Nobody wants this reply any more."""
        if self._running is handle and self._running is not None:
            self._running.context.run(self._running.stack.close)
            self._running = None

    def answer_now(self, handle: object) -> None:
        """End the thought of the one reply with its next token; on a borrowed GPU it goes on."""
        self._answers_now = handle is self._running

    def forget(self, chat: str) -> None:
        """Nothing is remembered."""

    def kv_usage(self) -> float:
        """0: its cache grows with the reply."""
        return 0.0

    def reset(self) -> None:
        """Give up the reply."""
        self.end(self._running)

    def _alone(self, request: ChatRequest, queue_seconds: float) -> Generator[ReplyDelta]:
        yield from generate_reply(self.loaded, request, queue_seconds, lambda: self._answers_now)


@dataclass(eq=False)
class _RunningReply:
    """The reply being written, in the asker's context, and what to undo when it ends."""

    deltas: Generator[ReplyDelta]
    stack: contextlib.ExitStack
    reading: contextlib.ExitStack
    context: contextvars.Context


def generate_reply(
    loaded: LoadedModel,
    request: ChatRequest,
    queue_seconds: float = 0.0,
    answers_now: Callable[[], bool] = lambda: False,
) -> Generator[ReplyDelta]:
    """One reply by itself: the prompt first, then a delta for each token, the last with the finish.

    Its thought is ended once `answers_now()`. Raises PromptError or GenerationError, and whatever the model raises.
    """
    reply = ReplyBuilder(loaded, request)
    reply.begin(queue_seconds)
    yield ReplyDelta(prompt=reply.prompt, snapshot=reply.snapshot_function)
    for token_id in generate_ids(loaded.model, reply.prompt.token_ids, reply.sampler):
        yield reply.push(token_id)
        if reply.finished:
            return
        if answers_now():
            reply.answer_now()


@contextlib.contextmanager
def interruptible(model: PreTrainedModel, is_cancelled: Callable[[], bool]) -> Iterator[None]:
    """Inside, a forward pass raises Interrupted at the next operation of any layer once `is_cancelled()` is true."""

    def check(*_: object) -> None:
        if is_cancelled():
            raise Interrupted

    leaves = [module for module in model.modules() if next(module.children(), None) is None]
    hooks = [leaf.register_forward_pre_hook(check) for leaf in leaves]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def generate_ids(model: PreTrainedModel, prompt_ids: Sequence[int], sampler: Sampler) -> Iterator[int]:
    """Token ids without end, the first after the whole prompt was read.

    Prepares the inputs as `generate()` does (prepare_inputs_for_generation and its counterpart are transformers'
    own hooks for decoding loops), so state-space and hybrid caches work too, and greedy ids are `generate()`'s.
    """
    steps: Any = model  # the hooks come from GenerationMixin, which is no base of PreTrainedModel
    input_ids = torch.tensor([list(prompt_ids)], device=model.device)
    state = _first_state(model, input_ids)
    first = True
    while True:
        with torch.inference_mode():
            inputs = steps.prepare_inputs_for_generation(
                input_ids,
                next_sequence_length=None if first else 1,
                is_first_iteration=first,
                **state,
            )
            outputs = model(**inputs, return_dict=True)
            state = steps._update_model_kwargs_for_generation(outputs, state)
            token_id = sampler.choose(input_ids, outputs.logits[:, -1])
            input_ids = torch.cat([input_ids, input_ids.new_tensor([[token_id]])], dim=-1)
            first = False
            del outputs, inputs
        yield token_id


def _first_state(model: PreTrainedModel, input_ids: torch.Tensor) -> dict[str, Any]:
    """What the model is told beside the ids, as far as its `forward` takes it; `input_ids` has shape [1, tokens].

    There is no attention mask: nothing is padded, and some linear-attention models read a growing mask wrongly.
    """
    steps: Any = model
    accepted = inspect.signature(model.forward).parameters
    state: dict[str, Any] = {"use_cache": True}
    if "position_ids" in accepted:
        state["position_ids"] = torch.arange(input_ids.shape[1], device=input_ids.device).unsqueeze(0)
    if "logits_to_keep" in accepted:
        state["logits_to_keep"] = 1
    cache = next((name for name in ("past_key_values", "cache_params") if name in accepted), None)
    if cache and steps._supports_default_dynamic_cache():
        state[cache] = DynamicCache(config=model.config.get_text_config(decoder=True))
    return state
