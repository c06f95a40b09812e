"""The page's API, as gradio_client and plain HTTP use it."""

import json
import math
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from gradio_client import Client

from chatui.errors import GenerationError, OverloadError
from chatui.generation_settings import GenerationSettings
from tests.browser.pages import PATIENCE_SECONDS, Site, wait_until
from tests.fakes import INFO, FakeBackend, Hold

pytestmark = pytest.mark.browser

# For each setting, what must not be taken.
BAD: dict[str, list[Any]] = {
    "max_new_tokens": [-1, 1_000_000_000, 1.5, math.nan, math.inf, "1", True, [1], {}],
    "temperature": [-1, 1e9, 2.01, math.nan, math.inf, "1", True, [1], {}],
    "top_p": [-1, 0, 0.0, 1e9, math.nan, "1", True, [1]],
    "top_k": [-1, 1e9, 201, 1.5, math.nan, "1", True, [1]],
    "min_p": [-1, 1e9, math.nan, "1", True, [1]],
    "repetition_penalty": [-1, 0, 1e9, math.nan, "1", True, [1]],
    "no_repeat_ngram_size": [-1, 21, 1.5, math.nan, "1", True, [1]],
    "seed": [-1, 2**32, 1.5, math.nan, "1", True, [1]],
    "thinking": ["", "much", 1, True, [1], {}],
    "thinking_budget": [-1, 32769, 1.5, math.nan, "1", True, [1]],
    "stop": [5, True, {}, [""], [1], ["x" * 201], ["x"] * 17],
}


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with Site(FakeBackend()) as site:
        yield site


@pytest.fixture
def fake(site: Site) -> FakeBackend:
    """The backend, as new."""
    backend = site.backend
    backend.replies, backend.delay_first, backend.cancelled, backend.rate = (
        [["Hello", " from", " the", " fake."]],
        0,
        0,
        200,
    )
    backend.requests.clear()
    return backend


@pytest.fixture
def client(site: Site) -> Client:
    return Client(site.url, verbose=False)


def _ask(site: Site, **values: Any) -> str:
    """The last event of a call of /chat over plain HTTP, which can carry NaN; parameters by name."""
    body = json.dumps({"message": "hi", **values})  # Python writes NaN and Infinity as such
    headers = {"content-type": "application/json"}
    started = httpx.post(f"{site.url}/gradio_api/call/v2/chat", content=body, headers=headers, timeout=PATIENCE_SECONDS)
    if started.status_code >= 400:
        return started.text
    return httpx.get(f"{site.url}/gradio_api/call/chat/{started.json()['event_id']}", timeout=PATIENCE_SECONDS).text


def test_predict_gives_the_reply_as_text(client: Client, fake: FakeBackend) -> None:
    assert client.predict("hi", api_name="/chat") == "Hello from the fake."
    assert [(m.role, m.content) for m in fake.requests[0].messages] == [("system", ""), ("user", "hi")]
    assert fake.requests[0].settings == INFO.defaults


def test_parameters_are_named_like_the_settings(client: Client) -> None:
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert list(endpoints) == ["/chat"]
    parameters = endpoints["/chat"]["parameters"]
    names = [parameter["parameter_name"] for parameter in parameters]
    assert names == ["message", "system_prompt", *GenerationSettings.model_fields, "model"]
    assert [parameter["parameter_has_default"] for parameter in parameters] == [False, *[True] * (len(names) - 1)]


def test_every_parameter_reaches_the_request(client: Client, fake: FakeBackend) -> None:
    settings = GenerationSettings(
        max_new_tokens=9,
        temperature=1.0,
        top_p=0.5,
        top_k=7,
        min_p=0.1,
        repetition_penalty=1.5,
        seed=0,
        stop=("a", "b <c> &lt;"),
    )
    values = {**settings.model_dump(), "stop": list(settings.stop)}
    client.predict("\thi <b> &lt;\n", system_prompt="Be <brief>.", **values, api_name="/chat")
    assert fake.requests[0].settings == settings
    assert [m.content for m in fake.requests[0].messages] == ["Be <brief>.", "\thi <b> &lt;\n"]


def test_whole_numbers_do_for_fractions(client: Client, fake: FakeBackend) -> None:
    client.predict("hi", temperature=1, top_p=1, min_p=0, api_name="/chat")
    assert fake.requests[0].settings.temperature == 1.0


def test_reply_is_exact_and_history_kept_per_client(site: Site, client: Client, fake: FakeBackend) -> None:
    exact = "\n\tVec<T> &lt; <b>x</b>\n\n```\n\ty\n```\n\n"
    fake.replies = [[exact[:9], exact[9:]], ["second"], ["other"]]
    other = Client(site.url, verbose=False)
    assert client.predict("one", api_name="/chat") == exact
    assert client.predict("two", api_name="/chat") == "second"
    assert other.predict("three", api_name="/chat") == "other"
    assert [m.content for m in fake.requests[1].messages[1:]] == ["one", exact, "two"]
    assert [m.content for m in fake.requests[2].messages[1:]] == ["three"]


def test_reply_streams(client: Client, fake: FakeBackend) -> None:
    words, holds = [f"w{number} " for number in range(5)], [Hold() for _ in range(5)]
    fake.replies = [[piece for pair in zip(words, holds, strict=True) for piece in pair]]
    chunks: list[str] = []
    for chunk in client.submit("hi", api_name="/chat"):
        chunks.append(chunk)
        for at, hold in enumerate(holds, 1):  # it goes on once what came before it is here
            if chunk == "".join(words[:at]):
                hold.release()
    whole = "".join(words)
    assert {"".join(words[:at]) for at in range(1, 6)} <= set(chunks)
    assert chunks[-1] == whole
    assert all(whole.startswith(chunk) for chunk in chunks)


@pytest.mark.parametrize("name", list(BAD))
def test_values_out_of_range_are_refused_by_name(site: Site, fake: FakeBackend, name: str) -> None:
    for value in BAD[name]:
        answer = _ask(site, **{name: value})
        assert "error" in answer, (name, value, answer)
        assert name in answer, (name, value, answer)
        assert fake.requests == [], (name, value)


@pytest.mark.parametrize("message", ["", "  \n", None, "x" * 200_001], ids=["empty", "blank", "null", "too long"])
def test_messages_out_of_range_are_refused_by_name(site: Site, fake: FakeBackend, message: str | None) -> None:
    answer = _ask(site, message=message)
    assert "error" in answer
    assert "message" in answer
    assert fake.requests == []


def test_client_raises_with_the_name(client: Client, fake: FakeBackend) -> None:
    with pytest.raises(Exception, match="temperature"):
        client.predict("hi", temperature=5, api_name="/chat")
    assert client.predict("hi", api_name="/chat") == "Hello from the fake."
    assert [m.content for m in fake.requests[-1].messages[1:]] == ["hi"]


def test_backend_errors_are_told_and_insides_are_not(client: Client, fake: FakeBackend) -> None:
    full = OverloadError("64 requests are waiting already.", "Try again in a while.")
    unforeseen = RuntimeError("secret inside")
    fake.replies = [[full], [GenerationError("Out of memory.", "Ask for less.")], [unforeseen], ["fine"]]
    with pytest.raises(Exception, match=r"64 requests are waiting already. Try again in a while."):
        client.predict("hi", api_name="/chat")
    with pytest.raises(Exception, match=r"Out of memory. Ask for less."):
        client.predict("hi", api_name="/chat")
    with pytest.raises(Exception, match="went wrong") as caught:
        client.predict("hi", api_name="/chat")
    assert "secret" not in str(caught.value)
    assert client.predict("hi", api_name="/chat") == "fine"


@pytest.mark.parametrize("moment", ["writing", "reading the prompt"])
def test_cancel_frees_the_backend(client: Client, fake: FakeBackend, moment: str) -> None:
    fake.replies = [["Once", " upon", Hold()]]
    if moment != "writing":
        fake.delay_first = 60
    job = client.submit("hi", api_name="/chat")
    wait_until(lambda: fake.running == 1)
    # Until the server's answer names the event, gradio_client's cancel posts `event_id: null`, which cancels nothing.
    wait_until(lambda: job.communicator and job.communicator.event_id, what="the event's id")
    if moment == "writing":
        wait_until(lambda: job.outputs(), what="the first text")
    job.cancel()
    wait_until(lambda: fake.running == 0, what="the backend's release")
    assert fake.cancelled == 1


def test_null_takes_the_models_default(site: Site, fake: FakeBackend) -> None:
    answer = _ask(site, **dict.fromkeys(["system_prompt", *GenerationSettings.model_fields]))
    assert "Hello from the fake." in answer
    assert fake.requests[0].settings == INFO.defaults


def test_only_chat_is_public(site: Site) -> None:
    info: dict[str, Any] = httpx.get(f"{site.url}/gradio_api/info").json()
    assert list(info["named_endpoints"]) == ["/chat"]
    assert info["unnamed_endpoints"] == {}
