"""Blocks of keys and values, and the table of those of one sequence. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

StateKey = tuple[int, int, str]
"""(layer, number of the state in it, "conv" or "recurrent")."""


@dataclass(eq=False)
class Block:
    """Keys and values of up to BLOCK `tokens`, at `number` in memory, used by so many tables.

    `before` is the digest of all tokens in front of them. Where `chat` is not "", no other chat may read the block. A
    block that is `spoiled` is of no use to anybody any more. Of a model with two groups of layers, those with a window
    have it at `place`, 0 for nowhere, where so many `viewers` among the tables need it.
    """

    number: int
    chat: str
    before: bytes = b""
    tokens: list[int] = field(default_factory=list)
    users: int = 1
    spoiled: bool = False
    place: int = 0
    viewers: int = 0


class States(Protocol):
    """What layers without keys and values keep of a sequence: see recurrent_states.py."""

    @property
    def tensors(self) -> Mapping[StateKey, Any]:
        """By layer, number in it and kind."""

    def propose(self, tensors: Mapping[StateKey, Any]) -> None:
        """What the states become with the tokens of a pass, once `commit` is called."""

    def commit(self) -> None:
        """The tokens of the last pass are stored."""

    def copy(self) -> Self:
        """The same in memory of its own."""

    def fork(self) -> Self:
        """Another sequence with these states."""


HOLE = Block(0, "")
"""Stands in tables for a block that no token sees any more."""


@dataclass(eq=False)
class BlockTable:
    """The blocks of one sequence, in order. `length` tokens are stored; `digest` is that of those in full blocks.

    It begins with a salt: see BlockDigests. Its first `saved` blocks are known to be on disk: see disk_tier.py. Layers
    with a window do not see its first `gone` blocks any more: those are holes where all layers have one.

    `states` are those behind its tokens, None where a model keeps none. They were kept at the end of `marked` last, if
    at all; the prompt has so many whole `prompt_blocks`, without its last token.
    """

    chat: str
    blocks: list[Block] = field(default_factory=list)
    length: int = 0
    digest: bytes = b""
    saved: int = 0
    gone: int = 0
    states: States | None = None
    marked: Block | None = None
    prompt_blocks: int = 0

    @property
    def numbers(self) -> list[int]:
        """Where the blocks lie in memory."""
        return [block.number for block in self.blocks]

    @property
    def held(self) -> list[Block]:
        """The blocks without holes."""
        return [block for block in self.blocks if block is not HOLE]


@dataclass(frozen=True)
class CachedPrefix:
    """What is computed of a prompt: whole blocks, and `common` tokens of one more, which `goes_on` or is copied.

    In a window, the first of the whole blocks are holes.
    """

    whole: list[Block]
    part: Block | None
    common: int
    goes_on: bool
