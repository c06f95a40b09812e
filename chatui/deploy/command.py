"""`chatui deploy space OWNER/NAME`: creates or updates a Hugging Face Space from a checkout."""

import argparse
import os
import re
import runpy
import tempfile
from pathlib import Path

from chatui.deploy import space
from chatui.errors import ChatError, SettingsError
from chatui.setting_values import SECRETS
from chatui.settings import AppSettings

ASSEMBLE = Path(__file__).parents[2] / "spaces" / "assemble.py"
SPACE_NAME = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
SECRET_VARIABLES = {f"CHATUI_{name.upper()}" for name in SECRETS} | {"HF_TOKEN"}
"""Variables that must be secrets: anyone can read the variables of a public Space."""


def run(arguments: list[str]) -> str:
    """Run the command and return its output. Raises ChatError. Exits after --help and on wrong arguments."""
    options = _parser().parse_args(arguments)
    if not SPACE_NAME.fullmatch(options.name):
        raise SettingsError("name", f"{options.name!r} is no name of a Space.", "Write OWNER/NAME.")
    variables, secrets = _variables(options), _secrets(options.secret)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or _assembled(Path(scratch) / "space")
        spec = space.SpaceSpec(
            options.name,
            folder,
            options.private,
            options.hardware,
            options.sleep_time,
            options.storage,
            variables,
            secrets,
        )
        return _deploy(spec, options.dry_run)


def _deploy(spec: space.SpaceSpec, dry_run: bool) -> str:
    from huggingface_hub import HfApi

    api = HfApi()
    state = space.read_state(api, spec.name)
    steps = "\n".join(f"- {step}" for step in space.changes(spec, state))
    if dry_run:
        return f"Nothing was changed. Without --dry-run:\n{steps}"
    return f"{steps}\nDone: {space.deploy(api, spec, state)}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("chatui deploy", description="Deploy chatui.")
    subcommands = parser.add_subparsers(required=True, metavar="SUBCOMMAND")
    text = "Create a Hugging Face Space from this checkout, or update it. Settings that are not named stay."
    add = subcommands.add_parser("space", help=text, description=text).add_argument
    add("name", metavar="OWNER/NAME", help="the Space")
    add("--dry-run", action="store_true", help="say what would be done, and change nothing")
    add("--private", action="store_true", help="a new Space is private")
    add("--hardware", default="", metavar="FLAVOR", help="such as cpu-upgrade, t4-small or zero-a10g")
    add("--sleep-time", type=int, metavar="SECONDS", help="end paid hardware after so long without a visit")
    add("--storage", default="", metavar="OWNER/BUCKET", help=f"keep chats in a bucket, mounted in {space.DATA_FOLDER}")
    add("--variable", action="append", default=[], metavar="NAME=VALUE", help="such as CHATUI_MODEL=...; repeatable")
    add(
        "--secret",
        action="append",
        default=[],
        metavar="NAME",
        help="a secret whose value is this environment variable's, such as CHATUI_AUTH; repeatable",
    )
    add("--folder", type=Path, help="an assembled Space, instead of one from this checkout")
    return parser


def _variables(options: argparse.Namespace) -> dict[str, str]:
    """The variables of the Space. Raises SettingsError for what is no setting, or must not be read by all."""
    found = {"CHATUI_DATA_DIR": space.DATA_FOLDER} if options.storage else {}
    for item in options.variable:
        name, separator, value = item.partition("=")
        if not separator or not name.isidentifier():
            raise SettingsError("variable", f"{name!r} has no value or is no name.", "Write NAME=VALUE.")
        if name in SECRET_VARIABLES:
            raise SettingsError(
                "variable", f"anyone could read {name}.", f"Set it in your environment and pass --secret {name}."
            )
        _check_setting("variable", name)
        found[name] = value
    return found


def _secrets(names: list[str]) -> dict[str, str]:
    """The secrets by name, from the environment. Raises SettingsError."""
    for name in names:
        if not name.isidentifier():
            raise SettingsError("secret", "needs the name of an environment variable.", "Never put its value here.")
        _check_setting("secret", name)
        if not os.environ.get(name):
            raise SettingsError("secret", f"{name} is not in the environment.", "Set it there first.")
    return {name: os.environ[name] for name in names}


def _check_setting(field: str, name: str) -> None:
    setting = name.lower().removeprefix("chatui_")
    if name.startswith("CHATUI_") and setting not in AppSettings.model_fields:
        raise SettingsError(field, f"{name} is no setting.", "docs/operating.md lists them.")


def _assembled(folder: Path) -> Path:
    """A new folder with what a Space needs. Raises ChatError where this is no checkout."""
    if not ASSEMBLE.is_file():
        raise ChatError("The files of a Space are not here.", "Run this in a checkout, or name a --folder.")
    runpy.run_path(str(ASSEMBLE))["assemble"](folder)
    return folder
