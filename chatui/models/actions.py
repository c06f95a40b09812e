"""What can be done with a model of the overview: serve, load, unload and delete it."""

from pathlib import Path

from chatui.backend import Backend
from chatui.errors import HubError, ModelError
from chatui.models.catalogue import Deletion, plan_deletion
from chatui.models.overview import OverviewRow


class ModelActions:
    """The actions. They may block on the disk. Permissions are checked by the caller."""

    def __init__(self, backend: Backend, cache: Path | None = None) -> None:
        """`cache` is the HF cache, for None the user's."""
        self._backend, self._cache = backend, cache

    def serve(self, row: OverviewRow) -> str:
        """Serve a model if it is not served yet, and return the name that the backend has for it. Raises ModelError."""
        if row.status is not None:
            return row.status.name
        if row.problem:
            raise ModelError(f"{row.name} cannot be loaded: {row.problem}.", "Download it again.")
        commit = row.local.commit if row.local is not None and not Path(row.name).is_absolute() else ""
        return self._backend.add(row.name, commit or None)

    def load(self, row: OverviewRow) -> None:
        """Begin to load a model. Raises ModelError."""
        self._backend.load(self.serve(row))

    def unload(self, row: OverviewRow) -> None:
        """Unload a model once its replies have ended. Raises ModelError."""
        if row.status is not None:
            self._backend.unload(row.status.name)

    def plan_deletion(self, row: OverviewRow) -> Deletion:
        """What deleting a model would free. Raises HubError if it is not in the HF cache."""
        if row.local is None or not row.can_be_deleted:
            raise HubError(
                "unsuitable",
                f"{row.name} is not in the HF cache, and nothing else is deleted.",
                "Delete it yourself if it is not needed any more.",
            )
        return plan_deletion(row.local.name, row.local.commit, self._cache)

    def delete(self, row: OverviewRow) -> Deletion:
        """Serve a model no longer, and delete its files. Raises ModelError if that does not work, HubError too."""
        deletion = self.plan_deletion(row)
        if row.status is not None:
            self._backend.remove(row.status.name)
        deletion.execute()
        if row.local is not None and row.local.path.exists():
            raise HubError(
                "storage", f"Files of {row.name} could not be deleted.", "Check who may write to the HF cache."
            )
        return deletion
