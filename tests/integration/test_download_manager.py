import json
import logging
import queue
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chatui.errors import HubError
from chatui.models.catalogue import local_models
from chatui.models.download_manager import MAX_RUNNING, DownloadManager, DownloadStatus
from chatui.models.fetch import DownloadPlan, State, plan_download
from chatui.models.token_file import TokenFiles
from tests.local_hub import LocalHub

WEIGHTS = bytes(range(256)) * 1000
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS}
TOKEN = "hf_" + "s3cr3t" * 4
LONG = 120.0

Open = Callable[[], DownloadManager]


class Done:
    """Collects the plans of models that have come."""

    def __init__(self) -> None:
        self._plans: queue.Queue[DownloadPlan] = queue.Queue()

    def __call__(self, plan: DownloadPlan) -> None:
        self._plans.put(plan)

    def next(self) -> DownloadPlan:
        return self._plans.get(timeout=LONG)

    @property
    def empty(self) -> bool:
        return self._plans.empty()


@pytest.fixture
def done() -> Done:
    return Done()


@pytest.fixture
def tokens(tmp_path: Path) -> TokenFiles:
    return TokenFiles(tmp_path / "tokens")


@pytest.fixture
def opened(tmp_path: Path, done: Done, tokens: TokenFiles) -> Iterator[Open]:
    """Opens managers on the same folder, as one server after another does."""
    managers: list[DownloadManager] = []

    def start() -> DownloadManager:
        managers.append(DownloadManager(tmp_path / "data", done, tokens))
        return managers[-1]

    yield start
    for manager in managers:
        manager.close()


def only(manager: DownloadManager) -> DownloadStatus:
    (status,) = manager.all()
    return status


def wait(manager: DownloadManager, id: str) -> None:
    """Wait until a download no longer runs."""
    manager._entries[id].download.wait(LONG)


def wait_for(manager: DownloadManager, id: str, state: State) -> DownloadStatus:
    """The download, once it has this state."""
    deadline = time.monotonic() + LONG
    while True:
        status = next(each for each in manager.all() if each.id == id)
        if status.progress.state == state:
            return status
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_model_that_has_come_is_announced_and_not_kept(hub: LocalHub, opened: Open, done: Done) -> None:
    hub.add("owner/model", FILES)
    manager = opened()
    plan = plan_download("owner/model")
    id = manager.start(plan)
    assert done.next() == plan
    assert (only(manager).progress.state, only(manager).progress.bytes) == ("done", plan.total_bytes)
    assert opened().all() == []
    manager.cancel(id)
    assert manager.all() == []
    assert (plan.snapshot / "model.safetensors").read_bytes() == WEIGHTS


def test_after_a_restart_it_goes_on_where_it_was(hub: LocalHub, opened: Open, done: Done) -> None:
    hub.add("owner/model", FILES)
    held = hub.fault("GET /cdn", hold=len(WEIGHTS) // 2)
    first = opened()
    id = first.start(plan_download("owner/model"), "ann")
    assert held.reached.wait(LONG)
    assert first.start(plan_download("owner/model"), "bob") == id  # another page starts the same
    first.close()
    hub.heal()
    second = opened()
    status = only(second)
    assert (status.id, status.user, status.progress.state) == (id, "ann", "paused")
    bytes_written = status.progress.bytes
    assert 0 < bytes_written <= len(WEIGHTS) // 2 + 2
    before = sum(hub.served.values())
    second.resume(id)
    assert done.next() == status.plan
    assert sum(hub.served.values()) - before <= status.plan.total_bytes - bytes_written + len(FILES["config.json"])


def test_it_is_paused_and_cancelled(hub: LocalHub, opened: Open, done: Done) -> None:
    hub.add("owner/model", FILES)
    held = hub.fault("GET /cdn", hold=1000, times=2)
    manager = opened()
    id = manager.start(plan_download("owner/model"))
    assert held.reached.wait(LONG)
    manager.pause(id)
    assert only(manager).progress.state == "paused"
    held.reached.clear()
    manager.resume(id)
    assert held.reached.wait(LONG)
    plan = only(manager).plan
    manager.cancel(id)
    assert plan.present_bytes == 0
    assert manager.all() == []
    assert opened().all() == []
    assert done.empty
    for act in (manager.pause, manager.cancel, manager.resume):
        with pytest.raises(HubError, match="not there any more"):
            act(id)


def test_a_gated_model_waits_for_a_token_of_the_user_and_goes_on(
    hub: LocalHub, opened: Open, done: Done, tokens: TokenFiles, tmp_path: Path
) -> None:
    hub.add("owner/gated", FILES, gated=True)
    hub.tokens[TOKEN] = {"owner/gated"}
    manager = opened()
    wait(manager, manager.start(plan_download("owner/gated"), "ann"))
    assert only(manager).needs_token
    tokens.of("ann").write(TOKEN)
    manager.resume_with_token("ann")
    assert done.next().repository == "owner/gated"
    assert tokens.of("bob").read() is None
    assert tokens.of("").read() is None
    (kept,) = (tmp_path / "tokens").iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert TOKEN not in (tmp_path / "data" / "downloads.json").read_text()
    assert "ann" not in kept.name


def test_more_downloads_than_may_run_are_queued(hub: LocalHub, opened: Open) -> None:
    hub.fault("GET .*config.json", hold=0, times=99)
    manager = opened()
    for number in range(MAX_RUNNING + 2):
        hub.add(f"owner/model{number}", FILES)
        manager.start(plan_download(f"owner/model{number}"))
    assert [each.progress.state for each in manager.all()] == ["running"] * MAX_RUNNING + ["queued"] * 2
    ids = [each.id for each in manager.all()]
    manager.pause(ids[MAX_RUNNING])
    assert manager.all()[MAX_RUNNING].progress.state == "paused"
    manager.cancel(ids[0])
    assert wait_for(manager, ids[-1], "running").plan.repository == f"owner/model{MAX_RUNNING + 1}"


def test_a_queued_download_that_cannot_be_started_says_why(
    hub: LocalHub, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.fault("GET .*config.json", hold=0, times=99)
    manager = opened()
    for number in range(MAX_RUNNING + 1):
        hub.add(f"owner/model{number}", FILES)
        manager.start(plan_download(f"owner/model{number}"))
    ids = [each.id for each in manager.all()]
    monkeypatch.setattr("chatui.models.fetch.RESERVE_BYTES", 10**18)
    manager.cancel(ids[0])
    error = wait_for(manager, ids[-1], "failed").progress.error
    assert error is not None
    assert error.kind == "disk full"


def test_a_full_disk_starts_nothing(hub: LocalHub, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("owner/model", FILES)
    plan = plan_download("owner/model")
    monkeypatch.setattr("chatui.models.fetch.RESERVE_BYTES", 10**18)
    manager = opened()
    with pytest.raises(HubError) as error:
        manager.start(plan)
    assert error.value.kind == "disk full"
    assert manager.all() == []


@pytest.mark.parametrize("text", ["", "[", "{}", "[1]", '[{"user": "ann"}]', '[{"user": 1, "files": [{}]}]'])
def test_a_damaged_list_is_an_empty_one(
    tmp_path: Path, opened: Open, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "downloads.json").write_text(text)
    with caplog.at_level(logging.WARNING):
        assert opened().all() == []


def test_a_list_that_cannot_be_written_stops_no_download(
    hub: LocalHub, tmp_path: Path, opened: Open, done: Done, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "data").write_text(json.dumps("no folder"))
    hub.add("owner/model", FILES)
    with caplog.at_level(logging.WARNING):
        opened().start(plan_download("owner/model"))
        assert done.next().repository == "owner/model"
    assert "not kept" in caplog.text


@pytest.mark.parametrize("files", [FILES, {"x-Q4_K_M.gguf": WEIGHTS}], ids=["folder", "gguf"])
def test_a_scan_of_the_cache_finds_it_where_the_plan_says(
    hub: LocalHub, opened: Open, done: Done, files: dict[str, bytes]
) -> None:
    hub.add("owner/model", files)
    opened().start(plan_download("owner/model"))
    plan = done.next()
    assert [model.path for model in local_models(cache=plan.cache)] == [plan.path]
