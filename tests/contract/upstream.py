"""Looks things up in Gradio, and fails with a sentence where they are not as our module needs them."""

import contextlib
import importlib
import inspect
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

SEAM = "chatui/ui/gradio_compat"


def needs(fact: object, changed: str, module: str) -> None:
    """Fail with what has changed in Gradio and which module of ours needs it, unless `fact` holds."""
    if not fact:
        path = module if "/" in module else f"{SEAM}/{module}.py"
        pytest.fail(f"{changed}; {path} needs it as it was.", pytrace=False)


def find(path: str, module: str) -> Any:
    """What stands at `gradio.package:Name.attribute`."""
    package, _, names = path.partition(":")
    with contextlib.suppress(ImportError, AttributeError):
        found = importlib.import_module(package)
        for name in filter(None, names.split(".")):
            found = getattr(found, name)
        return found
    needs(False, f"Gradio has no {path.replace(':', '.')} any more", module)
    return None


def needs_parameters(path: str, names: Iterable[str], module: str, only: bool = False) -> None:
    """Fail unless the function at `path` takes parameters of these names; `only` these, where we replace it."""
    took = [name for name in inspect.signature(find(path, module)).parameters if name != "self"]
    lacking = [name for name in names if name not in took]
    needs(not lacking, f"{path.partition(':')[2]} no longer takes {', '.join(lacking)}", module)
    more = [name for name in took if name not in names]
    needs(not (only and more), f"{path.partition(':')[2]} takes {', '.join(more)} as well now", module)


def needs_source(path: str, pattern: str, says: str, module: str) -> None:
    """Fail with `says` unless the source of what stands at `path` has this pattern; white space counts as one blank."""
    source = re.sub(r"\s+", " ", inspect.getsource(find(path, module)))
    needs(re.search(pattern, source), says, module)


@cache
def frontend(*suffixes: str) -> str:
    """All of Gradio's built page whose files end so, in one text."""
    import gradio

    folder = Path(gradio.__file__).parent / "templates" / "frontend"
    return "\n".join(
        path.read_text(encoding="utf-8", errors="replace")
        for path in sorted(folder.rglob("*"))
        if path.suffix in suffixes and path.is_file()
    )


@cache
def scripts() -> tuple[str, ...]:
    """Each script of Gradio's built page."""
    import gradio

    folder = Path(gradio.__file__).parent / "templates" / "frontend"
    return tuple(path.read_text(encoding="utf-8", errors="replace") for path in sorted(folder.rglob("*.js")))


@cache
def routes() -> frozenset[str]:
    """The paths of all routes that Gradio's app answers."""
    import gradio as gr

    with gr.Blocks() as page:
        gr.Textbox()

    def paths(routes: Iterable[Any]) -> Iterator[str]:
        for route in routes:
            yield getattr(route, "path", "")
            inner = getattr(route, "original_router", None)  # FastAPI's way to hold an included router
            yield from paths(inner.routes if inner is not None else ())

    return frozenset(paths(page.app.routes))


@cache
def index_html() -> bytes:
    """The page that Gradio's server fills in."""
    import gradio

    return (Path(gradio.__file__).parent / "templates" / "frontend" / "index.html").read_bytes()
