"""Runs the downloads of the server: every page sees them, closing a page ends none, and a restart keeps them."""

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from chatui.errors import HubError
from chatui.models.fetch import Download, DownloadPlan, Progress
from chatui.models.hub import HubFile
from chatui.models.token_file import TokenFiles

log = logging.getLogger(__name__)

MAX_RUNNING = 3
"""Downloads that run at the same time. More would only share the connection, so they are queued."""
NEEDS_TOKEN = frozenset({"gated", "unauthorized", "missing"})
"""Kinds of HubError that a token may remedy. A private model is "missing" for others."""

OnDone = Callable[[DownloadPlan], object]


@dataclass(frozen=True)
class DownloadStatus:
    """A download as pages show it. `user` is the login name of who started it, "" without logins."""

    id: str
    user: str
    plan: DownloadPlan
    progress: Progress

    @property
    def needs_token(self) -> bool:
        """Whether it failed for want of a token, or of a licence that is accepted on the Hub."""
        error = self.progress.error
        return self.progress.state == "failed" and error is not None and error.kind in NEEDS_TOKEN


@dataclass(eq=False)
class _Entry:
    id: str
    user: str
    download: Download
    is_queued: bool = False

    @property
    def is_running(self) -> bool:
        return self.download.progress.state == "running"

    def status(self) -> DownloadStatus:
        plan, progress = self.download.plan, self.download.progress
        if self.is_queued:
            progress = replace(progress, state="queued")
        elif progress.state == "planned":  # it was started by an earlier process
            progress = replace(progress, state="paused")
        if (
            progress.state in ("queued", "paused", "failed") or progress.waiting
        ):  # the last bytes may not have been reported
            progress = replace(progress, bytes=plan.present_bytes)
        return DownloadStatus(self.id, self.user, plan, progress)


class DownloadManager:
    """All downloads of this server. Its methods may be called from any thread.

    Those that are not done are kept in a file in `folder`, and are paused after a restart. `on_done` is called in a
    thread of its own for each model that has come.
    """

    def __init__(self, folder: Path, on_done: OnDone, tokens: TokenFiles) -> None:
        self._file = folder / "downloads.json"
        self._on_done = on_done
        self.tokens = tokens
        self._lock = threading.RLock()
        self._entries = {entry.id: entry for user, plan in _read(self._file) for entry in [self._new_entry(plan, user)]}

    def all(self) -> list[DownloadStatus]:
        """All downloads, in the order in which they were started."""
        with self._lock:
            entries = list(self._entries.values())
        return [entry.status() for entry in entries]

    def start(self, plan: DownloadPlan, user: str = "") -> str:
        """Start a download with the user's token, or go on with it, and return its id. Raises HubError.

        It is queued while MAX_RUNNING others run.
        """
        with self._lock:
            entry = self._entries.get(_id(plan))
            if entry is None or not (entry.is_queued or entry.is_running):
                plan.check_disk()
                entry = self._new_entry(plan, user)
                entry.is_queued = True
                self._entries[entry.id] = entry
                self._start_queued()
                self._write()
        return entry.id

    def resume(self, id: str, user: str = "") -> None:
        """Go on with a download that was paused, has failed or was left by an earlier process. Raises HubError."""
        self.start(self._entry(id).download.plan, user)

    def pause(self, id: str) -> None:
        """Pause a download. What has come stays. Raises HubError."""
        entry = self._entry(id)
        with self._lock:
            entry.is_queued = False
        entry.download.pause()

    def cancel(self, id: str) -> None:
        """End a download, delete what has come of it, and forget it. One that is done is only forgotten."""
        entry = self._entry(id)
        entry.download.cancel()
        with self._lock:
            self._entries.pop(id, None)
            self._write()

    def resume_with_token(self, user: str) -> None:
        """Go on with the downloads that wait for a token, after the user has given one. Raises HubError."""
        for status in self.all():
            if status.needs_token:
                self.start(status.plan, user)

    def close(self) -> None:
        """Pause all downloads, as at the end of the server."""
        with self._lock:
            entries = list(self._entries.values())
            for entry in entries:
                entry.is_queued = False
        for entry in entries:
            if entry.is_running:
                entry.download.pause()

    def _new_entry(self, plan: DownloadPlan, user: str) -> _Entry:
        return _Entry(_id(plan), user, Download(plan, self.tokens.of(user)))

    def _entry(self, id: str) -> _Entry:
        with self._lock:
            entry = self._entries.get(id)
        if entry is None:
            raise HubError("missing", "This download is not there any more.", "It may have been cancelled.")
        return entry

    def _start_queued(self) -> None:
        """Start queued downloads, the first one first, up to MAX_RUNNING. The lock is held."""
        for entry in list(self._entries.values()):
            if sum(each.is_running for each in self._entries.values()) >= MAX_RUNNING:
                return
            if entry.is_queued:
                entry.is_queued = False
                try:
                    entry.download.start()
                except HubError as error:
                    entry.download.fail(error)
                else:
                    threading.Thread(target=self._follow, args=(entry,), name="download", daemon=True).start()

    def _follow(self, entry: _Entry) -> None:
        """Wait for the end of a download, start the next one, and hand over the model if it is done."""
        is_done = entry.download.wait().state == "done"
        with self._lock:
            self._start_queued()
            if is_done:
                self._write()
        if not is_done:
            return
        try:
            self._on_done(entry.download.plan)
        except Exception:
            log.exception("%s was downloaded, but cannot be served", entry.download.plan.repository)

    def _write(self) -> None:
        """Keep the downloads that are not done. Replaces the file in one step."""
        unfinished = [entry for entry in self._entries.values() if entry.download.progress.state != "done"]
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            new = self._file.with_suffix(".new")
            new.write_text(json.dumps([_as_json(entry) for entry in unfinished]))
            new.replace(self._file)
        except OSError as error:
            log.warning("The list of downloads is not kept for the next start: %s", error)


def _id(plan: DownloadPlan) -> str:
    """The same for the same files of a model."""
    paths = sorted(file.path for file in plan.files)
    return hashlib.sha256(json.dumps([plan.repository, plan.commit, paths]).encode()).hexdigest()[:16]


def _as_json(entry: _Entry) -> dict[str, Any]:
    plan = entry.download.plan
    files = [asdict(file) for file in plan.files]
    return {
        "user": entry.user,
        "repository": plan.repository,
        "revision": plan.revision,
        "commit": plan.commit,
        "cache": str(plan.cache),
        "files": files,
    }


def _read(path: Path) -> Iterable[tuple[str, DownloadPlan]]:
    """(user, plan) of each download in the file; nothing if there is no file, or it is damaged."""
    try:
        return [
            (
                str(item["user"]),
                DownloadPlan(
                    item["repository"],
                    item["revision"],
                    item["commit"],
                    tuple(HubFile(**file) for file in item["files"]),
                    Path(item["cache"]),
                ),
            )
            for item in json.loads(path.read_bytes())
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("The list of downloads in %s cannot be read: %s", path, type(error).__name__)
        return []
