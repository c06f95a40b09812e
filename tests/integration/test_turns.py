"""A turn that is sent twice is one turn, on whichever servers it arrives, and one that only has its id is another."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from chatui.settings import AppSettings
from chatui.store import turns
from chatui.store.records import NewTurn, ReplyUpdate, StartedTurn
from chatui.store.rows import new_id
from chatui.store.store import Store
from chatui.store.turns import RepeatedTurnError
from tests.databases import Server, ask

pytest_plugins = ("tests.databases",)
OWNER = "login:ada"


def started(store: Store, turn: NewTurn) -> StartedTurn | str:
    """The turn, or the reply of the first time."""
    try:
        return store.for_owner(OWNER).start_turn(turn)
    except RepeatedTurnError as error:
        return f"{error.conversation} {error.reply}"


def test_a_turn_that_comes_again_is_the_first_one(store: Store) -> None:
    owner_store = store.for_owner(OWNER)
    turn = replace(ask("hello \0"), id=new_id(), greetings=("Welcome!",))
    first = owner_store.start_turn(turn)
    assert first.reply.id == turn.id
    same = f"{first.conversation.id} {turn.id}"
    assert started(store, turn) == same
    store.update_replies([ReplyUpdate(OWNER, first.reply.id, "So", state="finished")])
    assert started(store, turn) == same
    more = replace(ask("more", first.conversation.id, first.reply.id), id=new_id())
    second = owner_store.start_turn(more)
    assert started(store, more) == f"{first.conversation.id} {more.id}"
    again = replace(ask(None, first.conversation.id, second.path[-2].id), id=new_id())
    assert owner_store.start_turn(again).reply.id == again.id
    assert started(store, again) == f"{first.conversation.id} {again.id}"
    with pytest.raises(RepeatedTurnError):
        owner_store.check_repeated(again.id or "", again.conversation, again.parent, again.question)
    (tree,) = owner_store.trees()
    assert [message.role for message in tree.messages] == [
        "assistant",
        "user",
        "assistant",
        "user",
        "assistant",
        "assistant",
    ]


def test_another_turn_with_the_same_id_is_not_lost(store: Store) -> None:
    owner_store = store.for_owner(OWNER)
    first = owner_store.start_turn(replace(ask("one"), id=new_id()))
    chat, reply = first.conversation.id, first.reply.id
    second = owner_store.start_turn(ask("two", chat, reply))
    for other in (
        ask("another text"),
        ask("one", chat, reply),
        ask("one", owner_store.start_turn(ask("elsewhere")).conversation.id),
        ask(None, chat, second.path[-2].id),
    ):
        owner_store.check_repeated(reply, other.conversation, other.parent, other.question)
        turn = started(store, replace(other, id=reply))
        assert isinstance(turn, StartedTurn)
        assert turn.reply.id != reply
    of_question = owner_store.start_turn(replace(ask("one"), id=first.path[0].id))
    assert of_question.reply.id != first.path[0].id
    assert store.for_owner("login:bob").start_turn(replace(ask("one"), id=reply)).reply.id == reply


def test_of_two_servers_that_get_a_turn_at_once_one_starts_it(
    postgresql: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgresql.migrated()
    stores = [Store.open(AppSettings(database_url=url)) for _ in range(2)]
    both = threading.Barrier(2)
    check = turns.check_repeated

    def check_at_once(*values: object) -> bool:
        free = check(*values)  # type: ignore[arg-type]
        both.wait(30)
        return free

    monkeypatch.setattr(turns, "check_repeated", check_at_once)
    turn = replace(ask("once"), id=new_id())

    def start(store: Store) -> StartedTurn | str:
        try:
            return store.for_owner(OWNER).start_turn(turn)
        except RepeatedTurnError as error:
            return f"{error.conversation} {error.reply}"
        finally:
            monkeypatch.setattr(turns, "check_repeated", check)

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(start, stores))
    (first,) = (result for result in results if isinstance(result, StartedTurn))
    assert f"{first.conversation.id} {turn.id}" in results
    assert len(stores[0].for_owner(OWNER).conversations()) == 1
    for store in stores:
        store.close()
    postgresql.give_back(url)
