"""The assembled folder, a Python with nothing but its requirements, and a tiny model: made once."""

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import models
from tests.spaces import environment

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def script() -> dict[str, Any]:
    """What spaces/assemble.py defines. The folder is no package: it would stand before the real `spaces`."""
    return runpy.run_path(str(ROOT / "spaces" / "assemble.py"))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, script: dict[str, Any]) -> Path:
    """The Space, assembled."""
    folder = tmp_path_factory.mktemp("space")
    assemble: Callable[[Path], None] = script["assemble"]
    assemble(folder)
    return folder


@pytest.fixture(scope="session")
def python(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with the packages that the Space's requirements bring, and no others."""
    requirements = environment.read_requirements((folder / "requirements.txt").read_text())
    return environment.make(tmp_path_factory.mktemp("environment"), requirements)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random model: there is no Hub here."""
    return models.save(tmp_path_factory.mktemp("model"))
