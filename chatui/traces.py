"""How the tokens of a reply were chosen, one by one and as columns. Pure."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Self, overload

from pydantic import Field


@dataclass(frozen=True)
class TokenTrace:
    """How one token of a reply was chosen, `at` seconds after its prompt began to be read.

    `probability` is the model's own, before any setting, `rank` its place by it, 1 the likeliest; `entropy`, in bits,
    is how undecided the model was. `ids` are the likeliest tokens, the chosen one among them; for each of them `steps`
    has its probability after each step: the model's own first, then those of `names`, 0 where the step ruled it out.
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
    """A reply's TokenTraces as plain numbers, which are quick to make and to keep.

    `data` has for each token a record of numbers of 4 bytes. First come `width` integers, the ids of the likeliest
    tokens and, last, of the chosen one, which may be among them too; then floating-point numbers: `at`, `rank` and
    `entropy` and, for each of `names`, the probabilities of these ids.
    """

    names: tuple[str, ...] = ()
    width: int = 1
    data: Annotated[bytes, Field(exclude=True)] = field(default=b"", repr=False)

    @classmethod
    def of(cls, traces: Sequence[TokenTrace]) -> Self:
        """The numbers of these traces, which all have the same names."""
        width = max((len(trace.ids) for trace in traces), default=0) + 1
        data = bytearray()
        for trace in traces:
            # Those that have fewer tokens than others have their own again.
            own, more = trace.ids.index(trace.id), width - len(trace.ids)
            data += array("i", (*trace.ids, *[trace.id] * more)).tobytes()
            data += array("f", (trace.at, trace.rank, trace.entropy)).tobytes()
            for step in trace.steps:
                data += array("f", (*step, *[step[own]] * more)).tobytes()
        return cls(traces[0].names if traces else (), width, bytes(data))

    def __post_init__(self) -> None:
        """Raises ValueError where there are not whole records."""
        if self.width < 1 or len(self.data) % (4 * self._size):
            raise ValueError("traces that end within a token's")

    @property
    def chosen_ids(self) -> list[int]:
        """The tokens that were chosen."""
        return self._integers[self.width - 1 :: self._size].tolist()

    @property
    def all_ids(self) -> set[int]:
        """All tokens of which something is told."""
        ids = self._integers
        return {id for first in range(0, len(ids), self._size) for id in ids[first : first + self.width]}

    @property
    def at(self) -> list[float]:
        """When each was chosen, in seconds."""
        return [*self._floats[self.width :: self._size]]

    @property
    def ranks(self) -> list[int]:
        """Their places by the model's own probabilities, 1 the likeliest."""
        return [int(rank) for rank in self._floats[self.width + 1 :: self._size]]

    @property
    def entropies(self) -> list[float]:
        """How undecided the model was, in bits."""
        return [*self._floats[self.width + 2 :: self._size]]

    @property
    def _integers(self) -> "memoryview[int]":
        return memoryview(self.data).cast("i")

    @property
    def _floats(self) -> "memoryview[float]":
        return memoryview(self.data).cast("f")

    @property
    def _size(self) -> int:
        """Numbers in a record."""
        return self.width + 3 + len(self.names) * self.width

    def __len__(self) -> int:
        """How many tokens were chosen."""
        return len(self.data) // (4 * self._size)

    @overload
    def __getitem__(self, index: int) -> TokenTrace: ...

    @overload
    def __getitem__(self, index: slice) -> Self: ...

    def __getitem__(self, index: int | slice) -> TokenTrace | Self:
        """How one token was chosen, or several."""
        places = range(len(self))[index]
        if isinstance(places, range):
            length = 4 * self._size
            some = b"".join(self.data[length * at : length * (at + 1)] for at in places)
            return type(self)(self.names, self.width, some)
        first = self._size * places
        ids = self._integers[first : first + self.width].tolist()
        seconds, rank, entropy, *shares = self._floats[first + self.width : first + self._size]
        alone = tuple(dict.fromkeys(ids))
        return TokenTrace(
            id=ids[-1],
            at=seconds,
            probability=shares[self.width - 1],
            rank=int(rank),
            entropy=entropy,
            ids=alone,
            names=self.names,
            steps=tuple(tuple(shares[at : at + len(alone)]) for at in range(0, len(shares), self.width)),
        )
