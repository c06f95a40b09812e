"""What is known of a server that runs models for this one."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from chatui.i18n import N_

NO_CONTINUING = N_("This server cannot go on with a reply.")
NO_CONTINUED_THOUGHT = N_("This server cannot go on with a thought.")


@dataclass(frozen=True)
class ServerFacts:
    """What is known of the server that runs a remote model.

    `software` is its name and version. `unsupported` are the generation settings that it does not take, each with the
    reason. `continues`: it can go on with a reply. `tells_prompts` and `tells_ids`: it tells the text and
    tokens of prompts, and the ids of a reply's tokens.
    """

    software: str
    unsupported: Mapping[str, str] = field(default_factory=dict)
    continues: bool = True
    tells_prompts: bool = False
    tells_ids: bool = False


@dataclass(frozen=True)
class ServerActivity:
    """What the servers of a model tell of themselves at this moment; None is what they do not tell.

    They are writing `running` replies, at most `places` at once, and `waiting` requests come after them. Of a KV cache
    of `cache_tokens` tokens the share `cache_usage` is in use. Since they were started, the share `cache_hits` of the
    tokens of prompts was found in it. Shares are from 0 to 1.
    """

    running: int | None = None
    waiting: int | None = None
    places: int | None = None
    cache_tokens: int | None = None
    cache_usage: float | None = None
    cache_hits: float | None = None
