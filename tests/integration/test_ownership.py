"""Two users, every event and every route, every id: no read, no write, no hint that there is anything."""

import json
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from starlette.routing import BaseRoute, Mount, Route

from chatui.chat import ChatRequest
from chatui.owners import COOKIE, Cookies, login_owner
from chatui.personas import Persona
from chatui.server import build_app
from chatui.settings import AppSettings
from chatui.store.records import ReplyUpdate
from chatui.store.rows import new_id
from chatui.store.store import Store
from chatui.ui.chat.actions import ACTIONS
from tests.databases import ask
from tests.fakes import FakeBackend, Hold, Script
from tests.visitors import Answer, Dependency, Visitor, served

SECRET = "Heliotrope"
"""In every text of hers, and in nothing else."""

TARGETS = ("chat", "question", "reply", "running", "growing", "archived", "deleted", "passing", "persona")
LOGINS = 2500
ENDLESS = ("queue/data", "heartbeat", "dev/reload")
"""Parts of paths whose answers do not end by themselves."""

MODES = ("guests", "logins")


@dataclass
class World:
    """A server with all that A has; `ids` by name, and `made_up` with the same names."""

    url: str
    app: FastAPI
    backend: FakeBackend
    store: Store
    folder: Path
    logins: bool
    hold: Hold
    a: Visitor
    owner: str
    config: Mapping[str, Any] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)
    made_up: dict[str, str] = field(default_factory=dict)
    stream: "StreamListener | None" = None
    visitors: int = 0
    pair: "tuple[tuple[Visitor, str], tuple[Visitor, str]] | None" = None

    def pairs(self) -> "tuple[tuple[Visitor, str], tuple[Visitor, str]]":
        """Two strangers who have been asked the same questions so far."""
        self.pair = self.pair or (self.stranger(), self.stranger())
        return self.pair

    def stranger(self) -> tuple[Visitor, str]:
        """Somebody new with one conversation, whose id is given too."""
        self.visitors += 1
        if self.logins:
            name = f"bob{self.visitors}"
            visitor, owner = Visitor.logged_in(self.url, name, "secret"), login_owner(name)
        else:
            cookies = Cookies(self.store.cookie_secret())
            value = cookies.issue()
            visitor, owner = Visitor.guest(self.url, value), cookies.owner(value) or ""
        started = self.store.for_owner(owner).start_turn(ask("mine"))
        self.store.update_replies([ReplyUpdate(owner, started.reply.id, "my own", state="finished")])
        return visitor, started.conversation.id

    def dependency(self, name: str) -> Dependency:
        return next(found for found in self.config["dependencies"] if found["api_name"] == name)

    def inputs(self, dependency: Dependency) -> list[tuple[str, str, Any]]:
        """Each input's kind, name and first value."""
        parts = {part["id"]: part for part in self.config["components"]}
        found = [parts[id] for id in dependency["inputs"]]
        return [
            (part["type"], part["props"].get("elem_id") or part["props"].get("label") or "", part["props"].get("value"))
            for part in found
        ]

    def data(self, dependency: Dependency, **values: Any) -> list[Any]:
        """What the page would send, but for some of it."""
        values.setdefault("message", "hello")
        return [values.get(name.replace("-", "_"), value) for _, name, value in self.inputs(dependency)]

    def rows(self) -> list[Any]:
        """All that the file says of A, but when it was last written."""
        found: list[Any] = []
        with closing(sqlite3.connect(self.folder / "chats.db")) as file:
            file.row_factory = sqlite3.Row
            for table in ("conversations", "messages", "personas"):
                rows = file.execute(f"SELECT * FROM {table} WHERE owner = ? ORDER BY id", [self.owner])
                found += [{key: value for key, value in dict(row).items() if key != "heartbeat"} for row in rows]
        return found

    def export(self) -> bytes:
        return self.a.http.get("/chats/export").content


class StreamListener:
    """A's tab, which listens to her reply in a thread."""

    def __init__(self, visitor: Visitor) -> None:
        self.lines: list[str] = []
        self._visitor = visitor
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()

    def _listen(self) -> None:
        for line in self._visitor.listen():
            self.lines.append(line)

    @property
    def text(self) -> str:
        return "".join(self.lines)


def until(true: Callable[[], object], seconds: float = 60) -> None:
    start = time.monotonic()
    while not true():
        assert time.monotonic() - start < seconds
        time.sleep(0.01)


def place_of(answer: Answer) -> dict[str, Any]:
    """Where the tab stands after an event."""
    texts = [text for text in json.dumps(answer.data).split('"{') if "growing" in text]
    found: dict[str, Any] = json.loads("{" + json.loads('"' + texts[0].partition('}"')[0] + '}"'))
    return found


@pytest.fixture(scope="module", params=MODES)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("ownership")
    logins = request.param == "logins"
    if logins:
        people = ["ada", *(f"bob{number}" for number in range(1, LOGINS))]
        (folder / "logins").write_text("".join(f"{name}:secret\n" for name in people))
    # Shown to others: on this computer alone, everyone would be the same person.
    settings = AppSettings(data_dir=folder, host="0.0.0.0", auth=str(folder / "logins") if logins else None)
    hold = Hold()

    def reply(asked: ChatRequest) -> Script:
        return [f"{SECRET} begins, ", hold, f"{SECRET} ends"] if SECRET in asked.messages[-1].content else ["fine"]

    backend = FakeBackend(reply)
    app = build_app(backend, settings)
    store = Store.open(settings)
    with served(app) as url:
        cookies = Cookies(store.cookie_secret())
        value = cookies.issue()
        a = Visitor.logged_in(url, "ada", "secret") if logins else Visitor.guest(url, value)
        owner = login_owner("ada") if logins else cookies.owner(value) or ""
        made = World(url, app, backend, store, folder, logins, hold, a, owner)
        made.config = a.http.get("/config").json()
        a.http.get("/gradio_api/startup-events")  # answers the first call otherwise
        made.ids = add_owner_data(made)
        made.made_up = {name: id[0] + new_id()[1:] for name, id in made.ids.items()}
        yield made
        hold.release()
    store.close()


def add_owner_data(world: World) -> dict[str, str]:
    """Give A conversations of every kind, one of which is being written. Returns the ids."""
    owner_store = world.store.for_owner(world.owner)
    ids: dict[str, str] = {}
    for name in ("chat", "archived", "deleted"):
        started_turn = owner_store.start_turn(ask(f"{SECRET} question"))
        text = f"{SECRET} answer"
        world.store.update_replies([ReplyUpdate(world.owner, started_turn.reply.id, text, state="stopped")])
        ids[name] = started_turn.conversation.id
        if name == "chat":
            ids |= {"question": started_turn.path[0].id, "reply": started_turn.reply.id}
            owner_store.rate(started_turn.reply.id, "like", f"{SECRET} note")
            again = owner_store.start_turn(ask(None, started_turn.conversation.id, started_turn.path[0].id))
            world.store.update_replies([ReplyUpdate(world.owner, again.reply.id, text, state="finished")])
    owner_store.rename(ids["chat"], f"{SECRET} title")
    owner_store.archive(ids["archived"], True)
    owner_store.delete(ids["deleted"])
    ids["persona"] = owner_store.save_persona(Persona(f"{SECRET} persona", system_prompt=f"{SECRET} prompt")).id

    send, temporary = world.dependency("_send"), world.dependency("new_temporary_chat")
    tab = Visitor(world.url, dict(world.a.http.cookies))
    started = place_of(tab.call(temporary, world.data(temporary)))
    passing = tab.call(send, world.data(send, message="in passing", where=json.dumps(started)))
    ids["passing"] = place_of(passing)["chat"]
    world.a.join(send, world.data(send, message=f"{SECRET} now")).raise_for_status()
    world.stream = StreamListener(world.a)
    begun_text = f"{SECRET} begins, "
    until(lambda: begun_text in (world.stream.text if world.stream else ""))
    kept = next(tree for tree in owner_store.trees() if tree.messages[-1].state == "running")
    ids |= {"running": kept.conversation.id, "growing": kept.messages[-1].id}
    until(lambda: owner_store.message(ids["growing"]).content == begun_text)
    return ids


Choice = Callable[[Iterable[Any]], list[Any]]


@pytest.fixture(params=[25, pytest.param(None, marks=pytest.mark.exhaustive)], ids=["some", "all"])
def choice(request: pytest.FixtureRequest) -> Choice:
    """Which of a walk's steps are made: a few, always the same ones, or every one."""
    chance = random.Random(0)

    def chosen(steps: Iterable[Any]) -> list[Any]:
        found = list(steps)
        return found if request.param is None else chance.sample(found, min(request.param, len(found)))

    return chosen


@pytest.fixture(autouse=True)
def nothing_of_hers_changes(world: World) -> Iterator[None]:
    world.pair = None
    rows, export = world.rows(), world.export()
    assert export.count(SECRET.encode()) > 5
    yield
    assert world.rows() == rows
    assert world.export() == export
    assert world.backend.running == 1


def places(ids: Mapping[str, str], own: str) -> Iterator[tuple[str, str]]:
    """Every way in which a tab can say that it stands where ids are."""
    seen = [ids["question"], ids["reply"]]
    running_chat = [ids["growing"]]
    made: dict[str, dict[str, Any]] = {f"at {name}": {"chat": ids[name]} for name in TARGETS}
    made |= {
        "at chat with messages": {"chat": ids["chat"], "ids": seen},
        "at running with messages": {"chat": ids["running"], "ids": running_chat},
        "new with messages": {"ids": seen},
        "new with growing": {"ids": running_chat},
        "own with messages": {"chat": own, "ids": seen},
        "own with reply": {"chat": own, "ids": [ids["reply"]]},
        "passing": {"chat": ids["passing"], "temporary": True},
        "kept as passing": {"chat": ids["chat"], "temporary": True, "ids": seen},
        "among the deleted": {"deleted": True},
        "removed": {"removed": ids["deleted"]},
    }
    for name, state in made.items():
        yield name, json.dumps(state)


def check(world: World, ask_as: Callable[[Visitor, Mapping[str, str], str], Answer], what: str) -> None:
    """The same asked with A's ids and with made-up ones gets the same answer, in which nothing is hers."""
    (one, own), (other, others_own) = world.pairs()
    real, made_up = ask_as(one, world.ids, own), ask_as(other, world.made_up, others_own)
    assert SECRET not in real.text, what
    names = [f"bob{number}" for number in range(1, world.visitors + 1)] if world.logins else []
    real_text = real.masked([*world.ids.values(), *names])
    assert real_text == made_up.masked([*world.made_up.values(), *names]), what


def page_at(visitor: Visitor, chat: str) -> Answer:
    return visitor.read_beginning("GET", "/", 20, params={"chat": chat}, headers={"accept": "text/html"})


def test_the_walk_sees_every_event(world: World) -> None:
    names = {found["api_name"] for found in world.config["dependencies"] if found["backend_fn"]}
    events = {"_send", "retry", "edit", "undo", "follow_link", "loaded", "stop", "rate", "search", "import_chats"}
    assert events <= names
    assert world.a.call(world.dependency("loaded"), world.data(world.dependency("loaded"))).text.count(SECRET) > 1


def test_a_stranger_at_her_place_sees_and_does_nothing(world: World, choice: Choice) -> None:
    placed = [d for d in world.config["dependencies"] if "where" in [name for _, name, _ in world.inputs(d)]]
    for dependency, name in choice((d, name) for d in placed for name, _ in places(world.ids, "")):

        def at(visitor: Visitor, ids: Mapping[str, str], own: str) -> Answer:
            where = dict(places(ids, own))[name]  # noqa: B023
            values = world.data(dependency, where=where, search="", action="1|refresh")  # noqa: B023
            return visitor.call(dependency, values, params={"chat": ids["chat"]})  # noqa: B023

        check(world, at, f"{dependency['api_name']} {name}")


def test_a_stranger_opens_her_links_in_vain(world: World) -> None:
    for name in TARGETS:

        def opened(visitor: Visitor, ids: Mapping[str, str], _: str) -> Answer:
            dependency = world.dependency("loaded")
            return visitor.call(dependency, world.data(dependency), params={"chat": ids[name]})  # noqa: B023

        check(world, opened, name)

        def sent(visitor: Visitor, ids: Mapping[str, str], _: str) -> Answer:
            return page_at(visitor, ids[name])  # noqa: B023

        check(world, sent, f"page at {name}")


def test_her_page_is_sent_with_her_conversation_and_only_hers(world: World) -> None:
    assert page_at(world.a, world.ids["chat"]).text.count(SECRET) > 1
    assert SECRET not in page_at(Visitor(world.url, {}), world.ids["chat"]).text


def test_no_action_works_on_what_is_hers(world: World, choice: Choice) -> None:
    for action, name in choice((action, name) for action in (*ACTIONS, "continue") for name in TARGETS):

        def acted(visitor: Visitor, ids: Mapping[str, str], own: str) -> Answer:
            dependency = world.dependency("follow_link")
            where = json.dumps({"chat": own})
            values = world.data(dependency, action=f"1|{action}={ids[name]}=changed", where=where)  # noqa: B023
            return visitor.call(dependency, values)

        check(world, acted, f"{action} {name}")


def test_no_text_of_any_event_is_a_key_to_what_is_hers(world: World, choice: Choice) -> None:
    forms = ("{chat}", "{reply}", "{persona}", "edit={persona}", "copy={persona}", "left:{persona}")
    texts = [
        (dependency, number, name)
        for dependency in world.config["dependencies"]
        for number, (kind, name, _) in enumerate(world.inputs(dependency))
        if dependency["backend_fn"] and kind in ("textbox", "dropdown") and name not in ("where", "action")
    ]
    for dependency, number, name, form in choice((*text, form) for text in texts for form in forms):
        world.pair = None  # what was sent before would be found

        def stored_texts(visitor: Visitor, ids: Mapping[str, str], _: str) -> Answer:
            values = world.data(dependency, Name="Somebody")  # noqa: B023
            values[number] = form.format(**ids)  # noqa: B023
            return visitor.call(dependency, values)  # noqa: B023

        check(world, stored_texts, f"{dependency['api_name']} {name or number} {form}")


def test_her_words_are_found_by_nobody(world: World) -> None:
    def searched(visitor: Visitor, ids: Mapping[str, str], _: str) -> Answer:
        dependency = world.dependency("search")
        word = SECRET if ids is world.ids else "Xylophones"
        found = visitor.call(dependency, world.data(dependency, search=word))
        return Answer(found.status, found.text.replace(SECRET, ""), found.data)

    check(world, searched, "search")


def all_routes(routes: Sequence[BaseRoute], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every method and path template of an application, those mounted in it too."""
    for route in routes:
        if isinstance(route, Mount):
            yield from all_routes(route.routes or [], prefix + route.path)
            if not route.routes:
                yield "GET", prefix + route.path + "/{path}"
        elif isinstance(router := getattr(route, "original_router", None), APIRouter):
            yield from all_routes(router.routes, prefix)
        elif isinstance(route, Route):
            for method in sorted((route.methods or set()) - {"HEAD"}):
                yield method, prefix + route.path


def test_no_route_gives_or_takes_what_is_hers(world: World, choice: Choice) -> None:
    paths = list(all_routes(world.app.routes))
    assert {"/chats/export", "/persona/export", "/gradio_api/queue/data", "/gradio_api/cancel"} <= {p for _, p in paths}
    made_up = "madeupsess1"
    steps = [
        (method, path, name)
        for method, path in paths
        for name in ("chat", "running", "growing", "passing", "persona")
        # One id is like another where none is looked for.
        if name == "chat" or "{" in path or "export" in path or method != "GET"
    ]
    for method, path, name in choice(steps):
        world.pair = None  # one of the routes logs out

        def asked(visitor: Visitor, ids: Mapping[str, str], _: str) -> Answer:
            session = world.a.session if ids is world.ids else made_up
            target = ids[name]  # noqa: B023
            query = dict.fromkeys(("chat", "id", "event_id", "upload_id"), target) | {"session_hash": session}
            filled = path  # noqa: B023
            while "{" in filled:
                before, _, rest = filled.partition("{")
                word, _, after = rest.partition("}")
                filled = before + (session if word == "session_hash" else target) + after
            opening = world.dependency("loaded")["id"]
            body = {**query, "data": [target, target], "fn_index": opening, "component_id": 1, "fn_name": target}
            body = {**body, "model": target, "messages": [{"role": "user", "content": target}]}
            seconds = 2 if any(part in path for part in ENDLESS) else 20  # noqa: B023
            sent = body if method != "GET" else None  # noqa: B023
            answer = visitor.read_beginning(method, filled, seconds, params=query, json=sent)  # noqa: B023
            return Answer(answer.status, answer.text, answer.text.replace(session, "~"))

        check(world, asked, f"{method} {path} {name}")


def test_her_session_is_no_key(world: World) -> None:
    """The browser makes the session's name up, and whoever knows it must gain nothing by it."""
    assert world.stream is not None
    line_count = len(world.stream.lines)
    for name in ("loaded", "new_chat", "stop", "chat"):
        stranger, _ = world.stranger()
        stranger.session = world.a.session
        dependency = world.dependency(name)
        hers = {"session_hash": stranger.session}
        assert SECRET not in stranger.read_beginning("GET", "/gradio_api/queue/data", params=hers).text
        assert SECRET not in stranger.call(dependency, world.data(dependency)).text
        cancel = {"session_hash": stranger.session, "fn_index": world.dependency("_send")["id"], "event_id": new_id()}
        stranger.post("/gradio_api/cancel", cancel)
        stranger.read_beginning("GET", f"/gradio_api/heartbeat/{stranger.session}")
    assert world.stream.thread.is_alive()
    assert not any("process_completed" in line for line in world.stream.lines[line_count:])


@pytest.mark.parametrize("damage", ["none", "cut", "signature", "name", "swapped", "quoted"])
def test_a_forged_cookie_is_nobody(world: World, damage: str) -> None:
    if world.logins:
        pytest.skip("without logins only")
    value = world.a.http.cookies[COOKIE]
    guest, _, signature = value.rpartition(".")
    forged = {
        "none": "",
        "cut": value[:-1],
        "signature": f"{guest}.{'0' * len(signature)}",
        "name": f"{guest[:-1]}{'A' if guest[-1] != 'A' else 'B'}.{signature}",
        "swapped": f"{signature}.{guest}",
        "quoted": f"{guest}%2E{signature}",
    }[damage]
    nobody = Visitor(world.url, {COOKIE: forged} if forged else {})
    bare = Visitor(world.url, {})
    chat, persona = f"?chat={world.ids['chat']}", f"?id={world.ids['persona']}"
    for path in (f"/early{chat}", "/chats/export", f"/chats/export{chat}", f"/persona/export{persona}"):
        answer = nobody.read_beginning("GET", path)
        assert answer.status == 404
        assert answer == bare.read_beginning("GET", path)
    dependency = world.dependency("loaded")
    answer = nobody.call(dependency, world.data(dependency), params={"chat": world.ids["chat"]})
    assert SECRET not in answer.text
    assert "keeps no cookies" in answer.text


class TestAfterwards:
    """Run last: the reply that nobody else could stop ends as it would have."""

    @pytest.fixture(autouse=True)
    def nothing_of_hers_changes(self) -> None:
        """It does change now."""

    def test_her_reply_was_never_touched(self, world: World) -> None:
        world.hold.release()
        assert world.stream is not None
        world.stream.thread.join(20)
        assert not world.stream.thread.is_alive()
        until(lambda: world.store.for_owner(world.owner).message(world.ids["growing"]).state == "finished")
        assert (
            world.store.for_owner(world.owner).message(world.ids["growing"]).content
            == f"{SECRET} begins, {SECRET} ends"
        )
        assert f"{SECRET} begins, {SECRET} ends" in world.stream.text or "process_completed" in world.stream.text
