"""/tokenize and /detokenize, under /v1 and beside it, in vLLM's shape."""

import json
from dataclasses import replace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from chatui.api import routes
from chatui.chat import Message, ModelStatus
from chatui.settings import AppSettings
from chatui.thinking_controls import ThinkingControls
from tests.fakes import INFO, FakeBackend

KEY = "open-sesame"
HI = {"role": "user", "content": "Hi"}
HELLO = {"role": "assistant", "content": "Hello"}


def client_of(backend: FakeBackend, **values: object) -> TestClient:
    app = Starlette(routes=routes.mounts(backend, AppSettings.model_validate(values)))
    return TestClient(app, "http://localhost:7860", client=("127.0.0.1", 5), raise_server_exceptions=False)


def post(backend: FakeBackend, path: str = "/tokenize", **fields: object) -> Any:
    response = client_of(backend).post(path, json=fields)
    assert response.status_code == 200, response.text
    return response.json()


def refused(status: int, param: str | None, path: str = "/tokenize", **fields: object) -> str:
    backend = FakeBackend()
    headers = {"Content-Type": "application/json"}
    response = client_of(backend).post(path, content=json.dumps(fields), headers=headers)
    assert (response.status_code, response.json()["error"]["param"]) == (status, param), response.text
    assert not backend.tokenized
    return str(response.json()["error"]["message"])


@pytest.mark.parametrize("path", ["/tokenize", "/v1/tokenize"])
def test_a_text_has_tokens(path: str) -> None:
    backend = FakeBackend()
    answer = post(backend, path, model="echo", prompt="Hé", return_token_strs=True)
    assert answer == {"count": 2, "max_model_len": 4096, "tokens": [72, 233], "token_strs": ["H", "é"]}
    assert post(backend, path, prompt="", add_special_tokens=False, return_token_strs=None)["token_strs"] is None
    assert [(asked.text, asked.add_special_tokens, asked.model) for asked in backend.tokenized] == [
        ("Hé", True, "fake/echo"),
        ("", False, "fake/echo"),
    ]


def test_messages_have_the_tokens_of_their_prompt() -> None:
    backend = FakeBackend()
    persona = {"role": "system", "content": "Be brief."}
    answer = post(backend, messages=[persona, HI])
    assert "".join(map(chr, answer["tokens"])) == "Be brief.\nHi\n"
    [asked] = backend.tokenized
    assert asked.messages == (Message("system", "Be brief."), Message("user", "Hi"))
    assert asked.add_generation_prompt
    assert asked.settings == INFO.defaults


def test_the_last_message_may_be_continued_or_no_reply_be_asked_for() -> None:
    backend = FakeBackend()
    post(backend, messages=[HI, HELLO], continue_final_message=True, add_generation_prompt=False)
    post(backend, messages=[HI, HELLO], add_generation_prompt=False)
    post(backend, messages=[HELLO], add_generation_prompt=False)
    assert [asked.add_generation_prompt for asked in backend.tokenized] == [True, False, False]
    refused(400, "messages", messages=[HI, HELLO])
    refused(400, "messages", messages=[HI], continue_final_message=True)
    refused(400, "add_generation_prompt", messages=[HI, HELLO], continue_final_message=True, add_generation_prompt=True)


def test_arguments_of_the_template_are_those_of_a_chat() -> None:
    backend = FakeBackend()
    template = INFO.template
    assert template is not None
    controls = ThinkingControls(switch="enable_thinking")
    info = replace(INFO, template=replace(template, controls=controls))
    backend.status = ModelStatus(INFO.name, "ready", info=info)
    post(backend, messages=[HI], chat_template_kwargs={"enable_thinking": False})
    assert backend.tokenized[0].settings.thinking == "off"
    refused(400, "chat_template_kwargs", messages=[HI], chat_template_kwargs={"nope": 1})


def test_what_cannot_be_done_is_refused_by_name() -> None:
    refused(400, "prompt")
    refused(400, "prompt", prompt="x", messages=[HI])
    refused(400, "prompt", prompt=5)
    refused(400, "prompt", prompt="\ud800")
    refused(400, "messages", messages=[])
    refused(400, "messages[0].role", messages=[{"role": "tool", "content": "x"}])
    refused(400, "add_special_tokens", messages=[HI], add_special_tokens=True)
    refused(400, "tools", messages=[HI], tools=[{"type": "function"}])
    refused(400, "add_generation_prompt", prompt="x", add_generation_prompt=True)
    assert "fake/echo" in refused(404, "model", prompt="x", model="nope")
    refused(404, "model", "/detokenize", tokens=[1], model="nope")
    refused(400, "tokens", "/detokenize", tokens=[2**21])
    refused(400, "tokens[1]", "/detokenize", tokens=[1, -1])
    refused(400, "tokens[0]", "/detokenize", tokens=[2**31])
    refused(400, "tokens", "/detokenize")


@pytest.mark.parametrize("path", ["/detokenize", "/v1/detokenize"])
def test_tokens_have_a_text(path: str) -> None:
    assert post(FakeBackend(), path, model="echo", tokens=[72, 233]) == {"prompt": "Hé"}
    assert post(FakeBackend(), path, tokens=[]) == {"prompt": ""}


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize"])
def test_they_need_the_key_as_v1_does(path: str) -> None:
    client = client_of(FakeBackend(), api_key=KEY)
    body = {"prompt": "x"} if path == "/tokenize" else {"tokens": [1]}
    assert client.post(path, json=body).status_code == 401
    assert client.post(path, json=body, headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
    for _ in range(12):
        client.post(path, json=body, headers={"Authorization": "Bearer wrong"})
    # The wrong keys count for all of the API.
    assert client.get("/v1/models", headers={"Authorization": "Bearer wrong"}).status_code == 429
    shared = client_of(FakeBackend(), host="0.0.0.0")
    assert shared.post(path, json=body).status_code == 403
    assert client_of(FakeBackend()).get(path).status_code == 405
    assert client_of(FakeBackend()).post(path, content="{}").status_code == 415


def test_a_model_that_was_never_loaded_is_loaded_first() -> None:
    backend = FakeBackend()
    backend.status = ModelStatus(INFO.name, "unloaded")
    assert post(backend, messages=[HI])["max_model_len"] == 0
    assert backend.loads == [INFO.name]
    backend.status = ModelStatus(INFO.name, "loading", "weights")
    assert client_of(backend).post("/tokenize", json={"prompt": "x"}).status_code == 503
    assert client_of(backend).post("/detokenize", json={"tokens": [1]}).status_code == 503
