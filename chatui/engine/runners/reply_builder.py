"""A request and the tokens written for it -> the reply, piece by piece. Knows no forward pass."""

import random
import re
import time
from collections.abc import Callable
from functools import partial
from itertools import groupby
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

from chatui.backend import PreviewMemo
from chatui.chat import ChatRequest, Finish, FinishReason, Message, Prompt, ReplyDelta, TraceSnapshot
from chatui.engine.loading.loaded_model import LoadedModel
from chatui.engine.sampling.sampler import Sampler, model_logits_processors
from chatui.engine.text import prompt as prompts
from chatui.engine.text.chat_template import Template
from chatui.engine.text.detokenizer import REPLACEMENT, Detokenizer
from chatui.engine.text.harmony import HarmonySplitter, marked
from chatui.engine.text.response_template import TemplateSplitter
from chatui.engine.text.spans import SectionCache
from chatui.engine.text.thought_meter import ThoughtMeter
from chatui.reply_text.reply_parts import NOTHING, Parts, Splitter
from chatui.reply_text.stop_strings import StopStrings
from chatui.reply_text.thinking import ThinkingSplitter
from chatui.reply_text.thinking_tags import HARMONY, THINK, Tags, opened_by
from chatui.traces import Traces

BYTES = {sign: byte for byte, sign in bytes_to_unicode().items()}
"""How byte-level tokenizers spell bytes."""

SNAPSHOT_INTERVAL = 32
"""Tokens after which traces are sent along again, for those who get them from another process."""


class ReplyBuilder:
    """One reply in the making: takes tokens, gives deltas, and knows when it is over.

    Of a reply that is continued the deltas hold only what is new, and stop strings count in that alone.
    Raises PromptError where the conversation does not fit the model.
    """

    def __init__(self, loaded: LoadedModel, request: ChatRequest) -> None:
        settings, self.chat, self.user = request.settings, request.temporary_conversation, request.user
        context = loaded.info.context_length
        self.prompt = preview(loaded, request)
        self.seed = settings.seed if settings.seed is not None else random.SystemRandom().getrandbits(32)
        rules = model_logits_processors(loaded.model, len(self.prompt.token_ids))
        self.sampler = Sampler(settings, self.seed, rules, request.trace, request.alternatives)
        self.finished = False
        self._max_new_tokens, self._context = settings.max_new_tokens, context
        self._limit = min(self._max_new_tokens or context, context - len(self.prompt.token_ids))
        self._stop_ids = frozenset() if request.ignore_eos else loaded.stop_ids
        prefix = prompts.reply_prefix(loaded.template, request.messages)
        self._decoder = Detokenizer(_decode(loaded, behind=prefix is not None))
        self._stops = StopStrings(settings.stop)
        self._splitter = _splitter(loaded.template, self.prompt, prefix)
        self._count = 0
        self._loaded = loaded
        self._text_seconds = 0.0
        self._rows = 0
        self._thought = ThoughtMeter(partial(_end_of_thought, loaded), settings.thinking_budget, self._limit)
        self._forced_positions: list[int] = []
        self._accepted_positions: list[int] = []
        self._end_thought_if_due()
        self.begin(0.0)

    def begin(self, queue_seconds: float, cached_tokens: int = 0) -> None:
        """The prompt is about to be read, all but its first `cached_tokens`; more may come from disk."""
        self._queue_seconds, self.cached_tokens = queue_seconds, cached_tokens
        if self.sampler.trace is not None:
            self.sampler.trace.begin()
        self._started = self._first_at = self._last_at = time.perf_counter()

    def answer_now(self) -> None:
        """End the thought with the next tokens, if one is open, and every one that opens later."""
        self._thought.answer_now()
        self._end_thought_if_due()

    def push(self, token_id: int, rows: int = 1, accepted: bool = False) -> ReplyDelta:
        """What this token adds, written in a step of `rows` rows, or `accepted` after one for tokens before it.

        The last one carries the finish, and then the reply is `finished`.
        """
        previous_at = self._last_at
        arrived = self._last_at = time.perf_counter()
        if accepted:
            self._accepted_positions.append(self._count)
        self._count += 1
        self._rows += rows
        if self._count == 1:
            self._first_at = arrived
        if token_id in self._stop_ids:
            return self._end("stop_token", stop_id=token_id)
        parts = self._split(token_id, arrived - previous_at if self._count > 1 else 0.0)
        self._text_seconds += time.perf_counter() - arrived
        if self._stops.hit is not None:
            return self._end("stop_string", parts)
        if self._splitter.finished and self._stop_ids:
            return self._end("stop_token", parts, token_id)
        if self._count == self._limit:
            return self._end("length", parts)
        self._end_thought_if_due()
        return _delta(parts, snapshot=None if self._count % SNAPSHOT_INTERVAL else self.snapshot_function)

    def _split(self, token_id: int, seconds: float) -> Parts:
        """What the token adds to the thought and to the answer."""
        thinking = self._splitter.thinking is not None
        parts = self._splitter.push(self._stops.push(self._decoder.push(token_id)))
        thinking = thinking or self._splitter.thinking is not None
        self._thought.count(thinking, parts, self._count, seconds, self._last_at - self._first_at)
        return parts

    def _end_thought_if_due(self) -> None:
        """Force the tokens that end the thought, if it may not go on and they are not on their way."""
        if self._splitter.thinking is None or (self._forced_positions and self._forced_positions[-1] >= self._count):
            return
        ids = self._thought.end_of(self._splitter.thinking)
        self.sampler.force(ids)
        self._forced_positions += range(self._count, self._count + len(ids))

    @property
    def snapshot_function(self) -> Callable[[], TraceSnapshot] | None:
        """`snapshot` where the reply is traced, else None."""
        return None if self.sampler.trace is None else self.snapshot

    def snapshot(self) -> TraceSnapshot:
        """The traces up to the last token, and the Finish if it ended now; may be called in another thread."""
        traces = Traces() if self.sampler.trace is None else self.sampler.trace.traces()
        return TraceSnapshot(traces, self._finish("cancelled", self._last_at if self._count else time.perf_counter()))

    def __reduce__(self) -> tuple[type["_SentSnapshot"], tuple[TraceSnapshot]]:
        """Another process gets a snapshot, which is plain data."""
        return _SentSnapshot, (self.snapshot(),)

    def _stopped_by(self, reason: FinishReason, stop_id: int | None) -> str:
        if reason == "cancelled":
            return ""
        if reason == "stop_token":
            return decode_tokens(self._loaded, {stop_id})[stop_id] if stop_id is not None else ""
        if reason == "stop_string":
            return self._stops.hit or ""
        asked = self._limit == self._max_new_tokens
        return f"max_new_tokens = {self._max_new_tokens:,}" if asked else f"the context of {self._context:,} tokens"

    def _end(self, reason: FinishReason, parts: Parts = NOTHING, stop_id: int | None = None) -> ReplyDelta:
        """The last delta, with all text that was held back."""
        self.finished = True
        tail = "" if self._stops.hit is not None else self._stops.push(self._decoder.flush()) + self._stops.flush()
        parts = parts.then(self._splitter.push(tail)).then(self._splitter.flush())
        finish = self._finish(reason, time.perf_counter(), stop_id)
        return _delta(parts, finish=finish, snapshot=self.snapshot_function)

    def _finish(self, reason: FinishReason, now: float, stop_id: int | None = None) -> Finish:
        """Tokens and seconds used up to `now` by time.perf_counter()."""
        first_at = self._first_at if self._count else now
        return Finish(
            reason=reason,
            prompt_tokens=len(self.prompt.token_ids),
            completion_tokens=self._count,
            seed=self.seed,
            queue_seconds=self._queue_seconds,
            prefill_seconds=first_at - self._started,
            decode_seconds=now - first_at,
            cached_tokens=self.cached_tokens,
            stopped_by=self._stopped_by(reason, stop_id),
            stop_id=stop_id,
            text_seconds=self._text_seconds,
            rows=self._rows / self._count if self._count else 1.0,
            reasoning_tokens=self._thought.tokens,
            reasoning_seconds=self._thought.seconds,
            forced_positions=tuple(at for at in self._forced_positions if at < self._count),
            accepted_positions=tuple(self._accepted_positions),
        )


def _delta(parts: Parts, **fields: Any) -> ReplyDelta:
    return ReplyDelta(parts.content, parts.thought, tokens=1, reasoning_remainder=parts.folds, **fields)


class _SentSnapshot:
    """The snapshot of a reply that was sent to another process."""

    def __init__(self, snapshot: TraceSnapshot) -> None:
        self._snapshot = snapshot

    def snapshot(self) -> TraceSnapshot:
        """As of the reply."""
        return self._snapshot


def preview(loaded: LoadedModel, request: ChatRequest, memo: PreviewMemo | None = None) -> Prompt:
    """The prompt of this request. Raises PromptError where it does not fit."""
    info = loaded.info
    limit = info.context_length - (1 if request.no_truncation else info.reserved_tokens(request.settings))
    known = None if memo is None else memo.setdefault("sections", SectionCache())
    template = loaded.template.with_settings(request.settings)
    try:
        return prompts.build(loaded.tokenizer, template, request.messages, limit, request.no_truncation, known)
    finally:
        if known is not None:
            known.forget_the_rest()


def decode_tokens(loaded: LoadedModel, ids: set[int]) -> dict[int, str]:
    """The text of each token by itself; for a part of a character its bytes as <0xE2>."""
    if unknown := list(ids - loaded.spelling.keys()):
        tokenizer = loaded.tokenizer
        before = tokenizer.encode("a", add_special_tokens=False)
        length = len(str(tokenizer.decode(before)))
        behind = tokenizer.batch_decode([[*before, id] for id in unknown], clean_up_tokenization_spaces=False)
        for id, name, decoded in zip(unknown, tokenizer.convert_ids_to_tokens(unknown), behind, strict=True):
            text = decoded[length:]
            loaded.spelling[id] = _bytes_of(name or "") if REPLACEMENT in text else text
    return {id: loaded.spelling[id] for id in ids}


def _bytes_of(name: str) -> str:
    """A token that is a part of a character as its bytes, where its name spells them as byte-level tokenizers do."""
    try:
        return "".join(f"<0x{BYTES[sign]:02X}>" for sign in name)
    except KeyError:
        return name


def _decode(loaded: LoadedModel, *, behind: bool) -> Callable[[list[int]], str]:
    """How the tokens of a reply are decoded; `behind` where there is some of it already.

    SentencePiece's tokens lose the space they begin with where nothing is before.
    """
    decode = _marking(loaded) if loaded.template.tags is HARMONY else loaded.decode
    if not behind:
        return decode
    before = loaded.tokenizer.encode("a", add_special_tokens=False)
    length = len(decode(before))
    return lambda ids: decode([*before, *ids])[length:]


def _marking(loaded: LoadedModel) -> Callable[[list[int]], str]:
    """Decodes with the control tokens marked."""
    vocabulary = loaded.tokenizer.get_added_vocab()
    marks = {token_id: marked(token) for token, token_id in vocabulary.items() if token_id in loaded.hidden_ids}

    def decode(ids: list[int]) -> str:
        runs = groupby(ids, key=marks.__contains__)
        return "".join("".join(map(marks.__getitem__, run)) if mark else loaded.decode(list(run)) for mark, run in runs)

    return decode


def _end_of_thought(loaded: LoadedModel, tags: Tags) -> tuple[int, ...]:
    """The token ids that end a thought between these tags. They follow other text: see `_decode`."""
    before = loaded.tokenizer.encode("a", add_special_tokens=False)
    ids = loaded.tokenizer.encode("a" + tags.force_closed, add_special_tokens=False)
    if ids[: len(before)] != before:  # the tokenizer joins the first characters to the text before
        return tuple(loaded.tokenizer.encode(tags.force_closed, add_special_tokens=False))
    return tuple(ids[len(before) :])


def _splitter(template: Template, prompt: Prompt, prefix: Message | None) -> Splitter:
    """The Splitter for the text that the model generates after this prompt."""
    if template.response is not None:
        return TemplateSplitter(template.response, prompt.text)
    opened = opened_by(prompt.text, template.tags) if prefix is None else None
    if template.tags is HARMONY:
        thinks = opened is HARMONY or (prefix is not None and not prefix.content)
        return HarmonySplitter("analysis" if thinks else "final" if prefix is not None else "")
    asked = "\n".join(message.content for message in prompt.messages if message.role == "user")
    if prefix is None:
        return ThinkingSplitter(opened, template.tags, asked=asked)
    own = template.tags or THINK
    thinking, thought = (None, bool(prefix.reasoning)) if prefix.content else (own, True)
    splitter = ThinkingSplitter(thinking, template.tags, started=True, thought=thought, asked=asked)
    # Lines and code fences go on from what is there, but what looks like a tag in it opens or closes nothing.
    splitter.push(re.sub(r"[<\[◁:]", "-", prefix.content or prefix.reasoning))
    splitter.flush()
    return splitter
