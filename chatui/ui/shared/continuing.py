"""Whether a reply can be continued: by how it ended, and by what the server of its model can do."""

from chatui.chat import ModelInfo
from chatui.i18n import N_
from chatui.server_facts import NO_CONTINUED_THOUGHT, NO_CONTINUING, ServerFacts
from chatui.store.records import StoredMessage

START_INFO = N_("The model goes on from here. Empty lets it begin by itself.")


def was_cut(message: StoredMessage) -> bool:
    """Whether the reply was cut: by the length limit, by Stop or by the end of the server."""
    cut = message.state in ("stopped", "interrupted") or hit_length_limit(message)
    return cut and bool(message.content or message.reasoning)


def hit_length_limit(message: StoredMessage) -> bool:
    """Whether the reply reached the longest length allowed."""
    return message.finish is not None and message.finish.reason == "length"


def server_of(info: ModelInfo | None) -> ServerFacts | None:
    """The server of a remote model; None for others, and while it is not known."""
    return info.server if info is not None else None


def problem(server: ServerFacts | None, content: str = "", reasoning: str = "") -> str:
    """Why a model cannot go on with such a reply; "" if it can."""
    if server is None:
        return ""
    if not server.continues:
        return NO_CONTINUING
    return NO_CONTINUED_THOUGHT if reasoning and not content else ""
