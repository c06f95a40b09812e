"""Events come out the same however the bytes are cut, in the forms in which servers send them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatui.errors import GenerationError
from chatui.remote import event_stream
from chatui.remote.event_stream import EventReader

STREAM = (
    '\ufeff: ping\r\ndata: {"a": "é😀"}\r\n\r\nevent: x\nid: 7\ndata: one\ndata:two\n\n:c\rdata: \u2028z\r\r'
    'error: {"code": 500}\n\ndata\n\ndata: [DONE]'
).encode()
EVENTS = ['{"a": "é😀"}', "one\ntwo", "\u2028z", '{"code": 500}', "[DONE]"]


def events(pieces: list[bytes]) -> list[str]:
    reader = EventReader()
    return [*(data for piece in pieces for data in reader.push(piece)), *reader.flush()]


@given(st.sets(st.integers(1, len(STREAM) - 1)))
def test_however_the_bytes_are_cut(cuts: set[int]) -> None:
    ends = [*sorted(cuts), len(STREAM)]
    assert events([STREAM[start:end] for start, end in zip([0, *ends], ends, strict=False)]) == EVENTS


def test_byte_by_byte() -> None:
    assert events([bytes([byte]) for byte in STREAM]) == EVENTS


def test_an_event_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "MAX_EVENT_CHARACTERS", 1000)
    with pytest.raises(GenerationError, match="too long"):
        events([b"data: " + b"x" * 94 + b"\n"] * 20)


def test_comments_alone_are_no_events() -> None:
    assert events([b": keep-alive\n\n: keep-alive\n\n"]) == []


def test_whole_events_count_as_such_only_between_others() -> None:
    assert events([b": hi\n\n", b"data: a\n\n", b"data: \xff\xc3\xa9\n\n", b"data: b\n\n"]) == ["a", "\ufffdé", "b"]
    assert events([b": hi\n\ndata: a", b"data: b\n\n"]) == ["adata: b"]
    assert events([b"data: a\n", b"data: b\n\n"]) == ["a\nb"]
    assert events([b"data: \xc3", b"data: b\n\n"]) == ["\ufffddata: b"]
    assert events([b"data: a\n\n\r", b"data: b\n\n"]) == ["a", "b"]
