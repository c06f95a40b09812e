"""Which copies of states are kept, and where a sequence may go on."""

from collections.abc import Mapping
from typing import Any

from chatui.engine.batching.block_table import Block, BlockTable, StateKey
from chatui.engine.batching.state_snapshots import StateSnapshots


class FakeStates:
    """States that tell whose they are."""

    def __init__(self, name: str = "new") -> None:
        self.name = name

    @property
    def tensors(self) -> Mapping[StateKey, Any]:
        return {}

    def propose(self, tensors: Mapping[StateKey, Any]) -> None: ...

    def commit(self) -> None: ...

    def copy(self) -> "FakeStates":
        return FakeStates(self.name)

    def fork(self) -> "FakeStates":
        return FakeStates(self.name)


def block(tokens: int = 3) -> Block:
    return Block(1, "", tokens=[7] * tokens)


def keep(snapshots: StateSnapshots, held: Block, name: str) -> None:
    snapshots.keep(held, BlockTable("", states=FakeStates(name)))


def start(snapshots: StateSnapshots, held: Block | None) -> str:
    states = snapshots.start(held)
    assert isinstance(states, FakeStates)
    return states.name


def test_a_model_without_states_needs_none() -> None:
    snapshots, held = StateSnapshots(), block()
    assert snapshots.allow(held, 3)
    assert snapshots.allow(None, 0)
    assert snapshots.allow(held, 2, copied=True)
    assert snapshots.start(held) is None
    snapshots.keep(held, BlockTable(""))
    assert len(snapshots) == 0


def test_a_sequence_goes_on_only_where_states_were_kept() -> None:
    snapshots, held = StateSnapshots(2, FakeStates()), block()
    assert start(snapshots, None) == "new"
    assert not snapshots.allow(held, 3)
    keep(snapshots, held, "a")
    assert snapshots.allow(held, 3)
    assert not snapshots.allow(held, 2), "states cannot go back"
    assert not snapshots.allow(held, 3, copied=True), "and they are not those of another block"
    assert start(snapshots, held) == "a"
    held.tokens.append(8)
    assert not snapshots.allow(held, 4)
    keep(snapshots, held, "b")
    assert start(snapshots, held) == "b"
    assert len(snapshots) == 1
    snapshots.drop(held)
    assert not snapshots.allow(held, 4)


def test_the_least_recently_used_go_first() -> None:
    snapshots, blocks = StateSnapshots(2, FakeStates()), [block() for _ in range(3)]
    for name, held in zip("ab", blocks, strict=False):
        keep(snapshots, held, name)
    assert start(snapshots, blocks[0]) == "a"
    keep(snapshots, blocks[2], "c")
    assert [snapshots.allow(held, 3) for held in blocks] == [True, False, True]
