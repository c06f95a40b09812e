"""The models on this machine: what is read, how often, in which order, and what can be done with them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from chatui.chat import ModelStatus
from chatui.errors import HubError, ModelError, NotFoundError
from chatui.models.actions import ModelActions
from chatui.models.fit import Device, Machine
from chatui.models.overview import OverviewReader
from tests.fakes import INFO, TOLD, FakeBackend
from tests.model_folders import cached_model, write_model

GB = 10**9


class Counting:
    """A machine of 8 GB that counts how often it is measured."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> Machine:
        self.count += 1
        return Machine((Device("cpu", 6 * GB, 8 * GB, 20e9),))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A folder with a small model, a larger one, and one without weights."""
    write_model(tmp_path / "own" / "small-1M", 256)
    write_model(tmp_path / "own" / "large-8M", 512)
    (tmp_path / "own" / "broken").mkdir()
    (tmp_path / "own" / "broken" / "config.json").write_text("{}")
    return tmp_path / "own"


def test_a_remote_model_is_no_local_one_of_the_same_name(folders: Path, tmp_path: Path) -> None:
    path = str(folders / "small-1M")
    remote = ModelStatus("lc/small", "ready", source=path, info=replace(TOLD, device="cpu"), remote=True)
    read = reader(folders, tmp_path).read([remote])
    assert [row.status for row in read.rows if row.key == path] == [None]
    assert read.find("lc/small").is_remote
    assert read.devices[0].free == 6 * GB, "what a server's model takes is not held here"


def _no_torch() -> Machine:
    raise ImportError("torch")


@pytest.mark.parametrize("machine", [None, _no_torch])
def test_a_server_without_models_of_its_own_shows_those_of_others(
    machine: Callable[[], Machine] | None, folders: Path, tmp_path: Path
) -> None:
    overviews = OverviewReader(machine, [folders], tmp_path / "cache")
    read = overviews.read([ModelStatus("far", "failed", remote=True)])
    assert [row.name for row in read.rows] == ["far"]
    assert not read.devices
    assert not overviews.runs_models


def reader(folders: Path, tmp_path: Path, machine: Counting | None = None) -> OverviewReader:
    return OverviewReader(machine or Counting(), [folders], tmp_path / "cache")


def test_what_runs_well_comes_first_and_what_is_broken_last(folders: Path, tmp_path: Path) -> None:
    overview = reader(folders, tmp_path).read([])
    assert [Path(row.name).name for row in overview.rows] == ["large-8M", "small-1M", "broken"]
    assert overview.recommendation is not None
    assert overview.recommendation.fit.facts is overview.rows[0].facts
    assert overview.rows[-1].facts is None
    assert "no weights" in overview.rows[-1].problem


def test_only_a_rescan_reads_files_and_measures(folders: Path, tmp_path: Path) -> None:
    machine = Counting()
    overviews = reader(folders, tmp_path, machine)
    first = overviews.read([])
    write_model(folders / "new-1M", 128)
    again = overviews.read([ModelStatus("small-1M", "loading", source=str(folders / "small-1M"))], rescan=False)
    assert machine.count == 1
    assert [row.key for row in again.rows] == [row.key for row in first.rows]
    assert [row.status is not None for row in again.rows] == [False, True, False]
    assert any(row.key == str(folders / "new-1M") for row in overviews.read([]).rows)


def test_facts_of_unchanged_files_are_kept(folders: Path, tmp_path: Path) -> None:
    overviews = reader(folders, tmp_path)
    before, after = overviews.read([]), overviews.read([])
    assert all(one.facts is other.facts for one, other in zip(before.rows, after.rows, strict=True))


def test_the_memory_of_loaded_models_counts_as_free(folders: Path, tmp_path: Path) -> None:
    loaded = ModelStatus("fake/echo", "ready", info=INFO)
    overview = reader(folders, tmp_path).read([loaded])
    assert overview.devices[0].free == 6 * GB + INFO.weight_bytes + INFO.kv_bytes
    assert overview.find("fake/echo").status is loaded
    with pytest.raises(NotFoundError):
        overview.find("none/such")


def test_a_model_is_served_loaded_and_unloaded(folders: Path, tmp_path: Path) -> None:
    backend = FakeBackend()
    actions, overviews = ModelActions(backend), reader(folders, tmp_path)
    key = str(folders / "small-1M")
    actions.load(overviews.read([]).find(key))
    assert backend.added == [(key, None)]
    row = overviews.read([ModelStatus("small-1M", "ready", source=key)]).find(key)
    assert actions.serve(row) == "small-1M"
    actions.unload(row)
    with pytest.raises(ModelError, match="cannot be loaded"):
        actions.load(overviews.read([]).find(str(folders / "broken")))


def test_only_what_is_in_the_cache_is_deleted(folders: Path, tmp_path: Path) -> None:
    cached_model(tmp_path / "cache", "owner/tiny-1M", 128)
    backend, overviews = FakeBackend(), reader(folders, tmp_path)
    actions = ModelActions(backend, tmp_path / "cache")
    row = next(row for row in overviews.read([]).rows if row.name == "owner/tiny-1M")
    served = overviews.read([ModelStatus("owner/tiny-1M", "unloaded", source="owner/tiny-1M")]).find(row.key)
    freed = actions.plan_deletion(served).freed
    assert freed == sum(file.stat().st_size for file in (tmp_path / "cache").rglob("blobs/*"))
    assert actions.delete(served).freed == freed
    assert backend.removed == ["owner/tiny-1M"]
    assert not any(row.name == "owner/tiny-1M" for row in overviews.read([]).rows)
    with pytest.raises(HubError, match="not in the HF cache"):
        actions.delete(overviews.read([]).find(str(folders / "small-1M")))
    assert (folders / "small-1M" / "config.json").exists()
    assert json.loads((folders / "small-1M" / "config.json").read_text())["hidden_size"] == 256
