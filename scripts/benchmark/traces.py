"""What it costs to keep how replies came about: the tokens/s of our runner with traces and without, by turns.

Each time counts until all replies are kept. All of them are as long, whatever the model would say: one that ends early
would leave fewer rows to the others' steps, which moves tokens/s by more than traces do.
"""

import argparse
import asyncio
import os
import random
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import harmonic_mean, median

from chatui import personas
from chatui.chat import ChatRequest, ReplyDelta
from chatui.engine.backend import LocalBackend
from chatui.generation_settings import GenerationSettings
from chatui.model_spec import ModelSpec
from chatui.runner import Runner
from chatui.settings import AppSettings
from chatui.store.records import Author, NewTurn
from chatui.store.store import Store
from scripts.benchmark.chatui_server import quiet
from scripts.benchmark.figures import median_interval, percentile
from scripts.benchmark.texts import TASK, WORDS
from scripts.benchmark.trace_cost import clocks

WAYS: dict[str, dict[str, float]] = {"drawn": {}, "greedy": {"temperature": 0.0}}
"""How tokens are chosen: as our defaults have it, or always the likeliest."""


class UnendingBackend(LocalBackend):
    """Writes on behind the model's own end, up to the most there may be."""

    def stream(self, request: ChatRequest) -> AsyncGenerator[ReplyDelta]:
        """The reply, piece by piece."""
        return super().stream(replace(request, ignore_eos=True))


async def total_tokens_per_second(runner: Runner, settings: GenerationSettings, users: int, name: str) -> float:
    """Tokens/s in all of so many users with a reply each, to questions of that name."""
    persona = personas.PRESETS[0]

    async def user(number: int) -> int:
        chance = random.Random(f"{name} {number}")
        question = ", ".join(chance.sample(WORDS, 12)) + TASK
        author = Author("", "", persona.system_prompt, settings, seed=chance.getrandbits(32))
        running_reply = await runner.start_reply(f"user {number}", NewTurn(None, None, question, author, persona))
        async for _ in running_reply.changes():
            pass
        return running_reply.progress.tokens

    began = time.perf_counter()
    tokens = sum(await asyncio.gather(*(user(number) for number in range(users))))
    return tokens / (time.perf_counter() - began)


async def measure(ways: Sequence[str], users: int, tokens: int, rounds: int, flags: AppSettings) -> None:
    """Measure and print, with the model that these settings name."""
    backend = UnendingBackend(ModelSpec.from_settings(flags), flags.cache_dir).start()
    info = await asyncio.to_thread(backend.wait)
    with tempfile.TemporaryDirectory(prefix="chatui-bench-") as folder:
        store = Store.open(AppSettings(data_dir=Path(folder)))
        runners = {traced: Runner(backend, store, Store.in_memory(), traced) for traced in (False, True)}
        for way in ways:
            settings = info.defaults.model_copy(update={"max_new_tokens": tokens, **WAYS[way]})
            await total_tokens_per_second(runners[True], settings, users, "before")
            await quiet(os.getpid())
            found: dict[bool, list[float]] = {False: [], True: []}
            for round_ in range(rounds):
                speeds: dict[bool, list[float]] = {False: [], True: []}
                # In this order a machine that becomes slower does so for both. Both are asked the same questions, and
                # others in between: at once they would be read from memory.
                for traced, questions in ((False, "a"), (True, "b"), (True, "a"), (False, "b")):
                    speeds[traced].append(
                        await total_tokens_per_second(runners[traced], settings, users, f"{round_} {questions}")
                    )
                for traced in found:
                    found[traced].append(harmonic_mean(speeds[traced]))
            costs = [1 - with_ / without for without, with_ in zip(found[False], found[True], strict=True)]
            least, most = median_interval(costs)
            print(
                f"Tokens are {way}: {median(found[False]):.1f} tokens/s without traces, {median(found[True]):.1f} with "
                f"them, {median(costs):.2%} less (median of rounds, surely {least:.2%} to {most:.2%}; "
                f"the middle half of them {percentile(costs, 0.25):.1%} to {percentile(costs, 0.75):.1%})."
            )
            with clocks(store) as spent:
                for round_ in range(max(1, rounds // 2)):
                    await total_tokens_per_second(runners[True], settings, users, f"clocks {round_}")
                shares = spent.shares()
            parts = ", ".join(f"{name} {share:.2%}" for name, share in shares.items())
            print(f"Of the time with traces they took {sum(shares.values()):.2%}: {parts}.\n", flush=True)
        for runner in runners.values():
            await runner.close()
        store.close()
    await backend.close()


def main(words: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser("scripts/bench traces", description=__doc__, allow_abbrev=False)
    parser.add_argument("--way", choices=WAYS, help="in which tokens are chosen; one after the other if left out")
    parser.add_argument("--users", type=int, default=8, help="at once; 8 if left out")
    parser.add_argument("--tokens", type=int, default=60, help="in a reply; 60 if left out")
    parser.add_argument("--rounds", type=int, default=30, help="of without, with, with, without; 30 if left out")
    given = parser.parse_args(words)
    asyncio.run(measure([given.way] if given.way else [*WAYS], given.users, given.tokens, given.rounds, AppSettings()))
    return 0
