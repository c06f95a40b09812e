"""The state of a tab that its browser keeps in a hidden textbox and sends with every event. Never trusted."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Self

from pydantic import Field, TypeAdapter, ValidationError

from chatui.store.rows import new_id

Id = Annotated[str, Field(max_length=100)]
Limit = Annotated[int, Field(ge=1, le=100_000)]

LIST_PAGE_SIZE = 60
"""Conversations that the list shows at first, and adds when more are asked for."""

MESSAGE_PAGE_SIZE = 100
"""Messages that the chat shows at first, the last ones, and adds when earlier ones are asked for."""


@dataclass(frozen=True)
class TabState:
    """The shown conversation, and how much of it and of the list is shown.

    `chat` is the id of the conversation, "" for a new one. `message_ids` has the id of the stored message for each
    message that gr.Chatbot shows, in order. `reply_running` tells whether the last one was running when it was shown.
    The list shows the `list_limit` newest conversations: of the archive with `show_archived`, of the trash with
    `show_deleted`. The chat shows the last `message_limit` messages. `deleted_chat` was just deleted and can be
    restored. `turn` is the id of the next turn, see NewTurn: it changes once the tab is told that the turn has begun,
    or when it leaves the conversation. The aliases are the keys of the JSON, which pages that are open may still have
    from earlier versions.
    """

    chat: Id = ""
    temporary: bool = False
    message_ids: Annotated[tuple[Id, ...], Field(max_length=200_000, alias="ids")] = ()
    reply_running: Annotated[bool, Field(alias="growing")] = False
    show_archived: Annotated[bool, Field(alias="archived")] = False
    show_deleted: Annotated[bool, Field(alias="deleted")] = False
    list_limit: Annotated[Limit, Field(alias="shown")] = LIST_PAGE_SIZE
    message_limit: Annotated[Limit, Field(alias="messages")] = MESSAGE_PAGE_SIZE
    deleted_chat: Annotated[Id, Field(alias="removed")] = ""
    turn: Annotated[str, Field(pattern="^([A-Za-z0-9_-]{22})?$")] = field(default="", compare=False)

    @classmethod
    def from_json(cls, text: str | None) -> Self:
        """Parse what the browser sent; the default state if it is not valid."""
        try:
            return ADAPTER.validate_json(text or "{}")  # type: ignore[return-value]
        except ValidationError:
            return cls()

    def to_json(self) -> str:
        """The state as JSON, for the browser to keep."""
        return ADAPTER.dump_json(self, by_alias=True).decode()

    def in_chat(self, chat: str, temporary: bool = False) -> Self:
        """The same tab showing another conversation."""
        return replace(
            self,
            chat=chat,
            temporary=temporary,
            message_ids=(),
            reply_running=False,
            message_limit=MESSAGE_PAGE_SIZE,
            turn=new_id(),
        )

    def message_id(self, index: int) -> str:
        """The id of the stored message for the message at `index` in gr.Chatbot; "" if there is none."""
        if not self.message_ids or index < 0:
            return ""
        return self.message_ids[min(index, len(self.message_ids) - 1)]


ADAPTER: TypeAdapter[TabState] = TypeAdapter(TabState)
