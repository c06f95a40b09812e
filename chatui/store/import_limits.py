"""What imported texts, times and conversations may be: each limit with its reason. Knows none of the formats."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from chatui.chat import Role
from chatui.errors import TransferError
from chatui.i18n import N_
from chatui.personas import MAX_NAME_LENGTH, Persona
from chatui.store.records import Conversation, StoredMessage, Tree
from chatui.store.rows import MAX_TITLE_LENGTH, derived_id, first_words
from chatui.text_cleaning import clean, one_line

MAX_BYTES = 200_000_000
"""Years of daily chats; a file is read as a whole, and takes several times its size while it is."""
MAX_VALUES = 20_000_000
"""Commas and brackets in a file: the values of its JSON take some 60 bytes each, however little they say."""
MAX_FILES = 100_000
"""Files in a .zip, pictures and all: each takes memory as soon as the .zip is opened."""
MAX_MESSAGES = 100_000
"""Messages in one conversation: a path is read as a whole for every reply."""
MAX_CHARACTERS = 2_000_000
"""Characters in one text: more than any model reads, and about what a page can still show."""
MAX_DEPTH = 100
"""Levels of brackets within a conversation: far more than any has, far fewer than Python can follow."""
FIRST_YEAR, LAST_YEAR = 1970, 2999
"""Times that every system can show, in every time zone."""

# A file may have values that are as large as the file.
_MAX_SHOWN = 60


def refusal(reason: str) -> TransferError:
    """The error that says `reason`; nothing has been changed when it is raised."""
    return TransferError(reason, "Nothing was imported.")


def shown(value: object) -> str:
    """A value of the file as an error quotes it: as JSON has it, shortened, and only its outside."""
    if isinstance(value, str):
        return f"“{value[:_MAX_SHOWN]}{'…' * (len(value) > _MAX_SHOWN)}”"
    if isinstance(value, dict | list):
        return ("{…}" if value else "{}") if isinstance(value, dict) else ("[…]" if value else "[]")
    told = (
        "null" if value is None else str(value).lower() if isinstance(value, bool | float) else str(value)[:_MAX_SHOWN]
    )
    return told[:_MAX_SHOWN]


def text(value: object, what: str) -> str:
    """A text that both databases keep: U+FFFD for NUL and for halves of characters. Raises TransferError."""
    if not isinstance(value, str):
        raise refusal(f"{what} is not text (got {shown(value)}).")
    if len(value) > MAX_CHARACTERS:
        raise refusal(f"{what} has {len(value):,} characters; at most {MAX_CHARACTERS:,} are allowed.")
    return clean(value)


def time(value: object, what: str) -> datetime | None:
    """A time in UTC from seconds since 1970 or from ISO 8601; None stays None. Raises TransferError."""
    if value is None:
        return None
    try:
        if isinstance(value, str):
            return checked_time(datetime.fromisoformat(value), what)
        if isinstance(value, int | float) and 0 <= value < 1e12:
            return checked_time(datetime.fromtimestamp(value, UTC), what)
    except (ValueError, OverflowError, OSError):
        pass
    raise refusal(f"{what} is not a time (got {shown(value)}).")


def checked_time(value: datetime, what: str) -> datetime:
    """The time in UTC, which it is taken for where it names no zone. Raises TransferError."""
    if not FIRST_YEAR <= value.year <= LAST_YEAR:
        raise refusal(f"{what} is in the year {value.year}; {FIRST_YEAR} to {LAST_YEAR} are allowed.")
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def check_count(messages: int) -> None:
    """Raises TransferError where a conversation has too many messages."""
    if messages > MAX_MESSAGES:
        raise refusal(f"It has {messages:,} messages; at most {MAX_MESSAGES:,} are allowed.")


@dataclass
class Draft:
    """A message from elsewhere, as paragraphs to be joined; `created` is None where nobody knows."""

    id: str
    parent: str | None
    role: Role
    content: list[str]
    reasoning: list[str] = field(default_factory=list)
    created: datetime | None = None


@dataclass(frozen=True)
class Origin:
    """What a file from elsewhere says of a conversation as a whole; None and "" where it does not.

    `source` and `id` name it wherever it is exported again; without an id it is known by what is said in it.
    """

    created: datetime
    title: str = ""
    updated: datetime | None = None
    system_prompt: str = ""
    archived: bool = False
    pinned: bool = False
    persona: str = ""
    source: str = ""
    id: str = ""


def tree(origin: Origin, drafts: Sequence[Draft], leaf: str | None) -> Tree:
    """The conversation that drafts make, each of them after its parent. Raises TransferError.

    A message without a time is a moment younger than its parent.
    """
    check_count(len(drafts))
    said = (part for draft in drafts for part in (draft.role, *draft.content, *draft.reasoning))
    id = derived_id(origin.source, *([origin.id] if origin.id else ["", origin.system_prompt, *said]))
    times: dict[str, datetime] = {}
    messages = []
    for place, draft in enumerate(drafts):
        before = origin.created if draft.parent is None else times[draft.parent]
        times[draft.id] = draft.created or before + timedelta(microseconds=place)
        where = N_(f"The text of message {shown(draft.id)}")
        content, reasoning = (text("\n\n".join(part), where) for part in (draft.content, draft.reasoning))
        messages.append(
            StoredMessage(draft.id, id, draft.parent, draft.role, content, times[draft.id], reasoning=reasoning)
        )
    title = one_line(text(origin.title[: 2 * MAX_TITLE_LENGTH], N_("Its title")), MAX_TITLE_LENGTH)
    persona = one_line(origin.persona, MAX_NAME_LENGTH)
    conversation = Conversation(
        id=id,
        title=title or first_words(next((one.content for one in messages if one.role == "user"), "")),
        named=bool(title),
        persona=Persona(name=persona or "Imported", system_prompt=text(origin.system_prompt, N_("Its system prompt"))),
        leaf=leaf,
        pinned=origin.pinned,
        archived=origin.archived,
        created=origin.created,
        updated=origin.updated or max(times.values(), default=origin.created),
    )
    return Tree(conversation, tuple(messages))
