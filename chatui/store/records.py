"""What the store keeps: conversations, their messages and personas, as frozen values. Knows no SQL."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from chatui.character_prompt import Insertion
from chatui.chat import Finish, Role
from chatui.errors import ChatError
from chatui.personas import Persona
from chatui.settings import GenerationSettings

MessageState = Literal["running", "finished", "stopped", "interrupted", "failed"]
"""`interrupted`: the server ended before the reply did."""

Rating = Literal["like", "dislike"]


@dataclass(frozen=True)
class Author:
    """How a reply was asked for: the model and its revision, the system prompt as it was sent, settings and seed.

    `insertions` are the system messages that were sent within the conversation, and `moment` is when that was, in ISO
    8601 by the user's own time. The reply begins with `prefix_reasoning` and `prefix`, which the model was given and
    did not write now.
    """

    model: str
    revision: str
    system_prompt: str
    settings: GenerationSettings
    seed: int
    prefix: str = ""
    prefix_reasoning: str = ""
    insertions: tuple[Insertion, ...] = ()
    moment: str = ""


@dataclass(frozen=True)
class StoredMessage:
    """One node of a conversation's tree. `author` is set for replies, `finish` once one has ended by itself.

    `versions` are the ids of all the messages with the same parent and role, oldest first, this one among them.
    """

    id: str
    conversation: str
    parent: str | None
    role: Role
    content: str
    created: datetime
    state: MessageState = "finished"
    reasoning: str = ""
    author: Author | None = None
    finish: Finish | None = None
    error: str = ""
    rating: Rating | None = None
    note: str = ""
    versions: tuple[str, ...] = ()


@dataclass(frozen=True)
class ConversationInfo:
    """A pointer to a leaf of a message tree. `title` is the first words until `named`, then the user's own.

    Times are in UTC.
    """

    id: str
    title: str
    named: bool
    leaf: str | None
    pinned: bool
    archived: bool
    created: datetime
    updated: datetime


@dataclass(frozen=True)
class Conversation(ConversationInfo):
    """With the persona that it began with, as it was then, which may be megabytes."""

    persona: Persona


@dataclass(frozen=True)
class Tree:
    """A conversation with all of its messages, each after its parent: what is exported and imported."""

    conversation: Conversation
    messages: tuple[StoredMessage, ...]


@dataclass(frozen=True)
class Path:
    """The end of a path of a message tree; `earlier` is how many messages come before those."""

    messages: tuple[StoredMessage, ...]
    earlier: int = 0


@dataclass(frozen=True)
class MergeResult:
    """What an import made of a conversation: `new` messages were added to it, which was `known` before."""

    conversation: ConversationInfo
    new: int
    known: bool


@dataclass(frozen=True)
class SearchHit:
    """A conversation found by a search; `before`, `match` and `after` quote the text around the first match."""

    conversation: ConversationInfo
    before: str = ""
    match: str = ""
    after: str = ""


@dataclass(frozen=True)
class OwnPersona:
    """A persona that a user keeps."""

    id: str
    persona: Persona


@dataclass(frozen=True)
class NewTurn:
    """What a new reply is begun with, see OwnerStore.begin().

    `question` is None where the reply is to the message `parent`: another version of a reply, for example. `parent`
    None begins a conversation's tree anew. `conversation` None makes a new conversation, of the id `new` where that is
    set, which the assistant begins with one of the `greetings` where there are some, by its number in `greeting`; the
    others are versions of that.
    """

    conversation: str | None
    parent: str | None
    question: str | None
    author: Author
    persona: Persona
    greetings: tuple[str, ...] = ()
    new: str | None = None
    greeting: int = 0


@dataclass(frozen=True)
class StartedTurn:
    """The rows that OwnerStore.begin() made; `path` leads to the new, still empty reply.

    It leads from the tree's root, or from as far back as was asked for: `earlier` messages come before it.
    """

    conversation: ConversationInfo
    path: tuple[StoredMessage, ...] = field(repr=False)
    earlier: int = 0

    @property
    def reply(self) -> StoredMessage:
        """The new reply."""
        return self.path[-1]


@dataclass(frozen=True)
class ReplyUpdate:
    """What a reply has come to, for Store.write(). `state` other than running ends it; a finished row never changes.

    With its end may come how it came about, see Inspection.packed(). `lease` is that of OwnerStore.begin().
    """

    owner: str
    message: str
    content: str
    reasoning: str = ""
    state: MessageState = "running"
    finish: Finish | None = None
    error: str = ""
    inspection: bytes | None = None
    lease: str | None = None


@dataclass(frozen=True)
class UpdateResult:
    """What became of a Progress.

    It was `refused` alone, while the store took others; or the lease is `lost`, and the store has `left` of the reply.
    """

    stop_requested: bool = False
    refused: ChatError | None = None
    lost: bool = False
    left: StoredMessage | None = None


@dataclass(frozen=True)
class PageTimes:
    """When a page showed a reply's first and last text, seconds after the message was sent."""

    first: float
    last: float


@dataclass(frozen=True)
class KeptInspection:
    """How a reply came about, see Inspection.packed(), and when the page that asked for it showed it."""

    data: bytes
    page: PageTimes | None = None
