"""LoadedModel and a request -> the reply, piece by piece, with everything that happens on the way."""

import logging
import random
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from chatui.chat import ChatRequest, Finish, FinishReason, ModelInfo, Prompt, ReplyDelta
from chatui.errors import ChatError, GenerationError
from chatui.local import prompt as prompts
from chatui.local.engine import Interrupted
from chatui.local.loading import LoadedModel
from chatui.local.sampling import Sampler, model_rules
from chatui.local.serial import decode, interruptible
from chatui.local.text import IncrementalDecoder, StopStrings, ThinkingSplitter

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Writer:
    """Writes replies with one loaded model, in the caller's thread."""

    loaded: LoadedModel

    @property
    def info(self) -> ModelInfo:
        """What is known about the model."""
        return self.loaded.info

    def write(self, request: ChatRequest, queue_seconds: float) -> Generator[ReplyDelta]:
        """One reply. Raises ChatError, whatever goes wrong; passes Interrupted on."""
        try:
            yield from write(self.loaded, request, queue_seconds)
        except (ChatError, Interrupted):
            raise
        except Exception as error:
            log.exception("a reply failed")
            raise _explain(error) from error

    def interruptible(self, unwanted: Callable[[], bool]) -> AbstractContextManager[None]:
        """Inside, the model gives up with Interrupted soon after `unwanted()` is true."""
        return interruptible(self.loaded.model, unwanted)


def write(loaded: LoadedModel, request: ChatRequest, queue_seconds: float = 0.0) -> Generator[ReplyDelta]:
    """One reply: the prompt first, then a delta for each token, the last with the finish.

    Raises PromptError or GenerationError.
    """
    settings = request.settings
    context = loaded.info.context_length
    reserve = min(settings.max_new_tokens, context // 4)
    prompt = prompts.build(loaded.tokenizer, loaded.template, request.messages, context - reserve)
    yield ReplyDelta(prompt=prompt)
    limit = min(settings.max_new_tokens, context - len(prompt.token_ids))
    seed = settings.seed if settings.seed is not None else random.SystemRandom().getrandbits(32)
    rules = model_rules(loaded.model, len(prompt.token_ids))
    decoder = IncrementalDecoder(loaded.decode)
    stops = StopStrings(settings.stop)
    splitter = ThinkingSplitter(thinking=_opens_thinking(prompt))
    started = first_at = time.perf_counter()
    reason: FinishReason = "length"
    count = 0
    for token_id in decode(loaded.model, prompt.token_ids, Sampler(settings, seed, rules)):
        count += 1
        if count == 1:
            first_at = time.perf_counter()
        if token_id in loaded.stop_ids:
            reason = "stop_token"
            break
        said, thought = splitter.push(stops.push(decoder.push(token_id)))
        yield ReplyDelta(said, thought, tokens=1)
        if stops.hit is not None:
            reason = "stop_string"
            break
        if count == limit:
            break
    tail = "" if stops.hit is not None else stops.push(decoder.flush()) + stops.flush()
    said, thought = (a + b for a, b in zip(splitter.push(tail), splitter.flush(), strict=True))
    yield ReplyDelta(
        said,
        thought,
        tokens=1 if reason == "stop_token" else 0,
        finish=Finish(
            reason=reason,
            prompt_tokens=len(prompt.token_ids),
            completion_tokens=count,
            seed=seed,
            queue_seconds=queue_seconds,
            prefill_seconds=first_at - started,
            decode_seconds=time.perf_counter() - first_at,
        ),
    )


def _opens_thinking(prompt: Prompt) -> bool:
    return prompt.text.rstrip().endswith("<think>")


def _explain(error: Exception) -> GenerationError:
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error):
        return GenerationError("There was not enough memory for this conversation.", "Shorten it, or start a new chat.")
    return GenerationError(
        f"The model failed while writing ({type(error).__name__}).", "Try again; the console has the details."
    )
