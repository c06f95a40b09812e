"""A link that is shared shows what the page is, of which chat nobody is told."""

import re
from pathlib import Path

from starlette.requests import Request
from starlette.testclient import TestClient

from chatui import i18n
from chatui.server import build_app
from chatui.settings import AppSettings
from chatui.ui.page import link_preview
from tests.fakes import FakeBackend


def page_request(host: str = "chat.example.org") -> Request:
    headers = [(b"host", host.encode())]
    scope = {"type": "http", "scheme": "https", "path": "/", "query_string": b"chat=secret", "headers": headers}
    return Request({**scope, "root_path": "/here", "app_root_path": "/here"})


def test_what_gradio_says_of_itself_is_gone() -> None:
    page = b"""<head><meta property="og:title" content="Gradio" />
        <meta
            property="og:image"
            content="https://elsewhere.example/x.jpg"
        /><meta name="twitter:image" content="x"><meta name="viewport" content="y"></head>"""
    html = link_preview.with_preview(page, page_request()).decode()
    assert "Gradio" not in html
    assert "elsewhere" not in html
    assert 'name="viewport"' in html
    assert 'property="og:title" content="chatui"' in html
    assert 'content="https://chat.example.org/here/chatui-assets/icon.png?v=' in html
    assert "secret" not in html


def test_it_is_said_in_the_readers_language_and_is_no_markup() -> None:
    with i18n.use_language("de"):
        html = link_preview.with_preview(b"</head>", page_request('"><script>')).decode()
    assert "Ein Web-Chat" in html
    assert "<script" not in html


def test_the_page_and_its_picture(tmp_path: Path) -> None:
    with TestClient(build_app(FakeBackend(), AppSettings(data_dir=tmp_path, auth="ada:secret"))) as client:
        page = client.get("/", headers={"accept": "text/html"}).text
        assert page.count('property="og:title"') == 1
        assert "githubusercontent" not in page
        address = re.search(r'property="og:image" content="([^"]+)"', page)
        assert address is not None
        picture = client.get(address[1])
        assert (picture.status_code, picture.headers["content-type"]) == (200, "image/png")
