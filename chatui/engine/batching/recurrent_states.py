"""What layers without keys and values keep of a sequence: the states of convolutions, of state-space models and of
linear attention, in the form of transformers' LinearAttentionLayer.

States cannot go back: a sequence goes on only from where they are, or from where a copy was kept (state_snapshots.py).
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DummyLayer,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)

from chatui.engine.batching.block_table import StateKey, States


class SequenceStates:
    """The states of one sequence behind the tokens that its table holds, each [1, ...]; none before the first pass."""

    def __init__(self, tensors: Mapping[StateKey, Tensor] | None = None) -> None:
        self._tensors: Mapping[StateKey, Tensor] = tensors or {}
        self._next: Mapping[StateKey, Tensor] | None = None

    @property
    def tensors(self) -> Mapping[StateKey, Tensor]:
        """By layer, number in it and kind."""
        return self._tensors

    def propose(self, tensors: Mapping[StateKey, Tensor]) -> None:
        """What the states become with the tokens of a pass, once `commit` is called. A failed pass changes nothing."""
        self._next = tensors

    def commit(self) -> None:
        """The tokens of the last pass are stored."""
        self._tensors, self._next = self._next or self._tensors, None

    def copy(self) -> "SequenceStates":
        """The same in memory of its own: rows of a pass share that of all."""
        return SequenceStates({key: tensor.clone() for key, tensor in self.tensors.items()})

    def fork(self) -> "SequenceStates":
        """Another sequence with these states. A pass writes new ones, so both share these."""
        return SequenceStates(self.tensors)

    @property
    def nbytes(self) -> int:
        """Bytes of all states."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


@dataclass(frozen=True)
class StateLayout:
    """How many states each layer of a model keeps, which layers have `attention`, and the `argument` of its forward()
    that takes the cache.
    """

    counts: tuple[int, ...]
    attention: frozenset[int]
    argument: str

    @classmethod
    def of(cls, model: PreTrainedModel) -> "StateLayout | None":
        """The layout, or None for a model that keeps no states, or has a cache of its own kind."""
        accepted = inspect.signature(model.forward).parameters
        argument = next((name for name in ("past_key_values", "cache_params") if name in accepted), None)
        steps: Any = model  # what caches it takes comes from GenerationMixin, which is no base of PreTrainedModel
        if argument is None or not steps._supports_default_dynamic_cache():
            return None
        layers = DynamicCache(config=model.config.get_text_config(decoder=True)).layers
        counts = tuple(
            layer.number_of_states if isinstance(layer, LinearAttentionCacheLayerMixin) else 0 for layer in layers
        )
        attention = frozenset(index for index, layer in enumerate(layers) if isinstance(layer, CacheLayerMixin))
        return cls(counts, attention, argument) if any(counts) else None

    def stack(self, rows: Sequence[States]) -> "StackedStates":
        """A cache for a pass of these sequences, all of which have states, or none."""
        layers: list[Any] = [_StateLayer(count) if count else DummyLayer() for count in self.counts]
        for layer, number, kind in rows[0].tensors:
            layers[layer].restore(number, kind, torch.cat([row.tensors[layer, number, kind] for row in rows]))
        return StackedStates(layers)


class StackedStates(Cache):
    """The states of several sequences during a pass. Keys and values are not kept here: see attention.py."""

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:  # noqa: ARG002 - Cache's
        """The keys and values of the pass alone."""
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002 - Cache's
        """0: positions are told in each pass."""
        return 0

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:  # noqa: ARG002 - Cache's
        """As without a cache."""
        return query_length, 0

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """Not known. Raises NotImplementedError, so that a model that asks for it is found out when it is loaded."""
        raise NotImplementedError("positions are told in each pass")

    def rows(self, count: int) -> list[dict[StateKey, Tensor]]:
        """The states of each of so many sequences after the pass."""
        found = {
            (index, number, kind): tensor
            for index, layer in enumerate(self.layers)
            if isinstance(layer, _StateLayer)
            for number, kind, tensor in layer.kept()
        }
        return [{key: tensor[at : at + 1] for key, tensor in found.items()} for at in range(count)]


class _StateLayer(LinearAttentionLayer):
    """As its base, without marks for torch._dynamo, whose import takes a second."""

    def lazy_initialization(
        self,
        conv_states: Tensor | None = None,
        recurrent_states: Tensor | None = None,
        state_idx: int = 0,
        conv_kernel_size: int | None = None,
    ) -> None:
        if conv_states is not None:
            size = conv_states.shape[-1] if conv_kernel_size is None else conv_kernel_size
            self._place(state_idx, "conv", conv_states.new_zeros((*conv_states.shape[:-1], size)))
        if recurrent_states is not None:
            self._place(state_idx, "recurrent", torch.zeros_like(recurrent_states))

    def restore(self, number: int, kind: str, tensor: Tensor) -> None:
        """Go on from this state."""
        self._place(number, kind, tensor)
        self.has_previous_state[number] = True

    def kept(self) -> list[tuple[int, str, Tensor]]:
        """(number, kind, state) of all."""
        found = [(number, "conv", tensor) for number, tensor in self.conv_states.items()]
        found += [(number, "recurrent", tensor) for number, tensor in self.recurrent_states.items()]
        return [(number, kind, tensor) for number, kind, tensor in found if tensor is not None]

    def _place(self, number: int, kind: str, tensor: Tensor) -> None:
        if kind == "conv":
            self.conv_states[number], self.conv_kernel_size[number] = tensor, tensor.shape[-1]
            self.is_conv_states_initialized[number] = True
        else:
            self.recurrent_states[number] = tensor
            self.is_recurrent_states_initialized[number] = True
