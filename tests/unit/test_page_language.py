import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from chatui import i18n
from chatui.ui.page import page_language


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [("de,en;q=0.5", 'lang="de" dir="ltr"'), ("ar", 'lang="ar" dir="rtl"'), ("pt", 'lang="en"')],
)
def test_a_page_says_its_language(accepted: str, expected: str) -> None:
    async def page(_: Request) -> HTMLResponse:
        return HTMLResponse(page_language.with_current_language(b'<!doctype html>\n<html\n\tlang="en"\n\tstyle="">'))

    app = page_language.LanguageMiddleware(Starlette(routes=[Route("/", page)]))
    assert f"<html {expected}" in TestClient(app).get("/", headers={"accept-language": accepted}).text
    assert i18n.language() == "en"


def test_words_of_the_script_end_no_script() -> None:
    assert page_language.script_messages().count("</script>") == 1
