"""ModelSpec -> the files of the model: here, in the package, or downloaded from the Hub."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from chatui.engine.loading import embedded, wrong_files
from chatui.engine.loading.embedded import ReportPhase
from chatui.errors import ModelError
from chatui.model_spec import ModelSpec, check_name, is_adapter
from chatui.settings import DEFAULT_MODEL

DOWNLOADED_FILES = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
IGNORED_FILES = ["*/*", "consolidated*.safetensors"]


@dataclass(frozen=True)
class Files:
    """Files on this disk: a folder in transformers' format, or one GGUF file in it, or such a folder and levels.

    Where known, `commit` is the folder's on the Hub, and `made_from` the GGUF file that it was converted from.
    """

    folder: Path
    gguf_file: str | None = None
    levels: Path | None = None
    commit: str = ""
    made_from: Path | None = None

    @property
    def path(self) -> Path:
        """The folder or the GGUF file."""
        return self.folder / self.gguf_file if self.gguf_file else self.folder

    @property
    def gguf(self) -> Path | None:
        """The GGUF file, None for a folder in transformers' format."""
        return self.path if self.gguf_file else None

    @property
    def arguments(self) -> dict[str, Any]:
        """What transformers is told beside the folder."""
        return {"gguf_file": self.gguf_file} if self.gguf_file else {}

    @property
    def revision(self) -> str:
        """What tells it from others of its name; the whole of a GGUF file is read, in a small part of its loading."""
        original = self.path if self.gguf_file else self.made_from
        if original is None:
            return self.commit
        with original.open("rb") as file:
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()[:12]


def locate(spec: ModelSpec, cache_dir: Path, report: ReportPhase) -> Files:
    """The files of the model, downloaded where they are not here. Raises ModelError where there are none."""
    found = on_disk(spec)
    if found is not None:
        return found
    package = embedded.find() if spec.name == DEFAULT_MODEL and spec.revision is None else None
    if package is not None:
        converted = embedded.converted(package, cache_dir, report)
        return Files(converted, levels=converted / embedded.LEVELS, made_from=package)
    report("downloading from the Hub")
    own_code = ["*.py"] if spec.trust_remote_code else []
    folder = snapshot_download(
        spec.name, revision=spec.revision, allow_patterns=DOWNLOADED_FILES + own_code, ignore_patterns=IGNORED_FILES
    )
    if not (Path(folder) / "config.json").is_file() and not is_adapter(Path(folder)):
        raise ModelError(
            f"{spec.name} has no config.json, so it is no model for transformers.",
            "If it has GGUF files, download one of them and give its path to --model.",
        )
    return Files(Path(folder), commit=Path(folder).name)


def on_disk(spec: ModelSpec) -> Files | None:
    """The folder or file that the spec names, None for a name on the Hub. Raises ModelError where it is not there."""
    path = Path(spec.name).expanduser()
    if path.is_file() and wrong_files.is_gguf(path):
        return Files(path.parent.absolute(), path.name)
    if spec.name.lower().endswith(".gguf") and not path.is_dir():
        if not path.parent.is_dir():
            check_name(spec.name)
        raise ModelError(f"There is no file {spec.name}.", "Check the path given to --model.")
    if path.is_dir():
        if is_adapter(path):
            return Files(path.absolute())
        wrong_files.check_folder(spec.name, path)
        if not (path / "config.json").is_file():
            wrong_files.check_inside(spec.name, path)
            raise ModelError(
                f"The folder {spec.name} holds no model: config.json is missing.",
                "Name the folder that `save_pretrained` wrote or that was downloaded from the Hub, or a GGUF file.",
            )
        return Files(path.absolute())
    if path.is_file():
        wrong_files.check_file(path)
        raise ModelError(f"{spec.name} is a file, but not in GGUF format.", "Name the folder that it is in.")
    if path.is_absolute() or spec.name.startswith((".", "~")):
        raise ModelError(f"There is no model folder {spec.name}.", "Check the path given to --model.")
    check_name(spec.name)
    return None


def from_home(path: Path) -> str:
    """As ~/..., where it is in the user's home: what a page shows should not name the user."""
    try:
        home = Path.home()
    except RuntimeError:
        return str(path)
    return f"~/{path.relative_to(home).as_posix()}" if path.is_relative_to(home) else str(path)
