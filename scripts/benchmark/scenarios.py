"""What is done to a server: waves of users, and an interruption."""

import asyncio
import contextlib
from collections.abc import Sequence

from scripts.benchmark.figures import Interruption, Wave
from scripts.benchmark.target import BenchError, Conversation, Reply, Target
from scripts.benchmark.texts import PROBES, Lengths, conversation, with_next_message

SECOND_TURN_TOKENS = 16
WARM_UP_TOKENS = 8
# The share of its reply that the writer has written when the other user comes.
UNDISTURBED = 0.25


async def lengths(target: Target, seed: int) -> Lengths:
    """How many tokens words become, from two prompts."""
    few, many = [(await target.ask(conversation(words, seed, "probe"), 1)).prompt_tokens for words in PROBES]
    return Lengths.from_probes(few, many)


async def all_at_once(target: Target, conversations: Sequence[Conversation], tokens: int) -> tuple[Reply, ...]:
    """Everyone's replies. Where one fails, the others are waited for, so that the next measurement starts in peace."""
    asked = (target.ask(messages, tokens) for messages in conversations)
    replies = await asyncio.gather(*asked, return_exceptions=True)
    for reply in replies:
        if isinstance(reply, BaseException):
            raise reply
    return tuple(reply for reply in replies if isinstance(reply, Reply))


async def wave(target: Target, users: int, words: int, tokens: int, *seed: object) -> Wave:
    """So many users at once, each in two turns."""
    opened = [conversation(words, *seed, users, words, user) for user in range(users)]
    first = await all_at_once(target, opened, tokens)
    again = [with_next_message(messages, reply.text) for messages, reply in zip(opened, first, strict=True)]
    return Wave(first, await all_at_once(target, again, min(SECOND_TURN_TOKENS, tokens)))


async def interruption(target: Target, words: int, tokens: int, *seed: object) -> Interruption:
    """One user's reply of twice as many tokens, and in its first half another's prompt of so many words."""
    total = 2 * tokens
    heard, reached = 0, asyncio.Event()

    def hear() -> None:
        nonlocal heard
        heard += 1
        if heard >= UNDISTURBED * total:
            reached.set()

    short, long = conversation(1, *seed, "writer"), conversation(words, *seed, "other")
    writing = asyncio.create_task(target.ask(short, total, hear))
    waiting = asyncio.create_task(reached.wait())
    try:
        await asyncio.wait((writing, waiting), return_when=asyncio.FIRST_COMPLETED)
        other = (await all_at_once(target, [long], 1))[0]
        return Interruption(await writing, other)
    except asyncio.CancelledError:
        writing.cancel()
        raise
    finally:
        waiting.cancel()
        await asyncio.gather(writing, return_exceptions=True)


async def warm_up(target: Target, users: Sequence[int], words: Sequence[int], *seed: object) -> None:
    """Have the server do everything once, and again what it did while it was still preparing for it.

    What it refuses here it will refuse again when it is measured.
    """
    waves = [(1, max(words))] if target.serial else [(1, max(words)), *((count, min(words)) for count in users)]
    for turn in range(2):
        for count, length in waves:
            with contextlib.suppress(BenchError):
                await wave(target, count, length, WARM_UP_TOKENS, *seed, "warm-up", turn)
        await target.settle()
