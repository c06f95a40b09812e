"""Everything that a run found out: gathered, and written as JSON."""

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from scripts.benchmark.figures import Interruption, Wave
from scripts.benchmark.options import Options
from scripts.benchmark.texts import Lengths

PACKAGES = ("torch", "transformers", "gradio", "numpy")


@dataclass(frozen=True)
class Scene:
    """One thing that is done to every server; without `users` it is the interruption."""

    prompt: int
    users: int | None = None

    @property
    def title(self) -> str:
        """How progress and errors call it."""
        if self.users is None:
            return f"interruption by {self.prompt:,} tokens"
        return f"{self.users} user{'s' * (self.users > 1)}, prompts of {self.prompt:,} tokens"


@dataclass(frozen=True)
class Measurement:
    """What one server did in one scene of one round, or why it did not."""

    round: int
    scene: Scene
    server: str
    outcome: Wave | Interruption | str


@dataclass
class Results:
    """A run as it grows. `others_busy`: percent of the machine that is in use while no server is asked anything."""

    options: Options
    lengths: Lengths
    weight_bytes: Mapping[str, int | None]
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    bandwidth: list[float] = field(default_factory=list)
    others_busy: list[float] = field(default_factory=list)
    measured: list[Measurement] = field(default_factory=list)

    @property
    def servers(self) -> list[str]:
        """Their names in the order of the tables."""
        return list(self.weight_bytes)

    @property
    def least_weight_bytes(self) -> int:
        """Of the servers, as far as they are known: what a token reads at least."""
        return min((size for size in self.weight_bytes.values() if size), default=2**28)

    def waves(self, scene: Scene, server: str) -> list[Wave]:
        """What a server did in a scene, over the rounds."""
        return [each.outcome for each in self._of(scene, server) if isinstance(each.outcome, Wave)]

    def interruptions(self, scene: Scene, server: str) -> list[Interruption]:
        """What a server did in an interruption, over the rounds."""
        return [each.outcome for each in self._of(scene, server) if isinstance(each.outcome, Interruption)]

    def failures(self) -> list[str]:
        """One line for each thing that went wrong."""
        lines = (f"{each.scene.title}: {each.outcome}" for each in self.measured if isinstance(each.outcome, str))
        return list(dict.fromkeys(lines))

    def write(self, path: Path) -> None:
        """All of it as JSON; times in seconds of one clock."""
        options = {name: value for name, value in asdict(self.options).items() if name not in ("json", "others")}
        others = [{"name": other.name, "url": other.url, "model": other.model} for other in self.options.others]
        record = {
            "date": self.started,
            "machine": machine(),
            "versions": versions(),
            "options": {**options, "others": others},
            "lengths": asdict(self.lengths),
            "weight_bytes": dict(self.weight_bytes),
            "gigabytes_per_second": self.bandwidth,
            "others_busy_percent": self.others_busy,
            "measured": [_raw(each) for each in self.measured],
        }
        path.write_text(json.dumps(record, indent=1) + "\n")

    def _of(self, scene: Scene, server: str) -> list[Measurement]:
        return [each for each in self.measured if each.scene == scene and each.server == server]


def _raw(measured: Measurement) -> dict[str, Any]:
    scene = {"round": measured.round, "server": measured.server, **asdict(measured.scene)}
    outcome = {"error": measured.outcome} if isinstance(measured.outcome, str) else asdict(measured.outcome)
    return {**scene, **outcome}


def machine() -> dict[str, Any]:
    """What the run ran on."""
    return {"processor": processor(), "cores": os.cpu_count(), "system": platform.platform()}


def processor() -> str:
    """The processor's name, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Python's and those of the packages that matter for speed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
