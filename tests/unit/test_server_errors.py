"""Errors in every form that servers have become errors that a user understands."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from chatui.errors import ChatError, ModelError, OverloadError, PromptError, TooLongError
from chatui.remote.server_errors import error_of, read_error


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (400, '{"error": {"message": "bad", "type": "x", "code": 400}}', PromptError, "bad"),
        (400, '{"object": "error", "message": "flat", "type": "BadRequest", "code": 400}', PromptError, "flat"),
        (422, '{"error": "Input validation error: x", "error_type": "validation"}', PromptError, "validation"),
        (422, '{"detail": [{"loc": ["body", "top_k"], "msg": "Extra inputs"}]}', PromptError, "top_k: Extra"),
        (422, '{"detail": "no"}', PromptError, "no"),
        (400, '{"error": null, "message": "bad"}', PromptError, "bad"),
        (400, "[" * 9000, PromptError, "[["),
        (400, '{"error": "half \\ud83d"}', PromptError, "half \ufffd"),
        (502, "<html><title>x</title><body><h1>502 Bad Gateway</h1></body></html>", ModelError, "502 Bad Gateway"),
        (500, "", ModelError, "status 500"),
        (401, '{"error": "no key sk-secret"}', ModelError, "does not accept"),
        (404, '{"error": {"message": "The model does not exist"}}', ModelError, "does not exist"),
        (429, '{"error": {"message": "slow down"}}', OverloadError, "slow down"),
        (503, '{"error": {"message": "Loading model", "code": 503}}', OverloadError, "Loading model"),
        (
            400,
            '{"error": {"type": "exceed_context_size_error", "message": "x", "n_ctx": 9, "n_prompt_tokens": 12}}',
            TooLongError,
            "x",
        ),
        (400, '{"error": {"message": "This model\'s maximum context length is 4096 tokens."}}', TooLongError, "4096"),
        (422, '{"error": "`inputs` must have less than 1000 tokens. Given: 2000"}', TooLongError, "1000"),
    ],
)
def test_every_form(status: int, body: str, kind: type[ChatError], said: str) -> None:
    error = read_error(status, body.encode()).as_chat_error("team")
    assert type(error) is kind
    assert said in error.message
    assert "team" in error.message
    assert "sk-secret" not in str(error)


def test_numbers_of_a_prompt_that_is_too_long() -> None:
    error = error_of({"error": {"type": "exceed_context_size_error", "n_ctx": 9, "n_prompt_tokens": 12}})
    assert (error.limit, error.tokens) == (9, 12)


def test_the_refused_field() -> None:
    sent = {"model": "m", "messages": [], "top_k": 5, "min_p": 0.1}
    named = read_error(422, '{"detail": [{"loc": ["body", "min_p"], "msg": "Extra inputs are not permitted"}]}')
    assert named.refused_field(sent) == "min_p"
    told = read_error(400, '{"error": {"message": "Unsupported parameter: \'top_k\'"}}')
    assert told.refused_field(sent) == "top_k"
    thinks = read_error(400, '{"error": {"message": "\\"m\\" does not support thinking"}}')
    assert thinks.refused_field({**sent, "reasoning_effort": "none"}) == "reasoning_effort"
    placed = read_error(
        400, "{\"error\": {\"message\": \"{'loc': 'body.top_k', 'msg': 'List should have at most 4 items'}\"}}"
    )
    assert (placed.refused_field(sent), placed.is_about_a_name) == ("top_k", False)
    other = read_error(400, '{"error": {"message": "top_k must be below 100"}}')
    assert other.refused_field(sent) == ""


def test_how_long_to_wait() -> None:
    assert read_error(429, b"", {"retry-after": "7"}).retry_after == 7
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    waited = read_error(429, b"", {"retry-after": date}).retry_after
    assert waited is not None
    assert 50 <= waited <= 60
    assert read_error(429, b"", {"retry-after": "soon"}).retry_after is None
    assert read_error(429, b"", {"retry-after": "nan"}).retry_after is None


def test_a_long_message_is_cut() -> None:
    assert len(read_error(500, b"x" * 100_000).message) <= 500
