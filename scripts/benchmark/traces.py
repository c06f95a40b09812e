"""What it costs to keep how replies came about: the tokens/s of our runner with traces and without, by turns.

Users ask again as soon as they are answered, so the packing and keeping of all but their last replies is counted too.
"""

import argparse
import asyncio
import os
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import harmonic_mean, median

from chatui import personas
from chatui.catalogue import ModelSpec
from chatui.local.engine import LocalBackend
from chatui.runner import Runner
from chatui.settings import AppSettings, GenerationSettings
from chatui.store.records import Author, Turn
from chatui.store.store import Store
from scripts.benchmark.figures import surely
from scripts.benchmark.own import quiet
from scripts.benchmark.spent import clocks
from scripts.benchmark.texts import TASK, WORDS

WAYS: dict[str, dict[str, float]] = {"drawn": {}, "greedy": {"temperature": 0.0}}
"""How tokens are chosen: as our defaults have it, or always the likeliest."""


async def talked(runner: Runner, settings: GenerationSettings, users: int, replies: int, name: str) -> float:
    """Tokens/s in all of so many users with so many replies each, one after the other, to questions of that name."""
    persona = personas.PRESETS[0]

    async def user(number: int) -> int:
        tokens = 0
        for reply in range(replies):
            chance = random.Random(f"{name} {number} {reply}")
            question = ", ".join(chance.sample(WORDS, 12)) + TASK
            author = Author("", "", persona.system_prompt, settings, seed=chance.getrandbits(32))
            live = await runner.ask(f"user {number}", Turn(None, None, question, author, persona))
            async for _ in live.changes():
                pass
            tokens += live.growing.tokens
        return tokens

    began = time.perf_counter()
    tokens = sum(await asyncio.gather(*(user(number) for number in range(users))))
    seconds = time.perf_counter() - began
    return tokens / seconds


async def measure(users: int, replies: int, tokens: int, rounds: int, flags: AppSettings) -> None:
    """Measure and print, with the model that these settings name."""
    backend = LocalBackend(ModelSpec.from_settings(flags), flags.cache_dir).start()
    info = await asyncio.to_thread(backend.wait)
    with tempfile.TemporaryDirectory(prefix="chatui-bench-") as folder:
        store = Store.open(AppSettings(data_dir=Path(folder)))
        runners = {traced: Runner(backend, store, Store.in_memory(), traced) for traced in (False, True)}
        for way, changed in WAYS.items():
            settings = info.defaults.model_copy(update={"max_new_tokens": tokens, **changed})
            await talked(runners[True], settings, users, replies, "before")
            await quiet(os.getpid())
            found: dict[bool, list[float]] = {False: [], True: []}
            for round_ in range(rounds):
                speeds: dict[bool, list[float]] = {False: [], True: []}
                # In this order a machine that becomes slower does so for both.
                for place, traced in enumerate((False, True, True, False)):
                    # Other questions each time: the same ones would be read from memory the second time.
                    speed = await talked(runners[traced], settings, users, replies, f"{round_} {place}")
                    speeds[traced].append(speed)
                for traced in found:
                    found[traced].append(harmonic_mean(speeds[traced]))
            costs = [1 - with_ / without for without, with_ in zip(found[False], found[True], strict=True)]
            least, most = surely(costs)
            each = ", ".join(f"{cost:.1%}" for cost in costs)
            print(
                f"Tokens are {way}: {median(found[False]):.1f} tokens/s without traces, {median(found[True]):.1f} with "
                f"them, {median(costs):.1%} less (median of rounds, surely {least:.1%} to {most:.1%}): {each}."
            )
            with clocks(store) as spent:
                for round_ in range(max(1, rounds // 2)):
                    await talked(runners[True], settings, users, replies, f"clocks {round_}")
                shares = spent.shares()
            parts = ", ".join(f"{name} {share:.2%}" for name, share in shares.items())
            print(f"Of the time with traces they took {sum(shares.values()):.2%}: {parts}.\n")
        for runner in runners.values():
            await runner.close()
        store.close()
    await backend.close()


def main(words: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser("scripts/bench traces", description=__doc__, allow_abbrev=False)
    parser.add_argument("--users", type=int, default=8, help="at once; 8 if left out")
    parser.add_argument("--replies", type=int, default=2, help="of each user in a row; 2 if left out")
    parser.add_argument("--tokens", type=int, default=60, help="at most in a reply; 60 if left out")
    parser.add_argument("--rounds", type=int, default=20, help="of without, with, with, without; 20 if left out")
    given = parser.parse_args(words)
    asyncio.run(measure(given.users, given.replies, given.tokens, given.rounds, AppSettings()))
    return 0
