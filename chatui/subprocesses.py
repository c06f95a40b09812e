"""Modules of this package that are run by processes of their own."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def module_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module.

    With `-P` a file of the working directory that is named as a library is not imported in its place.
    """
    return [sys.executable, "-P", "-m", module, *arguments]


def module_environment() -> dict[str, str]:
    """This process's environment, with which the package is found where it is not installed too."""
    path = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
