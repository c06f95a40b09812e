"""The subprocess of a download: fetches files into the HF cache, and continues where an earlier process was ended.

huggingface_hub 2.4 begins each file again after its process has ended, so the bytes are fetched here, with its session,
headers, addresses and errors. The whole file, checked by its hash, is then handed to hf_hub_download.

One JSON object comes on standard input (see Order). Each line of standard output is a JSON object with a report:
{"bytes": of the whole download, "file": path, "step": "fetch" | "check" | "done" | "link"}, {"wait": seconds},
{"error": arguments of HubError}, or {"snapshot": path} at the end.
"""

import hashlib
import json
import re
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatui import priority
from chatui.errors import HubError
from chatui.models import hub_errors

Report = Callable[[dict[str, Any]], None]
SHA256, GIT_SHA1, COMMIT = re.compile("[0-9a-f]{64}"), re.compile("[0-9a-f]{40}"), re.compile("[0-9a-f]{40}")
PARTIAL = ".chatui.incomplete"
"""Suffix of files that are not whole yet, beside the blobs. `hf cache prune` deletes *.incomplete."""
REPORT_SECONDS = 0.1
LOCK_SECONDS = 5.0
MAX_WAIT = 60
"""Seconds that the Hub may ask to wait. For more the download fails, and can be resumed by the user."""


@dataclass(frozen=True)
class Order:
    """What to fetch. `files` are (path, size, etag). `wait` is the pause before the first retry, in seconds."""

    repository: str
    revision: str
    commit: str
    cache: str
    files: tuple[tuple[str, int, str], ...]
    token: str | None
    retries: int
    wait: float

    @property
    def folder(self) -> Path:
        """The repository's folder in the cache."""
        return repository_folder(Path(self.cache), self.repository)


def repository_folder(cache: Path, repository: str) -> Path:
    """Where the HF cache keeps a model: https://huggingface.co/docs/huggingface_hub/guides/manage-cache."""
    return cache / f"models--{repository.replace('/', '--')}"


def fetch(order: Order, report: Report) -> Path:
    """Fetch all files, then link them as a snapshot. Returns its folder. Raises HubError and what the client raises."""
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(order.repository)
    if not COMMIT.fullmatch(order.commit) or ".." in order.revision:
        raise hub_errors.unreadable(order.repository)
    if not all(SHA256.fullmatch(etag) or GIT_SHA1.fullmatch(etag) for _, _, etag in order.files):
        raise hub_errors.unreadable(order.repository)  # it becomes the name of a file
    fetches = [_FileFetch(order, *file) for file in order.files]
    reporter = _Reporter(report, {fetch.path: fetch.present for fetch in fetches})
    for each in fetches:
        each.run(reporter)
        reporter.progress(each.path, each.size, "done")
    return _link(order, reporter)


class _Reporter:
    """Sends the progress of the whole download, a few times a second."""

    def __init__(self, report: Report, present: dict[str, int]) -> None:
        """`present` are the bytes of each file that are there already."""
        self.send = report
        self._present = present
        self._next = 0.0

    def progress(self, path: str, in_file: int, step: str = "fetch") -> None:
        self._present[path] = in_file
        now = time.monotonic()
        if now >= self._next or step != "fetch":
            self._next = now + REPORT_SECONDS
            self.send({"bytes": sum(self._present.values()), "file": path, "step": step})


class _FileFetch:
    """Fetches one file to blobs/ETAG."""

    def __init__(self, order: Order, path: str, size: int, etag: str) -> None:
        self._order = order
        self.path = path
        self.size = size
        self._etag = etag
        self._blob = order.folder / "blobs" / etag
        self._partial = order.folder / "blobs" / f"{etag}{PARTIAL}"

    @property
    def present(self) -> int:
        """The bytes that are there already."""
        return min(_size(self._blob) or _size(self._partial), self.size)

    def run(self, reporter: _Reporter) -> None:
        """Fetch the file unless it is there. Raises HubError and what the client raises."""
        from filelock import FileLock, Timeout

        if _size(self._blob) == self.size:
            return
        self._blob.parent.mkdir(parents=True, exist_ok=True)
        lock = Path(self._order.cache) / ".locks" / self._order.folder.name / f"{self._etag}.lock"  # huggingface_hub's
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(lock, timeout=LOCK_SECONDS):
                if _size(self._blob) != self.size:
                    self._blob.unlink(missing_ok=True)
                    self._fetch(reporter)
        except Timeout:
            raise HubError(
                "busy",
                f"{self.path} of {self._order.repository} is being fetched by another process.",
                "Wait until it is done.",
            ) from None

    def _fetch(self, reporter: _Reporter) -> None:
        for _ in range(2):
            while _size(self._partial) != self.size:
                self._with_retries(reporter)
            reporter.progress(self.path, self.size, "check")
            if self._is_whole():
                self._partial.replace(self._blob)
                return
            self._partial.unlink()
        raise HubError(
            "damaged",
            f"{self.path} of {self._order.repository} arrives damaged: its checksum is wrong.",
            "Try again in a while, or over another network or proxy.",
        )

    def _with_retries(self, reporter: _Reporter) -> None:
        from huggingface_hub.errors import HfHubHTTPError
        from huggingface_hub.utils import httpx

        failures, wait = 0, self._order.wait
        while True:
            before = _size(self._partial)
            try:
                self._stream(reporter)
                return
            except (httpx.TransportError, HfHubHTTPError) as error:
                if isinstance(error, httpx.ProxyError) or not _may_pass(error):
                    raise
                if _size(self._partial) > before:
                    failures, wait = 0, self._order.wait
                failures += 1
                known = hub_errors.hub_error(self._order.repository, self._order.revision, error)
                stated = known.retry_after if known else None
                if failures > self._order.retries or (stated or 0) > MAX_WAIT:
                    raise
                seconds = wait if stated is None else stated
                reporter.send({"wait": seconds})
                time.sleep(seconds)
                wait = min(2 * wait, 8 * self._order.wait)

    def _stream(self, reporter: _Reporter) -> None:
        """Append to the partial file what it lacks."""
        from huggingface_hub import constants, hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status, httpx

        start = _size(self._partial)
        if start > self.size:
            self._partial.unlink()
            start = 0
        url = hf_hub_url(self._order.repository, self.path, revision=self._order.commit)
        headers = {**build_hf_headers(token=self._order.token or False), "Accept-Encoding": "identity"}
        if start > 0:
            headers["Range"] = f"bytes={start}-"
        elif self.size > constants.MAX_HTTP_DOWNLOAD_SIZE:
            raise _too_large(self._order.repository, self.path)
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response:
            hf_raise_for_status(response)
            continues = response.status_code == 206 and _range_start(response.headers.get("Content-Range")) == start
            done = start if continues else 0
            with self._partial.open("ab" if continues else "wb") as file:
                for piece in response.iter_bytes():
                    file.write(piece[: self.size - done])
                    file.flush()  # what has come stays when this process is killed
                    done = min(done + len(piece), self.size)
                    reporter.progress(self.path, done)
        if done < self.size:
            raise httpx.RemoteProtocolError("the answer ended early")

    def _is_whole(self) -> bool:
        """Whether the content has the hash that names it: SHA-256, or git's hash of a blob."""
        prefix = b"" if SHA256.fullmatch(self._etag) else b"blob %d\0" % self.size
        with self._partial.open("rb") as file:
            algorithm = hashlib.sha1 if prefix else hashlib.sha256
            return hashlib.file_digest(file, lambda: algorithm(prefix)).hexdigest() == self._etag


def _link(order: Order, reporter: _Reporter) -> Path:
    """Make the snapshot of whole files. Until now no loader finds any of them."""
    from huggingface_hub import hf_hub_download

    for path, size, _ in order.files:
        reporter.progress(path, size, "link")
        linked = hf_hub_download(
            order.repository, path, revision=order.commit, cache_dir=order.cache, token=order.token or False
        )
        if _size(Path(linked)) != size:
            raise hub_errors.unreadable(order.repository)
    if order.revision != order.commit:
        reference = order.folder / "refs" / order.revision
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(order.commit)
    return order.folder / "snapshots" / order.commit


def _size(path: Path) -> int:
    """The size of a file; 0 if there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _range_start(content_range: str | None) -> int | None:
    match = re.match(r"bytes (\d+)-", content_range or "")
    return int(match[1]) if match else None


def _may_pass(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    response = getattr(error, "response", None)
    return response is None or response.status_code in (408, 429) or response.status_code >= 500


def _too_large(repository: str, path: str) -> HubError:
    return HubError(
        "unsuitable",
        f"{path} of {repository} has more than 50 GB, which the Hub delivers only through hf_xet.",
        f"Run `hf download {repository} {path}`, which cannot resume after an interruption.",
    )


def main(order: Order, report: Report) -> None:
    """Fetch, and report the end or the error. An unexpected error is reported by the name of its type."""
    try:
        report({"snapshot": str(fetch(order, report))})
    except Exception as error:
        if isinstance(error, BrokenPipeError):
            raise
        known = hub_errors.hub_error(order.repository, order.revision, error) or _local_error(order, error)
        report({"error": known.args})


def _local_error(order: Order, error: Exception) -> HubError:
    if isinstance(error, OSError) and error.strerror:
        return HubError(
            "storage",
            f"{order.repository} could not be stored: {error.strerror} ({error.filename or order.cache}).",
            "Check the folder and its permissions, or set HF_HOME to another one.",
        )
    return HubError("server", f"{order.repository} could not be fetched ({type(error).__name__}).", "Try again.")


def _print(value: dict[str, Any]) -> None:
    print(json.dumps(value), file=_reports, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent process, which then ends this one
    priority.lower_priority(priority.ASIDE)
    _reports, sys.stdout = sys.stdout, sys.stderr  # libraries may print
    fields = json.loads(sys.stdin.readline())
    try:
        main(Order(**{**fields, "files": tuple(map(tuple, fields["files"]))}), _print)
    except BrokenPipeError:  # the parent process is gone
        sys.stderr = None
