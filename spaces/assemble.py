"""Gathers what a Hugging Face Space needs into one folder, ready to upload: `python spaces/assemble.py FOLDER`."""

import argparse
import shlex
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "chatui"
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.py[cod]", "*.pyi", ".*")


def assemble(folder: Path, force: bool = False) -> None:
    """Fill `folder`, which must be empty or new; with `force` what is there already is replaced or left alone.

    Raises FileExistsError where it is neither.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not force:
        raise FileExistsError(f"{folder} is not empty. Name another folder, or add --force to write into it.")
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / PACKAGE).exists():
        shutil.rmtree(folder / PACKAGE)
    shutil.copytree(ROOT / PACKAGE, folder / PACKAGE, ignore=LEFT_OUT)
    for file in [ROOT / "app.py", ROOT / "spaces" / "README.md", *ROOT.glob("LICENSE*")]:
        shutil.copy(file, folder)
    parts = [ROOT / "requirements.txt", ROOT / "spaces" / "requirements.txt"]
    (folder / "requirements.txt").write_text("\n".join(part.read_text() for part in parts))


def main(arguments: list[str] | None = None) -> int:
    """Assemble, and say how to upload. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where to put the files of the Space; made if it is not there")
    parser.add_argument("--force", action="store_true", help="write into a folder that is not empty, a clone say")
    options = parser.parse_args(arguments)
    try:
        assemble(options.folder, options.force)
    except OSError as error:
        print(f"assemble: {error}", file=sys.stderr)
        return 2
    print(f"The Space is in {options.folder}. To upload it (a new Space is made where there is none):")
    print(f"  hf upload OWNER/NAME {shlex.quote(str(options.folder))} . --repo-type space --delete '*'")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
