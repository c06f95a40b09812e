"""Bytes of keys and values (K/V) for one token, and which layers keep only those in a window."""

from dataclasses import dataclass


@dataclass(frozen=True)
class WindowedLayers:
    """The layers that see a `window` of tokens at most, in a model whose other layers see all.

    `kv_per_token` are their bytes in one token's KV cache, `int8_kv_per_token` the same with --kv-dtype int8.
    """

    window: int
    kv_per_token: int
    int8_kv_per_token: int = 0


@dataclass(frozen=True)
class KVSize:
    """Bytes of K/V for one token, what layers see of them, and bytes of the states that a sequence has beside them, as
    ModelAnatomy has it.
    """

    per_token: int
    window: int | None = None
    windowed: WindowedLayers | None = None
    state_bytes: int = 0
