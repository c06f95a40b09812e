"""Token ids -> text in whole characters. Knows no model."""

from collections.abc import Callable

REPLACEMENT = "\ufffd"


# A character has at most 4 bytes in UTF-8, so at most 4 tokens. More of them that end in none are no text.
MAX_TOKENS_OF_CHARACTER = 4
MAX_UNFINISHED = 2 * MAX_TOKENS_OF_CHARACTER


class Detokenizer:
    """Decodes ids one by one so that the pieces joined equal the whole text and no piece ends in half a character.

    `decode` turns a list of ids into text. Each id costs two decodings of the last piece and at most MAX_UNFINISHED
    ids more, even where a model writes nothing but halves of characters.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._shown = 0  # characters of what the ids decode to
        self._unfinished = 0  # ids behind the last whole character

    def push(self, token_id: int) -> str:
        """The text that this id completes, or "" while a character is unfinished."""
        self._ids.append(token_id)
        self._unfinished += 1
        text = self._decode(self._ids)
        if not text.endswith(REPLACEMENT):
            return self._show(text, self._unfinished, held=0)
        if self._unfinished <= MAX_UNFINISHED:
            return ""
        # Later bytes can only complete the last character.
        return self._show(text, MAX_TOKENS_OF_CHARACTER, held=1)

    def flush(self) -> str:
        """What was held back when the reply ends in the middle of a character."""
        return self._decode(self._ids)[self._shown :] if self._unfinished else ""

    def _show(self, text: str, kept: int, held: int) -> str:
        """All of `text` but what was shown and its last `held` characters; goes on from the last `kept` ids."""
        shown = text[self._shown : len(text) - held]
        self._ids = self._ids[-kept:]
        self._shown = max(0, len(self._decode(self._ids)) - held)
        self._unfinished = self._unfinished if held else 0
        return shown
