"""Names for the beginnings of a sequence, by which blocks of keys and values are found. Pure."""

import hashlib
from array import array
from collections.abc import Sequence

from chatui.estimates import ATTENTION_BLOCK as BLOCK


class BlockDigests:
    """Digests of a sequence's beginnings in whole blocks. Each is computed once, when it is first asked for: whether
    there is room for a long prompt may be asked at every step.

    Sequences with another `salt` share no blocks: their tokens have other keys.
    """

    def __init__(self, ids: Sequence[int], salt: bytes = b"") -> None:
        self.ids = ids
        self._chain = [salt]

    def of(self, blocks: int) -> bytes:
        """The digest of all tokens in the first `blocks`."""
        for at in range(len(self._chain) - 1, blocks):
            self._chain.append(chain_digest(self._chain[at], self.ids[BLOCK * at : BLOCK * (at + 1)]))
        return self._chain[blocks]


def chain_digest(before: bytes, tokens: Sequence[int]) -> bytes:
    """The digest of all tokens up to the last of these, `before` being that of those in front."""
    return hashlib.sha256(before + array("q", tokens).tobytes()).digest()
