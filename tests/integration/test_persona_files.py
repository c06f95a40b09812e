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
from chatui.store import persona_files
from chatui.store.exporting import as_json
from chatui.store.imports.importing import read
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


def start_conversation(store: Store, persona: Persona, owner: str = OWNER) -> str:
    started = store.for_owner(owner).start_turn(replace(ask("Hi"), persona=persona))
    store.update_replies([ReplyUpdate(owner, started.reply.id, "Hello", state="finished", finish=FINISH)])
    return started.conversation.id


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


@pytest.mark.parametrize("number", [40, pytest.param(200, marks=pytest.mark.exhaustive)])
def test_many_conversations_have_one_card_and_listing_them_reads_none(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    persona, owner_store = character(cards.MAX_TEXT_BYTES), store.for_owner(OWNER)
    empty = size(store)
    first = start_conversation(store, persona)
    once = size(store)
    assert once - empty > cards.MAX_TEXT_BYTES
    reply = owner_store.path(first)[-1].id
    copies = [owner_store.branch(reply).id for _ in range(number - 1)]
    assert start_conversation(store, persona) != first
    assert size(store) - once < cards.MAX_TEXT_BYTES / 4
    assert count(store) == 1

    statements: list[str] = []
    decoded: list[object] = []
    counting = SimpleNamespace(dumps=json.dumps, loads=lambda *args: decoded.append(args))
    monkeypatch.setattr(persona_files, "json", counting)
    note = lambda *args: statements.append(args[2])  # noqa: E731
    event.listen(store.database.engine, "before_cursor_execute", note)
    assert len(owner_store.conversations(limit=1000)) == number + 1
    owner_store.delete(copies[0])
    assert len(owner_store.deleted()) == 1
    assert owner_store.search("Hi")
    owner_store.visible_path(first, 10, 1000)
    owner_store.start_turn(replace(ask("More", first), persona=persona))
    owner_store.rename(first, "Renamed")
    event.remove(store.database.engine, "before_cursor_execute", note)
    assert statements
    assert not [statement for statement in statements if re.search(r"\bpersona\b|cards\.(card|avatar)", statement)]
    assert decoded == []


def test_the_list_of_own_personas_reads_no_card(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    owner_store = store.for_owner(OWNER)
    own = [owner_store.save_persona(character(name=f"Robo {number}")) for number in range(3)]
    monkeypatch.setattr(persona_files, "_load_cards", None)
    bare = [(kept.id, kept.persona.label) for kept in owner_store.persona_summaries()]
    assert bare == [(kept.id, kept.persona.label) for kept in own]
    assert store.for_owner("login:bob").persona_summaries() == []


def test_a_persona_comes_back_with_its_card_wherever_it_is(store: Store) -> None:
    persona, owner_store = character(), store.for_owner(OWNER)
    own = owner_store.save_persona(persona)
    chat = start_conversation(store, own.persona)
    branched = owner_store.branch(owner_store.path(chat)[-1].id)
    assert owner_store.persona(own.id) == persona
    assert [kept.persona for kept in owner_store.personas()] == [persona]
    assert owner_store.initial_persona(chat) == owner_store.initial_persona(branched.id) == persona
    assert all(tree.conversation.persona == persona for tree in owner_store.trees())
    assert count(store) == 1
    exported = "".join(as_json(owner_store.trees()))
    assert json.loads(exported)["conversations"][0]["conversation"]["persona"]["card"] == persona.card
    other = store.for_owner("login:bob")
    for tree in read(exported.encode()):
        other.merge_tree(tree)
    assert other.initial_persona(chat) == persona
    assert count(store, "login:bob") == 1


def test_a_card_goes_with_the_last_that_has_it(store: Store) -> None:
    persona, owner_store = character(), store.for_owner(OWNER)
    own = owner_store.save_persona(persona)
    first, second = start_conversation(store, persona), start_conversation(store, persona)
    others = start_conversation(store, persona, "login:bob")
    owner_store.save_persona(replace(persona, card=None, avatar=""), own.id)
    for chat in (first, second):
        assert count(store) == 1
        owner_store.delete(chat)
        assert owner_store.restore(chat).id == chat
        assert owner_store.initial_persona(chat) == persona
        owner_store.delete(chat)
        store.purge(now() - now())
    assert count(store) == 0
    assert store.for_owner("login:bob").initial_persona(others) == persona


@pytest.mark.parametrize("change", ["forget", "replace"])
def test_a_card_that_only_a_persona_had_goes_with_it(store: Store, change: str) -> None:
    owner_store = store.for_owner(OWNER)
    own = owner_store.save_persona(character())
    if change == "forget":
        owner_store.delete_persona(own.id)
        assert count(store) == 0
    else:
        owner_store.save_persona(character(name="Other"), own.id)
        assert count(store) == 1
        assert owner_store.persona(own.id) == character(name="Other")


def test_a_temporary_chat_takes_its_card_along() -> None:
    store = Store.in_memory()
    chat = start_conversation(store, character())
    store.discard(OWNER, chat)
    assert count(store) == 0
    store.close()


def test_nothing_of_a_removed_card_is_left_in_the_file(tmp_path: Any) -> None:
    from chatui.settings import AppSettings

    store = Store.open(AppSettings(data_dir=tmp_path))
    persona = replace(character(), card={"data": {"name": "Heliotrope " * 2000}})
    store.for_owner(OWNER).delete(start_conversation(store, persona))
    store.purge(now() - now())
    store.close()
    assert all(b"Heliotrope" not in file.read_bytes() for file in tmp_path.iterdir())
