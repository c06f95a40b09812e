"""Where in the stored conversations a tab stands: what the browser keeps for us and sends along. Never trusted."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Self

from pydantic import Field, TypeAdapter, ValidationError

Id = Annotated[str, Field(max_length=100)]

FIRST_SHOWN = 60
"""Conversations that the list shows until more are asked for."""

MESSAGES_SHOWN = 100
"""Messages of a conversation that the chat shows until earlier ones are asked for, the last ones."""


@dataclass(frozen=True)
class TabState:
    """The conversation `chat` ("" a new one), and the message that each thing in the chat belongs to, in order.

    Its last message was `growing` when it was shown. The list of conversations shows the `shown` newest, of the archive
    where `archived` is set, of what was deleted where `deleted` is; the chat shows the last `messages`.
    """

    chat: Id = ""
    temporary: bool = False
    ids: Annotated[tuple[Id, ...], Field(max_length=200_000)] = ()
    growing: bool = False
    archived: bool = False
    deleted: bool = False
    shown: Annotated[int, Field(ge=1, le=100_000)] = FIRST_SHOWN
    messages: Annotated[int, Field(ge=1, le=100_000)] = MESSAGES_SHOWN
    removed: Id = field(default="")
    """The conversation just deleted, which can still be had back."""

    @classmethod
    def read(cls, text: str | None) -> Self:
        """What the browser sent; the start of everything where that is nonsense."""
        try:
            return ADAPTER.validate_json(text or "{}")  # type: ignore[return-value]
        except ValidationError:
            return cls()

    def written(self) -> str:
        """What the browser is given to keep."""
        return ADAPTER.dump_json(self).decode()

    def at(self, chat: str, temporary: bool = False) -> Self:
        """The same tab in another conversation."""
        return replace(self, chat=chat, temporary=temporary, ids=(), growing=False, messages=MESSAGES_SHOWN)

    def message(self, index: int) -> str:
        """The id of the message that the thing at `index` belongs to; "" where there is none."""
        if not self.ids or index < 0:
            return ""
        return self.ids[min(index, len(self.ids) - 1)]


ADAPTER: TypeAdapter[TabState] = TypeAdapter(TabState)
