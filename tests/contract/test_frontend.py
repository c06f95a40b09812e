"""Our style sheets and scripts find their way by names in Gradio's built page."""

import re
from functools import cache
from pathlib import Path

import pytest

from chatui.ui.gradio_compat import frontend as names
from tests.contract.upstream import frontend, needs, scripts

MODULE = "frontend"
CHATUI = Path(__file__).parents[2] / "chatui"
ASSETS = CHATUI / "ui" / "page" / "assets"


@cache
def words() -> frozenset[str]:
    """All class names of the style sheets, and all words in strings of the scripts."""
    styled = re.findall(r"\.([a-zA-Z][\w-]*)", frontend(".css"))
    strings = re.findall(r"([\"'`])([^\"'`\n]{1,400}?)\1", frontend(".js"))
    return frozenset(styled) | {word for _, text in strings for word in re.findall(r"[a-zA-Z][\w-]*", text)}


@pytest.mark.parametrize("part", names.CLASSES)
def test_the_classes_that_we_use_are_in_gradios_page(part: str) -> None:
    lacking = sorted(set(names.CLASSES[part].split()) - words())
    needs(not lacking, f"Gradio's page no longer has the classes {', '.join(lacking)} in {part}", MODULE)


def test_the_test_ids_labels_and_globals_that_we_use_are_in_gradios_page() -> None:
    script = frontend(".js")
    lacking = [name for name in names.TEST_IDS if f'data-testid="{name}"' not in script]
    needs(not lacking, f"Gradio's page no longer has data-testid {', '.join(lacking)}", MODULE)
    role = [text for text in scripts() if "bubble-wrap" in text and re.search(r"data-testid[\"'`],\s*\w+\(", text)]
    needs(role, "A message of the conversation no longer has its role as its data-testid", MODULE)
    unnamed = [label for label in names.LABELS if not re.search(rf"[\"'`>]{label}[\"'`<]", script)]
    needs(not unnamed, f"Gradio no longer calls a button {', '.join(unnamed)}", MODULE)
    gone = [name for name in names.GLOBALS if f"window.{name}" not in script + frontend(".html")]
    needs(not gone, f"Gradio's page no longer has the global {', '.join(gone)}", MODULE)
    needs('role="log"' in script, 'The conversation no longer has role="log"', MODULE)


@cache
def selected() -> dict[str, str]:
    """Each class name in our assets, and a file that has it."""
    found: dict[str, str] = {}
    for path in sorted(ASSETS.glob("*.css")):
        text = re.sub(r"/\*.*?\*/|url\([^)]*\)", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
        for selector in re.findall(r"([^{}]*)\{", text):
            found |= dict.fromkeys(re.findall(r"\.([a-zA-Z][\w-]*)", selector), path.name)
    return found


def test_no_other_name_of_gradios_is_used() -> None:
    """A class in our style sheets is on the list, or is made by our own markup or scripts."""
    sources = [*CHATUI.rglob("*.py"), *ASSETS.glob("*.js")]
    listed = CHATUI / "ui" / "gradio_compat" / "frontend.py"
    ours = "\n".join(path.read_text(encoding="utf-8") for path in sources if path != listed)
    known = names.classes() | set(re.findall(r"[a-zA-Z][\w-]*", ours))
    # Made of parts: f"early-{side}", `with-${name}`, and theme names for the reply's code.
    made = re.compile(r"early-(?:user|bot)|with-(?:conversations|settings)")
    unknown = {name: file for name, file in selected().items() if name not in known and not made.fullmatch(name)}
    assert not unknown, f"neither ours nor on the list in gradio_compat/frontend.py: {unknown}"


def test_every_name_on_the_list_is_used() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in (*ASSETS.glob("*.css"), *ASSETS.glob("*.js")))
    used = set(re.findall(r"[a-zA-Z][\w-]*", text))
    assert sorted(names.classes() - used) == []
    assert [name for name in (*names.TEST_IDS, *names.GLOBALS) if name not in used] == []
