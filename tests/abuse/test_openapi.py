"""/v1/openapi.json says what /v1 does: requests made from it, valid and not, are answered as it says."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from schemathesis import Case, GenerationMode
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from chatui.api.accepted_fields import FIELD_ALIASES
from chatui.api.schemas import ChatCompletionChunk
from tests.abuse.process import Process, running

KEY = "open-sesame"
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with running(tmp_path_factory.mktemp("openapi"), rate=1e6, api_key=KEY) as process:
        yield process
        assert "Traceback" not in process.log, process.log[:5000]


def sendable(body: object) -> dict[str, Any]:
    """A valid body without what the description says in words only: what must fit together."""
    assert isinstance(body, dict)
    meant = {"model", "continue_final_message", "add_generation_prompt"}
    kept = {name: value for name, value in body.items() if name not in meant and name not in FIELD_ALIASES}
    aliases = {FIELD_ALIASES[name]: (name, value) for name, value in body.items() if name in FIELD_ALIASES}
    kept |= {name: value for setting, (name, value) in aliases.items() if setting not in kept}
    return {**kept, "messages": [*body["messages"][:100], {"role": "user", "content": "Hi"}]}


def check_events(text: str) -> None:
    """Every event of a stream is a chunk; schemathesis does not read a long one to its end."""
    events = [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: ")]
    for event in events:
        if event != "[DONE]":
            ChatCompletionChunk.model_validate_json(event)


def check(case: Case[Any]) -> None:
    """Send it: the answer is one that the description has, and a refusal where and only where that says so."""
    valid = case.meta is not None and case.meta.generation.mode.is_positive
    is_chat = case.path.startswith("/chat")
    if valid and is_chat:
        case.body = sendable(case.body)
    response = case.call(headers=AUTHORIZED)
    # Wrong keys, which the second check tries, are answered with 429 after a few; test_api.py has that.
    case.validate_response(response, excluded_checks=[positive_data_acceptance, ignored_auth])
    if valid and is_chat:
        assert response.status_code == 200, (case.body, response.text)
    if is_chat and response.headers["content-type"][0].startswith("text/event-stream"):
        check_events(response.text)


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("count", [20, pytest.param(3000, marks=pytest.mark.exhaustive)])
def test_v1_does_what_its_description_says(process: Process, mode: GenerationMode, count: int) -> None:
    description = schemathesis.openapi.from_url(f"{process.url}/v1/openapi.json", headers=AUTHORIZED)
    cases = description.exclude(path="/models/sse").as_strategy(mode)  # whose answer has no end

    @given(cases)
    @examples(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    def send(case: Case[Any]) -> None:
        check(case)

    send()
