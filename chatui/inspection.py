"""What is kept of how a reply came about: the objects that produced it, packed small, to be looked at later. Pure."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import BeforeValidator, TypeAdapter

from chatui.chat import Finish, ModelInfo, Prompt
from chatui.traces import TokenTrace, Traces

MAX_BYTES = 64_000_000
"""Bytes of one inspection unpacked: far more than the longest context takes."""

COMPRESSION_LEVEL = 1
"""How much it is packed: a fifth larger than by zlib's own choice, in a fifth of the time, which the model can use."""


def _columns(found: Any) -> Any:
    """Traces as columns; they were kept one by one in the beginning."""
    return Traces.of(ROWS.validate_python(found, strict=False)) if isinstance(found, list) else found


@dataclass(frozen=True)
class Inspection:
    """One reply: the model as it was, its prompt, and how each token was chosen.

    `texts` spells the tokens that the traces name.
    """

    model: ModelInfo
    prompt: Prompt
    traces: Annotated[Traces, BeforeValidator(_columns)] = field(default_factory=Traces)
    texts: Mapping[int, str] = field(default_factory=dict)
    finish: Finish | None = None

    def packed(self) -> bytes:
        """As it is kept: JSON, packed, and behind it the numbers of the traces, of which packing would save little."""
        return zlib.compress(ADAPTER.dump_json(self), COMPRESSION_LEVEL) + self.traces.data

    @classmethod
    def unpacked(cls, data: bytes) -> "Inspection | None":
        """What was kept; None where it cannot be understood any more."""
        unpacking = zlib.decompressobj()
        try:
            text = unpacking.decompress(data, MAX_BYTES)
            found = ADAPTER.validate_json(text)
            data = unpacking.unused_data or found.traces.data
            return replace(found, traces=replace(found.traces, data=data)) if not unpacking.unconsumed_tail else None
        except (zlib.error, ValueError):
            return None


ROWS = TypeAdapter(list[TokenTrace])
ADAPTER = TypeAdapter(Inspection)
