"""The generation trace of a reply: probabilities, ranks and candidates of its tokens. Pure."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Self, overload

from pydantic import Field

OWN_IDS = 1_000_000_000
"""Ids from here on are ours: of tokens whose texts are known but not their ids."""
ALTERNATIVES = 10
"""How many of the likeliest tokens a trace has at each token, unless a request asks for another number."""


@dataclass(frozen=True)
class TokenTrace:
    """One token of a reply, sampled `at` seconds after the start of the prefill.

    `probability` is the model's own, before any sampling setting. `rank` is the token's rank by it, 1 for the
    likeliest. `entropy` is that of the model's distribution, in bits. `ids` are the candidates: the likeliest tokens
    and the chosen one. `steps` has for each sampling step of `names` the probabilities of the candidates after it, 0
    for those that it removed. The first step is the model itself.
    """

    id: int
    at: float
    probability: float
    rank: int
    entropy: float
    ids: tuple[int, ...]
    names: tuple[str, ...]
    steps: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Traces(Sequence[TokenTrace]):
    """A reply's TokenTraces as packed binary records, which are quick to create and to store.

    `data` has a record of 4-byte numbers for each token. It begins with `width` integers: the ids of the candidates,
    then the id of the chosen token, which may be among them. Floats follow: `at`, `rank`, `entropy` and, for each step
    of `names`, the probabilities of these `width` ids.
    """

    names: tuple[str, ...] = ()
    width: int = 1
    data: Annotated[bytes, Field(exclude=True)] = field(default=b"", repr=False)

    @classmethod
    def of(cls, traces: Sequence[TokenTrace]) -> Self:
        """Pack traces, which must all have the same `names`."""
        width = max((len(trace.ids) for trace in traces), default=0) + 1
        data = bytearray()
        for trace in traces:
            # A trace with fewer candidates than others is padded with its chosen token.
            chosen, padding = trace.ids.index(trace.id), width - len(trace.ids)
            data += array("i", (*trace.ids, *[trace.id] * padding)).tobytes()
            data += array("f", (trace.at, trace.rank, trace.entropy)).tobytes()
            for step in trace.steps:
                data += array("f", (*step, *[step[chosen]] * padding)).tobytes()
        return cls(traces[0].names if traces else (), width, bytes(data))

    def __post_init__(self) -> None:
        """Raises ValueError if `data` ends within a record."""
        if self.width < 1 or len(self.data) % (4 * self._record_size):
            raise ValueError("traces that end within a token's")

    @property
    def chosen_ids(self) -> list[int]:
        """The ids of the chosen tokens, in order."""
        return self._integers[self.width - 1 :: self._record_size].tolist()

    @property
    def all_ids(self) -> set[int]:
        """The ids of all candidates and chosen tokens."""
        ids = self._integers
        return {id for start in range(0, len(ids), self._record_size) for id in ids[start : start + self.width]}

    @property
    def at(self) -> list[float]:
        """The time of each token in seconds after the start of the prefill."""
        return [*self._floats[self.width :: self._record_size]]

    @property
    def ranks(self) -> list[int]:
        """The rank of each token by the model's own probabilities, 1 for the likeliest."""
        return [int(rank) for rank in self._floats[self.width + 1 :: self._record_size]]

    @property
    def entropies(self) -> list[float]:
        """The entropy of the model's distribution at each token, in bits."""
        return [*self._floats[self.width + 2 :: self._record_size]]

    @property
    def _integers(self) -> "memoryview[int]":
        return memoryview(self.data).cast("i")

    @property
    def _floats(self) -> "memoryview[float]":
        return memoryview(self.data).cast("f")

    @property
    def _record_size(self) -> int:
        """How many 4-byte numbers a record has."""
        return self.width + 3 + len(self.names) * self.width

    def __len__(self) -> int:
        """The number of tokens."""
        return len(self.data) // (4 * self._record_size)

    @overload
    def __getitem__(self, index: int) -> TokenTrace: ...

    @overload
    def __getitem__(self, index: slice) -> Self: ...

    def __getitem__(self, index: int | slice) -> TokenTrace | Self:
        """The trace of one token, or the traces of a slice."""
        positions = range(len(self))[index]
        if isinstance(positions, range):
            record_bytes = 4 * self._record_size
            records = b"".join(self.data[record_bytes * at : record_bytes * (at + 1)] for at in positions)
            return type(self)(self.names, self.width, records)
        start = self._record_size * positions
        ids = self._integers[start : start + self.width].tolist()
        at, rank, entropy, *probabilities = self._floats[start + self.width : start + self._record_size]
        candidates = tuple(dict.fromkeys(ids))
        return TokenTrace(
            id=ids[-1],
            at=at,
            probability=probabilities[self.width - 1],
            rank=int(rank),
            entropy=entropy,
            ids=candidates,
            names=self.names,
            steps=tuple(
                tuple(probabilities[step : step + len(candidates)]) for step in range(0, len(probabilities), self.width)
            ),
        )
