"""The documentation agrees with the code: generated parts, links, the files and names it mentions, import maps."""

import importlib
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial, reduce
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
from markdown.extensions.toc import slugify

from scripts import docs

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"""\]\(([^)\s]+)\)|(?:src|srcset|href)="([^"]+)\"""")
NAMED_FILE = re.compile(r"`((?:chatui|deploy|docs|scripts|spaces|tests)/[\w./-]*)")
FLOW_ROW = re.compile(r"^\| \d+ \| `([\w.]+)` \| `(chatui/[\w/]+)\.py` \|", re.MULTILINE)
ITEM = re.compile(r"^\d+\. .*(?:\n   .*)*", re.MULTILINE)


def page_id(page: Path) -> str:
    return page.name


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", without_code(page.read_text()), re.MULTILINE)
    return {slugify(heading.replace("`", ""), "-") for heading in headings}


def links(page: Path) -> list[str]:
    found = [first or second for first, second in LINK.findall(without_code(page.read_text()))]
    return [link for link in found if "://" not in link]


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_generated_parts_are_current(page: Path) -> None:
    text = page.read_text()
    assert docs.render(text) == text, "run python -m scripts.docs"


def test_every_part_is_on_a_page() -> None:
    shown = [part[2] for page in PAGES for part in docs.PART.finditer(page.read_text())]
    assert sorted(shown) == sorted(docs.PARTS)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_to_files_and_anchors(page: Path) -> None:
    for link in links(page):
        target, _, anchor = link.partition("#")
        file = page.parent / target if target else page
        assert file.is_file(), link
        if anchor:
            assert anchor in anchors(file), link


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_files_that_a_page_names_exist(page: Path) -> None:
    missing = [name for name in NAMED_FILE.findall(page.read_text()) if not (ROOT / name).exists()]
    assert not missing


def test_the_readme_leads_to_every_page() -> None:
    led_to = {link.partition("#")[0] for link in links(PAGES[0])}
    assert {f"docs/{page.name}" for page in PAGES[1:] if page.name != "index.md"} <= led_to


def test_recipes_name_what_is_in_their_files() -> None:
    items = [item for item in ITEM.findall((ROOT / "docs" / "contributing.md").read_text()) if NAMED_FILE.search(item)]
    assert len(items) > 10
    for item in items:
        files = [ROOT / name for name in NAMED_FILE.findall(item)]
        text = "".join(file.read_text() for file in files if file.is_file())
        names = re.findall(r"`([A-Za-z_]\w*)`", item)
        assert all(re.search(rf"\b{name}\b", text) for name in names), item


def test_the_message_flow_names_what_exists() -> None:
    rows = FLOW_ROW.findall((ROOT / "docs" / "design.md").read_text())
    assert len(rows) == len(docs.message_calls())
    for name, path in rows:
        found: Any = reduce(getattr, name.split("."), importlib.import_module(path.replace("/", ".")))
        assert callable(found), name


def test_each_call_of_the_message_flow_is_in_the_callers_module() -> None:
    for call in docs.message_calls():
        source = Path(sys.modules[call.caller.__module__].__file__ or "").read_text()
        assert re.search(rf"\b{call.callee.__name__}[(,]", source), (call.caller, call.callee)


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert {page.stem for page in PAGES[1:]} <= {"index", *(path.name for path in tmp_path.iterdir())}


@pytest.mark.parametrize(
    "graph",
    [docs.module_imports, docs.room_imports, partial(docs.room_imports, late=True)],
    ids=["modules", "rooms", "rooms, with late imports"],
)
def test_nothing_imports_itself_in_a_circle(graph: Callable[[], dict[str, set[str]]]) -> None:
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_import_graph_sees_imports_of_every_kind() -> None:
    imports, late = docs.module_imports(), docs.module_imports(late=True)
    assert "chatui.errors" in imports["chatui.setting_values"]
    assert "chatui.store.formats.sharegpt" in imports["chatui.store.formats"]
    assert "chatui.server" not in imports["chatui.cli"]
    assert "chatui.server" in late["chatui.cli"]
