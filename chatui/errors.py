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


class ModelError(ChatError):
    """The model cannot be loaded, or is not there to answer."""

    status = 503


class GenerationError(ChatError):
    """The model failed while it was writing a reply."""

    status = 500


def unexpected(error: Exception) -> GenerationError:
    """What a user is told of an error that nobody foresaw; it says nothing of the inside."""
    return GenerationError(f"Something went wrong ({type(error).__name__}).", "Try again; the console has the details.")
