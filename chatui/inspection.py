"""What is kept of how a reply came about: the objects that produced it, packed small, to be looked at later. Pure."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import TypeAdapter, ValidationError

from chatui.chat import Finish, ModelInfo, Prompt, TokenTrace

LARGEST = 64_000_000
"""Bytes of one inspection unpacked: far more than the longest context takes."""

QUICKLY = 1
"""How much it is packed: a fifth larger than by zlib's own choice, in a fifth of the time, which the model can use."""


@dataclass(frozen=True)
class Inspection:
    """One reply: the model as it was, its prompt, and how each token was chosen.

    `texts` spells the tokens that the traces name.
    """

    model: ModelInfo
    prompt: Prompt
    traces: tuple[TokenTrace, ...] = ()
    texts: Mapping[int, str] = field(default_factory=dict)
    finish: Finish | None = None

    def packed(self) -> bytes:
        """As it is kept."""
        return zlib.compress(ADAPTER.dump_json(self), QUICKLY)

    @classmethod
    def unpacked(cls, data: bytes) -> "Inspection | None":
        """What was kept; None where it cannot be understood any more."""
        unpacking = zlib.decompressobj()
        try:
            text = unpacking.decompress(data, LARGEST)
            return ADAPTER.validate_json(text) if not unpacking.unconsumed_tail else None
        except (zlib.error, ValidationError):
            return None


ADAPTER: TypeAdapter[Inspection] = TypeAdapter(Inspection)
