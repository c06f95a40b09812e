"""What the arithmetic and the simulation of capacity start from: costs, what users do, engines, and what there is."""

from collections.abc import Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Costs:
    """What things cost, in seconds of a core (`page`, `database`, `proxy`) or bytes.

    `_idle` are cores of a server that nobody uses. `_tab` are cores of an open tab. `_reply` are cores of a reply while
    it is written, of which `writer_reply` are seconds of the one thread that saves replies. `redraw` is an update of a
    tab. `notifying` are transactions with NOTIFY that the database commits in a second at most.
    """

    page_idle: float
    page_load: float
    page_tab: float
    page_turn: float
    page_token: float
    page_redraw: float
    page_reply: float
    writer_reply: float
    page_memory: float
    memory_tab: float
    page_files: float
    database_idle: float
    database_turn: float
    database_token: float
    database_reply: float
    statements_turn: float
    log_turn: float
    log_token: float
    log_reply: float
    stored_turn: float
    stored_token: float
    notifying: float
    proxy_load: float
    proxy_turn: float
    proxy_redraw: float
    bytes_load: float
    bytes_turn: float
    bytes_redraw: float

    @classmethod
    def of(cls, told: Mapping[str, float]) -> "Costs":
        """Those of a file, in which there may be more."""
        return cls(**{field.name: told[field.name] for field in fields(cls)})


@dataclass(frozen=True)
class Load:
    """What so many users do at the busiest time. A `present` share of them has the page open; each of these sends
    `turns_per_hour` messages and loads the page `loads_per_hour` times. Of the `prompt_tokens`, a `cached` share is in
    the engine's cache.
    """

    users: int = 10_000
    present: float = 0.2
    turns_per_hour: float = 12.0
    loads_per_hour: float = 2.0
    reply_tokens: float = 300.0
    prompt_tokens: float = 1500.0
    cached: float = 0.6

    @property
    def tabs(self) -> float:
        """Open tabs."""
        return self.users * self.present

    @property
    def turns(self) -> float:
        """Turns a second."""
        return self.tabs * self.turns_per_hour / 3600

    @property
    def loads(self) -> float:
        """Page loads a second."""
        return self.tabs * self.loads_per_hour / 3600

    @property
    def read_tokens(self) -> float:
        """Tokens of a prompt that an engine reads."""
        return self.prompt_tokens * (1 - self.cached)


@dataclass(frozen=True)
class Engine:
    """A replica of an engine: it writes `rows` replies at once, at `tokens_per_second` in all, one alone at
    `alone_per_second`, and reads `read_per_second` tokens of prompts.
    """

    rows: int = 128
    tokens_per_second: float = 2500.0
    alone_per_second: float = 60.0
    read_per_second: float = 10_000.0

    @property
    def step_of_row(self) -> float:
        """Seconds that each row adds to a step; a step of b rows takes `step_alone` + b * `step_of_row`."""
        full = self.rows / self.tokens_per_second
        return max(0.0, (full - 1 / self.alone_per_second) / max(1, self.rows - 1))

    @property
    def step_alone(self) -> float:
        """Seconds of a step without rows: what weights take to be read."""
        return 1 / self.alone_per_second - self.step_of_row


@dataclass(frozen=True)
class Site:
    """What there is: so many page servers, each with a core, `page_memory` bytes and `files` it may open; the cores and
    connections of database and proxy; engines. Each page server lets `max_requests` replies run.
    """

    page_servers: int = 2
    replicas: int = 1
    page_memory: float = 2e9
    files: int = 1024
    database_cores: float = 4.0
    database_connections: int = 100
    proxy_cores: float = 2.0
    proxy_connections: int = 8192
    max_requests: int = 256
    queue: int = 64
    network: float = 125e6
