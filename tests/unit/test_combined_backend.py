"""Requests go to the backend that has the model."""

from dataclasses import replace

import pytest

from chatui.chat import ChatRequest, Message
from chatui.combined_backend import CombinedBackend
from chatui.errors import ModelError
from chatui.generation_settings import GenerationSettings
from tests.fakes import FakeBackend


class Fake(FakeBackend):
    """One that can be started."""

    def start(self) -> "Fake":
        return self

    def wait(self) -> object:
        return self.status.info


def pair() -> tuple[Fake, Fake, CombinedBackend]:
    first, second = Fake(["one"]), Fake(["two"])
    second.status = replace(second.status, name="other", source="/path/other")
    return first, second, CombinedBackend([first, second], first)  # type: ignore[list-item]


async def text(backend: CombinedBackend, model: str, ticket: str = "") -> str:
    request = ChatRequest((Message("user", "Hi"),), GenerationSettings(), model, ticket=ticket)
    return "".join([delta.text async for delta in backend.stream(request)])


async def test_by_name_by_source_and_by_default() -> None:
    first, second, both = pair()
    assert [status.name for status in both.models()] == [first.status.name, "other"]
    assert [await text(both, model) for model in ("", "other", "/path/other")] == ["one", "two", "two"]
    with pytest.raises(ModelError, match="not served"):
        await text(both, "nothing")
    assert (len(first.requests), len(second.requests)) == (1, 2)


async def test_tickets_go_where_they_are_from() -> None:
    first, second, both = pair()
    ticket = both.admit("user", "other")
    assert (first.admitted, second.admitted) == ([], ["user"])
    both.release_ticket(ticket)
    assert (first.released_tickets, second.released_tickets) == ([], [ticket])


def test_new_models_go_into_this_process_if_it_has_any() -> None:
    first, second, both = pair()
    assert both.add("new") == "new"
    assert first.added == [("new", None)]
    with pytest.raises(ModelError, match="in front of others"):
        CombinedBackend([second]).add("new")  # type: ignore[list-item]
