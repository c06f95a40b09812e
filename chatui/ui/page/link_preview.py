"""What a link to the page looks like where it is shared: Gradio's page tells of Gradio instead."""

import html

from starlette.requests import Request

from chatui.i18n import _
from chatui.ui.gradio_compat import page_html
from chatui.ui.page import cache_headers

NAME = "chatui"


def told(page: bytes, request: Request) -> bytes:
    """A page with tags of the Open Graph protocol (https://ogp.me) that are its own, and no others."""
    return page_html.with_head(page_html.without_previews(page), _tags(request).encode())


def _tags(request: Request) -> str:
    """The picture's address is whole, as the protocol wants it. No chat is named, for the link may lead to one."""
    said = _("A web chat for language models that shows how each reply was generated.")
    picture = f"{str(request.base_url).rstrip('/')}/{cache_headers.versioned_url('icon.png')}"
    properties = {"title": NAME, "site_name": NAME, "type": "website", "description": said, "image": picture}
    tags = [f'<meta property="og:{name}" content="{html.escape(value)}">' for name, value in properties.items()]
    tags.append(f'<meta name="description" content="{html.escape(said)}">')
    tags.append('<meta name="twitter:card" content="summary">')
    tags.append(f'<link rel="apple-touch-icon" href="{cache_headers.versioned_url("icon.png")}">')
    return "".join(tags)
