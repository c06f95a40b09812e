"""Logs in JSON: one object a line, one at the end of each reply, and never a text of a chat."""

import json
import logging
from collections.abc import Iterator

import pytest
import uvicorn.logging
from starlette.applications import Starlette

from chatui import logs, uvicorn_protocol
from chatui.errors import GenerationError
from tests.unit.test_otlp import REPLY, SECRET, run_reply


@pytest.fixture
def json_logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Loggers as a new process has them, and as they were afterwards: another server may have configured uvicorn's."""
    for name in ("uvicorn", "uvicorn.error"):
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    root, own = logging.getLogger(), logging.getLogger("chatui")
    handlers, level, own_level = root.handlers[:], root.level, own.level
    yield
    root.handlers, root.level = handlers, level
    own.setLevel(own_level)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.mark.usefixtures("json_logs")
async def test_each_reply_has_a_line_without_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    await run_reply(*REPLY)
    await run_reply(SECRET, GenerationError(SECRET))
    await run_reply(SECRET, RuntimeError(SECRET))
    output = capsys.readouterr().err
    assert SECRET not in output
    told = [json.loads(line) for line in output.splitlines()]
    ends = [line for line in told if line["message"] == "a reply ended"]
    assert [(end["state"], end.get("error")) for end in ends] == [
        ("finished", None),
        ("failed", "GenerationError"),
        ("failed", "GenerationError"),
    ]
    first = ends[0]
    assert (first["model"], first["finish_reason"], first["completion_tokens"]) == ("m", "length", 2)
    assert first["level"] == "INFO"
    assert first["time"].endswith("+00:00")
    [unexpected] = [line for line in told if line["level"] == "ERROR"]
    assert unexpected["error"] == "RuntimeError"
    assert any("runner.py" in place for place in unexpected["stack"])


@pytest.mark.usefixtures("json_logs")
def test_the_server_writes_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    uvicorn_protocol.config(Starlette())
    logging.getLogger("uvicorn.error").error("broken %s", "pipe")
    assert [line["message"] for line in lines(capsys)] == ["broken pipe"]


@pytest.mark.usefixtures("json_logs")
def test_text_stays_as_it_was() -> None:
    before = logging.getLogger().handlers[:]
    logs.configure("text")
    assert logging.getLogger().handlers == before
    assert not logs.is_json()
    config = uvicorn_protocol.config(Starlette())
    assert config.log_config == uvicorn.config.LOGGING_CONFIG
