"""The parts of a reply, thought and content, and what a splitter of them offers."""

from typing import NamedTuple, Protocol

from chatui.reply_text.thinking_tags import Tags


class Parts(NamedTuple):
    """What a piece of a reply adds.

    With `folds` the content so far was a thought, and `folds` is the rest of it.
    """

    content: str = ""
    thought: str = ""
    folds: str | None = None

    def then(self, more: "Parts") -> "Parts":
        """This followed by `more`."""
        if more.folds is not None:
            before = self.content if self.folds is None else self.folds + self.thought + self.content
            return more._replace(folds=(before + more.folds))
        return Parts(self.content + more.content, self.thought + more.thought, self.folds)


NOTHING = Parts()


class Splitter(Protocol):
    """Splits a reply into thought and content as it arrives; `finished` once the reply has ended.

    `thinking` holds the tags of the thought that is open, if any.
    """

    finished: bool

    @property
    def thinking(self) -> Tags | None:
        """See the class."""

    def push(self, text: str) -> Parts:
        """What this piece adds."""

    def flush(self) -> Parts:
        """The text that was held back because it could have been the start of a tag."""
