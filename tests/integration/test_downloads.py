import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.testclient import TestClient

from chatui import cards, downloads
from chatui.chat import Message, ModelInfo, Prompt
from chatui.errors import NotFoundError, StoreError
from chatui.generation_settings import GenerationSettings
from chatui.inspection import Inspection
from chatui.models import votes
from chatui.personas import PRESETS, Persona
from chatui.store.imports import importing
from chatui.store.owner_store import OwnerStore
from chatui.store.records import Author, NewTurn, ReplyUpdate, Tree
from chatui.store.store import Store
from chatui.uvicorn_protocol import is_server_fault
from tests.databases import VOTE
from tests.examples import some_of

FORMATS = {"json": "application/json", "md": "text/markdown", "messages": "application/json"}


def add_conversation(store: Store, question: str = "What?", answer: str = "That.", owner: str = "a") -> str:
    """A finished conversation; returns its id."""
    author = Author("m", "r", "", GenerationSettings(), seed=7)
    started = store.for_owner(owner).start_turn(NewTurn(None, None, question, author, PRESETS[0]))
    store.update_replies([ReplyUpdate(owner, started.reply.id, answer, state="finished")])
    return started.conversation.id


def client(store: Store) -> TestClient:
    """A browser whose owner is what its header says."""

    def owner_of(request: Request) -> str | None:
        return request.headers.get("owner")

    return TestClient(Starlette(routes=downloads.routes(store, owner_of)), headers={"owner": "a"})


@pytest.fixture
def store() -> Store:
    return Store.in_memory()


@pytest.mark.parametrize("file_format", FORMATS)
def test_an_export_from_a_database_that_is_away_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch, file_format: str
) -> None:
    def trees(*_: object) -> Iterator[Tree]:
        raise StoreError("The database is starting.", "Try again.")
        yield

    monkeypatch.setattr(OwnerStore, "trees", trees)
    answer = client(store).get("/chats/export", params={"format": file_format})
    assert (answer.status_code, answer.json()) == (503, {"error": "The database is starting. Try again."})


def test_an_export_that_is_cut_off_is_not_taken_for_a_whole_one(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        add_conversation(store)
    whole = OwnerStore.trees

    def trees(owner_store: OwnerStore, ids: Sequence[str] | None = None) -> Iterator[Tree]:
        yield from islice(whole(owner_store, ids), 2)
        raise StoreError("The database is gone.")

    monkeypatch.setattr(OwnerStore, "trees", trees)
    with pytest.raises(StoreError) as raised:
        client(store).get("/chats/export")
    assert "an export was cut off: The database is gone." in caplog.text
    record = logging.LogRecord("uvicorn.error", logging.ERROR, "", 1, "Exception in ASGI application", (), None)
    record.exc_info = (raised.type, raised.value, raised.tb)
    assert not is_server_fault(record)


def test_what_is_exported_can_be_imported_again(store: Store) -> None:
    add_conversation(store, "One <b> &lt; $x$", "Zwei\n\n```\nü\n```")
    add_conversation(store, "Three")
    answer = client(store).get("/chats/export")
    (first, second) = importing.read(answer.content)
    assert {tree.conversation.id for tree in (first, second)} == {c.id for c in store.for_owner("a").conversations()}
    assert store.for_owner("b").add_trees([first, second])
    contents = [[m.content for m in tree.messages] for tree in store.for_owner("b").trees()]
    assert contents == [[m.content for m in tree.messages] for tree in store.for_owner("a").trees()]


@pytest.mark.parametrize("form", FORMATS)
def test_one_or_all_come_as_a_file_to_be_saved(store: Store, form: str) -> None:
    chat = add_conversation(store, "the first one")
    add_conversation(store, "the second one")
    for query, there in (({"chat": chat}, False), ({}, True)):
        answer = client(store).get("/chats/export", params={"format": form, **query})
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(FORMATS[form])
        assert answer.headers["content-disposition"].startswith("attachment;")
        assert "the first one" in answer.text
        assert ("the second one" in answer.text) is there
        if form != "md":
            json.loads(answer.text)


@pytest.mark.parametrize("form", FORMATS)
def test_nothing_to_export_is_an_empty_file(store: Store, form: str) -> None:
    add_conversation(store, owner="b")
    answer = client(store).get("/chats/export", params={"format": form})
    assert answer.status_code == 200
    assert "What?" not in answer.text


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("owner", ["b", None])
def test_anothers_chat_is_as_good_as_none(store: Store, form: str, owner: str | None) -> None:
    chat = add_conversation(store)
    browser = client(store)
    browser.headers.pop("owner")
    headers = {"owner": owner} if owner else {}
    answers = [
        browser.get("/chats/export", params={"chat": id, "format": form}, headers=headers)
        for id in (chat, "nothing", "\x00", "' or 1=1 --")
    ]
    assert {(answer.status_code, answer.text) for answer in answers} == {(404, answers[1].text)}
    assert answers[0].json() == {"error": str(NotFoundError())}


def test_a_deleted_chat_is_no_longer_exported(store: Store) -> None:
    chat = add_conversation(store)
    store.for_owner("a").delete(chat)
    assert client(store).get("/chats/export", params={"chat": chat}).status_code == 404
    assert "What?" not in client(store).get("/chats/export").text


def traced(store: Store, chat: str, owner: str = "a", parent: str | None = None) -> str:
    """A reply in this chat that has a generation trace; returns its id."""
    author = Author("m", "r", "", GenerationSettings(temperature=0.0), seed=7)
    started = store.for_owner(owner).start_turn(NewTurn(chat, parent, "And why?", author, PRESETS[0]))
    prompt = Prompt("Hi", (1, 2), messages=(Message("user", f"And why? {started.reply.id}"),))
    packed = Inspection(ModelInfo("m", "float32", 1, 1, 100, "cpu", GenerationSettings()), prompt).packed()
    store.update_replies([ReplyUpdate(owner, started.reply.id, "So.", state="finished", inspection=packed)])
    return started.reply.id


def test_a_notebook_is_that_of_the_asked_or_the_last_reply(store: Store) -> None:
    chat = add_conversation(store)
    first = traced(store, chat, parent=store.for_owner("a").conversation(chat).leaf)
    second = traced(store, chat, parent=first)
    browser, query = client(store), {"format": "ipynb", "chat": chat}
    answer = browser.get("/chats/export", params=query)
    assert answer.headers["content-disposition"].startswith('attachment; filename="What_.ipynb"')
    nbformat.validate(nbformat.reads(answer.text, as_version=4))
    assert second in answer.text
    assert first not in answer.text
    assert first in browser.get("/chats/export", params={**query, "reply": first}).text


def test_there_is_no_notebook_without_a_trace_or_for_others(store: Store) -> None:
    chat = add_conversation(store)
    before = store.for_owner("a").conversation(chat).leaf
    browser, query = client(store), {"format": "ipynb", "chat": chat}
    assert browser.head("/chats/export", params=query).status_code == 404
    reply = traced(store, chat, parent=before)
    assert browser.head("/chats/export", params=query).status_code == 200
    for changed in (
        {"reply": before or ""},
        {"reply": "nothing"},
        {"chat": "nothing"},
        {"chat": add_conversation(store)},
    ):
        assert browser.get("/chats/export", params={**query, "reply": reply, **changed}).status_code == 404
    assert browser.get("/chats/export", params=query, headers={"owner": "b"}).status_code == 404
    assert browser.get("/chats/export", params={"format": "ipynb"}).status_code == 404


@pytest.mark.parametrize("form", ["", "xml", "../json", "JSON"])
def test_unknown_formats_are_refused(store: Store, form: str) -> None:
    kept = store.for_owner("a").save_persona(PRESETS[0])
    for path in ("/chats/export", f"/persona/export?id={kept.id}"):
        answer = client(store).get(path, params={"id": kept.id, "format": form})
        assert answer.status_code == 422
        assert "json" in answer.json()["error"]


@settings(deadline=None, max_examples=some_of(50))
@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_any_title_is_a_harmless_file_name(title: str) -> None:
    store = Store.in_memory()
    chat = add_conversation(store, title or "x")
    store.for_owner("a").rename(chat, title)
    answer = client(store).get("/chats/export", params={"chat": chat, "format": "md"})
    assert answer.status_code == 200
    kind, plain, encoded = answer.headers["content-disposition"].split("; ", 2)
    assert kind == "attachment"
    assert plain.startswith('filename="')
    assert plain.count('"') == 2
    assert not set(plain[10:-1]) & set('/\\\r\n";')
    assert encoded.isascii()
    assert not set(encoded) & set(' "\r\n;')


@pytest.mark.parametrize("form", ["json", "card", "png"])
def test_a_persona_comes_back(store: Store, form: str) -> None:
    mine = replace(PRESETS[1], name='Möwe / "x"')
    kept = store.for_owner("a").save_persona(mine)
    answer = client(store).get("/persona/export", params={"id": kept.id, "format": form})
    assert answer.status_code == 200
    assert answer.headers["content-disposition"].startswith("attachment;")
    back: Persona = cards.read(answer.content)
    assert (back.name, back.system_prompt, back.greeting) == (mine.name, mine.system_prompt, mine.greeting)


@pytest.mark.parametrize("owner", ["b", None])
def test_anothers_persona_is_as_good_as_none(store: Store, owner: str | None) -> None:
    kept = store.for_owner("a").save_persona(PRESETS[0])
    browser = client(store)
    browser.headers.pop("owner")
    for id in (kept.id, "nothing", ""):
        answer = browser.get("/persona/export", params={"id": id}, headers={"owner": owner} if owner else {})
        assert answer.status_code == 404
        assert PRESETS[0].system_prompt not in answer.text


def test_votes_come_as_json_and_csv_to_their_owner_only(store: Store) -> None:
    store.for_owner("a").votes.add([VOTE])
    browser = client(store)
    answer = browser.get("/votes/export")
    assert answer.headers["content-type"].startswith("application/json")
    assert "votes.json" in answer.headers["content-disposition"]
    assert votes.from_json(answer.content) == [VOTE]
    assert browser.get("/votes/export?format=csv").text == votes.as_csv([VOTE])
    assert votes.from_json(browser.get("/votes/export", headers={"owner": "b"}).content) == []
    assert browser.get("/votes/export?format=exe").status_code == 422
