"""Replies -> figures. Pure; a figure that cannot be told is None."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import comb
from statistics import median

from scripts.benchmark.target import Reply


@dataclass(frozen=True)
class Wave:
    """Some users' first turns at once, then their second turns at once."""

    first: tuple[Reply, ...]
    second: tuple[Reply, ...]


@dataclass(frozen=True)
class Interruption:
    """A reply that is being written, and another user's reply whose long prompt comes in its middle."""

    writer: Reply
    other: Reply


@dataclass(frozen=True)
class WaveFigures:
    """What all rounds of a wave come to: medians over rounds of speeds, over replies of times."""

    prompt_tokens: float | None
    tokens_per_second: float | None
    together: float | None
    ms_per_token: float | None
    first: float | None
    first_p95: float | None
    second: float | None
    second_prompt: float | None
    cached: float | None


@dataclass(frozen=True)
class InterruptionFigures:
    """What all rounds of an interruption come to."""

    other_prompt: float | None
    quiet_ms: float | None
    meanwhile_ms: float | None
    slowdown: float | None
    longest_gap_ms: float | None
    other_first: float | None


def median_or_none(values: Iterable[float | None]) -> float | None:
    """The median of those that are known."""
    known = [value for value in values if value is not None]
    return median(known) if known else None


def median_interval(found: Sequence[float]) -> tuple[float, float]:
    """Between which two of these the median is in 95 of 100 cases: a sign test's interval."""
    ordered, count = sorted(found), len(found)
    outside, index = 0.0, 0
    while index < (count - 1) // 2 and outside + comb(count, index) / 2**count <= 0.025:
        outside += comb(count, index) / 2**count
        index += 1
    return ordered[max(0, index - 1)], ordered[count - max(1, index)]


def percentile(values: Sequence[float], share: float) -> float | None:
    """The value below which this share of them lies, between neighbours in proportion."""
    if not values:
        return None
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def tokens_per_second(replies: Sequence[Reply]) -> float | None:
    """All tokens but the first of all, over the time from that one to the last of all."""
    seconds = max(reply.last for reply in replies) - min(reply.first for reply in replies)
    return (sum(reply.completion_tokens for reply in replies) - 1) / seconds if seconds > 0 else None


def concurrent_tokens_per_second(replies: Sequence[Reply]) -> float | None:
    """Tokens/s of all while every one of them is being written; None where that never is."""
    start, end = max(reply.first for reply in replies), min(reply.last for reply in replies)
    return sum(reply.tokens_between(start, end) for reply in replies) / (end - start) if end > start else None


def wave_figures(waves: Sequence[Wave]) -> WaveFigures:
    """The figures of the same wave in all rounds."""
    first = [reply for wave in waves for reply in wave.first]
    second = [reply for wave in waves for reply in wave.second]
    waits = [reply.seconds_to_first for reply in first]
    return WaveFigures(
        median_or_none(reply.prompt_tokens for reply in first),
        median_or_none(tokens_per_second(wave.first) for wave in waves),
        median_or_none(concurrent_tokens_per_second(wave.first) for wave in waves),
        median_or_none(reply.ms_per_token for reply in first),
        median_or_none(waits),
        percentile(waits, 0.95),
        median_or_none(reply.seconds_to_first for reply in second),
        median_or_none(reply.prompt_tokens for reply in second),
        median_or_none(reply.cached_tokens for reply in second),
    )


def window(interruption: Interruption) -> tuple[float, float]:
    """From the writer's last piece before the other's request to its first piece after the other's first token.

    So at least one token falls into it, however long the writer stood still; its end is the writer's where the other
    had to wait for that.
    """
    writer, other = interruption.writer, interruption.other
    start = max((moment for moment in writer.pieces if moment <= other.sent), default=writer.first)
    end = min((moment for moment in writer.pieces if moment >= other.first), default=writer.last)
    return start, end


def meanwhile_ms(interruption: Interruption) -> float | None:
    """The writer's milliseconds per token while the other's prompt is read."""
    start, end = window(interruption)
    tokens = interruption.writer.tokens_between(start, end)
    return 1000 * (end - start) / tokens if tokens else None


def quiet_ms(interruption: Interruption) -> float | None:
    """The writer's milliseconds per token before the other comes."""
    writer, start = interruption.writer, window(interruption)[0]
    tokens = writer.tokens_between(writer.first, start)
    return 1000 * (start - writer.first) / tokens if tokens else None


def longest_gap_ms(interruption: Interruption) -> float | None:
    """The longest time without a new piece of the writer's while the other's prompt is read."""
    start, end = window(interruption)
    moments = [moment for moment in interruption.writer.pieces if start <= moment <= end]
    return max((1000 * (later - moment) for moment, later in pairwise(moments)), default=None)


def interruption_figures(rounds: Sequence[Interruption]) -> InterruptionFigures:
    """The figures of the same interruption in all rounds."""
    pairs = [(meanwhile_ms(each), quiet_ms(each)) for each in rounds]
    return InterruptionFigures(
        median_or_none(each.other.prompt_tokens for each in rounds),
        median_or_none(quiet for _, quiet in pairs),
        median_or_none(busy for busy, _ in pairs),
        median_or_none(busy / quiet if busy and quiet else None for busy, quiet in pairs),
        median_or_none(longest_gap_ms(each) for each in rounds),
        median_or_none(each.other.seconds_to_first for each in rounds),
    )
