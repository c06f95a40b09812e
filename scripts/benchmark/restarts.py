"""A conversation that goes on after a restart: how soon its next reply begins with K/V on disk (`--kv-cache-dir`), and
without. And what writing it to the disk costs those who are answered.

Each restart is a process of its own, which has answered something else before. Pairs take turns.
"""

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from chatui.chat import ChatRequest, Finish, Message
from chatui.engine.backend import LocalBackend
from chatui.generation_settings import GenerationSettings
from chatui.model_spec import ModelSpec
from chatui.settings import AppSettings
from scripts.benchmark.server_process import ROOT
from scripts.benchmark.texts import NEXT, WORDS

REPLY_TOKENS = 32
WARM_UP = 600
"""Words of what a process answers before, each something else: its passes have their full size afterwards."""


def words(count: int, seed: str) -> str:
    """So many words."""
    return " ".join(random.Random(seed).choices(WORDS, k=count))


async def ask(
    backend: LocalBackend, *messages: Message, tokens: int = REPLY_TOKENS, on: bool = False
) -> tuple[str, float, Finish]:
    """(text, seconds to the first token, finish) of a greedy reply of at most so many tokens; all of them if it goes
    `on` behind its own end.
    """
    text, finish, first = "", None, 0.0
    settings = GenerationSettings(temperature=0.0, max_new_tokens=tokens)
    began = time.perf_counter()
    async for delta in backend.stream(ChatRequest(messages, settings, ignore_eos=on)):
        first = first or (time.perf_counter() - began if delta.tokens else 0.0)
        text, finish = text + delta.text, delta.finish or finish
    assert finish is not None
    return text, first, finish


async def answer(order: dict[str, Any]) -> dict[str, Any]:
    """What a process does: it answers something else, and then the first or the second turn of a conversation."""
    spec = replace(
        ModelSpec.from_settings(AppSettings()), kv_cache_dir=Path(order["folder"]) if order["folder"] else None
    )
    backend = LocalBackend(spec, AppSettings().cache_dir).start()
    await asyncio.to_thread(backend.wait)
    await ask(backend, Message("user", words(WARM_UP, f"before {os.getpid()}")))
    question = Message("user", words(order["words"], "question"))
    turn = [question]
    if (before := order.get("reply")) is not None:
        turn += [Message("assistant", before), Message("user", NEXT)]
    text, first, finish = await ask(backend, *turn)
    await backend.close()
    return {"text": text, "first": first, "prompt": finish.prompt_tokens, "cached": finish.cached_tokens}


def in_new_process(**order: Any) -> dict[str, Any]:
    """What a new process answers."""
    command = [sys.executable, "-m", "scripts.benchmark.restarts", json.dumps(order)]
    found = subprocess.run(command, cwd=ROOT, env=dict(os.environ), stdout=subprocess.PIPE, text=True, check=True)
    answered: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return answered


def measure_restarts(words_: int, pairs: int) -> None:
    """Print how soon second turns begin after a restart."""
    with tempfile.TemporaryDirectory(prefix="chatui-bench-") as folder:
        first = in_new_process(folder=folder, words=words_)
        found: dict[str, list[float]] = {"": [], folder: []}
        for pair in range(pairs):
            for where in ("", folder) if pair % 2 else (folder, ""):
                answered = in_new_process(folder=where, words=words_, reply=first["text"])
                found[where].append(answered["first"])
                print(
                    f"{'from disk' if where else 'cold':9} {answered['prompt']} tokens, {answered['cached']} cached, "
                    f"first token after {1000 * answered['first']:.0f} ms",
                    flush=True,
                )
    shares = [disk / cold for disk, cold in zip(found[folder], found[""], strict=True)]
    print(
        f"A second turn after a restart begins after {1000 * median(found[folder]):.0f} ms from disk and "
        f"{1000 * median(found['']):.0f} ms without (medians of {pairs} pairs): {median(shares):.1%} "
        f"({min(shares):.1%} to {max(shares):.1%})."
    )


async def seconds_of(backend: LocalBackend, users: int, tokens: int, name: str) -> tuple[float, float]:
    """(seconds until all have their first token, seconds per step behind that) of so many users."""
    questions = [Message("user", words(200, f"{name} {user}")) for user in range(users)]
    finishes = [
        finish for _, _, finish in await asyncio.gather(*(ask(backend, each, tokens=tokens) for each in questions))
    ]
    steps = max(finish.decode_seconds / (finish.completion_tokens - 1) for finish in finishes)
    return max(finish.prefill_seconds for finish in finishes), steps


async def measure_writing(users: int, tokens: int, rounds: int) -> None:
    """Print what writing costs replies that are written meanwhile."""
    settings = AppSettings()
    with tempfile.TemporaryDirectory(prefix="chatui-bench-") as folder:
        specs = [replace(ModelSpec.from_settings(settings), kv_cache_dir=each) for each in (None, Path(folder))]
        backends = [LocalBackend(spec, settings.cache_dir).start() for spec in specs]
        costs: list[tuple[float, float]] = []
        for round_ in range(-1, rounds):  # the first counts for nothing
            found: list[list[tuple[float, float]]] = [[], []]
            for at, name in ((0, "a"), (1, "b"), (1, "a"), (0, "b")):
                found[at].append(await seconds_of(backends[at], users, tokens, f"{round_} {name}"))
            without, with_ = ([sum(each) for each in zip(*times, strict=True)] for times in found)
            if round_ >= 0:
                costs.append((with_[0] / without[0] - 1, with_[1] / without[1] - 1))
        for backend in backends:
            await backend.close()
    for what, change in zip(("Reading prompts", "A decode step"), zip(*costs, strict=True), strict=True):
        print(
            f"{what} of {users} users takes {median(change):+.1%} while K/V is written to disk (median of {rounds} "
            f"rounds of without, with, with, without; {min(change):+.1%} to {max(change):+.1%})."
        )


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser("scripts/bench restarts", description=__doc__, allow_abbrev=False)
    parser.add_argument("--words", type=int, default=880, help="of the first message; 880 if left out")
    parser.add_argument("--pairs", type=int, default=5, help="of restarts, 0 for none; 5 if left out")
    parser.add_argument("--users", type=int, default=4, help="at once while K/V is written; 4 if left out")
    parser.add_argument("--tokens", type=int, default=128, help="in each of their replies; 128 if left out")
    parser.add_argument("--rounds", type=int, default=10, help="of their replies, 0 for none; 10 if left out")
    given = parser.parse_args(arguments)
    if given.pairs:
        measure_restarts(given.words, given.pairs)
    if given.rounds:
        asyncio.run(measure_writing(given.users, given.tokens, given.rounds))
    return 0


if __name__ == "__main__":
    print(json.dumps(asyncio.run(answer(json.loads(sys.argv[1])))))
