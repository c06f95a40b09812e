"""The errors a user may see: raised inside, turned into a card, a JSON error or a console line at the edge only."""


class ChatError(Exception):
    """Something went wrong that the user can understand and mend.

    `message` says the cause in one sentence, `remedy` what to do about it, `status` is the HTTP status that fits.
    """

    status = 500

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class SettingsError(ChatError):
    """A setting or a flag has a value that is not allowed; `field` is its name."""

    status = 422

    def __init__(self, field: str, message: str, remedy: str = "") -> None:
        super().__init__(f"{field}: {message}", remedy)
        self.args = (field, message, remedy)  # what pickle calls the class with
        self.field = field


class PromptError(ChatError):
    """The messages cannot be made into a prompt for this model."""

    status = 400


class TooLongError(PromptError):
    """The messages have more tokens than the model has room for."""


class StoreError(ChatError):
    """The database cannot be opened, read or written."""

    status = 503


class NotFoundError(ChatError):
    """What was asked for is not there, or is another owner's: nobody can tell which."""

    status = 404

    def __init__(self, what: str = "conversation") -> None:
        super().__init__(f"There is no such {what}.", "It may have been deleted.")


class TransferError(ChatError):
    """A file to import is not what it should be; nothing was changed."""

    status = 400


class LimitError(ChatError):
    """A user may not keep more; nothing was changed."""

    status = 413


class FullError(LimitError):
    """There is no room for more of anybody's; nothing was changed."""

    status = 507


class ModelError(ChatError):
    """The model cannot be loaded, or is not there to answer."""

    status = 503


class GenerationError(ChatError):
    """The model failed while it was writing a reply."""

    status = 500


class OverloadError(ChatError):
    """Too many are waiting; `retry_after` seconds are a good time to ask again."""

    status = 429

    def __init__(self, message: str, remedy: str = "", retry_after: int = 5) -> None:
        super().__init__(message, remedy)
        self.retry_after = retry_after


def unexpected(error: Exception) -> GenerationError:
    """What a user is told of an error that nobody foresaw; it says nothing of the inside."""
    return GenerationError(f"Something went wrong ({type(error).__name__}).", "Try again; the console has the details.")
