"""Malformed requests are the client's fault and get 422; a mistake of ours stays a 500 with its traceback."""

import json
from collections.abc import Callable
from typing import Any

import gradio as gr
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from chatui import server
from chatui.settings import AppSettings
from chatui.ui.gradio_compat.bad_requests import BadRequests, refuse_bad_values, replace_lone_surrogates
from tests.fakes import FakeBackend

SOURCE = """
async def application(scope, receive, send):
    inner()

def call():
    inner()
"""
RAISING = "def inner():\n    {}['x']"
PARSING = "import json\ndef inner():\n    json.loads('{{')"


def code_of(package: str, source: str = SOURCE, **known: Any) -> dict[str, Any]:
    """What a module of this package has."""
    module: dict[str, Any] = {"__name__": f"{package}.module", **known}
    exec(source, module)
    return module


def application(*packages: str, end: str) -> ASGIApp:
    """One whose code in the first package calls that in the next, and the last one's raises."""
    inner = code_of(packages[-1], end)["inner"]
    for package in reversed(packages[1:]):
        inner = code_of(package, inner=inner)["call"]
    made: ASGIApp = code_of(packages[0], inner=inner)["application"]
    return made


def status_of(app: ASGIApp) -> int:
    return TestClient(BadRequests(app), raise_server_exceptions=False).get("/").status_code


@pytest.mark.parametrize("end", [RAISING, PARSING])
def test_what_gradio_cannot_read_is_the_clients_fault(end: str) -> None:
    assert status_of(application("gradio", end=end)) == 422
    assert status_of(application("gradio", "chatui", "gradio", end=end)) == 422


@pytest.mark.parametrize("end", [RAISING, PARSING])
def test_a_mistake_of_ours_is_not_hidden(end: str) -> None:
    assert status_of(application("gradio", "chatui", end=end)) == 500
    assert status_of(application("gradio", "gradio", "chatui", end=end)) == 500
    with pytest.raises((KeyError, ValueError)):
        TestClient(BadRequests(application("gradio", "chatui", end=end))).get("/")


@pytest.mark.parametrize(("package", "raised"), [("gradio", gr.Error), ("chatui", KeyError)])
def test_values_that_do_not_fit_are_told_from_mistakes_of_ours(package: str, raised: type[Exception]) -> None:
    call: Callable[[], None] = code_of(package, inner=code_of(package, RAISING)["inner"])["call"]
    with pytest.raises(raised), refuse_bad_values():
        call()


TEXT = st.text(st.characters(exclude_categories=()) | st.sampled_from("\\u\ud83d\ude00dD8\"'\ufffd"))


@given(st.dictionaries(TEXT, TEXT), st.booleans())
def test_half_a_surrogate_pair_becomes_a_replacement_character(value: dict[str, str], escaped: bool) -> None:
    body = json.dumps(value, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    found = json.loads(replace_lone_surrogates(body))
    assert len(replace_lone_surrogates(body)) == len(body)
    json.dumps(found, ensure_ascii=False).encode()
    expected = json.loads(body)  # as Python reads pairs
    if not any("\ud800" <= sign <= "\udfff" for sign in "".join([*expected, *expected.values()])):
        assert found == expected


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = server.build_app(FakeBackend(), AppSettings())
    return TestClient(app, "http://localhost:7860", raise_server_exceptions=False)


@pytest.mark.parametrize("sign", ["\ud800", "x\udfff", "\ude00\ud83d"])
def test_no_event_fails_for_half_a_surrogate_pair(client: TestClient, sign: str) -> None:
    events = [event for event in client.get("/config").json()["dependencies"] if not event["queue"]]
    assert events
    for event in events:
        sent = {"fn_index": event["id"], "data": [sign] * len(event["inputs"]), "session_hash": "x"}
        answer = client.post("/gradio_api/run/predict", content=json.dumps(sent), headers={"Content-Type": "text/json"})
        assert answer.status_code < 500, (event["id"], answer.text)


def test_no_name_of_a_file_makes_it_fail(client: TestClient) -> None:
    for path in ("assets", "static", "svelte", "gradio_api/file=", "gradio_api/file"):
        for name in ("x" * 3000, "x/" * 3000, "%00", "%ff", "index.html/x", "..%2f..%2fx", "%0a"):
            assert 400 <= client.get(f"/{path}/{name}").status_code < 500, (path, name)


@pytest.mark.parametrize("size", ["192", "0", "-1", "1000000000", "x"])
def test_the_icon_has_every_size(client: TestClient, size: str) -> None:
    answer = client.get(f"/pwa_icon/{size}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/svg+xml")


def test_a_full_disk_is_no_malformed_request() -> None:
    full = "import errno\ndef inner():\n    raise OSError(errno.ENOSPC, 'full')"
    assert status_of(application("gradio", end=full)) == 500
    assert status_of(application("gradio", end=full.replace("ENOSPC", "ENAMETOOLONG"))) == 404


def test_no_address_of_a_proxy_makes_it_fail(client: TestClient) -> None:
    for address in ("x/%00", "http://[", "http://x:y/", "%ff", "http://x/%0a", "x" * 60_000):
        assert 400 <= client.get(f"/gradio_api/proxy={address}").status_code < 500, address
