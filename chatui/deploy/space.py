"""Creates or updates a Hugging Face Space: what is to change, and the requests that change it.

https://huggingface.co/docs/huggingface_hub/guides/manage-spaces
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatui.errors import HubError
from chatui.models import hub_errors

if TYPE_CHECKING:
    from huggingface_hub import HfApi, Volume

DATA_FOLDER = "/data"
"""Where the storage is mounted."""


@dataclass(frozen=True)
class SpaceSpec:
    """What a Space shall be. Settings that it has already and that are not named here stay.

    `hardware` "" leaves it as it is, on a new Space the free one. `storage` is a bucket on the Hub (owner/name), which
    is made if it does not exist. `sleep_seconds` without a visit end paid hardware until the next visit.
    """

    name: str
    folder: Path
    private: bool = False
    hardware: str = ""
    sleep_seconds: int | None = None
    storage: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)

    def files(self) -> list[Path]:
        """All files to upload."""
        return sorted(path for path in self.folder.rglob("*") if path.is_file())


@dataclass(frozen=True)
class SpaceState:
    """What the Hub tells of an existing Space. Values of secrets are never told."""

    hardware: str
    variables: Mapping[str, str]
    secrets: frozenset[str]
    volumes: tuple["Volume", ...]

    def has_storage(self, bucket: str) -> bool:
        """Whether this bucket is mounted in DATA_FOLDER."""
        return any(volume.source == bucket and volume.mount_path == DATA_FOLDER for volume in self.volumes)


def read_state(api: "HfApi", name: str) -> SpaceState | None:
    """The state of a Space, None if there is none. Raises HubError."""
    try:
        if not api.repo_exists(name, repo_type="space"):
            return None
        runtime = api.get_space_runtime(name)
        return SpaceState(
            runtime.requested_hardware or runtime.hardware or "",
            {key: each.value for key, each in api.get_space_variables(name).items()},
            frozenset(api.get_space_secrets(name)),
            tuple(runtime.volumes or ()),
        )
    except Exception as error:
        raise _hub_error(name, error) from error


def changes(spec: SpaceSpec, state: SpaceState | None) -> Iterator[str]:
    """What `deploy` would do, a sentence for each step, without the values of secrets."""
    if state is None:
        yield f"Create the {'private' if spec.private else 'public'} Space {spec.name}."
    if spec.storage and not (state and state.has_storage(spec.storage)):
        yield f"Mount the bucket {spec.storage} in {DATA_FOLDER}."
    known = state.secrets if state else frozenset()
    for key in spec.secrets:
        yield f"{'Replace' if key in known else 'Set'} the secret {key}."
    for key, value in _new_variables(spec, state).items():
        yield f"Set the variable {key} to {value}."
    if spec.hardware and spec.hardware != (state.hardware if state else ""):
        yield f"Ask for the hardware {spec.hardware}."
    if spec.sleep_seconds is not None:
        yield f"Let it sleep after {spec.sleep_seconds} seconds without a visit."
    files = spec.files()
    yield f"Upload {len(files)} files ({sum(path.stat().st_size for path in files) / 1e6:.1f} MB)."


def deploy(api: "HfApi", spec: SpaceSpec, state: SpaceState | None) -> str:
    """Make the Space what `spec` says, and return its address. It can be called again after an error.

    The files come last, because they start the Space, which then has its settings. Raises HubError.
    """
    from huggingface_hub import Volume

    try:
        volumes = [] if state is None else [each for each in state.volumes if each.mount_path != DATA_FOLDER]
        if spec.storage:
            api.create_bucket(spec.storage, private=True, exist_ok=True)
            volumes.append(Volume(type="bucket", source=spec.storage, mount_path=DATA_FOLDER, read_only=False))
        if state is None:
            _create(api, spec, volumes)
        else:
            _update(api, spec, state, volumes)
        api.upload_folder(
            repo_id=spec.name,
            folder_path=spec.folder,
            repo_type="space",
            commit_message="chatui",
            delete_patterns="*",
        )
    except Exception as error:
        raise _hub_error(spec.name, error) from error
    return f"{api.endpoint}/spaces/{spec.name}"


def _create(api: "HfApi", spec: SpaceSpec, volumes: list["Volume"]) -> None:
    options: dict[str, Any] = {
        "space_hardware": spec.hardware or None,
        "space_sleep_time": spec.sleep_seconds,
        "space_volumes": volumes or None,
        "space_secrets": [{"key": key, "value": value} for key, value in spec.secrets.items()] or None,
        "space_variables": [{"key": key, "value": value} for key, value in spec.variables.items()] or None,
    }
    api.create_repo(spec.name, repo_type="space", space_sdk="gradio", private=spec.private, **options)


def _update(api: "HfApi", spec: SpaceSpec, state: SpaceState, volumes: list["Volume"]) -> None:
    if spec.storage and not state.has_storage(spec.storage):
        api.set_space_volumes(spec.name, volumes)
    for key, value in spec.secrets.items():
        api.add_space_secret(spec.name, key, value)
    for key, value in _new_variables(spec, state).items():
        api.add_space_variable(spec.name, key, value)
    hardware: Any = spec.hardware
    if hardware and hardware != state.hardware:
        api.request_space_hardware(spec.name, hardware, sleep_time=spec.sleep_seconds)
    elif spec.sleep_seconds is not None:
        api.set_space_sleep_time(spec.name, spec.sleep_seconds)


def _new_variables(spec: SpaceSpec, state: SpaceState | None) -> dict[str, str]:
    """The variables that the Space does not have yet, or with another value."""
    known = state.variables if state else {}
    return {key: value for key, value in spec.variables.items() if known.get(key) != value}


def _hub_error(name: str, error: Exception) -> Exception:
    """The HubError for what huggingface_hub raised. Its own text is left out: it may repeat what was sent."""
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    page = f"Space {name}"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status in (401, 403) or isinstance(error, RepositoryNotFoundError):
        return HubError(
            "unauthorized",
            f"The Hub does not let you change the {page}.",
            "Set HF_TOKEN to a token of yours that may write, or run `hf auth login`.",
        )
    if status == 402:
        return HubError("unsuitable", f"The {page} needs a plan that pays for it.", "Choose other hardware or storage.")
    if status in (400, 422):
        return HubError(
            "unsuitable",
            f"The Hub does not take these settings for the {page}.",
            "Check the names of --hardware and --storage.",
        )
    return hub_errors.hub_error(page, None, error) or error
