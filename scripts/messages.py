"""`python -m scripts.messages`: brings the catalogues in chatui/locale up to what the code says; lists what is left.

A message is what stands in `_("...")`, `ngettext("...", "...", n)`, `N_("...")`, in the text of a ChatError and in what
an import refuses, leaves or has skipped. It may be an f-string: `f"There may be {limit:,} characters."` becomes "There
may be {limit} characters.". In the script of the page it is `_("...")`.
"""

import ast
import io
import sys
from collections.abc import Iterator
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.pofile import read_po, write_po

from chatui import errors, i18n, personas
from chatui.generation_settings import GenerationSettings

ROOT = Path(__file__).parents[1] / "chatui"
SILENT = [
    "i18n.py",
    "server.py",
    "cli.py",
    "model_report.py",
    "security.py",
    "api",
    "deploy",
    "listening.py",
    "tracing.py",
    "downloads.py",
    "model_spec.py",
    "stored_tensors.py",
    "models/hub_commands.py",
    "store/database.py",
    "store/migrating.py",
    "store/backups.py",
    "store/store.py",
]
"""What speaks to the console or to programs, which are told all in English."""

Id = str | tuple[str, str]
Found = dict[Id, str]
"""Messages, or a singular and its plural, with where the first is."""

HEADER = r"""msgid ""
msgstr ""
"Language: {name}\n"
"Content-Type: text/plain; charset=utf-8\n"
"Plural-Forms: {plurals}\n"

"""

RAISED = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.ChatError)}


def extracted() -> Found:
    """All messages of the page."""
    found: Found = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT)
        if name.parts[0] in SILENT or name.as_posix() in SILENT:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                for message in _in_call(node, _constants(tree)):
                    found.setdefault(message, f"{name}:{node.lineno}")
    for path in sorted((ROOT / "ui" / "page" / "assets").glob("*.js")):
        for message in i18n.script_message_ids(path.read_text(encoding="utf-8")):
            found.setdefault(message, path.name)
    for message in _object_texts():
        found.setdefault(message, "generation_settings.py, personas.py")
    return found


def update(name: str, found: Found) -> Catalog:
    """Give a catalogue all messages, and take from it those that are no more. Returns it."""
    path = i18n.FOLDER / f"{name}.po"
    known = read(name) if path.exists() else Catalog(locale=name.replace("-", "_"))
    fresh = Catalog(locale=name.replace("-", "_"), project="chatui", fuzzy=False)
    for message in sorted(found, key=lambda id: id if isinstance(id, str) else id[0]):
        before = known.get(message)
        # `{count}` is no %-format, whatever else stands in the text.
        fresh.add(message, before.string if before is not None else None)
    for each in fresh:
        each.flags.discard("python-format")
        each.flags.discard("python-brace-format")
    made = io.BytesIO()
    write_po(made, fresh, width=110, omit_header=True, ignore_obsolete=True, no_location=True)
    path.write_text(HEADER.format(name=name, plurals=fresh.plural_forms) + made.getvalue().decode(), encoding="utf-8")
    return fresh


def read(name: str) -> Catalog:
    """The catalogue of a language."""
    with (i18n.FOLDER / f"{name}.po").open(encoding="utf-8") as file:
        return read_po(file, locale=name.replace("-", "_"))


def key(id: str | list[str] | tuple[str, ...]) -> Id:
    """An id of Babel's as we have it."""
    return id if isinstance(id, str) else (id[0], id[1])


def missing(catalogue: Catalog) -> list[Id]:
    """What has no translation yet."""

    def is_missing(string: object) -> bool:
        return not all(string) if isinstance(string, tuple | list) else not string

    return [message.id for message in catalogue if message.id and is_missing(message.string)]  # type: ignore[misc]


def _is_skipped(append: ast.expr) -> bool:
    """Whether it is the method of a list of skipped items."""
    return isinstance(append, ast.Attribute) and isinstance(append.value, ast.Name) and append.value.id == "skipped"


def _in_call(node: ast.Call, constants: dict[str, ast.expr]) -> Iterator[Id]:
    name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
    if name in ("_", "gettext", "N_"):
        yield from _texts(node.args[0], constants)
    elif name == "ngettext":
        (singular,), (plural,) = _texts(node.args[0], constants), _texts(node.args[1], constants)
        yield singular, plural
    elif name == "NotFoundError":
        yield from (f"There is no such {what}." for arg in node.args for what in _texts(arg, constants))
    elif name == "refusal":
        yield from _texts(node.args[0], constants)
    elif name == "SkippedItem" or (name == "append" and _is_skipped(node.func)):
        yield from (text for argument in node.args for text in _texts(argument, constants))
    elif name in RAISED:
        for argument in node.args[1 if name in ("SettingsError", "HubError") else 0 :][:2]:
            yield from _texts(argument, constants)


def _texts(node: ast.expr, constants: dict[str, ast.expr]) -> list[str]:
    """The messages that an expression may be."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value] if node.value else []
    if isinstance(node, ast.JoinedStr):
        made = _template(node)
        return [made] if i18n.is_recognizable(made) else []
    if isinstance(node, ast.IfExp):
        return [*_texts(node.body, constants), *_texts(node.orelse, constants)]
    if isinstance(node, ast.Name) and node.id in constants:
        return _texts(constants[node.id], {})
    return []


def _template(node: ast.JoinedStr) -> str:
    """An f-string as a message with names in its places."""
    parts: list[str] = []
    names: list[str] = []
    for value in node.values:
        if isinstance(value, ast.Constant):
            parts.append(str(value.value))
        elif isinstance(value, ast.FormattedValue):
            name = _name(value.value)
            while name in names:
                name += "_"
            names.append(name)
            parts.append(f"{{{name}}}")
    return "".join(parts)


def _name(node: ast.expr) -> str:
    names = [
        each.id if isinstance(each, ast.Name) else each.attr
        for each in ast.walk(node)
        if isinstance(each, ast.Name | ast.Attribute)
    ]
    plain = [name.lower().strip("_") for name in names if name not in ("len", "str", "repr", "type", "shorten")]
    return plain[0] if plain else "value"


def _constants(tree: ast.Module) -> dict[str, ast.expr]:
    return {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _object_texts() -> Iterator[str]:
    for setting in GenerationSettings.model_fields.values():
        yield from (text for text in (setting.title, setting.description) if text)
    for preset in personas.PRESETS:
        yield from (preset.name, preset.greeting, *preset.examples)


def main() -> int:
    """Returns how many languages are incomplete."""
    found = extracted()
    left = 0
    for name in i18n.LANGUAGES[1:]:
        lacking = missing(update(name, found))
        left += bool(lacking)
        print(f"{name}: {len(found)} messages, {len(lacking)} without a translation", *lacking, sep="\n  ")
    return left


if __name__ == "__main__":
    sys.exit(main())
