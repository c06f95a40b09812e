"""A Python with the packages of one requirements.txt and no others, made of links to those installed here."""

import csv
import importlib.metadata
import sys
import sysconfig
import venv
from collections import Counter
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def read_requirements(text: str) -> list[Requirement]:
    """The requirements of a requirements.txt, comments aside."""
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return [Requirement(line) for line in lines if line]


def closure(requirements: list[Requirement]) -> dict[str, importlib.metadata.Distribution]:
    """The distributions that pip would install for `wanted`, as they are installed here.

    Raises PackageNotFoundError for one that is not here, AssertionError where its version does not fit.
    """
    found: dict[str, importlib.metadata.Distribution] = {}
    seen: set[tuple[str, str]] = set()
    left = list(requirements)
    while left:
        requirement = left.pop()
        distribution = importlib.metadata.distribution(requirement.name)
        assert requirement.specifier.contains(distribution.version, prereleases=True), (
            f"{requirement} is wanted, {distribution.version} is here"
        )
        name = canonicalize_name(requirement.name)
        found[name] = distribution
        for extra in ("", *requirement.extras):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            children = [Requirement(line) for line in distribution.requires or []]
            left += [child for child in children if child.marker is None or child.marker.evaluate({"extra": extra})]
    return found


def make(folder: Path, requirements: list[Requirement]) -> Path:
    """Build the environment in `folder`, and return its Python."""
    venv.create(folder, symlinks=True)
    scheme = {"base": str(folder), "platbase": str(folder)}
    site = Path(sysconfig.get_path("purelib", "venv", scheme))
    installed = {name: _files(distribution) for name, distribution in _installed().items()}
    owners = Counter(top for files in installed.values() for top in {file.parts[0] for file in files})
    for name, distribution in closure(requirements).items():
        # A whole package where one distribution owns it: a link for each file takes 20 seconds.
        parts = {Path(file.parts[0]) if owners[file.parts[0]] == 1 else file for file in installed[name]}
        for part in parts:
            (site / part).parent.mkdir(parents=True, exist_ok=True)
            (site / part).symlink_to(Path(str(distribution.locate_file(part))))
    return folder / "bin" / Path(sys.executable).name


def _installed() -> dict[str, importlib.metadata.Distribution]:
    return {canonicalize_name(found.name): found for found in importlib.metadata.distributions()}


def _files(distribution: importlib.metadata.Distribution) -> set[Path]:
    """The files in site-packages, from RECORD: `distribution.files` looks each of them up and takes long."""
    rows = csv.reader((distribution.read_text("RECORD") or "").splitlines())
    return {path for row in rows if (path := Path(row[0])).parts[0] not in ("..", "__pycache__")}
