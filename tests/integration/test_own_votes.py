"""The votes of an owner: stored once, in order, within the quota, and seen by nobody else."""

from dataclasses import replace
from datetime import timedelta, timezone

import pytest
from sqlalchemy import insert, update

from chatui.errors import LimitError
from chatui.models.votes import as_json, from_json
from chatui.store import own_votes
from chatui.store.adoptions import Adoptions
from chatui.store.owner_store import OwnerStore
from chatui.store.quotas import Quotas
from chatui.store.store import Store
from chatui.store.tables import votes
from tests.databases import VOTE

pytest_plugins = ("tests.databases",)
LATER = replace(VOTE, created=VOTE.created + timedelta(days=1), choice="a")


def test_votes_come_back_in_the_order_of_their_times(store: Store) -> None:
    own = store.for_owner("a").votes
    assert own.all() == []
    assert own.add([LATER, VOTE]) == 2
    assert own.all() == [VOTE, LATER]
    assert store.for_owner("b").votes.all() == []
    store.for_owner("b").votes.delete_all()
    assert own.all() == [VOTE, LATER]
    own.delete_all()
    assert own.all() == []


def test_a_file_imported_again_adds_nothing(store: Store) -> None:
    own = store.for_owner("a").votes
    own.add([VOTE, LATER])
    file = as_json(own.all()).encode()
    assert own.add(from_json(file)) == 0
    elsewhere = replace(VOTE, created=VOTE.created.astimezone(timezone(timedelta(hours=5))))
    assert own.add([elsewhere, elsewhere]) == 0
    assert store.for_owner("b").votes.add(from_json(file)) == 2
    assert store.for_owner("b").votes.all() == own.all()


def test_votes_count_for_the_quota(store: Store) -> None:
    limited = OwnerStore(store.database, "a", Quotas(size=3000)).votes
    assert limited.add([VOTE, LATER]) == 2
    more = [replace(VOTE, created=VOTE.created + timedelta(minutes=minute)) for minute in range(1, 5)]
    with pytest.raises(LimitError, match="--max-storage"):
        limited.add(more)
    assert limited.all() == [VOTE, LATER]
    limited.delete_all()
    assert limited.add([VOTE]) == 1


def test_one_owner_keeps_a_limited_number_of_votes(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_votes, "MAX_VOTES", 1)
    own = store.for_owner("a").votes
    with pytest.raises(LimitError, match="most votes"):
        own.add([VOTE, LATER])
    assert own.add([VOTE]) == 1
    assert own.add([VOTE]) == 0, "it is there already"
    assert store.for_owner("b").votes.add([LATER]) == 1


def test_votes_that_both_have_are_adopted_once(store: Store) -> None:
    store.for_owner("guest:a").votes.add([VOTE, LATER])
    store.for_owner("local").votes.add([VOTE])
    Adoptions(store.database).adopt("guest:a", "local")
    assert store.for_owner("local").votes.all() == [VOTE, LATER]
    assert store.for_owner("guest:a").votes.all() == []


def test_what_a_newer_version_wrote_otherwise_is_left_out(store: Store) -> None:
    own = store.for_owner("a").votes
    own.add([VOTE, LATER])
    with store.database.maintaining() as connection:
        connection.execute(update(votes).where(votes.c.choice == "a").values(choice="perhaps"))
        values = {"id": "x", "owner": "a", "created": VOTE.created, "choice": "a", "size": 1, "b": VOTE.b, "tags": ()}
        connection.execute(insert(votes).values(a=VOTE.a, **values))
        connection.exec_driver_sql("UPDATE votes SET a = '{}' WHERE id = 'x'")
    assert own.all() == [VOTE]
