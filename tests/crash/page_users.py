"""People at the page who ask one question after another, over HTTP, and note what they were shown.

When something breaks they load the page again, and ask again what is not there, as people do.
"""

import asyncio
import hashlib
import json
import re
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg

from chatui.owners import COOKIE, GUEST
from tests.abuse.pages import Config, send_event
from tests.crash.page_servers import WORDS, whole_reply

BROKEN = (httpx.HTTPError, httpx.StreamError, OSError)
PATIENCE_SECONDS = 90.0
LOAD_AGAIN_SECONDS = 1.0


@dataclass
class User:
    """Somebody with a browser of their own, and what they have seen."""

    url: str
    config: Config
    number: int
    asked: list[str] = field(default_factory=list)
    """Questions that are in the chats which the page shows."""
    finished: set[str] = field(default_factory=set)
    """Those whose replies were shown as complete and kept."""
    shown: dict[str, int] = field(default_factory=dict)
    """The words of each reply that were shown."""
    ends: dict[str, str] = field(default_factory=dict)
    """The last event of each finished reply, as it came."""
    sent: Counter[str] = field(default_factory=Counter)
    """How often each question was sent."""
    broken: int = 0
    owner: str = ""
    _ending: bool = False

    def end(self) -> None:
        """Ask nothing more."""
        self._ending = True

    async def chat(self) -> None:
        """Ask until end()."""
        async with httpx.AsyncClient(base_url=self.url, timeout=20) as http:
            await self._load(http)
            turn = 0
            while not self._ending:
                question = f"u{self.number}q{turn}x"
                try:
                    await self._ask(http, question)
                except BROKEN:
                    self.broken += 1
                    await asyncio.sleep(LOAD_AGAIN_SECONDS)
                if question not in self.finished and question not in await self._load(http):
                    continue  # ask again
                self.asked.append(question)
                turn += 1

    async def _load(self, http: httpx.AsyncClient) -> str:
        """Return all chats as soon as there is a server that has them. A page is made for the first time only."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            with suppress(*BROKEN):
                if not self.owner:
                    (await http.get("/", headers={"accept": "text/html"})).raise_for_status()
                found = await http.get("/chats/export")
                cookie = next((value for name, value in http.cookies.items() if name.startswith(COOKIE)), "")
                if found.status_code in (200, 404) and cookie:
                    owner = GUEST + cookie.rpartition(".")[0]
                    assert self.owner in ("", owner), "the server took somebody for somebody else"
                    self.owner = owner
                    self._check_own(found.text)
                    return found.text if found.status_code == 200 else ""
            assert time.monotonic() < deadline, "the page does not come back"
            await asyncio.sleep(0.2)

    async def _ask(self, http: httpx.AsyncClient, question: str) -> None:
        session = uuid.uuid4().hex[:11]
        turn = hashlib.sha256(f"{self.owner}{question}".encode()).hexdigest()[:22]  # the same when it is sent again
        body = {**send_event(self.config, question, turn), "session_hash": session}
        self.sent[question] += 1
        (await http.post("/gradio_api/queue/join", json=body)).raise_for_status()
        async with http.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
            stream.raise_for_status()
            async for line in stream.aiter_lines():
                self._check_own(line)
                numbers = [int(number) for number in re.findall(rf"{question}-(\d+)", line)]
                self.shown[question] = max(self.shown.get(question, 0), *(number + 1 for number in numbers), 0)
                event: Mapping[str, Any] = json.loads(line[5:]) if line.startswith("data:") else {}
                if event.get("msg") == "process_completed":
                    if f"{question}-{WORDS - 1}" in line and not re.search("Not saved|Interrupted|chat-card", line):
                        self.finished.add(question)
                        self.ends[question] = line
                    return
        raise httpx.StreamError("the stream has ended")

    def _check_own(self, text: str) -> None:
        foreign = {int(number) for number in re.findall(r"u(\d+)q\d+x", text)} - {self.number}
        assert not foreign, f"user {self.number} was shown what belongs to {foreign}"


@dataclass
class Found:
    """What the database has of all users."""

    questions: int = 0
    finished: int = 0
    interrupted: int = 0
    sent_again: int = 0
    """How often a question was sent again, because the page did not show that it had arrived. It is there once."""
    lost_words: int = 0
    """The most words of a reply that were shown and are not there."""


async def check(url: str, users: list[User]) -> Found:
    """Nothing that was shown as kept is lost, nothing is there twice, nothing is another's; no reply runs for ever."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    with psycopg.connect(url, autocommit=True) as connection:
        while connection.execute("SELECT count(*) FROM messages WHERE state = 'running'").fetchone() != (0,):
            assert time.monotonic() < deadline, "a reply is called running for ever"
            await asyncio.sleep(0.1)
        found, owners = Found(), {user.owner for user in users}
        rows = connection.execute(
            "SELECT q.owner, q.content, r.content, r.state FROM messages q"
            " LEFT JOIN messages r ON r.owner = q.owner AND r.parent = q.id WHERE q.role = 'user'"
        ).fetchall()
    for user in users:
        own = [(question, reply, state) for owner, question, reply, state in rows if owner == user.owner]
        questions = Counter(question for question, _, _ in own)
        assert max(questions.values(), default=1) == 1, f"a question is there more than once: {questions}"
        assert set(questions) <= set(user.sent)
        assert set(user.asked) <= set(questions), "a question is lost"
        found.sent_again += user.sent.total() - len(user.sent)
        for question, reply, state in own:
            whole = whole_reply(question)
            assert question.startswith(f"u{user.number}q")
            assert whole.startswith(reply), (question, reply)
            assert state != "finished" or reply == whole, question
            found.finished += state == "finished"
            found.interrupted += state == "interrupted"
            found.lost_words = max(found.lost_words, user.shown.get(question, 0) - reply.count(" "))
        kept = {question for question, _, state in own if state == "finished"}
        lost = user.finished - kept
        rest = [(row, user.ends[row[0]]) for row in own if row[0] in lost]
        assert not lost, f"finished replies are lost: {rest}"
        found.questions += len(own)
    assert owners == {owner for owner, *_ in rows}
    return found
