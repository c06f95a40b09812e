"""A store full of conversations."""

import itertools
import random
from datetime import UTC, datetime, timedelta

from sqlalchemy import insert

from chatui.chat import Finish
from chatui.generation_settings import GenerationSettings
from chatui.personas import PRESETS
from chatui.store.records import Author
from chatui.store.rows import new_id
from chatui.store.store import Store
from chatui.store.tables import conversations, messages

AUTHOR = Author("fake/echo", "main", "You are a test.", GenerationSettings(temperature=0.5), seed=7)
FINISH = Finish("stop_token", 10, 20, 7, 0.1, 0.2, 0.3)


def fill(store: Store, owner: str, chats: int, length: int = 40, seed: int = 0) -> None:
    """Add conversations of `length` messages of about 300 characters: few words are in most, most in a few.

    `w0` is in nearly every message, `rare` in one of the middle; conversation number n has the title `w... n`.
    """
    chance = random.Random(seed)
    words = [f"w{number}" for number in range(20_000)]
    weights = list(itertools.accumulate(1 / (number + 1) for number in range(len(words))))
    said = chance.choices(words, cum_weights=weights, k=200_000)
    begun = datetime(2026, 1, 1, tzinfo=UTC)
    for first in range(0, chats, 500):
        numbers = range(first, min(first + 500, chats))
        heads, bodies = [], []
        for number in numbers:
            moment = begun + timedelta(minutes=number)
            ids = [new_id() for _ in range(length + 1)]
            head = {"owner": owner, "id": ids[0], "title": f"{chance.choice(said)} {number}", "named": False}
            head |= {"persona": PRESETS[0], "leaf": ids[-1], "pinned": False, "archived": False}
            heads.append(head | {"created": moment, "updated": moment})
            for index in range(1, length + 1):
                start = chance.randrange(len(said) - 80)
                content = " ".join(said[start : start + 70])
                body = {"owner": owner, "id": ids[index], "conversation": ids[0], "created": moment}
                body |= {"parent": ids[index - 1] if index > 1 else None, "state": "finished"}
                if number == chats // 2 and index == 1:
                    content += " rare"
                reply = index % 2 == 0
                body |= {"role": "assistant" if reply else "user", "author": AUTHOR if reply else None}
                body |= {"finish": FINISH if reply else None, "content": content, "reasoning": ""}
                bodies.append(body | {"note": "", "error": "", "rating": None, "heartbeat": None})
        with store.database.writing() as connection:
            connection.execute(insert(conversations), heads)
            connection.execute(insert(messages), bodies)
