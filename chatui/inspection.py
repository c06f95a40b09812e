"""The generation trace of a reply with its model and prompt, compressed for the store. Pure."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import BeforeValidator, TypeAdapter

from chatui.chat import Finish, ModelInfo, Prompt
from chatui.traces import TokenTrace, Traces

MAX_BYTES = 64_000_000
"""Largest size of the decompressed JSON of an inspection, in bytes. The longest context takes far less."""

COMPRESSION_LEVEL = 1
"""zlib's compression level: the result is a fifth larger than at the default level, and takes a fifth of the time."""


def _as_columns(traces: Any) -> Any:
    """Converts the traces of early versions, a list with one object for each token."""
    return Traces.of(ROWS.validate_python(traces, strict=False)) if isinstance(traces, list) else traces


@dataclass(frozen=True)
class Inspection:
    """A reply's model, prompt, generation trace and finish.

    `texts` has the text of each token in the traces, by its id.
    """

    model: ModelInfo
    prompt: Prompt
    traces: Annotated[Traces, BeforeValidator(_as_columns)] = field(default_factory=Traces)
    texts: Mapping[int, str] = field(default_factory=dict)
    finish: Finish | None = None

    def packed(self) -> bytes:
        """The bytes to store: compressed JSON, then the records of the traces, which hardly compress."""
        return zlib.compress(ADAPTER.dump_json(self), COMPRESSION_LEVEL) + self.traces.data

    @classmethod
    def unpacked(cls, data: bytes) -> "Inspection | None":
        """Parse stored bytes; None if they are invalid or larger than MAX_BYTES."""
        decompressor = zlib.decompressobj()
        try:
            text = decompressor.decompress(data, MAX_BYTES)
            inspection = ADAPTER.validate_json(text)
            data = decompressor.unused_data or inspection.traces.data
            return (
                replace(inspection, traces=replace(inspection.traces, data=data))
                if not decompressor.unconsumed_tail
                else None
            )
        except (zlib.error, ValueError):
            return None


ROWS = TypeAdapter(list[TokenTrace])
ADAPTER = TypeAdapter(Inspection)
