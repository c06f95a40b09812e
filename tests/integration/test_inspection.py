"""How a reply came about is kept with it, goes where it goes, and is packed small."""

import json
import zlib
from dataclasses import asdict
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatui.chat import Prompt, Span
from chatui.errors import NotFoundError
from chatui.inspection import ADAPTER, Inspection
from chatui.store.records import PageTimes, ReplyUpdate, StoredInspection
from chatui.store.store import Store
from chatui.traces import TokenTrace, Traces
from tests.databases import FINISH, ask
from tests.fakes import INFO

pytest_plugins = ("tests.databases",)

PROMPT = Prompt("ab é", (1, 2, 3, 4), 0, (Span("persona", 3), Span("message", 1)), (1, 2, 3, 4))
TRACE = TokenTrace(7, 0.25, 0.5, 1, 1.0, (7, 8), ("model", "top_p"), ((0.5, 0.3), (1.0, 0.0)))
TIMES = PageTimes(0.25, 1.5)
KEPT = Inspection(INFO, PROMPT, Traces.of([TRACE]), {7: "x", 8: "<0xE2>"}, FINISH)

shares = st.floats(0, 1, width=32)
traces = st.builds(
    TokenTrace,
    id=st.sampled_from([1, 2]),
    at=st.floats(0, 1e4, width=32),
    probability=shares,
    rank=st.integers(1, 10**6),
    entropy=st.floats(0, 20, width=32),
    ids=st.just((1, 2)),
    names=st.just(("model",)),
    steps=st.tuples(st.tuples(shares, shares)),
)


@given(st.lists(traces, max_size=5), st.text())
def test_what_is_packed_is_unpacked(found: list[TokenTrace], text: str) -> None:
    kept = Inspection(INFO, Prompt(text, (1,), 3, (Span("start", 1),), (len(text),)), Traces.of(found), {1: text})
    assert Inspection.unpacked(kept.packed()) == kept
    old = json.loads(ADAPTER.dump_json(kept)) | {"traces": [asdict(trace) for trace in found]}
    assert Inspection.unpacked(zlib.compress(json.dumps(old).encode())) == kept


@pytest.mark.parametrize("data", [b"", b"nonsense", KEPT.packed()[:-9], zlib.compress(b'{"model": 1}')])
def test_what_is_damaged_is_none(data: bytes) -> None:
    assert Inspection.unpacked(data) is None


def test_pieces_are_the_text() -> None:
    assert PROMPT.token_texts == ("a", "b", " ", "é")


def finished(store: Store) -> tuple[str, str]:
    started = store.for_owner("a").start_turn(ask("question"))
    store.update_replies(
        [ReplyUpdate("a", started.reply.id, "answer", state="finished", finish=FINISH, inspection=KEPT.packed())]
    )
    return started.conversation.id, started.reply.id


def test_it_is_kept_for_its_owner_alone(store: Store) -> None:
    _, reply = finished(store)
    kept = store.for_owner("a").inspection(reply)
    assert kept is not None
    assert Inspection.unpacked(kept.data) == KEPT
    assert kept.page is None
    for id, owner in ((reply, "b"), ("made up", "a")):
        with pytest.raises(NotFoundError):
            store.for_owner(owner).inspection(id)


def test_when_a_page_showed_it_is_kept_by_its_owner_alone(store: Store) -> None:
    _, reply = finished(store)
    assert not store.for_owner("b").set_page_times(reply, TIMES)
    assert store.for_owner("a").inspection(reply) == StoredInspection(KEPT.packed())
    assert store.for_owner("a").set_page_times(reply, TIMES)
    assert store.for_owner("a").inspection(reply) == StoredInspection(KEPT.packed(), TIMES)


def test_a_reply_without_one_has_none(store: Store) -> None:
    started = store.for_owner("a").start_turn(ask("question"))
    assert store.for_owner("a").inspection(started.reply.id) is None
    assert not store.for_owner("a").set_page_times(started.reply.id, TIMES)
    store.update_replies(
        [ReplyUpdate("b", started.reply.id, "", inspection=b"another's"), ReplyUpdate("a", "gone", "", inspection=b"")]
    )
    assert store.for_owner("a").inspection(started.reply.id) is None


def test_what_has_ended_is_not_told_of_anew(store: Store) -> None:
    _, reply = finished(store)
    store.update_replies([ReplyUpdate("a", reply, "other", state="stopped", inspection=b"other")])
    assert store.for_owner("a").inspection(reply) == StoredInspection(KEPT.packed())


def test_it_goes_with_a_branch_and_ends_with_its_conversation(store: Store) -> None:
    chat, reply = finished(store)
    owner_store = store.for_owner("a")
    assert owner_store.set_page_times(reply, TIMES)
    branched = owner_store.branch(reply)
    owner_store.delete(chat)
    store.purge(timedelta(0))
    copied = owner_store.path(branched.id)[-1]
    assert owner_store.inspection(copied.id) == StoredInspection(KEPT.packed(), TIMES)
    owner_store.delete(branched.id)
    assert store.purge(timedelta(0)) == 1
