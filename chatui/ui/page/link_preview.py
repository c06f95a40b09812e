"""Open Graph tags for previews of shared links to the page; Gradio's own tags describe Gradio."""

import html

from starlette.requests import Request

from chatui.i18n import _
from chatui.ui.gradio_compat import page_html
from chatui.ui.page import cache_headers

NAME = "chatui"


def with_preview(page: bytes, request: Request) -> bytes:
    """The page with our tags of the Open Graph protocol (https://ogp.me) in place of Gradio's."""
    return page_html.with_head(page_html.without_previews(page), _tags(request).encode())


def _tags(request: Request) -> str:
    """The image's URL is absolute, as the protocol requires. No tag has a chat's title, which is private."""
    description = _("A web chat for language models that shows how each reply was generated.")
    picture = f"{str(request.base_url).rstrip('/')}/{cache_headers.versioned_url('icon.png')}"
    properties = {"title": NAME, "site_name": NAME, "type": "website", "description": description, "image": picture}
    tags = [f'<meta property="og:{name}" content="{html.escape(value)}">' for name, value in properties.items()]
    tags.append(f'<meta name="description" content="{html.escape(description)}">')
    tags.append('<meta name="twitter:card" content="summary">')
    tags.append(f'<link rel="apple-touch-icon" href="{cache_headers.versioned_url("icon.png")}">')
    return "".join(tags)
