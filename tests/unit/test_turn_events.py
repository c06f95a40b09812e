"""The links of list and messages, and the refresh that changes.js asks for in their place."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from chatui.ui.chat.turn_events import TurnEvents
from chatui.ui.shared.updates import PageUpdates

CHATBOT, REFRESHED = object(), object()


class Events:
    """Shows the options of each event in `shown`, unless it is busy."""

    def __init__(self, busy: bool) -> None:
        self.busy = busy

    async def run(self, inputs: Sequence[Any], action: object, **options: Any) -> PageUpdates:
        if not (self.busy and options["yields"]):
            yield {CHATBOT: options["yields"]}


@pytest.mark.parametrize(
    ("link", "busy", "updates"),
    [
        ("1|refresh=7", False, [{CHATBOT: True, REFRESHED: "7"}]),
        ("1|refresh=7", True, []),
        ("1|refresh", False, [{CHATBOT: True}]),
        ("1|pin=7", True, [{CHATBOT: False}]),
    ],
)
async def test_a_refresh_that_was_done_is_told_by_its_number(link: str, busy: bool, updates: list[Any]) -> None:
    components: Any = SimpleNamespace(refreshed=REFRESHED)
    events = TurnEvents(components, Events(busy), SimpleNamespace())  # type: ignore[arg-type]
    assert [update async for update in events.follow_link(link)] == updates
