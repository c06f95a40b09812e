"""What a server tells of its load and its KV cache at this moment, from /metrics or /slots."""

import asyncio
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from chatui import shallow_json
from chatui.remote.dialects import Dialect
from chatui.remote.json_fields import as_objects
from chatui.remote.prompt_reader import Server
from chatui.server_facts import ServerActivity

MAX_BYTES = 4_000_000
"""Of one response; those of vLLM have some 100 kB."""
MAX_LINE_CHARACTERS, MAX_PARSED_CHARACTERS = 2000, 200_000
"""Of one line, and of all that are parsed: the parser takes time that grows with the square of a line."""
MAX_DIGITS = 12
"""Of a count: what has more is none."""
RANKS = ("tp_rank", "pp_rank", "moe_ep_rank")
"""Labels of processes that tell the same of one request: the first of them counts."""

Figures = Mapping[str, float]


async def read_activity(server: Server, dialect: Dialect, model: str) -> ServerActivity | None:
    """What it tells; None if it tells nothing. Takes as long as the server does.

    `dialect.metrics` names the metrics of these figures: `running`, `waiting`, `cache_tokens` and `cache_usage` as in
    ServerActivity. `found` tokens of prompts were in the cache, of those `looked_up`, or beside those `computed`.
    `cache_blocks` has the size of the cache in its labels.
    """
    asked = _slots(server) if dialect.slots else _nothing()
    metrics, slots = await asyncio.gather(_metrics(server, dialect.metrics, model), asked)
    found = ServerActivity(
        running=_count(metrics.get("running", slots.get("running"))),
        waiting=_count(metrics.get("waiting")),
        places=_count(slots.get("places")),
        cache_tokens=_count(metrics.get("cache_tokens")),
        cache_usage=_share(metrics.get("cache_usage"), 1.0),
        cache_hits=_hits(metrics),
    )
    return None if found == ServerActivity() else found


def combined(told: Sequence[ServerActivity]) -> ServerActivity | None:
    """What several servers tell together: sums, and means of shares. None if none tells anything."""
    if not told:
        return None

    def total(values: Sequence[int | None]) -> int | None:
        known = [value for value in values if value is not None]
        return sum(known) if len(known) == len(values) else None

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None

    return ServerActivity(
        total([each.running for each in told]),
        total([each.waiting for each in told]),
        total([each.places for each in told]),
        total([each.cache_tokens for each in told]),
        mean([each.cache_usage for each in told]),
        mean([each.cache_hits for each in told]),
    )


def figures(text: str, names: Mapping[str, str], model: str) -> Figures:
    """The figures in a text of Prometheus' format, by their keys in `names`: sums, and the mean of shares.

    Of a server with several models those of this one. Raises ValueError, LookupError or ArithmeticError if the
    text has another format.
    """
    # Only the lines that are needed are parsed: histograms are most of the text.
    needed = tuple(names.values())
    lines = [line for line in text.split("\n") if line.startswith(needed) and len(line) <= MAX_LINE_CHARACTERS]
    if sum(map(len, lines)) > MAX_PARSED_CHARACTERS:
        raise ValueError("it has too many lines")
    samples: dict[str, list[Sample]] = defaultdict(list)
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            if math.isfinite(sample.value) and all(sample.labels.get(rank, "0") == "0" for rank in RANKS):
                samples[sample.name].append(sample)
    models = {sample.labels.get("model_name") for each in samples.values() for sample in each} - {None}
    found: dict[str, float] = {}
    for key, name in names.items():
        # A server of one model may have another name for it.
        own = [sample for sample in samples[name] if len(models) <= 1 or sample.labels.get("model_name") == model]
        if key == "cache_blocks":
            if own and (tokens := sum(map(_tokens, own))):
                found["cache_tokens"] = tokens
        elif own:
            total = sum(float(sample.value) for sample in own)
            found[key] = total / len(own) if key == "cache_usage" else total
    return found


def _tokens(sample: Sample) -> int:
    """The tokens that the blocks of a KV cache have room for, as vLLM tells it; 0 if it does not."""
    size, count = sample.labels.get("block_size", ""), sample.labels.get("num_gpu_blocks", "")
    are_counts = all(each.isdecimal() and len(each) <= MAX_DIGITS for each in (size, count))
    return int(size) * int(count) if are_counts else 0


def _count(value: float | None) -> int | None:
    return round(value) if value is not None and 0 <= value < 10**MAX_DIGITS else None


def _share(part: float | None, total: float) -> float | None:
    """A part of a total, from 0 to 1; None where it cannot be told."""
    if part is None or not math.isfinite(part) or not 0 < total < math.inf:
        return None
    return min(1.0, max(0.0, part / total))


def _hits(metrics: Figures) -> float | None:
    """The share of the prompts' tokens that was in the cache; None before the first prompt."""
    found = metrics.get("found")
    return _share(found, metrics.get("looked_up", metrics.get("computed", 0.0) + (found or 0.0)))


async def _metrics(server: Server, names: Mapping[str, str], model: str) -> Figures:
    if not names:
        return {}
    try:
        text = (await _get(server, "/metrics")).decode("utf-8", "replace")
        return await asyncio.to_thread(figures, text, names, model)
    except (httpx.HTTPError, ValueError, LookupError, ArithmeticError):
        return {}


async def _slots(server: Server) -> Figures:
    """The slots of llama.cpp, in which replies are written."""
    try:
        slots = as_objects(shallow_json.loads(await _get(server, "/slots")))
    except (httpx.HTTPError, ValueError):
        return {}
    running = sum(slot.get("is_processing") is True for slot in slots)
    return {"running": running, "places": len(slots)} if slots else {}


async def _nothing() -> Figures:
    return {}


async def _get(server: Server, path: str) -> bytes:
    """The body of a response. Raises httpx.HTTPError, also if it is too long."""
    client, replica = server
    content = bytearray()
    async with client.stream("GET", f"{replica.url}{path}", headers=dict(replica.headers)) as response:
        response.raise_for_status()
        async for piece in response.aiter_bytes():
            content += piece
            if len(content) > MAX_BYTES:
                raise httpx.ReadError("a response without end")
    return bytes(content)
