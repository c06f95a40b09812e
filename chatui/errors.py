"""Errors that users may see. Only the edges format them: as a card, a JSON error or a line on the console."""

from typing import Literal


class ChatError(Exception):
    """An error that the user can understand and correct.

    `message` is the cause in one sentence, `remedy` is what to do about it, and `status` is the HTTP status.
    """

    status = 500

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class SettingsError(ChatError):
    """A setting or a flag has an invalid value. `field` is its name."""

    status = 422

    def __init__(self, field: str, message: str, remedy: str = "") -> None:
        super().__init__(f"{field}: {message}", remedy)
        self.args = (field, message, remedy)  # pickle calls the class with these
        self.field = field


class PromptError(ChatError):
    """No prompt for this model can be made from the messages."""

    status = 400


class TooLongError(PromptError):
    """The messages have more tokens than the model's context."""


class StoreError(ChatError):
    """The database cannot be opened, read or written."""

    status = 503


class ExportCutOffError(StoreError):
    """The database failed in the middle of an export, which was logged."""


class NotFoundError(ChatError):
    """The object does not exist, or it belongs to another owner. The error does not reveal which."""

    status = 404

    def __init__(self, what: str = "conversation") -> None:
        super().__init__(f"There is no such {what}.", "It may have been deleted.")


class ForbiddenError(ChatError):
    """The user may not do this. Nothing was changed."""

    status = 403


class TransferError(ChatError):
    """A file to import is invalid. Nothing was changed."""

    status = 400


class LimitError(ChatError):
    """A limit of what one user may store is reached. Nothing was changed."""

    status = 413


class FullError(LimitError):
    """The space for what all users store is full. Nothing was changed."""

    status = 507


class ModelError(ChatError):
    """The model cannot be loaded, or is not available."""

    status = 503


HubErrorKind = Literal[
    "gated",
    "missing",
    "no revision",
    "invalid name",
    "unauthorized",
    "rate limited",
    "server",
    "unreachable",
    "offline",
    "disk full",
    "damaged",
    "busy",
    "storage",
    "unsuitable",
]
STATUSES: dict[HubErrorKind, int] = {
    "gated": 403,
    "missing": 404,
    "no revision": 404,
    "invalid name": 422,
    "unauthorized": 401,
    "rate limited": 429,
    "disk full": 507,
    "busy": 409,
    "unsuitable": 422,
}
"""HTTP statuses by kind; 503 for all others."""


class HubError(ModelError):
    """The Hub, or the way to it, did not deliver what was asked for.

    `kind` tells callers what happened. `retry_after` is in seconds, as the Hub states it for "rate limited".
    """

    def __init__(self, kind: HubErrorKind, message: str, remedy: str = "", retry_after: int | None = None) -> None:
        super().__init__(message, remedy)
        self.args = (kind, message, remedy, retry_after)  # pickle calls the class with these
        self.kind = kind
        self.retry_after = retry_after
        self.status = STATUSES.get(kind, 503)


class GenerationError(ChatError):
    """The model failed while it generated a reply."""

    status = 500


class OverloadError(ChatError):
    """Too many requests are waiting. Clients should retry after `retry_after` seconds."""

    status = 429

    def __init__(self, message: str, remedy: str = "", retry_after: int = 5) -> None:
        super().__init__(message, remedy)
        self.retry_after = retry_after


def unexpected(error: BaseException) -> GenerationError:
    """The error to show for an unexpected exception. It reveals only the type of the exception."""
    return GenerationError(f"Something went wrong ({type(error).__name__}).", "Try again; the console has the details.")
