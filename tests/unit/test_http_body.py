"""Bodies of HTTP/1.1 responses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatui.remote.http_body import MAX_LINE_BYTES, ChunkedBody, SizedBody, UnsizedBody

CHUNKED = b'5\r\nHello\r\n00C;x="y"\r\n, who are\r\nu\r\n1 \r\n?\r\n0\r\nX-Trailer: 1\r\n\r\nHTTP/1.1 200 OK'


@given(st.sets(st.integers(1, len(CHUNKED) - 1)))
def test_chunks_are_the_same_however_they_are_cut(cuts: set[int]) -> None:
    body, content = ChunkedBody(), b""
    rest = b""
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(CHUNKED)], strict=True):
        if body.ended:
            rest += CHUNKED[start:end]
        else:
            content += body.push(CHUNKED[start:end])
    assert content == b"Hello, who are\r\nu?"
    assert body.ended
    assert body.is_whole_at_end()
    assert body.rest + rest == b"HTTP/1.1 200 OK"


@pytest.mark.parametrize(
    "data",
    [
        b"Hello\r\n",
        b"-5\r\n",
        b"0x5\r\nHello",
        b"\r\n",
        b"5\nHello\r\n",
        b"5\r\nHello!\r\n",
        b"5\r\nHelloxx",
        b"1" * 17 + b"\r\n",
        b"1" * (MAX_LINE_BYTES + 1),
        b"0\r\n" + b"x" * (MAX_LINE_BYTES + 1),
    ],
)
def test_what_is_no_chunk_is_refused(data: bytes) -> None:
    body = ChunkedBody()
    body.push(data)
    assert "chunk" in body.error
    assert not body.ended


def test_what_came_before_an_error_is_content() -> None:
    body = ChunkedBody()
    assert body.push(b"5\r\nHello\r\n1\r\n!\r\nx\r\n5\r\nHello\r\n") == b"Hello!"
    assert body.error == "a chunk has no size"
    assert body.push(b"5\r\nHello\r\n") == b""


def test_trailers_have_a_limit_together() -> None:
    body = ChunkedBody()
    assert body.push(b"5\r\nHello\r\n0\r\n") == b"Hello"
    for _ in range(MAX_LINE_BYTES // 1000):
        body.push(b"x" * 1000 + b"\r\n")
    assert not body.error
    body.push(b"x" * 1000 + b"\r\n")
    assert "trailers" in body.error


def test_an_unfinished_chunked_body_is_not_whole() -> None:
    body = ChunkedBody()
    assert body.push(b"5\r\nHel") == b"Hel"
    assert not body.ended
    assert not body.is_whole_at_end()
    assert body.push(b"lo\r\n0\r\n") == b"lo"
    assert not body.ended


def test_a_sized_body_ends_by_its_size() -> None:
    body = SizedBody(5)
    assert body.push(b"Hel") == b"Hel"
    assert not body.is_whole_at_end()
    assert body.push(b"lo!") == b"lo"
    assert body.ended
    assert body.rest == b"!"
    assert SizedBody(0).ended


def test_an_unsized_body_ends_with_its_connection() -> None:
    body = UnsizedBody()
    assert body.push(b"Hello") == b"Hello"
    assert not body.ended
    assert body.is_whole_at_end()
