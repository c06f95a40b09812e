"""A folder that was built here is there whole or not at all, and what is damaged is noticed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from chatui.engine.kernels import built_files
from chatui.engine.kernels.built_files import CHECKSUMS, discard_damaged, is_whole, publish


def made(folder: Path, text: str = "code") -> Path:
    folder.mkdir()
    (folder / "one.so").write_text(text)
    (folder / "constants").write_bytes(b"")
    return folder


def truncate(folder: Path) -> None:
    (folder / "one.so").write_text("cod")


def change(folder: Path) -> None:
    (folder / "one.so").write_text("c0de")


def lose(folder: Path) -> None:
    (folder / "constants").unlink()


def lose_sums(folder: Path) -> None:
    (folder / CHECKSUMS).unlink()


def empty_sums(folder: Path) -> None:
    (folder / CHECKSUMS).write_text("")


def odd_sums(folder: Path) -> None:
    (folder / CHECKSUMS).write_text("[1]")


def test_what_is_published_is_whole_and_replaces_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "target"
    assert not is_whole(target)
    for text in ("code", "more"):
        publish(made(tmp_path / "scratch", text), target)
        assert is_whole(target)
        discard_damaged(target)
        assert (target / "one.so").read_text() == text
        assert not (tmp_path / "scratch").exists()


@pytest.mark.parametrize("damage", [truncate, change, lose, lose_sums, empty_sums, odd_sums])
def test_what_is_damaged_is_discarded(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    target = tmp_path / "target"
    publish(made(tmp_path / "scratch"), target)
    damage(target)
    assert not is_whole(target)
    discard_damaged(target)
    assert not target.exists()
    discard_damaged(target)


def test_everything_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, synced = tmp_path / "target", list[tuple[str, bool]]()

    def sync(path: Path) -> None:
        synced.append((path.name, target.exists()))
        assert os.path.lexists(path)

    monkeypatch.setattr(built_files, "_sync", sync)
    publish(made(tmp_path / "scratch"), target)
    assert {name for name, there in synced if not there} == {"one.so", "constants", CHECKSUMS, "scratch"}
    assert synced[-1] == (tmp_path.name, True)
