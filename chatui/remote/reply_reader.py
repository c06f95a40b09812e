"""Reads the chunks of a streamed reply, in the forms of all dialects, as deltas. Knows no connection."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from chatui import shallow_json
from chatui.chat import ChatRequest, Finish, FinishReason, PromptCount, ReplyDelta, TraceSnapshot
from chatui.errors import GenerationError
from chatui.remote.dialects import Dialect
from chatui.remote.json_fields import Fields, as_count, as_object, as_told_count
from chatui.remote.request_body import is_continued
from chatui.remote.server_errors import ServerError, error_of, read_error, whole_characters
from chatui.remote.vocabulary import Vocabulary
from chatui.reply_text.reply_parts import NOTHING, Parts
from chatui.reply_text.stop_strings import StopStrings
from chatui.reply_text.thinking import ThinkingSplitter
from chatui.traces import TokenTrace, Traces

REASONS: Mapping[str, FinishReason] = {
    "length": "length",
    "max_tokens": "length",
    "stop_sequence": "stop_string",
}
"""Reasons of servers that are no stop token."""
FAILED_REASONS = ("error", "abort", "content_filter")
SPARE_TOKENS = 64
"""How many tokens more than its limit a reply may have of a server that was told the limit."""
MAX_TOKENS = 1_000_000
"""The limit of a reply that has none: some servers never end."""
UNKNOWN = math.nan
"""Stands in a trace for what the server does not tell."""


class RemoteError(Exception):
    """The server ended the reply with an error."""

    def __init__(self, error: ServerError) -> None:
        super().__init__(error.message)
        self.error = error


@dataclass
class ReplyReader:
    """Makes deltas of the chunks of one reply. Times are in seconds of time.perf_counter().

    Thoughts come in fields of their own, or between tags. `is_told`: the server knows the most tokens of the reply,
    which are counted here too. `sent_at` is when the request was sent, after `queued` seconds in our queue. After the
    last chunk, `finish` tells how the reply ended.
    """

    request: ChatRequest
    dialect: Dialect
    vocabulary: Vocabulary
    queued: float = 0.0
    is_told: bool = True
    sent_at: float = field(default_factory=time.perf_counter)
    prompt_ids: tuple[int, ...] = ()
    tokens: int = 0
    usage: Fields = field(default_factory=dict)
    timings: Fields = field(default_factory=dict)
    reason: str = ""
    _progress: Fields = field(default_factory=dict)
    _stop_reason: Any = None
    _first_at: float | None = None
    _last_at: float | None = None
    _answer_at: float | None = None
    _thought: int = 0
    _held: dict[str, str] = field(default_factory=dict)
    _traced: list[TokenTrace] = field(default_factory=list)

    def __post_init__(self) -> None:
        asked = next((message.content for message in reversed(self.request.messages) if message.role == "user"), "")
        self._splitter = ThinkingSplitter(started=is_continued(self.request), asked=asked)
        self._stops = StopStrings(self.request.settings.stop)

    @property
    def is_over(self) -> bool:
        """Whether nothing more may come: one of our limits is reached, which the server does not keep."""
        return self._stops.hit is not None or self._is_full

    @property
    def _is_full(self) -> bool:
        most = self.request.settings.max_new_tokens or MAX_TOKENS
        return self.tokens >= most + (SPARE_TOKENS if self.is_told else 0)

    @property
    def has_begun(self) -> bool:
        """Whether a piece of the reply has come."""
        return self._first_at is not None

    def push(self, data: str) -> ReplyDelta | None:
        """The delta of one event; None if it adds nothing. Raises RemoteError, GenerationError."""
        if data.strip() == "[DONE]":
            return None
        try:
            chunk = shallow_json.loads(data)
        except ValueError:
            if data.startswith('{"error"'):  # transformers serve puts texts into JSON without escaping their quotes
                raise RemoteError(read_error(200, data)) from None
            raise GenerationError("The server sent a piece of a reply that is no JSON.", "Try again.") from None
        if not isinstance(chunk, dict):
            raise GenerationError("The server sent a piece of a reply that is no JSON object.", "Try again.")
        return self.push_chunk(chunk)

    def push_chunk(self, chunk: Mapping[str, Any]) -> ReplyDelta | None:
        """The delta of one chunk, or of a whole completion. Raises RemoteError."""
        if chunk.get("error") or chunk.get("object") == "error":
            raise RemoteError(error_of(chunk))
        self.usage = as_object(chunk.get("usage")) or self.usage
        self.timings = as_object(chunk.get("timings")) or self.timings
        self.prompt_ids = _ids(chunk.get("prompt_token_ids")) or self.prompt_ids
        choices = chunk.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        self.prompt_ids = _ids(choice.get("prompt_token_ids")) or self.prompt_ids
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason not in ("load", "unload"):
            self.reason = reason
            self._stop_reason = choice.get("stop_reason", choice.get("matched_stop"))
        if reason in FAILED_REASONS:
            raise RemoteError(ServerError(200, f"the reply was ended ({reason})"))
        self._progress = as_object(chunk.get("prompt_progress")) or self._progress
        return self._delta(choice, as_told_count(as_object(chunk.get("prompt_progress")).get("processed")))

    def _delta(self, choice: Mapping[str, Any], progress: int | None) -> ReplyDelta | None:
        message = as_object(choice.get("delta")) or as_object(choice.get("message"))
        content = self._whole("content", _text(message.get("content")) or _text(choice.get("text")))
        reasoning = self._whole("reasoning", _text(message.get("reasoning_content")) or _text(message.get("reasoning")))
        traced = self._trace(as_object(choice.get("logprobs")).get("content"))
        count = traced or len(_ids(choice.get("token_ids"))) or int(bool(content or reasoning))
        if not count:
            return ReplyDelta(prefilled_tokens=progress) if progress is not None else None
        self._mark(count, bool(reasoning))
        if reasoning:
            self._splitter.started = True  # tags in what follows are no thought of the model
            thought = self._parts_of_thought(reasoning, content)
        else:
            thought = self._splitter.push(self._stops.push(content))
        return self._as_delta(thought, count)

    def _whole(self, channel: str, text: str) -> str:
        """The text with what was held back of the last one: half a surrogate pair."""
        text, self._held[channel] = whole_characters(self._held.get(channel, "") + text, unfinished=True)
        return text

    def _parts_of_thought(self, reasoning: str, content: str) -> Parts:
        parts = self._splitter.push(self._stops.push(content)) if content else NOTHING
        return Parts(parts.content, reasoning + parts.thought)

    def _as_delta(self, parts: Parts, count: int) -> ReplyDelta:
        snapshot = partial(self._snapshot, len(self._traced)) if self.request.trace else None
        return ReplyDelta(parts.content, parts.thought, count, reasoning_remainder=parts.folds, snapshot=snapshot)

    def flush(self) -> ReplyDelta:
        """What was held back, because it could have been the start of a tag or a stop string, and the finish.

        Raises GenerationError if there was no reply at all.
        """
        if not self.has_begun and not self.reason and not self.usage.get("completion_tokens"):
            raise GenerationError(
                "The server ended the reply before it began.",
                "The conversation may be too long for its model; or try again.",
            )
        parts = self._splitter.push(self._stops.flush()).then(self._splitter.flush())
        delta = self._as_delta(parts, 0)
        return ReplyDelta(
            delta.text,
            delta.reasoning,
            reasoning_remainder=delta.reasoning_remainder,
            snapshot=delta.snapshot,
            finish=self.finish(),
        )

    def finish(self, reason: FinishReason | None = None) -> Finish:
        """How the reply ended, or would have, for a `reason` of ours."""
        reason = reason or self._finish_reason()
        first, last = self._first_at or time.perf_counter(), self._last_at or time.perf_counter()
        thought = as_object(self.usage.get("completion_tokens_details")).get("reasoning_tokens")
        milliseconds = self.timings.get("prompt_ms"), self.timings.get("predicted_ms")
        prefill, decode = (value / 1000 if isinstance(value, int | float) else None for value in milliseconds)
        completion = as_count(self.usage.get("completion_tokens")) or self.tokens
        prompt, cached = self._prompt_counts()
        counts: Mapping[PromptCount, int | None] = {"prompt_tokens": prompt, "cached_tokens": cached}
        return Finish(
            reason,
            prompt or 0,
            completion,
            self.request.settings.seed or 0,
            self.queued,
            first - self.sent_at if prefill is None else prefill,
            last - first if decode is None else decode,
            cached_tokens=cached or 0,
            stopped_by=self._stopped_by(),
            reasoning_tokens=as_count(thought, self.usage.get("reasoning_tokens"), self._thought),
            reasoning_seconds=(self._answer_at or last) - first if self._thought else 0.0,
            timed_by_server=prefill is not None and decode is not None,
            untold=tuple(name for name, count in counts.items() if count is None),
        )

    def _prompt_counts(self) -> tuple[int | None, int | None]:
        """(the tokens of the prompt, those of them that were cached), None where they are not told.

        The usage comes last, so it is missing where the reply was ended here.
        """
        usage, timings, progress = self.usage, self.timings, self._progress
        read = as_count(timings.get("prompt_n")) + as_count(timings.get("cache_n"))
        prompt = as_count(usage.get("prompt_tokens"), len(self.prompt_ids), read, progress.get("total"))
        details = as_object(usage.get("prompt_tokens_details"))
        cached = as_told_count(details.get("cached_tokens"), timings.get("cache_n"), progress.get("cache"))
        return prompt or None, cached

    def _finish_reason(self) -> FinishReason:
        if self._stops.hit is not None or isinstance(self._stop_reason, str):
            return "stop_string"
        if not self.reason and self._is_full:
            return "length"
        return REASONS.get(self.reason, "stop_token")

    def _stopped_by(self) -> str:
        if self._stops.hit is not None:
            return self._stops.hit
        return self._stop_reason if isinstance(self._stop_reason, str) else ""

    def _mark(self, count: int, thinking: bool) -> None:
        now = time.perf_counter()
        self._first_at = self._first_at or now
        self._last_at = now
        self.tokens += count
        if thinking:
            self._thought += count
        elif self._thought and self._answer_at is None:
            self._answer_at = now

    def _trace(self, entries: Any) -> int:
        """Keep the probabilities of the tokens of a chunk. Returns their number."""
        if not isinstance(entries, list):
            return 0
        now = time.perf_counter() - self.sent_at
        traced = [self._token(entry, now) for entry in entries if isinstance(entry, dict)]
        self._traced += traced
        return len(traced)

    def _token(self, entry: Mapping[str, Any], at: float) -> TokenTrace:
        chosen, probability = self._candidate(entry)
        listed = [self._candidate(each) for each in entry.get("top_logprobs") or () if isinstance(each, dict)]
        candidates = dict(sorted({chosen: probability, **dict(listed)}.items(), key=lambda pair: -pair[1]))
        rank = list(candidates).index(chosen) + 1 if any(id == chosen for id, _ in listed) else 0
        ids = tuple(candidates)
        return TokenTrace(
            chosen, at, probability, rank, UNKNOWN, ids, ("model",), (tuple(candidates[id] for id in ids),)
        )

    def _candidate(self, entry: Mapping[str, Any]) -> tuple[int, float]:
        text, logprob, id = entry.get("token"), entry.get("logprob"), entry.get("id")
        probability = math.exp(min(logprob, 0.0)) if isinstance(logprob, int | float) else 0.0
        return self.vocabulary.add(
            _token_text(text, entry.get("bytes")), id if isinstance(id, int) else None
        ), probability

    def _snapshot(self, count: int) -> TraceSnapshot:
        return TraceSnapshot(Traces.of(self._traced[:count]), self.finish("cancelled"))


def _token_text(text: Any, data: Any) -> str:
    """A token's text; a part of a character as its bytes, such as <0xE2>, as decode_tokens() has them."""
    if isinstance(data, list) and all(isinstance(byte, int) and 0 <= byte < 256 for byte in data):
        try:
            return bytes(data).decode()
        except UnicodeDecodeError:
            return "".join(f"<0x{byte:02X}>" for byte in data)
    return whole_characters(text)[0] if isinstance(text, str) else ""


def _text(value: Any) -> str:
    """A text, or the texts of a list of parts."""
    if isinstance(value, str):
        return value
    parts: Sequence[Any] = value if isinstance(value, list) else ()
    return "".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def _ids(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, list) and all(isinstance(id, int) for id in value) else ()
