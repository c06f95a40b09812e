"""Serves Gradio's status tracker with an animation loop that ends when nothing is pending.

Replaced: one condition in the script `assets/statustracker-*.js` of Gradio's built page.
Why: the tracker of the page's own start is removed while it is pending. Its loop then asks for an animation frame 60
times a second until the tab is closed: 5 to 10 % of a processor core for a tab in which nothing moves.
Upstream: `run` in `js/statustracker/static/index.svelte` asks for the next frame while `_timer` is true. An effect that
depends on the status sets `_timer` to false, and no effect runs after the component has been removed.
"""

import re
from functools import cache
from pathlib import Path

import gradio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

ASSETS = Path(gradio.__file__).parent / "templates" / "frontend" / "assets"
NAME = "statustracker-*.js"

LOOP = re.compile(r"(function ([\w$]+)\(\)\{[\w$]+\(\(\)=>\{[^{}]*performance\.now\(\)[^{}]*,[\w$]+&&)(\2\(\)\}\)\})")
"""`run`: what comes before its call of itself, its name, and that call."""

STATUS = re.compile(r"([\w$]+\.status===`pending`)\?")
"""The condition of the effect that starts the loop."""


def routes() -> list[Route]:
    """The route of the script. Add it before Gradio's app is mounted; none where the script is not as described."""
    paths = list(ASSETS.glob(NAME))
    if len(paths) != 1 or end_loop(_read(paths[0])) is None:
        return []

    async def status_tracker(_: Request) -> Response:
        return Response(end_loop(_read(paths[0])), media_type="text/javascript")

    return [Route(f"/assets/{paths[0].name}", status_tracker)]


def end_loop(script: str) -> str | None:
    """The script whose loop also ends when the status is no longer pending; None where it is not as described."""
    loop, status = LOOP.search(script), STATUS.search(script)
    if loop is None or status is None:
        return None
    before, _, call = loop.groups()
    return f"{script[: loop.start()]}{before}{status[1]}&&{call}{script[loop.end() :]}"


@cache
def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
