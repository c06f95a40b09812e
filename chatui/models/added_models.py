"""The file that keeps the models that were added while the server was running, for its next start."""

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

log = logging.getLogger(__name__)

AddedModel = tuple[str, str | None]
"""(name on the Hub or path, revision)."""
ADAPTER = TypeAdapter(list[AddedModel])


class AddedModelsFile:
    """A JSON file of added models. A file that cannot be read or written is logged, and the server goes on."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[AddedModel]:
        """The models in the file; none if there is no file."""
        try:
            return ADAPTER.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return []
        except (OSError, ValidationError) as error:
            log.warning("the added models in %s cannot be read: %s", self._path, error)
            return []

    def write(self, models: Iterable[AddedModel]) -> None:
        """Replace the file in one step, so that a crash leaves the old or the new one."""
        temporary = self._path.with_suffix(".new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("w") as file:
                json.dump(list(models), file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as error:
            log.warning("the added models are not kept for the next start: %s", error)
