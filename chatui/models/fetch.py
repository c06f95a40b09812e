"""Downloads a model from the Hub into the HF cache: what is needed, how far it is, pause, resume and cancel.

The bytes are fetched by a subprocess, so that pausing is ending it. That works at once, whatever it waits for.
Nothing is taken from the server's interpreter. What it has written stays, and the next subprocess continues there.
"""

import contextlib
import json
import shutil
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal

from chatui.errors import HubError
from chatui.models.fetch_process import PARTIAL, repository_folder
from chatui.models.file_choice import files_to_fetch
from chatui.models.hub import Hub, HubFile
from chatui.models.token_file import TokenFile, token_for_hub
from chatui.subprocesses import module_command, module_environment
from chatui.units import human_bytes

State = Literal["planned", "queued", "running", "paused", "done", "failed", "cancelled"]
RESERVE_BYTES = 200_000_000
"""What a download leaves free on the disk, so that chats can still be stored."""
SPEED_SECONDS = 10.0
RETRIES, RETRY_WAIT = 5, 1.0


@dataclass(frozen=True)
class DownloadPlan:
    """What to download. `repository` is the name that the Hub uses now; `commit` is what `revision` stands for."""

    repository: str
    revision: str
    commit: str
    files: tuple[HubFile, ...]
    cache: Path

    @property
    def total_bytes(self) -> int:
        """The size of all files."""
        return sum(file.size for file in self.files)

    @property
    def present_bytes(self) -> int:
        """What of them is in the cache already, whole files and parts."""
        return sum(self._present(file) for file in self.files)

    @property
    def snapshot(self) -> Path:
        """The folder of the model once all is there."""
        return repository_folder(self.cache, self.repository) / "snapshots" / self.commit

    @property
    def model(self) -> str:
        """What to give to --model: the name, or the path of a GGUF file."""
        is_gguf = len(self.files) == 1 and self.files[0].path.lower().endswith(".gguf")
        return str(self.snapshot / self.files[0].path) if is_gguf else self.repository

    @property
    def path(self) -> Path:
        """The folder or GGUF file of the model once all is there, as a scan of the cache names it."""
        folder = self.snapshot.resolve()
        return folder / self.files[0].path if self.pinned_revision is None else folder

    @property
    def pinned_revision(self) -> str | None:
        """The commit, to be given with `model`; None for the path of a GGUF file."""
        return self.commit if self.model == self.repository else None

    @property
    def free_bytes(self) -> int:
        """What is free on the disk of the cache."""
        return shutil.disk_usage(self._existing_folder).free

    @property
    def _existing_folder(self) -> Path:
        return next(folder for folder in (self.cache, *self.cache.absolute().parents) if folder.is_dir())

    def check_disk(self) -> None:
        """Raise HubError if the disk has no room for what is missing."""
        needed = self.total_bytes - self.present_bytes
        free, folder = self.free_bytes, self._existing_folder
        if needed and needed + RESERVE_BYTES > free:
            missing_size, free_size = human_bytes(needed), human_bytes(free)
            raise HubError(
                "disk full",
                f"{self.repository} needs {missing_size} more on the disk, and {free_size} are free.",
                f"Free some space (`chatui models rm`), or set HF_HOME to another disk (now on that of {folder}).",
            )

    def partial_file(self, file: HubFile) -> Path:
        """Where the subprocess writes a file until it is whole."""
        blob = self.blob(file)
        return blob.with_name(f"{blob.name}{PARTIAL}")

    def blob(self, file: HubFile) -> Path:
        """Where the HF cache has the content of a file."""
        return repository_folder(self.cache, self.repository) / "blobs" / file.etag

    def _present(self, file: HubFile) -> int:
        for path in (self.blob(file), self.snapshot / file.path, self.partial_file(file)):
            with contextlib.suppress(OSError):
                return min(path.stat().st_size, file.size)
        return 0


def plan_download(
    name: str, revision: str | None = None, gguf: str = "", hub: Hub | None = None, cache: Path | None = None
) -> DownloadPlan:
    """What fetching a model takes. `gguf` is a quantization or a file's path. Raises HubError."""
    from huggingface_hub import constants

    model = (hub or Hub()).model(name, revision)
    return DownloadPlan(
        model.id,
        revision or "main",
        model.commit,
        files_to_fetch(model.id, model.files, gguf),
        cache or Path(constants.HF_HUB_CACHE),
    )


@dataclass(frozen=True)
class Progress:
    """How far a download is. `speed` is in bytes/s over the last seconds; `seconds_left` is None if it is not known.

    `step` is "fetch", "check" (of a file's hash), "done" (with a file) or "link" (into the cache). `waiting` is the
    pause before a retry.
    """

    state: State
    bytes: int
    total: int
    file: str = ""
    step: str = "fetch"
    speed: float = 0.0
    waiting: float = 0.0
    error: HubError | None = None

    @property
    def seconds_left(self) -> float | None:
        """The time that the rest takes at this speed."""
        return (self.total - self.bytes) / self.speed if self.speed > 0 else None


class Download:
    """A download that can be paused, resumed and cancelled. Its methods may be called from any thread."""

    def __init__(
        self,
        plan: DownloadPlan,
        token_file: TokenFile | None = None,
        retries: int = RETRIES,
        retry_wait: float = RETRY_WAIT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.plan = plan
        self._token_file = token_file
        self._retries = retries
        self._retry_wait = retry_wait
        self._clock = clock
        self._changed = threading.Condition()
        self._progress = Progress("planned", 0, plan.total_bytes)
        self._samples: deque[tuple[float, int]] = deque()
        self._process: subprocess.Popen[str] | None = None

    @property
    def progress(self) -> Progress:
        """How far it is now."""
        with self._changed:
            return replace(self._progress, speed=self._speed())

    @property
    def process_id(self) -> int | None:
        """The id of the subprocess, if there is one."""
        with self._changed:
            return self._process.pid if self._process else None

    def start(self) -> None:
        """Start it, or go on after a pause or an error. Does nothing if it runs or is done. Raises HubError."""
        with self._changed:
            if self._progress.state in ("running", "done"):
                return
            self.plan.check_disk()
            self._samples.clear()
            self._set(state="running", bytes=self.plan.present_bytes, error=None, waiting=0.0)
            self._process = process = _start_process()
        threading.Thread(target=self._follow, args=(process,), name="download", daemon=True).start()

    resume = start

    def fail(self, error: HubError) -> None:
        """Note why it could not be started."""
        with self._changed:
            self._set(state="failed", error=error)

    def pause(self) -> None:
        """End the subprocess. What has come stays."""
        self._end("paused")

    def cancel(self) -> None:
        """End the subprocess, and delete what has come, unless another snapshot in the cache uses it."""
        if self._end("cancelled"):
            folder = repository_folder(self.plan.cache, self.plan.repository)
            used = {link.resolve() for link in folder.glob("snapshots/**/*")}
            for file in self.plan.files:
                self.plan.partial_file(file).unlink(missing_ok=True)
                if self.plan.blob(file).resolve() not in used:
                    self.plan.blob(file).unlink(missing_ok=True)

    def wait(self, seconds: float | None = None) -> Progress:
        """Wait until it no longer runs, `seconds` at most."""
        with self._changed:
            self._changed.wait_for(lambda: self._progress.state != "running", seconds)
            return replace(self._progress, speed=self._speed())

    def __iter__(self) -> Iterator[Progress]:
        """Its progress at each change and each second, until it no longer runs."""
        while True:
            with self._changed:
                seen = self._progress
            yield self.progress
            with self._changed:
                if self._progress.state != "running" and self._progress is seen:
                    return
                self._changed.wait_for(lambda: self._progress is not seen, 1.0)  # noqa: B023 - called here only

    def _end(self, state: State) -> bool:
        """Kill the subprocess, and set a state unless it is done. Returns whether it was not done."""
        with self._changed:
            if self._progress.state in ("done", "cancelled"):
                return False
            process, self._process = self._process, None
            self._set(state=state, waiting=0.0)
        if process is not None:
            process.kill()
            process.wait()
        return True

    def _follow(self, process: subprocess.Popen[str]) -> None:
        """Send the order to the subprocess, and read its reports to the end."""
        with process:
            with contextlib.suppress(BrokenPipeError):  # it was ended meanwhile
                _send(process.stdin, self._order())  # type: ignore[arg-type]  # it is a pipe
            for line in process.stdout:  # type: ignore[union-attr]  # it is a pipe
                with contextlib.suppress(ValueError):  # the last line of a killed process may be half a line
                    self._take(process, json.loads(line))
        with self._changed:
            if self._process is process:
                self._process = None
                if self._progress.state == "running":
                    self._set(state="failed", error=_ended(self.plan, process.returncode))

    def _order(self) -> dict[str, Any]:
        return {
            "repository": self.plan.repository,
            "revision": self.plan.revision,
            "commit": self.plan.commit,
            "cache": str(self.plan.cache),
            "files": [(file.path, file.size, file.etag) for file in self.plan.files],
            "token": token_for_hub(self._token_file),
            "retries": self._retries,
            "wait": self._retry_wait,
        }

    def _take(self, process: subprocess.Popen[str], report: dict[str, Any]) -> None:
        with self._changed:
            if self._process is not process:
                return
            if "error" in report:
                self._set(state="failed", error=HubError(*report["error"]))
            elif "snapshot" in report:
                self._set(state="done", bytes=self.plan.total_bytes, waiting=0.0)
            elif "wait" in report:
                self._set(waiting=report["wait"])
            else:
                self._sample(report["bytes"])
                self._set(bytes=report["bytes"], file=report["file"], step=report["step"], waiting=0.0)

    def _set(self, **changes: Any) -> None:
        self._progress = replace(self._progress, **changes)
        self._changed.notify_all()

    def _sample(self, done: int) -> None:
        now = self._clock()
        self._samples.append((now, done))
        while now - self._samples[0][0] > SPEED_SECONDS:
            self._samples.popleft()

    def _speed(self) -> float:
        """Bytes/s over the last seconds, up to now, so that it falls while nothing comes."""
        if self._progress.state != "running" or len(self._samples) < 2:
            return 0.0
        elapsed = self._clock() - self._samples[0][0]
        return (self._samples[-1][1] - self._samples[0][1]) / elapsed if elapsed > 0 else 0.0


def _start_process() -> subprocess.Popen[str]:
    from huggingface_hub import constants

    environment = {
        **module_environment(),
        "HF_ENDPOINT": constants.ENDPOINT,
        "HF_HUB_OFFLINE": "1" if constants.is_offline_mode() else "0",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    return subprocess.Popen(  # noqa: S603
        module_command("chatui.models.fetch_process"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
        encoding="utf-8",
    )


def _send(pipe: IO[str], order: dict[str, Any]) -> None:
    """The order goes through a pipe: command lines and environments of processes can be read by others."""
    pipe.write(json.dumps(order) + "\n")
    pipe.flush()


def _ended(plan: DownloadPlan, code: int) -> HubError:
    return HubError(
        "server",
        f"The process that fetches {plan.repository} ended unexpectedly (code {code}).",
        "Resume the download; what was fetched is kept.",
    )
