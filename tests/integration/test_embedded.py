"""The default model's conversion: once, whole or not at all, with a clear error where it cannot be stored."""

import errno
import importlib.metadata
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import SafetensorError

from chatui.engine.loading import embedded
from chatui.errors import ModelError

GGUF = Path("package/model.gguf")


def convert_to(folder_calls: list[Path]) -> Callable[..., None]:
    def convert(gguf: Path, folder: Path, report: embedded.ReportPhase) -> None:
        report("saving")
        folder_calls.append(folder)
        (folder / "model.safetensors").write_text("weights")

    return convert


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    made: list[Path] = []
    monkeypatch.setattr(embedded, "_convert", convert_to(made))
    return made


def test_the_first_call_converts_and_the_second_does_not(tmp_path: Path, calls: list[Path]) -> None:
    phases: list[str] = []
    first = embedded.converted(GGUF, tmp_path / "cache", phases.append)
    assert (first / "model.safetensors").read_text() == "weights"
    assert embedded.converted(GGUF, tmp_path / "cache", phases.append) == first
    assert len(calls) == 1
    assert phases == ["saving"]


def test_two_at_once_convert_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    both = threading.Barrier(2)

    def slow(gguf: Path, folder: Path, report: embedded.ReportPhase) -> None:
        threading.Event().wait(0.05)
        convert_to(made)(gguf, folder, report)

    monkeypatch.setattr(embedded, "_convert", slow)
    results: list[Path] = []

    def start() -> None:
        both.wait()
        results.append(embedded.converted(GGUF, tmp_path, lambda _: None))

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len(set(results)) == 1


def test_what_a_killed_conversion_left_is_removed_and_does_not_count(tmp_path: Path, calls: list[Path]) -> None:
    target = embedded.converted(GGUF, tmp_path, lambda _: None)
    half = target.rename(target.with_name(f"{target.name}.tmp-killed"))
    embedded.converted(GGUF, tmp_path, lambda _: None)
    assert len(calls) == 2
    assert not half.exists()


def test_a_failed_conversion_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(gguf: Path, folder: Path, report: embedded.ReportPhase) -> None:
        (folder / "model.safetensors").write_text("half")
        raise RuntimeError("cut off")

    monkeypatch.setattr(embedded, "_convert", fail)
    with pytest.raises(RuntimeError):
        embedded.converted(GGUF, tmp_path, lambda _: None)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(embedded, "_convert", fail)
    with pytest.raises(ModelError, match="No space left on device") as caught:
        embedded.converted(GGUF, tmp_path, lambda _: None)
    assert "--cache-dir" in caught.value.remedy


def test_an_error_that_is_not_the_disks_is_not_blamed_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("Can't load the model for 'x'")

    monkeypatch.setattr(embedded, "_convert", fail)
    with pytest.raises(OSError, match="Can't load"):
        embedded.converted(GGUF, tmp_path, lambda _: None)


def test_a_cache_folder_that_cannot_be_made(tmp_path: Path, calls: list[Path]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="could not be prepared"):
        embedded.converted(GGUF, tmp_path / "file" / "cache", lambda _: None)
    assert calls == []


def test_a_converted_model_in_a_folder_that_is_read_only_now(tmp_path: Path, calls: list[Path]) -> None:
    target = embedded.converted(GGUF, tmp_path, lambda _: None)
    Path(f"{target}.lock").unlink(missing_ok=True)
    tmp_path.chmod(0o500)
    try:
        assert embedded.converted(GGUF, tmp_path, lambda _: None) == target
    finally:
        tmp_path.chmod(0o700)
    assert not Path(f"{target}.lock").exists()


def test_without_the_package_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    assert embedded.find() is None


def test_a_process_converts_and_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, phases = tmp_path / "python", list[str]()
    program.write_text('#!/bin/sh\necho saving\necho "$4 $5" > "$5/model.safetensors"\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(embedded, "_write", lambda *_: pytest.fail("converted here too"))
    made = embedded.converted(GGUF, tmp_path / "cache", phases.append)
    assert (made / "model.safetensors").read_text().startswith(str(GGUF))
    assert phases == ["saving"]


@pytest.mark.parametrize("program", ["false", "nowhere"])
def test_where_the_process_fails_this_one_converts(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    monkeypatch.setattr(sys, "executable", program)
    monkeypatch.setattr(embedded, "_write", convert_to(made))
    assert (embedded.converted(GGUF, tmp_path, lambda _: None) / "model.safetensors").is_file()
    assert len(made) == 1
