import re

from starlette.applications import Starlette
from starlette.testclient import TestClient

from chatui.ui.gradio_compat import status_tracker
from chatui.ui.gradio_compat.status_tracker import ASSETS, NAME, end_loop
from tests.contract.upstream import needs

MODULE = "status_tracker"


def test_the_loop_goes_on_only_while_something_is_pending() -> None:
    paths = list(ASSETS.glob(NAME))
    needs(len(paths) == 1, f"Gradio's page no longer has one script {NAME}", MODULE)
    script = paths[0].read_text(encoding="utf-8")
    found = end_loop(script)
    needs(found is not None, "The loop of Gradio's status tracker is written in another way", MODULE)
    assert found is not None
    added = re.compile(r"[\w$]+\.status===`pending`&&(?=[\w$]+\(\)\}\)\})")
    assert added.sub("", found) == script
    assert len(added.findall(found)) == 1
    [route] = status_tracker.routes()
    response = TestClient(Starlette(routes=[route])).get(f"/assets/{paths[0].name}")
    assert response.text == found
    assert response.headers["content-type"].startswith("text/javascript")


def test_another_script_is_left_alone() -> None:
    assert end_loop("function a(){b(()=>{c&&a()})}") is None
