"""Checks the texts, times and sizes of imported conversations, each limit with its reason. Knows no format."""

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
"""Bytes of a file: years of daily chats. It is read as a whole, which takes several times its size in memory."""
MAX_VALUES = 20_000_000
"""Commas and brackets in a file: each JSON value takes about 60 bytes of memory, however short it is."""
MAX_FILES = 100_000
"""Files in a .zip, pictures included: each takes memory when the .zip is opened."""
MAX_MESSAGES = 100_000
"""Messages of a conversation: the ids of a path are read as a whole for every reply."""
MAX_CHARACTERS = 2_000_000
"""Characters of a text: more than any model reads, and about the limit of what a page can show."""
MAX_DEPTH = 100
"""Levels of brackets in a conversation: far more than any has, far below Python's recursion limit."""
FIRST_YEAR, LAST_YEAR = 1970, 2999
"""Times that every system can show, in every time zone."""

# A value in a file may be as large as the file.
_MAX_REPR_LENGTH = 60


def refusal(reason: str) -> TransferError:
    """The error for `reason`, raised before anything is imported."""
    return TransferError(reason, "Nothing was imported.")


def short_repr(value: object) -> str:
    """A value as an error message quotes it: as JSON, shortened, and without the content of lists and objects."""
    if isinstance(value, str):
        return f"“{value[:_MAX_REPR_LENGTH]}{'…' * (len(value) > _MAX_REPR_LENGTH)}”"
    if isinstance(value, dict | list):
        return ("{…}" if value else "{}") if isinstance(value, dict) else ("[…]" if value else "[]")
    if value is None:
        return "null"
    return (str(value).lower() if isinstance(value, bool | float) else str(value))[:_MAX_REPR_LENGTH]


def parse_text(value: object, what: str) -> str:
    """A cleaned text; `what` names it in errors. Raises TransferError."""
    if not isinstance(value, str):
        raise refusal(f"{what} is not text (got {short_repr(value)}).")
    if len(value) > MAX_CHARACTERS:
        raise refusal(f"{what} has {len(value):,} characters; at most {MAX_CHARACTERS:,} are allowed.")
    return clean(value)


def parse_time(value: object, what: str) -> datetime | None:
    """A time in UTC from seconds since 1970 or ISO 8601, None for None; `what` names it in errors.

    Raises TransferError.
    """
    if value is None:
        return None
    try:
        if isinstance(value, str):
            return validate_time(datetime.fromisoformat(value), what)
        if isinstance(value, int | float) and 0 <= value < 1e12:
            return validate_time(datetime.fromtimestamp(value, UTC), what)
    except (ValueError, OverflowError, OSError):
        pass
    raise refusal(f"{what} is not a time (got {short_repr(value)}).")


def validate_time(value: datetime, what: str) -> datetime:
    """The time in UTC; a time without a zone is read as UTC. Raises TransferError."""
    if not FIRST_YEAR <= value.year <= LAST_YEAR:
        raise refusal(f"{what} is in the year {value.year}; {FIRST_YEAR} to {LAST_YEAR} are allowed.")
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def check_count(messages: int) -> None:
    """Raises TransferError if a conversation has too many messages."""
    if messages > MAX_MESSAGES:
        raise refusal(f"It has {messages:,} messages; at most {MAX_MESSAGES:,} are allowed.")


@dataclass
class Draft:
    """A message of another program, as paragraphs to be joined; `created` is None if it is unknown."""

    id: str
    parent: str | None
    role: Role
    content: list[str]
    reasoning: list[str] = field(default_factory=list)
    created: datetime | None = None


@dataclass(frozen=True)
class Origin:
    """The fields of another program's conversation; None and "" if they are unknown.

    `source` and `id` identify the conversation when it is imported again; without an id its texts do.
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


def make_tree(origin: Origin, drafts: Sequence[Draft], leaf: str | None) -> Tree:
    """Make a conversation from drafts, each after its parent. Raises TransferError.

    A message without a time is some microseconds younger than its parent.
    """
    check_count(len(drafts))
    texts = (part for draft in drafts for part in (draft.role, *draft.content, *draft.reasoning))
    id = derived_id(origin.source, *([origin.id] if origin.id else ["", origin.system_prompt, *texts]))
    times: dict[str, datetime] = {}
    messages = []
    for index, draft in enumerate(drafts):
        parent_time = origin.created if draft.parent is None else times[draft.parent]
        times[draft.id] = draft.created or parent_time + timedelta(microseconds=index)
        what = N_(f"The text of message {short_repr(draft.id)}")
        content, reasoning = (parse_text("\n\n".join(part), what) for part in (draft.content, draft.reasoning))
        messages.append(
            StoredMessage(draft.id, id, draft.parent, draft.role, content, times[draft.id], reasoning=reasoning)
        )
    title = one_line(parse_text(origin.title[: 2 * MAX_TITLE_LENGTH], N_("Its title")), MAX_TITLE_LENGTH)
    persona = one_line(origin.persona, MAX_NAME_LENGTH)
    conversation = Conversation(
        id=id,
        title=title or first_words(next((one.content for one in messages if one.role == "user"), "")),
        named=bool(title),
        persona=Persona(
            name=persona or "Imported", system_prompt=parse_text(origin.system_prompt, N_("Its system prompt"))
        ),
        leaf=leaf,
        pinned=origin.pinned,
        archived=origin.archived,
        created=origin.created,
        updated=origin.updated or max(times.values(), default=origin.created),
    )
    return Tree(conversation, tuple(messages))
