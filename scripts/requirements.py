"""`python -m scripts.requirements`: writes the requirements files from pyproject.toml, which lists the dependencies."""

import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
HEADER = "# Made from pyproject.toml, which says what each is for: python -m scripts.requirements\n"


def rendered() -> dict[str, str]:
    """The text of each requirements file, by its path from the repository's root."""
    tables = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project, model = tables["project"], tables["tool"]["chatui"]["embedded-model"]
    extras: dict[str, Any] = project["optional-dependencies"]
    engine = tables["tool"]["chatui"]["engine"]["packages"]
    page = [line for line in project["dependencies"] if line.partition("==")[0] not in engine]
    return {
        "requirements.txt": _lines(project["dependencies"]),
        "requirements-page.txt": _lines(page),
        "requirements-dev.txt": _lines(
            ["-r requirements.txt", "-r spaces/requirements.txt", "-r requirements-tracing.txt", *extras["dev"]]
        ),
        "requirements-tracing.txt": _lines(extras["tracing"]),
        "requirements-model.txt": _lines([f"{model['requirement']} --hash={model['hash']}"]),
        "spaces/requirements.txt": _lines(extras["spaces"]),
    }


def _lines(requirements: list[str]) -> str:
    return HEADER + "".join(f"{line}\n" for line in requirements)


def main() -> None:
    """Write the files that are not current."""
    for name, text in rendered().items():
        file = ROOT / name
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
            print(f"Wrote {name}.")


if __name__ == "__main__":
    main()
