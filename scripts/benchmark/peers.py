"""Other engines on the same GGUF file, for the time of a measurement: installed, started, stopped."""

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from chatui.engine.loading import embedded
from chatui.settings import DEFAULT_MODEL, AppSettings
from scripts.benchmark.server import Address, HttpServer, connected
from scripts.benchmark.server_process import POLL_SECONDS, ROOT, log_text, started_process
from scripts.benchmark.target import BenchError

PATIENCE_SECONDS = 300.0
"""How long a peer may take to start: Ray takes minutes on a busy machine."""
END_SECONDS = 30.0
"""How long it may take to end by itself."""


@dataclass(frozen=True)
class Peer:
    """An engine: the packages that it is installed from, and the script in this folder that serves a model by it.

    The script prints "ready URL", and ends with its standard input. `variables` are added to its environment.
    """

    requirements: tuple[str, ...]
    script: str
    variables: Mapping[str, str] = field(default_factory=dict)


XLLAMACPP = "xllamacpp==2026.10.11549"
PEERS = {
    "openvino": Peer(("openvino-genai==2026.4.0.0", "openvino==2026.4.0"), "openvino_peer.py"),
    "llama.cpp": Peer((XLLAMACPP,), "llama_cpp_peer.py"),
}
"""By the names that --peer takes."""
# The second is Ray's name for a cluster of one computer, which listens on no other address.
RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
RAY_SERVE = Peer(("ray[serve]==2.60.0", XLLAMACPP, "httpx==0.28.1"), "ray_serve_peer.py", RAY)


def model_file(settings: AppSettings) -> Path:
    """The GGUF file that our server serves with these settings. Raises BenchError."""
    model = settings.model[0]
    if model == DEFAULT_MODEL and (found := embedded.find()):
        return found
    if model.endswith(".gguf"):
        return Path(model).absolute()
    raise BenchError("peers load GGUF files alone; choose one with --model")


@asynccontextmanager
async def running(name: str, model: Path, users: int, cache_dir: Path) -> AsyncIterator[HttpServer]:
    """The peer with this model, for so many users at once. Raises BenchError where it fails to install or start."""
    async with (
        started(name, PEERS[name], cache_dir, str(model), str(users)) as url,
        connected(Address(f"{url}/v1", name, weight_bytes=model.stat().st_size)) as server,
    ):
        yield server


@asynccontextmanager
async def started(name: str, peer: Peer, cache_dir: Path, *arguments: str) -> AsyncIterator[str]:
    """The address of the peer's script with these arguments. Raises BenchError where it fails to install or start."""
    python = await asyncio.to_thread(_environment, peer.requirements, cache_dir)
    script = Path(__file__).parent / peer.script
    # What it writes to a home stays in its own, and no consent to telemetry is found there.
    environment = {**os.environ, "HOME": str(python.parents[1]), "PYTHONPATH": str(ROOT), **peer.variables}
    command = [str(python), str(script), *arguments]
    with (
        tempfile.TemporaryFile("w+") as log,
        started_process(command, environment, log, stdin=subprocess.PIPE) as process,
    ):
        url = ""
        for _ in range(int(PATIENCE_SECONDS / POLL_SECONDS)):
            await asyncio.sleep(POLL_SECONDS)
            if found := re.search(r"^ready (http://\S+)$", log_text(log), re.MULTILINE):
                url = found[1]
            if url or process.poll() is not None:
                break
        if not url:
            last = (log_text(log).strip().splitlines() or [f"exit code {process.poll()}"])[-1]
            raise BenchError(f"{name} did not start: {last}")
        try:
            yield url
        finally:
            assert process.stdin is not None
            process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(process.wait, END_SECONDS)


def _environment(requirements: Sequence[str], cache_dir: Path) -> Path:
    """The Python of an environment with these packages, made where there is none. Raises BenchError."""
    digest = sha256("\n".join((sys.version, *requirements)).encode()).hexdigest()
    folder = cache_dir / "bench" / digest[:16]
    python = folder / "bin" / "python"
    complete = folder / "complete"
    if not complete.exists():
        print(f"installing {', '.join(requirements)}", file=sys.stderr, flush=True)
        venv.create(folder, clear=True, with_pip=True)
        installed = subprocess.run(
            [python, "-m", "pip", "install", "--quiet", *requirements], capture_output=True, text=True, check=False
        )
        if installed.returncode:
            last = (installed.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise BenchError(f"{requirements[0]} cannot be installed: {last}")
        complete.touch()
    return python
