"""Which models are served, by which names, and which of them have gone."""

from pathlib import Path

import pytest

from chatui.errors import ModelError
from chatui.model_spec import ModelSpec
from chatui.models.added_models import AddedModel
from chatui.models.served_models import ServedModels, unique_names


def served_by(*names: str, models_dir: Path | None = None, added: tuple[AddedModel, ...] = ()) -> ServedModels:
    return ServedModels([ModelSpec(name) for name in names], models_dir, added)


def gguf(folder: Path, name: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"GGUF")
    return str(folder / name)


def test_the_first_is_the_default() -> None:
    models = served_by("one", "two")
    assert models.find("") is models.find("one") is models.default
    assert [each.name for each in models] == ["one", "two"]
    with pytest.raises(ModelError, match="one, two"):
        models.get("three")


def test_models_are_found_by_name_and_by_source(tmp_path: Path) -> None:
    path = gguf(tmp_path, "some.gguf")
    models = served_by("one", path)
    assert models.get(path) is models.get("some.gguf")


def test_two_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = [gguf(tmp_path / folder, "m.gguf") for folder in "ab"]
    assert unique_names([ModelSpec(path) for path in paths]) == paths
    models = served_by(paths[0])
    assert models.append(paths[1]).name == paths[1]
    assert models.default.name == "m.gguf", "names of others stay"


def test_added_models_come_back_and_are_not_served_twice() -> None:
    models = served_by("one", added=(("two", None), ("one", None)))
    assert [(each.name, each.added) for each in models] == [("one", False), ("two", True)]
    two = models.get("two")
    assert two.status().state == "unloaded"
    assert two.status().added
    models.remove(two)
    models.remove(two)
    assert models.find("two") is None


def test_what_was_deleted_from_disk_has_gone(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    kept, deleted = gguf(folder, "kept.gguf"), gguf(folder, "deleted.gguf")
    elsewhere = gguf(tmp_path / "elsewhere", "x.gguf")
    models = served_by("one", kept, deleted, models_dir=folder, added=((elsewhere, None),))
    Path(deleted).unlink()
    in_folder = models.in_folder()
    assert in_folder == [kept]
    assert [each.spec.name for each in models if models.is_gone(each, in_folder)] == [deleted]
    Path(elsewhere).unlink()
    assert models.is_gone(models.get(elsewhere), in_folder)


def test_nothing_has_gone_while_the_folder_cannot_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    path = gguf(folder, "m.gguf")
    models = served_by("one", path, models_dir=folder)
    folder.rename(tmp_path / "unplugged")
    in_folder = models.in_folder()
    assert in_folder is None
    assert not models.is_gone(models.get(path), in_folder)


def test_models_are_named_by_their_folder_unless_two_have_the_same(tmp_path: Path) -> None:
    for name in ("x/m", "y/m", "y/n"):
        (tmp_path / name).mkdir(parents=True)
    paths = [str(tmp_path / name) for name in ("x/m", "y/m", "y/n")]
    assert unique_names([ModelSpec(name) for name in ("owner/m", *paths)]) == ["owner/m", *paths[:2], "n"]
