"""Longrope: positions are encoded with other frequencies in sequences longer than a limit, as in Phi-3 and Phi-4-mini.

transformers takes the frequencies of the longest row for a whole batch. Here each token has those that it has in
`generate()`: the long ones, where its sequence exceeded the limit when the token was read. So a token's keys and values
depend on its position and on the length at which its sequence was read.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel

_read_as: ContextVar[torch.Tensor | int | None] = ContextVar("read_as", default=None)


@dataclass(frozen=True)
class Longrope:
    """Sequences of more than `limit` tokens have the long frequencies.

    Where the model `rereads`, `generate()` drops its cache when a sequence exceeds the limit, and reads it anew.
    """

    limit: int
    rereads: bool


def find_longrope(model: PreTrainedModel) -> Longrope | None:
    """What is known of the model's longrope, None where it has none."""
    limits = {module.limit for module in model.modules() if isinstance(module, LongropeByRow)}
    limits |= {_limit(module) for module in model.modules() if _is_longrope(module)}
    if not limits:
        return None
    [limit] = limits
    return Longrope(limit, _rereads(model, limit))


def encode_by_row(model: PreTrainedModel) -> None:
    """Let each row have its own frequencies inside `read_as`. Raises ValueError where the layers' ropes differ."""
    for parent in [module for module in model.modules() if not isinstance(module, LongropeByRow)]:
        for name, child in list(parent.named_children()):
            if _is_longrope(child):
                setattr(parent, name, LongropeByRow(child))
            elif "longrope" in _rope_types(child):
                raise ValueError("some layers have longrope, others have not")


@contextmanager
def read_as(lengths: torch.Tensor | int) -> Iterator[None]:
    """Inside, tokens belong to sequences that were read as so many tokens, or are as long as their positions say.

    `lengths` is for all tokens or has shape [rows, tokens].
    """
    token = _read_as.set(lengths)
    try:
        yield
    finally:
        _read_as.reset(token)


class LongropeByRow(nn.Module):
    """Stands for a model's rotary embedding. Outside `read_as` it is the model's own."""

    def __init__(self, own: nn.Module) -> None:
        super().__init__()
        self.own, self.limit = own, _limit(own)
        self.short, self.long = _fixed(own, self.limit), _fixed(own, self.limit + 1)

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Cosines and sines [rows, tokens, size] for positions [rows, tokens]."""
        lengths = _read_as.get()
        if lengths is None:
            own: tuple[torch.Tensor, ...] = self.own(x, position_ids)
            return own
        is_long = ((position_ids >= self.limit) | (lengths > self.limit))[..., None]
        # PhiMoE's scales them by the highest position: one more makes it long, and those that are cut are always long.
        short = self.short(x, position_ids.clamp(max=self.limit - 1))
        beyond = torch.full_like(position_ids[:, :1], self.limit)
        long = self.long(x, torch.cat((position_ids, beyond), 1))
        return tuple(torch.where(is_long, b[:, :-1], a) for a, b in zip(short, long, strict=True))


def _fixed(own: nn.Module, length: int) -> nn.Module:
    """A copy of a rotary embedding that keeps the frequencies of a sequence of so many tokens."""
    fixed = copy.deepcopy(own)
    frequencies: Any = fixed.inv_freq
    fixed(frequencies, torch.tensor([[length - 1]], device=frequencies.device))
    fixed.rope_type = "default"  # type: ignore[assignment] # or transformers chooses them anew at each call
    return fixed


def _rope_types(module: nn.Module) -> set[Any]:
    """The kinds of rope of a rotary embedding; some have one for each kind of layer."""
    found: Any = getattr(module, "rope_type", None)
    return set(found.values()) if isinstance(found, dict) else {found}


def _is_longrope(module: nn.Module) -> bool:
    return getattr(module, "rope_type", None) == "longrope"


def _limit(module: nn.Module) -> int:
    config: Any = module.config
    return int(config.rope_parameters["original_max_position_embeddings"])


def _rereads(model: PreTrainedModel, limit: int) -> bool:
    """Whether the model's own preparation for `generate()` drops a cache behind which the limit is exceeded."""
    prepare: Any = model
    inputs = prepare.prepare_inputs_for_generation(
        torch.zeros(1, limit + 1, dtype=torch.long, device=model.device),
        past_key_values=DynamicCache(config=model.config.get_text_config(decoder=True)),
        next_sequence_length=1,
        use_cache=True,
    )
    return inputs.get("past_key_values") is None
