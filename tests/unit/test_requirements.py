"""The requirements files are those that pyproject.toml makes."""

from pathlib import Path

import pytest

from scripts import requirements

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", requirements.rendered())
def test_each_file_is_current(name: str) -> None:
    assert (ROOT / name).read_text() == requirements.rendered()[name], "run: python -m scripts.requirements"


def test_there_is_no_other_list_of_packages() -> None:
    own = {path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.txt"), *ROOT.glob("spaces/*.txt"))}
    assert own == set(requirements.rendered())


def test_every_dependency_is_pinned() -> None:
    lines = "".join(requirements.rendered().values()).splitlines()
    assert all("==" in line for line in lines if not line.startswith(("#", "-r ")))
