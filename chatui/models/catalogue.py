"""The models on this machine: those in the HF cache and in folders, whole or not, and how to delete those in the cache.

Files outside the cache are never deleted.
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from chatui.errors import HubError, ModelError
from chatui.gguf_file import read_gguf_header
from chatui.i18n import N_
from chatui.model_spec import ADAPTER_WEIGHTS, find_models, is_adapter, read_adapter_config
from chatui.models.fetch_process import repository_folder
from chatui.stored_tensors import read_header

if TYPE_CHECKING:
    from huggingface_hub import DeleteCacheStrategy, HFCacheInfo
    from huggingface_hub.utils import CachedFileInfo, CachedRepoInfo, CachedRevisionInfo

INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class LocalModel:
    """A model on this machine. `name` is what to give to --model: a name on the Hub or a path.

    `source` is the HF cache, a folder, or the package with the default model. `size` is in bytes on the disk. `problem`
    says what is missing; it is empty for a whole model. `commit` and `references` (branches and tags) are those of a
    model in the cache. `updated` is when its files were written.
    """

    name: str
    path: Path
    source: Literal["cache", "folder", "package"]
    size: int
    updated: datetime | None = None
    last_used: datetime | None = None
    commit: str = ""
    references: tuple[str, ...] = ()
    problem: str = ""


def local_models(folders: Iterable[Path] = (), cache: Path | None = None) -> tuple[LocalModel, ...]:
    """All models in the HF cache and in folders such as --models-dir, sorted by name. Raises SettingsError."""
    found = [*_cached_models(cache or _cache())]
    for folder in folders:
        found += map(_in_folder, find_models(folder))
    return tuple(sorted(found, key=lambda model: (model.name.lower(), model.commit)))


def problem_of(path: Path) -> str:
    """What is missing or damaged in a model's folder or GGUF file, by its headers; empty if it is whole."""
    try:
        if path.suffix.lower() == ".gguf":
            read_gguf_header(path)
            return ""
        if is_adapter(path):
            read_adapter_config(path)
            read_header(path / ADAPTER_WEIGHTS)
            return ""
        listed = _listed_weights(path)
        missing = [file for file in listed if not (path / file).is_file()]
        if missing:
            count, all_files = len(missing), len(listed)
            return N_(f"{count} of its {all_files} weight files are missing")
        if not listed and not any(path.glob("*.safetensors")):
            return N_("it has no weights in safetensors or GGUF files")
        for file in sorted(path.glob("*.safetensors")):
            read_header(file)
    except ModelError as error:
        return error.message
    except OSError as error:
        return N_(f"it cannot be read ({error.strerror})")
    return "" if (path / "config.json").is_file() else N_("config.json is missing")


@dataclass(frozen=True)
class Deletion:
    """What deleting a model removes. `freed` is in bytes."""

    name: str
    freed: int
    strategy: "DeleteCacheStrategy | None"
    folder: Path | None = None

    def execute(self) -> None:
        """Delete it."""
        if self.strategy is not None:
            self.strategy.execute()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


def plan_deletion(name: str, commit: str = "", cache: Path | None = None) -> Deletion:
    """What deleting a model from the HF cache removes: all of it, one revision, or one GGUF file by its path.

    Raises HubError for models that are not in the cache.
    """
    cache = (cache or _cache()).resolve()
    if Path(name).is_absolute() or Path(name).exists():
        return _file_deletion(Path(name), cache)
    folder = _folder(name, cache)
    partial_size = sum(file.stat().st_size for file in folder.glob("blobs/*.incomplete"))
    scanned = _scan(cache)
    repository = next((repo for repo in scanned.repos if repo.repo_path == folder), None)
    if repository is None or (not commit and not repository.revisions):
        if commit:
            raise _no_revision(name, commit)
        return Deletion(name, _size(folder), None, folder)
    revisions = [revision for revision in repository.revisions if revision.commit_hash.startswith(commit)]
    if not revisions:
        raise _no_revision(name, commit)
    # A renamed or duplicated repository has the same commits, and delete_revisions takes the first that it finds.
    alone = replace(scanned, repos=frozenset({repository}))
    strategy = alone.delete_revisions(*(revision.commit_hash for revision in revisions))
    if folder in strategy.repos:
        outside = {file.blob_path: file.size_on_disk for revision in revisions for file in _outside(revision, folder)}
        return Deletion(name, strategy.expected_freed_size - sum(outside.values()) + partial_size, strategy)
    return _inside(Deletion(name, strategy.expected_freed_size, strategy), folder)


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _scan(cache: Path) -> "HFCacheInfo":
    from huggingface_hub import scan_cache_dir

    return scan_cache_dir(cache)


def _cached_models(cache: Path) -> Iterator[LocalModel]:
    if not cache.is_dir():
        return
    scanned = _scan(cache)
    whole = set()
    for repository in scanned.repos:
        if repository.repo_type == "model":
            for revision in repository.revisions:
                whole.add(repository.repo_path)
                yield from _in_revision(repository, revision)
    for folder in sorted(cache.resolve().glob("models--*")):
        if folder not in whole and folder.is_dir():
            name = folder.name.removeprefix("models--").replace("--", "/")
            size = _size(folder)
            if size:
                yield LocalModel(
                    name, folder, "cache", size, problem=N_("it was not fetched to its end, or is damaged")
                )


def _in_revision(repository: "CachedRepoInfo", revision: "CachedRevisionInfo") -> Iterator[LocalModel]:
    """The model of a revision, and each of its GGUF files."""
    common = LocalModel(
        repository.repo_id,
        revision.snapshot_path,
        "cache",
        revision.size_on_disk,
        _time(revision.last_modified),
        _time(repository.last_accessed),
        revision.commit_hash,
        tuple(sorted(revision.refs)),
    )
    ggufs = [file for file in revision.files if file.file_path.suffix.lower() == ".gguf"]
    for file in ggufs:
        path = file.file_path
        yield replace(common, name=str(path), path=path, size=file.size_on_disk, problem=problem_of(path))
    if not ggufs or any(file.file_path.suffix == ".safetensors" for file in revision.files):
        size = common.size - sum(file.size_on_disk for file in ggufs)
        yield replace(common, size=size, problem=problem_of(common.path))


def _in_folder(path: Path) -> LocalModel:
    files = [path] if path.is_file() else [file for file in path.iterdir() if file.is_file()]
    stats = [file.stat() for file in files]
    updated, last_used = max(stat.st_mtime for stat in stats), max(stat.st_atime for stat in stats)
    size = sum(stat.st_size for stat in stats)
    return LocalModel(str(path), path, "folder", size, _time(updated), _time(last_used), problem=problem_of(path))


def _listed_weights(folder: Path) -> set[str]:
    """The weight files that the index of a model in several files lists."""
    try:
        return set(map(str, json.loads((folder / INDEX).read_bytes())["weight_map"].values()))
    except FileNotFoundError:
        return set()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{INDEX} is damaged.") from None


def _file_deletion(path: Path, cache: Path) -> Deletion:
    """Delete one file of a snapshot, and its content unless another snapshot has it too."""
    scanned = _scan(cache) if cache.is_dir() else None
    link = path.parent.resolve() / path.name
    for repository in scanned.repos if scanned else ():
        for revision in repository.revisions:
            for file in revision.files:
                if scanned and file.file_path == link:
                    strategy = scanned.delete_files(file)
                    return _inside(Deletion(str(path), strategy.expected_freed_size, strategy), repository.repo_path)
    raise HubError(
        "unsuitable",
        f"{path} is not a file in the HF cache, and nothing else is deleted.",
        "Delete it yourself if it is not needed any more.",
    )


def _folder(name: str, cache: Path) -> Path:
    """The folder of a model in the cache. Raises HubError if there is none."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        name_is_valid = False
    else:
        name_is_valid = True
    folder = repository_folder(cache, name)
    if not name_is_valid or not folder.is_dir() or folder.is_symlink():
        raise HubError(
            "missing", f"{name} is not in the HF cache ({cache}).", "See what is there with `chatui models list`."
        )
    return folder


def _outside(revision: "CachedRevisionInfo", folder: Path) -> "list[CachedFileInfo]":
    """Files of a revision that are links to somewhere out of the model's folder."""
    return [file for file in revision.files if not _is_inside(file.blob_path, folder)]


def _is_inside(path: Path, folder: Path) -> bool:
    return path.parent.resolve().is_relative_to(folder)


def _inside(deletion: Deletion, folder: Path) -> Deletion:
    """The deletion without files to which links lead out of the model's folder: huggingface_hub would delete them."""
    strategy = deletion.strategy
    if strategy is None:
        return deletion
    outside = {blob for blob in strategy.blobs if not _is_inside(blob, folder)}
    freed = deletion.freed - sum(blob.stat().st_size for blob in outside)
    return replace(deletion, freed=freed, strategy=replace(strategy, blobs=strategy.blobs - outside))


def _no_revision(name: str, commit: str) -> HubError:
    return HubError(
        "no revision", f"{name} has no revision {commit!r} in the HF cache.", "Give a commit that is there."
    )


def _size(folder: Path) -> int:
    """The bytes of all files in a folder, without those to which links lead."""
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
