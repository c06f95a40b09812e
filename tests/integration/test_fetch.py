import hashlib
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from filelock import FileLock
from huggingface_hub import constants, snapshot_download

from chatui.errors import HubError
from chatui.models import fetch, fetch_process
from chatui.models.fetch import Download, DownloadPlan, plan_download
from chatui.models.fetch_process import Order
from chatui.models.hub import HubFile
from chatui.models.token_file import TokenFile
from tests.local_hub import Fault, LocalHub

WEIGHTS = random.Random(1).randbytes(400_000)
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b'{"version": "1.0"}',
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"a pickle",
    "onnx/model.onnx": b"for another program",
    "README.md": b"# A model",
}
NEEDED = {"config.json", "tokenizer.json", "model.safetensors"}
SECRET = "hf_" + "s3cr3tS3CR3T" * 3
LONG = 120.0
"""Seconds that no step takes on any machine."""


@pytest.fixture(autouse=True)
def model(hub: LocalHub) -> None:
    hub.add("owner/model", FILES)


def cdn(data: bytes = WEIGHTS) -> str:
    return f"/cdn/{hashlib.sha256(data).hexdigest()}"


def downloading(plan: DownloadPlan, retries: int = 3, token_file: TokenFile | None = None) -> Download:
    download = Download(plan, token_file, retries=retries, retry_wait=0.01)
    download.start()
    return download


def snapshot_files(plan: DownloadPlan) -> dict[str, bytes]:
    return {
        path.relative_to(plan.snapshot).as_posix(): path.read_bytes()
        for path in plan.snapshot.rglob("*")
        if path.is_file()
    }


def assert_done(download: Download) -> None:
    assert download.wait(LONG).state == "done", download.progress.error
    found = snapshot_files(download.plan)
    assert set(found) == NEEDED
    assert all(found[path] == FILES[path] for path in NEEDED)


def reach(fault: Fault) -> None:
    assert fault.reached.wait(LONG)


def until_written(path: Path, size: int) -> None:
    """Wait until a partial file has this size."""
    end = time.monotonic() + LONG
    while not path.exists() or path.stat().st_size != size:
        assert time.monotonic() < end
        time.sleep(0.002)


def partial_weights(plan: DownloadPlan) -> Path:
    return next(plan.partial_file(file) for file in plan.files if file.path == "model.safetensors")


def test_only_the_needed_files_are_fetched_and_the_library_finds_them_offline(
    hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["owner/model"].xet = True  # plain HTTP continues after a cut, the xet client does not
    plan = plan_download("owner/model")
    assert (plan.total_bytes, plan.present_bytes) == (sum(len(FILES[path]) for path in NEEDED), 0)
    download = downloading(plan)
    states = [progress.state for progress in download]
    assert_done(download)
    assert states[-1] == "done"
    assert plan.present_bytes == plan.total_bytes
    assert hub.served[cdn()] == len(WEIGHTS)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert Path(snapshot_download("owner/model", local_files_only=True)) == plan.snapshot
    again = downloading(plan)
    assert again.wait(LONG).state == "done"
    assert hub.served[cdn()] == len(WEIGHTS)


def kill_points(count: int) -> list[str | int]:
    """Bytes of the weights, and requests: what comes first, what comes between, and what links at the end."""
    requests: list[str | int] = ["GET .*config.json", "GET .*model.safetensors", "HEAD .*config.json", "HEAD .*tensors"]
    step = len(WEIGHTS) // (count - len(requests) + 1)
    return requests[:2] + [step * index for index in range(1, count - len(requests) + 1)] + requests[2:]


@pytest.mark.parametrize("count", [5, pytest.param(50, marks=pytest.mark.exhaustive)])
def test_killed_at_any_point_it_goes_on_where_it_was(hub: LocalHub, count: int) -> None:
    plan = plan_download("owner/model")
    download = Download(plan)
    for point in kill_points(count):
        held = hub.fault(point, hold=0) if isinstance(point, str) else hub.fault("GET /cdn", hold=0)
        if isinstance(point, int):
            held.hold = max(1, point - plan_offset(plan))
        download.start()
        reach(held)
        if isinstance(point, int):
            until_written(partial_weights(plan), point)
        process = download.process_id
        assert process is not None
        os.kill(process, signal.SIGKILL)
        ended = download.wait(LONG)
        assert ended.state == "failed"
        assert "ended unexpectedly" in str(ended.error)
        assert all(data == FILES[path] for path, data in snapshot_files(plan).items())
        hub.heal()
    download.resume()
    assert_done(download)
    assert hub.served[cdn()] == len(WEIGHTS), "no byte is fetched twice"


def plan_offset(plan: DownloadPlan) -> int:
    """What of the weights is there, so that the next answer begins after it."""
    partial = partial_weights(plan)
    return partial.stat().st_size if partial.exists() else 0


def test_pause_and_resume(hub: LocalHub) -> None:
    plan = plan_download("owner/model")
    held = hub.fault("GET /cdn", hold=100_000)
    download = downloading(plan)
    reach(held)
    until_written(partial_weights(plan), 100_000)
    download.pause()
    assert download.progress.state == "paused"
    assert download.process_id is None
    assert not plan.snapshot.exists()
    assert plan.present_bytes >= 100_000
    hub.heal()
    download.resume()
    assert min(progress.bytes for progress in download) >= 100_000, "what is there counts from the start"
    assert_done(download)
    assert hub.served[cdn()] == len(WEIGHTS)
    assert [seen.range for seen in hub.seen if seen.path == cdn()] == [None, "bytes=100000-"]


def test_cancel_leaves_nothing_but_what_another_snapshot_uses(hub: LocalHub) -> None:
    assert_done(downloading(plan_download("owner/model")))
    hub.add("owner/model", {**FILES, "model.safetensors": WEIGHTS[::-1]})
    plan = plan_download("owner/model")
    held = hub.fault("GET /cdn", hold=50_000)
    download = downloading(plan)
    reach(held)
    download.cancel()
    assert download.progress.state == "cancelled"
    blobs = {path.name for path in (plan.snapshot.parents[1] / "blobs").iterdir()}
    assert blobs == {plan.blob(file).name for file in plan.files if file.path != "model.safetensors"} | {
        hashlib.sha256(WEIGHTS).hexdigest()
    }


@pytest.mark.parametrize(
    "fault",
    [
        {"pattern": "GET /cdn", "times": 2, "cut": 70_001},
        {"pattern": "GET .*config", "status": 503},
        {"pattern": "GET .*safetensors", "status": 429, "headers": {"Retry-After": "0"}},
        {"pattern": "GET /cdn", "damage": True},
    ],
    ids=["cut", "server error", "rate limit", "damaged once"],
)
def test_a_passing_fault_is_overcome(hub: LocalHub, fault: dict[str, object]) -> None:
    hub.fault(**fault)  # type: ignore[arg-type]  # fields of Fault
    assert_done(downloading(plan_download("owner/model")))
    again = 1 if "damage" in fault else 0
    assert hub.served[cdn()] == len(WEIGHTS) * (1 + again)


def test_a_server_without_ranges_sends_all_again(hub: LocalHub) -> None:
    hub.fault("GET /cdn", cut=70_001)
    hub.fault("GET /cdn", no_ranges=True)
    assert_done(downloading(plan_download("owner/model")))
    assert hub.served[cdn()] == len(WEIGHTS) + 70_001


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        ({"pattern": "GET /cdn", "times": 9, "damage": True}, "damaged", "checksum is wrong"),
        ({"pattern": "GET /owner", "times": 9, "status": 500}, "server", "HTTP 500"),
        (
            {"pattern": "GET /owner", "status": 429, "headers": {"Retry-After": "3600"}},
            "rate limited",
            "in 3600 seconds",
        ),
        ({"pattern": "GET /cdn", "times": 9, "cut": 0}, "unreachable", "cannot be reached"),
        ({"pattern": "GET .*config", "status": 404, "headers": {"X-Error-Code": "EntryNotFound"}}, "missing", "file"),
    ],
)
def test_a_lasting_fault_is_one_error_and_no_file(
    hub: LocalHub, fault: dict[str, object], kind: str, says: str
) -> None:
    plan = plan_download("owner/model")
    hub.fault(**fault)  # type: ignore[arg-type]  # fields of Fault
    ended = downloading(plan, retries=1).wait(LONG)
    assert (ended.state, ended.error and ended.error.kind) == ("failed", kind)
    assert says in str(ended.error)
    assert ended.error
    assert ended.error.remedy
    assert not plan.snapshot.exists()


def test_a_hub_that_never_answers(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_download("owner/model")
    silent = hub.fault("GET /owner", times=9, hold=0)
    waiting = downloading(plan)
    reach(silent)
    waiting.pause()  # returns at once
    assert waiting.progress.state == "paused"
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "1")
    ended = downloading(plan, retries=0).wait(LONG)
    assert ended.error
    assert "did not answer in time" in str(ended.error)


def test_gated_until_there_is_a_token_that_is_never_shown(
    hub: LocalHub, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    hub.repositories["owner/model"].gated = True
    hub.tokens = {SECRET: set()}
    token_file = TokenFile(tmp_path / "token")
    download = downloading(plan_download("owner/model"), token_file=token_file)
    errors = [str(download.wait(LONG).error)]
    token_file.write(SECRET)
    download.resume()
    errors.append(str(download.wait(LONG).error))
    assert all("gated" in error for error in errors)
    hub.tokens[SECRET].add("owner/model")
    held = hub.fault("GET /cdn", hold=10)
    download.resume()
    reach(held)
    process = Path(f"/proc/{download.process_id}")
    if process.exists():
        assert SECRET.encode() not in (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
    hub.heal()
    assert_done(download)
    assert {seen.token for seen in hub.seen if seen.path == cdn()} == {None}, "the token stays with the Hub"
    shown = "".join([*errors, *capfd.readouterr(), caplog.text, repr(download.__dict__), repr(token_file)])
    assert SECRET not in shown
    contents = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path != tmp_path / "token"]
    assert not any(SECRET.encode() in data for data in contents)


def test_the_token_file_is_private_and_takes_only_tokens(tmp_path: Path) -> None:
    path = tmp_path / "new" / "token"
    token_file = TokenFile(path)
    assert token_file.read() is None
    token_file.write(f" {SECRET}\n")
    assert token_file.read() == SECRET
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(Exception, match="not a token") as raised:
        token_file.write(f"{SECRET}\nEvil: header")
    assert SECRET not in str(raised.value)
    assert token_file.read() == SECRET
    path.write_bytes(b"\xff\xfe")
    assert token_file.read() is None
    token_file.delete()
    token_file.delete()
    assert list(path.parent.iterdir()) == []


def test_the_disk_is_checked_first(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_download("owner/model")
    free = fetch.RESERVE_BYTES + plan.total_bytes
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    plan.check_disk()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free - 1))
    with pytest.raises(HubError, match=r"needs 400 kB more on the disk, and 200 MB are free"):
        downloading(plan)
    partial = partial_weights(plan)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(WEIGHTS[:1])
    plan.check_disk()


def test_a_renamed_model_is_fetched_under_its_new_name_at_its_commit(hub: LocalHub) -> None:
    hub.renamed["old/name"] = "owner/model"
    plan = plan_download("old/name")
    assert (plan.repository, plan.commit) == ("owner/model", hub.repositories["owner/model"].commit)
    with pytest.raises(HubError, match="no revision 'v9'"):
        plan_download("owner/model", "v9")


def test_a_gguf_file_is_chosen_by_its_quantization(hub: LocalHub) -> None:
    hub.add("owner/gguf", {"m-Q8_0.gguf": b"GGUF" * 2000, "m-Q4_K_M.gguf": b"GGUF" * 1000, "config.json": b"{}"})
    plan = plan_download("owner/gguf")
    assert [file.path for file in plan.files] == ["m-Q4_K_M.gguf"]
    assert plan.model == str(plan.snapshot / "m-Q4_K_M.gguf")
    assert [file.path for file in plan_download("owner/gguf", gguf="q8_0").files] == ["m-Q8_0.gguf"]


def test_a_disk_that_fills_up(hub: LocalHub) -> None:
    plan = plan_download("owner/model")
    partial_weights(plan).parent.mkdir(parents=True)
    partial_weights(plan).symlink_to("/dev/full")  # opens, and has no room for any byte
    ended = downloading(plan).wait(LONG)
    assert ended.error
    assert ended.error.kind == "disk full"
    assert "HF_HOME" in ended.error.remedy
    assert not plan.snapshot.exists()


def test_a_proxy_that_is_not_there(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_download("owner/model")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    ended = downloading(plan, retries=0).wait(LONG)
    assert ended.error
    assert "HTTPS_PROXY" in ended.error.remedy


def test_a_file_that_another_process_fetches(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_process, "LOCK_SECONDS", 0.01)
    plan = plan_download("owner/model")
    fields = tuple((file.path, file.size, file.etag) for file in plan.files)
    order = Order(plan.repository, "main", plan.commit, str(plan.cache), fields, None, 0, 0.0)
    lock = plan.cache / ".locks" / order.folder.name / f"{plan.files[0].etag}.lock"
    lock.parent.mkdir(parents=True)
    reports: list[dict[str, Any]] = []
    with FileLock(lock):
        fetch_process.main(order, reports.append)
    assert reports[-1]["error"][0] == "busy"
    assert not plan.snapshot.exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("files", (("config.json", 1, "../../escape"),)),
        ("commit", "../../escape"),
        ("revision", "../../escape"),
        ("repository", "../escape"),
    ],
)
def test_names_from_outside_stay_inside_the_cache(field: str, value: object, tmp_path: Path) -> None:
    order = Order("owner/model", "main", "0" * 40, str(tmp_path / "cache"), (), None, 0, 0.0)
    reports: list[dict[str, object]] = []
    fetch_process.main(Order(**{**order.__dict__, field: value}), reports.append)
    assert list(reports[0]) == ["error"]
    assert list(tmp_path.rglob("*escape*")) == []


def test_the_speed_is_that_of_the_last_seconds(tmp_path: Path) -> None:
    now = [0.0]
    plan = DownloadPlan("owner/model", "main", "0" * 40, (HubFile("model.safetensors", 1000, "0" * 64),), tmp_path)
    download = Download(plan, clock=lambda: now[0])
    with download._changed:
        download._set(state="running")
    for done in (0, 100, 200):
        download._sample(done)
        now[0] += 1
    assert download.progress.speed == pytest.approx(200 / 3)
    now[0] += 60
    download._sample(200)
    now[0] += 1
    download._sample(600)
    assert download.progress.speed == pytest.approx(400)


def test_seconds_left() -> None:
    assert fetch.Progress("running", 600, 1000, speed=400.0).seconds_left == 1.0
    assert fetch.Progress("running", 600, 1000).seconds_left is None


def test_the_subprocess_ends_with_its_parent(hub: LocalHub) -> None:
    plan = plan_download("owner/model")
    held = hub.fault("GET /cdn", hold=1000)
    script = (
        "import pickle, sys; from chatui.models.fetch import Download\n"
        "download = Download(pickle.load(sys.stdin.buffer)); download.start()\n"
        "print(download.process_id, flush=True); download.wait()"
    )
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as parent:
        assert parent.stdin
        assert parent.stdout
        pickle.dump(plan, parent.stdin)
        parent.stdin.close()
        child = psutil.Process(int(parent.stdout.readline()))
        reach(held)
        parent.kill()
    hub.heal()
    psutil.wait_procs([child], LONG)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
    assert not plan.snapshot.exists(), "it ended at its next report"
