"""What browsers may keep for a year: files whose address tells their content, and nothing else."""

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from chatui.ui.page import cache_headers, theme


@pytest.fixture
def client() -> TestClient:
    async def answered(request: Request) -> PlainTextResponse:
        return PlainTextResponse("x", 404 if "missing" in request.url.path else 200)

    return TestClient(cache_headers.CacheHeaders(Starlette(routes=[Route("/{path:path}", answered)])))


@pytest.mark.parametrize(
    ("path", "lasts"),
    [
        ("/assets/Index-BtpqUM30.js", True),
        ("/x/assets/index-DiEEvXS6.css", True),
        ("/assets/missing-BtpqUM30.js", False),
        ("/assets/index.js", False),
        ("/theme.css?v=1", True),
        ("/theme.css", False),
        ("/chatui-assets/chatui.js?v=1", True),
        ("/chatui-assets/chatui.js", False),
        ("/?v=1", False),
        ("/early?v=1", False),
        ("/chats/export?v=1&chat=x", False),
        ("/gradio_api/file=/assets/Index-BtpqUM30.js?v=1", False),
    ],
)
def test_only_what_never_changes_lasts(client: TestClient, path: str, lasts: bool) -> None:
    assert (client.get(path).headers.get("cache-control") == cache_headers.YEAR) == lasts


def test_an_address_tells_the_file_and_its_content() -> None:
    addresses = {cache_headers.versioned_url(file.name) for file in theme.ASSETS.iterdir()}
    assert len(addresses) == len(list(theme.ASSETS.iterdir()))
    assert all(address.startswith("chatui-assets/") and "?v=" in address for address in addresses)
