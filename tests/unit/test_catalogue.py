import json
import shutil
from pathlib import Path

import pytest

from chatui.errors import ChatError, HubError
from chatui.models.catalogue import INDEX, LocalModel, local_models, plan_deletion, problem_of
from chatui.models.fetch import Download, plan_download
from tests.local_hub import LocalHub

HEADER = b'{"w":{"dtype":"F32","shape":[250],"data_offsets":[0,1000]}}'
WEIGHTS = len(HEADER).to_bytes(8, "little") + HEADER + bytes(1000)
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS}
COMMITS = ("1" * 40, "2" * 40)


def cached(cache: Path, name: str, commit: str, files: dict[str, bytes], reference: str = "") -> Path:
    """Put a snapshot into a cache, as https://huggingface.co/docs/huggingface_hub/guides/manage-cache has it."""
    folder = cache / f"models--{name.replace('/', '--')}"
    for path, data in files.items():
        blob = folder / "blobs" / f"{hash(data) & 0xFFFFFFFF:040x}"
        link = folder / "snapshots" / commit / path
        for parent in (blob.parent, link.parent):
            parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(data)
        link.symlink_to(blob)
    if reference:
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / reference).write_text(commit)
    return folder


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder


def disk(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def test_what_is_in_the_cache_and_in_folders(cache: Path, tmp_path: Path) -> None:
    cached(cache, "owner/two", COMMITS[0], FILES)
    folder = cached(cache, "owner/two", COMMITS[1], {**FILES, "config.json": b"{ }"}, "main")
    ggufs = cached(cache, "owner/ggufs", COMMITS[0], {"a-Q4_0.gguf": b"GGUF", "config.json": b"{}"})
    (cache / "models--owner--begun" / "blobs").mkdir(parents=True)
    (cache / "models--owner--begun" / "blobs" / "x.chatui.incomplete").write_bytes(b"12345")
    (cache / "datasets--owner--data").mkdir()
    own = tmp_path / "own" / "model"
    own.mkdir(parents=True)
    for path, data in FILES.items():
        (own / path).write_bytes(data)
    found = local_models([tmp_path / "own"], cache)
    size = len(WEIGHTS) + 2
    shown = [(model.name, model.source, model.size, model.commit, model.references) for model in found]
    gguf = ggufs / "snapshots" / COMMITS[0] / "a-Q4_0.gguf"
    assert sorted(shown) == sorted(
        [
            (str(own), "folder", size, "", ()),
            (str(gguf), "cache", 4, COMMITS[0], ()),
            ("owner/begun", "cache", 5, "", ()),
            ("owner/two", "cache", size, COMMITS[0], ()),
            ("owner/two", "cache", size + 1, COMMITS[1], ("main",)),
        ]
    )
    problems = {model.name: model.problem for model in found}
    assert problems["owner/two"] == problems[str(own)] == ""
    assert "not fetched to its end" in problems["owner/begun"]
    assert "a-Q4_0.gguf is incomplete or damaged" in problems[str(gguf)]
    assert all(model.last_used for model in found if model.commit)
    assert [model.path for model in found if model.commit == COMMITS[1]] == [folder / "snapshots" / COMMITS[1]]
    assert local_models([], tmp_path / "absent") == ()


@pytest.mark.parametrize(
    ("files", "problem"),
    [
        (FILES, ""),
        ({"model.safetensors": WEIGHTS}, "config.json is missing"),
        ({"config.json": b"{}"}, "it has no weights in safetensors or GGUF files"),
        ({**FILES, "model.safetensors": WEIGHTS[:-1]}, "The file model.safetensors is incomplete or damaged."),
        (
            {
                "config.json": b"{}",
                "model-00001-of-00002.safetensors": WEIGHTS,
                INDEX: json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "x"}}).encode(),
            },
            "1 of its 2 weight files are missing",
        ),
        ({**FILES, INDEX: b"{"}, f"{INDEX} is damaged."),
    ],
)
def test_what_is_missing_is_said(files: dict[str, bytes], problem: str, tmp_path: Path) -> None:
    for path, data in files.items():
        (tmp_path / path).write_bytes(data)
    assert problem_of(tmp_path) == problem


def test_deleting_frees_what_it_says(cache: Path) -> None:
    cached(cache, "owner/two", COMMITS[0], FILES)
    cached(cache, "owner/two", COMMITS[1], {**FILES, "new.json": b"[1]"}, "main")
    other = cached(cache, "owner/other", COMMITS[0], {**FILES, "unlike.json": b"[]"})
    (cache / "models--owner--two" / "blobs" / "x.chatui.incomplete").write_bytes(b"12345")
    before = disk(cache)
    deletion = plan_deletion("owner/two", COMMITS[1][:8], cache)
    assert (deletion.freed, disk(cache)) == (3, before)
    deletion.execute()
    assert [model.commit for model in local_models([], cache) if model.name == "owner/two"] == [COMMITS[0]]
    deletion = plan_deletion("owner/two", cache=cache)
    left = disk(other)
    assert deletion.freed == len(WEIGHTS) + 2 + 5
    deletion.execute()
    assert [model.name for model in local_models([], cache)] == ["owner/other"]
    assert disk(cache) == left


def test_an_unfinished_download_and_one_gguf_file(cache: Path) -> None:
    incomplete = cache / "models--owner--begun" / "blobs" / "x.chatui.incomplete"
    incomplete.parent.mkdir(parents=True)
    incomplete.write_bytes(b"12345")
    deletion = plan_deletion("owner/begun", cache=cache)
    assert deletion.freed == 5
    deletion.execute()
    assert not (cache / "models--owner--begun").exists()
    folder = cached(cache, "owner/ggufs", COMMITS[0], {"a.gguf": b"GGUF", "b.gguf": b"GGUF2"}, "main")
    snapshot = folder / "snapshots" / COMMITS[0]
    deletion = plan_deletion(str(snapshot / "a.gguf"), cache=cache)
    assert deletion.freed == 4
    deletion.execute()
    assert [file.name for file in snapshot.iterdir()] == ["b.gguf"]
    assert disk(folder / "blobs") == 5


@pytest.mark.parametrize("both", [True, False])
def test_files_outside_the_cache_are_never_deleted(both: bool, cache: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.safetensors"
    own.write_bytes(WEIGHTS)
    folder = cached(cache, "owner/linked", COMMITS[0], {"config.json": b"{}"})
    (folder / "snapshots" / COMMITS[0] / "model.safetensors").symlink_to(own)
    cached(cache, "owner/linked", COMMITS[1], {"config.json": b"{}"})
    deletion = plan_deletion("owner/linked", "" if both else COMMITS[0], cache)
    assert deletion.freed == (2 if both else 0)
    deletion.execute()
    assert own.read_bytes() == WEIGHTS
    assert not (folder / "snapshots" / COMMITS[0]).exists()


@pytest.mark.parametrize("name", ["owner/absent", "../outside", "..", "", "linked", "own.gguf", "own"])
def test_what_is_not_in_the_cache_is_refused(
    name: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    for path in ("own.gguf", "own/config.json", "models--outside"):
        (tmp_path / path).write_bytes(b"mine")
    (cache / "models--linked").symlink_to(tmp_path / "own", target_is_directory=True)
    for given in (name, str(tmp_path / name)):
        with pytest.raises(HubError) as raised:
            plan_deletion(given, cache=cache).execute()
        assert raised.value.remedy
    assert disk(tmp_path) == 3 * 4


def test_a_revision_that_is_not_there(cache: Path) -> None:
    cached(cache, "owner/model", COMMITS[0], FILES)
    with pytest.raises(ChatError, match="no revision 'v9'"):
        plan_deletion("owner/model", "v9", cache)


def test_what_was_fetched_is_whole_and_can_be_deleted(hub: LocalHub, cache: Path) -> None:
    hub.add("owner/model", FILES)
    plan = plan_download("owner/model", cache=cache)
    download = Download(plan)
    download.start()
    assert download.wait(120).state == "done"
    (found,) = local_models([], cache)
    size = len(WEIGHTS) + 2
    expected = LocalModel("owner/model", plan.snapshot, "cache", size, found.updated, found.last_used, plan.commit)
    assert found == LocalModel(**{**expected.__dict__, "references": ("main",)})
    shutil.rmtree(cache / ".locks")
    plan_deletion("owner/model", cache=cache).execute()
    assert disk(cache) == (cache / "CACHEDIR.TAG").stat().st_size
