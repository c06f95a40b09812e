"""Conversations over two servers of one model: how much of their prompts is cached, and how soon replies begin, by who
chooses the server. Our choice between two addresses, requests in turn, and the request routers of Ray Serve.

The servers are llama.cpp's with one thread each, new ones for each measurement, with its own cache of prompts. All
conversations have the same system prompt. They take their turns together, each time in another order.
"""

import argparse
import asyncio
import itertools
import random
import re
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx

from chatui.chat import ChatRequest, Finish, Message
from chatui.generation_settings import GenerationSettings
from chatui.remote.backend import RemoteBackend
from chatui.remote.backend_spec import BackendSpec, ReplicaSpec
from chatui.settings import AppSettings
from scripts.benchmark import peers
from scripts.benchmark.texts import WORDS

SERVERS = 2
CHOICES = ("turns", "ours", "power-of-two", "round-robin", "consistent-hash", "prefix")
"""Requests in turn, our choice, and the routers of ray_serve_peer.py."""
SYSTEM_WORDS, NEXT_WORDS = 60, 40
WRITTEN = re.compile(r"^llamacpp:tokens_predicted_total (\d+)", re.MULTILINE)

Choose = Callable[[], RemoteBackend]


@dataclass(frozen=True)
class Load:
    """So many conversations, `at_once` of them being answered, on servers with so many slots each."""

    conversations: int
    turns: int
    words: int
    tokens: int
    at_once: int
    slots: int


@dataclass(frozen=True)
class Turn:
    """A reply to a turn, the first of which is 0."""

    turn: int
    first: float
    finish: Finish


def words(count: int, seed: str) -> str:
    """So many words."""
    return " ".join(random.Random(seed).choices(WORDS, k=count))


async def answered(backend: RemoteBackend, messages: Sequence[Message], turn: int, tokens: int) -> tuple[str, Turn]:
    """The reply, and what it took."""
    text, finish, first, began = "", None, 0.0, time.perf_counter()
    settings = GenerationSettings(temperature=0.0, max_new_tokens=tokens)
    async for delta in backend.stream(ChatRequest(tuple(messages), settings, ignore_eos=True)):
        first = first or (time.perf_counter() - began if delta.tokens else 0.0)
        text, finish = text + delta.text, delta.finish or finish
    assert finish is not None
    return text, Turn(turn, first, finish)


async def converse(choose: Choose, load: Load, seed: str) -> list[Turn]:
    """All turns of all conversations."""
    system, shuffled, places = words(SYSTEM_WORDS, "system"), random.Random(seed), asyncio.Semaphore(load.at_once)
    talks = [[Message("system", system)] for _ in range(load.conversations)]

    async def go_on(talk: int, turn: int) -> Turn:
        count = NEXT_WORDS if turn else load.words
        async with places:
            talks[talk].append(Message("user", words(count, f"{seed} {talk} {turn}")))
            text, told = await answered(choose(), talks[talk], turn, load.tokens)
            talks[talk].append(Message("assistant", text))
            return told

    told: list[Turn] = []
    for turn in range(load.turns):
        order = shuffled.sample(range(load.conversations), load.conversations)
        told += await asyncio.gather(*(go_on(talk, turn) for talk in order))
    return told


@asynccontextmanager
async def connected(*urls: str) -> AsyncIterator[RemoteBackend]:
    """A backend whose replicas are at these addresses."""
    backend = RemoteBackend(BackendSpec(tuple(map(ReplicaSpec, urls)), "bench")).start()
    try:
        await asyncio.to_thread(backend.wait)
        yield backend
    finally:
        await backend.close()


@asynccontextmanager
async def serving(choice: str, slots: int) -> AsyncIterator[tuple[Choose, list[str]]]:
    """(what gives the backend for the next request, the addresses of the llama.cpp servers) while they run."""
    settings = AppSettings()
    model = str(peers.model_file(settings))
    async with AsyncExitStack() as stack:
        if choice in ("turns", "ours"):
            llama_cpp = peers.PEERS["llama.cpp"]
            starting = (peers.started("llama.cpp", llama_cpp, settings.cache_dir, model, str(slots), "1") for _ in "12")
            servers = [await stack.enter_async_context(each) for each in starting]
            of_each = [[url] for url in servers] if choice == "turns" else [servers]
        else:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="chatui-bench-"))
            arguments = model, choice, str(SERVERS), str(slots), folder
            ray = peers.started("Ray Serve", peers.RAY_SERVE, settings.cache_dir, *arguments)
            of_each = [[await stack.enter_async_context(ray)]]
            servers = [path.read_text() for path in Path(folder).iterdir()]
        backends = [await stack.enter_async_context(connected(*urls)) for urls in of_each]
        yield itertools.cycle(backends).__next__, servers


async def written(servers: Sequence[str]) -> list[int]:
    """The tokens that each llama.cpp server has written."""
    async with httpx.AsyncClient(trust_env=False) as client:
        texts = [(await client.get(f"{url}/metrics")).text for url in servers]
    return [int(found[1]) if (found := WRITTEN.search(text)) else 0 for text in texts]


def row(choice: str, told: Sequence[Turn], spread: Sequence[int]) -> str:
    """The line of the table: of the turns after the first."""
    later = [each for each in told if each.turn]
    cached = sum(each.finish.cached_tokens for each in later) / sum(each.finish.prompt_tokens for each in later)
    read = sum(each.finish.prompt_tokens - each.finish.cached_tokens for each in later) / len(later)
    shares = "/".join(f"{part / max(sum(spread), 1):.0%}" for part in sorted(spread, reverse=True))
    first = 1000 * median(each.first for each in later)
    return f"| {choice:15} | {cached:6.1%} | {read:11.0f} | {first:14.0f} ms | {shares:>8} |"


async def measure(choices: Sequence[str], load: Load, rounds: int) -> None:
    """Print the table."""
    print("| chosen by       | cached | read tokens | median to first | spread   |")
    print("|-----------------|-------:|------------:|----------------:|---------:|", flush=True)
    found: dict[str, tuple[list[Turn], list[int]]] = {choice: ([], [0] * SERVERS) for choice in choices}
    for round_ in range(rounds):
        for choice in choices:
            async with serving(choice, load.slots) as (choose, servers):
                found[choice][0].extend(await converse(choose, load, f"round {round_}"))
                for at, tokens in enumerate(sorted(await written(servers))):
                    found[choice][1][at] += tokens
            if round_ == rounds - 1:
                print(row(choice, *found[choice]), flush=True)


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser("scripts/bench replicas", description=__doc__, allow_abbrev=False)
    parser.add_argument("choices", nargs="*", choices=[[], *CHOICES], help="all if left out")
    parser.add_argument("--conversations", type=int, default=12, help="12 if left out")
    parser.add_argument("--turns", type=int, default=4, help="of each conversation; 4 if left out")
    parser.add_argument("--words", type=int, default=100, help="of first messages; 100 if left out")
    parser.add_argument("--tokens", type=int, default=16, help="of replies; 16 if left out")
    parser.add_argument("--at-once", type=int, default=4, help="conversations that are answered; 4 if left out")
    parser.add_argument("--slots", type=int, default=4, help="of each server; 4 if left out")
    parser.add_argument("--rounds", type=int, default=1, help="with other texts; 1 if left out")
    given = vars(parser.parse_args(arguments))
    choices, rounds = given.pop("choices") or CHOICES, given.pop("rounds")
    asyncio.run(measure(choices, Load(**given), rounds))
    return 0
