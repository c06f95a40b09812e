"""The values that the store reads and writes: conversations, messages, personas and updates. Knows no SQL."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from chatui.character_prompt import Insertion
from chatui.chat import Finish, Role
from chatui.errors import ChatError
from chatui.generation_settings import GenerationSettings
from chatui.personas import Persona

MessageState = Literal["running", "finished", "stopped", "interrupted", "failed"]
"""`interrupted`: the server stopped before the reply was complete."""

Rating = Literal["like", "dislike"]


@dataclass(frozen=True)
class Author:
    """The request that a reply answers: the model and its revision, the system prompt as sent, settings and seed.

    `insertions` are the system messages that were sent within the conversation. `moment` is the time of the request in
    ISO 8601, in the user's time zone. The reply starts with `prefix_reasoning` and `prefix`, which were given to the
    model.
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
    """One node of a conversation's tree. `author` is set for replies, `finish` for replies that ended by themselves.

    The `dropped` oldest messages before a reply were left out of its prompt, which would not have fit the context.
    `versions` are the ids of all messages with the same parent and role, this one included, oldest first.
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
    dropped: int = 0


@dataclass(frozen=True)
class ConversationInfo:
    """A conversation without its messages and persona; `leaf` is the last message of the path that is shown.

    `title` is made of the first words until the user has `named` it. Times are in UTC.
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
    """A conversation with a copy of the persona that it started with, which may be megabytes."""

    persona: Persona


@dataclass(frozen=True)
class Tree:
    """A conversation with all of its messages, each after its parent. The unit of export and import."""

    conversation: Conversation
    messages: tuple[StoredMessage, ...]


@dataclass(frozen=True)
class Path:
    """The last messages of a path of a message tree; `earlier` is the number of messages before them."""

    messages: tuple[StoredMessage, ...]
    earlier: int = 0


@dataclass(frozen=True)
class MergeResult:
    """Result of importing one conversation: the number of `added` messages, and whether the conversation `existed`."""

    conversation: ConversationInfo
    added: int
    existed: bool


@dataclass(frozen=True)
class SearchHit:
    """A conversation found by a search; `before`, `match` and `after` quote the text around the first match."""

    conversation: ConversationInfo
    before: str = ""
    match: str = ""
    after: str = ""


@dataclass(frozen=True)
class OwnPersona:
    """A persona that a user has saved."""

    id: str
    persona: Persona


@dataclass(frozen=True)
class NewTurn:
    """Input of OwnerStore.start_turn().

    `question` is None for a new version of the reply to the message `parent`. `parent` None starts at the root of the
    tree. `conversation` None creates a conversation, with the id `new_conversation_id` if set. A new conversation
    starts with `greetings[greeting]`, if there are any; the other greetings are versions of it.

    `id` is made by the page and becomes that of the reply, so that a turn that is sent twice is one, on all servers.
    """

    conversation: str | None
    parent: str | None
    question: str | None
    author: Author
    persona: Persona
    greetings: tuple[str, ...] = ()
    new_conversation_id: str | None = None
    greeting: int = 0
    id: str | None = None


@dataclass(frozen=True)
class StartedTurn:
    """The rows that OwnerStore.start_turn() inserted; `path` ends with the new, still empty reply.

    The path starts at the root of the tree, or after the `earlier` messages that were over the requested limit.
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
    """Input of Store.update_replies(): the text of a reply so far.

    A `state` other than running ends the reply; a row that has ended never changes. The last update may carry the
    packed `inspection`, see Inspection.packed(). `lease` is the one given to OwnerStore.start_turn().
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
    dropped: int = 0


@dataclass(frozen=True)
class UpdateResult:
    """Result of one ReplyUpdate.

    `error` is set where this update alone failed. `lease_lost` is set where another server holds the lease or the
    reply has ended; `stored` is then the message as the store has it, None where it was removed.
    """

    stop_requested: bool = False
    error: ChatError | None = None
    lease_lost: bool = False
    stored: StoredMessage | None = None


@dataclass(frozen=True)
class PageTimes:
    """When a page showed a reply's first and last text, seconds after the message was sent."""

    first: float
    last: float


@dataclass(frozen=True)
class StoredInspection:
    """The packed inspection of a reply, see Inspection.packed(), and when the page of its request showed it."""

    data: bytes
    page: PageTimes | None = None
