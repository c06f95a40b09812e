"""The texts of a remote model's tokens by their ids, as they have come with its replies."""

import threading
from collections.abc import Collection

from chatui.traces import OWN_IDS

MAX_TEXTS = 1_000_000


class Vocabulary:
    """Texts by id. Tokens without an id get one of ours, the same for the same text. Thread-safe."""

    def __init__(self) -> None:
        self._texts: dict[int, str] = {}
        self._own: dict[str, int] = {}
        self._lock = threading.Lock()

    def add(self, text: str, id: int | None = None) -> int:
        """The id of a token with this text."""
        with self._lock:
            if id is not None and 0 <= id < OWN_IDS:
                if len(self._texts) < MAX_TEXTS:
                    self._texts[id] = text
                return id
            known = self._own.get(text)
            if known is None:
                known = OWN_IDS + len(self._own) % MAX_TEXTS
                self._own[text] = known
                self._texts[known] = text
            return known

    def texts(self, ids: Collection[int]) -> dict[int, str]:
        """The texts of these ids, as far as they are known."""
        with self._lock:
            return {id: self._texts[id] for id in ids if id in self._texts}
