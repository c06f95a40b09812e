"""A persona's card is kept once for each content, whatever refers to it, and goes with the last that does."""

import json
import random
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import event, func, select, text

from chatui import cards
from chatui.personas import Persona
from chatui.store import persona_files as kept_cards
from chatui.store.exporting import as_json
from chatui.store.importing import read
from chatui.store.records import ReplyUpdate
from chatui.store.rows import now
from chatui.store.store import Store
from chatui.store.tables import cards as table
from tests.databases import FINISH, ask

OWNER = "login:ada"
AVATAR = "data:image/png;base64,AAAA"


def character(size: int = 10, name: str = "Robo") -> Persona:
    """One whose card has so many characters that no database can pack."""
    notes = random.Random(size).randbytes(size // 2).hex()
    return Persona(name, avatar=AVATAR, card={"data": {"name": name, "creator_notes": notes, "tags": [None, 1.5, "ü"]}})


def begun(store: Store, persona: Persona, owner: str = OWNER) -> str:
    began = store.of(owner).begin(replace(ask("Hi"), persona=persona))
    store.write([ReplyUpdate(owner, began.reply.id, "Hello", state="finished", finish=FINISH)])
    return began.conversation.id


def count(store: Store, owner: str = OWNER) -> int:
    with store.database.reading() as connection:
        return connection.scalar(select(func.count()).select_from(table).where(table.c.owner == owner)) or 0


def size(store: Store) -> int:
    """Bytes of the database."""
    ask_for = "SELECT pg_database_size(current_database())"
    if store.database.sqlite:
        ask_for = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
    with store.database.reading() as connection:
        return int(connection.scalar(text(ask_for)) or 0)


def test_two_hundred_conversations_have_one_card_and_listing_them_reads_none(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    persona, shelf = character(cards.MAX_TEXT_BYTES), store.of(OWNER)
    empty = size(store)
    first = begun(store, persona)
    once = size(store)
    assert once - empty > cards.MAX_TEXT_BYTES
    reply = shelf.path(first)[-1].id
    copies = [shelf.branch(reply).id for _ in range(199)]
    assert begun(store, persona) != first
    assert size(store) - once < cards.MAX_TEXT_BYTES / 4
    assert count(store) == 1

    statements: list[str] = []
    decoded: list[object] = []
    counting = SimpleNamespace(dumps=json.dumps, loads=lambda *told: decoded.append(told))
    monkeypatch.setattr(kept_cards, "json", counting)
    note = lambda *told: statements.append(told[2])  # noqa: E731
    event.listen(store.database.engine, "before_cursor_execute", note)
    assert len(shelf.conversations(limit=1000)) == 201
    shelf.delete(copies[0])
    assert len(shelf.deleted()) == 1
    assert shelf.search("Hi")
    shelf.shown(first, 10, 1000)
    shelf.begin(replace(ask("More", first), persona=persona))
    shelf.rename(first, "Renamed")
    event.remove(store.database.engine, "before_cursor_execute", note)
    assert statements
    assert not [said for said in statements if re.search(r"\bpersona\b|cards\.(card|avatar)", said)]
    assert decoded == []


def test_the_list_of_own_personas_reads_no_card(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = store.of(OWNER)
    own = [shelf.keep(character(name=f"Robo {number}")) for number in range(3)]
    monkeypatch.setattr(kept_cards, "_found", None)
    bare = [(kept.id, kept.persona.label) for kept in shelf.listed_personas()]
    assert bare == [(kept.id, kept.persona.label) for kept in own]
    assert store.of("login:bob").listed_personas() == []


def test_a_persona_comes_back_with_its_card_wherever_it_is(store: Store) -> None:
    persona, shelf = character(), store.of(OWNER)
    own = shelf.keep(persona)
    chat = begun(store, own.persona)
    branched = shelf.branch(shelf.path(chat)[-1].id)
    assert shelf.persona(own.id) == persona
    assert [kept.persona for kept in shelf.personas()] == [persona]
    assert shelf.began_with(chat) == shelf.began_with(branched.id) == persona
    assert all(tree.conversation.persona == persona for tree in shelf.trees())
    assert count(store) == 1
    exported = "".join(as_json(shelf.trees()))
    assert json.loads(exported)["conversations"][0]["conversation"]["persona"]["card"] == persona.card
    other = store.of("login:bob")
    for tree in read(exported.encode()):
        other.merge(tree)
    assert other.began_with(chat) == persona
    assert count(store, "login:bob") == 1


def test_a_card_goes_with_the_last_that_has_it(store: Store) -> None:
    persona, shelf = character(), store.of(OWNER)
    own = shelf.keep(persona)
    first, second = begun(store, persona), begun(store, persona)
    others = begun(store, persona, "login:bob")
    shelf.keep(replace(persona, card=None, avatar=""), own.id)
    for chat in (first, second):
        assert count(store) == 1
        shelf.delete(chat)
        assert shelf.restore(chat).id == chat
        assert shelf.began_with(chat) == persona
        shelf.delete(chat)
        store.purge(now() - now())
    assert count(store) == 0
    assert store.of("login:bob").began_with(others) == persona


@pytest.mark.parametrize("change", ["forget", "replace"])
def test_a_card_that_only_a_persona_had_goes_with_it(store: Store, change: str) -> None:
    shelf = store.of(OWNER)
    own = shelf.keep(character())
    if change == "forget":
        shelf.forget(own.id)
        assert count(store) == 0
    else:
        shelf.keep(character(name="Other"), own.id)
        assert count(store) == 1
        assert shelf.persona(own.id) == character(name="Other")


def test_a_temporary_chat_takes_its_card_along() -> None:
    store = Store.in_memory()
    chat = begun(store, character())
    store.discard(OWNER, chat)
    assert count(store) == 0
    store.close()


def test_nothing_of_a_removed_card_is_left_in_the_file(tmp_path: Any) -> None:
    from chatui.settings import AppSettings

    store = Store.open(AppSettings(data_dir=tmp_path))
    persona = replace(character(), card={"data": {"name": "Heliotrope " * 2000}})
    store.of(OWNER).delete(begun(store, persona))
    store.purge(now() - now())
    store.close()
    assert all(b"Heliotrope" not in file.read_bytes() for file in tmp_path.iterdir())
