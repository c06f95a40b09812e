"""The head of each HTML page: scripts and styles that must be loaded before Gradio's own script runs."""

from starlette.requests import Request

from chatui.ui.gradio_compat import page_html
from chatui.ui.page import cache_headers, link_preview, page_language, theme

HEAD = (
    f"<style>{theme.prerender_css()}</style>"
    f'<link rel="stylesheet" href="{cache_headers.versioned_url("chatui.css")}">'
    f'<link rel="stylesheet" href="{cache_headers.versioned_url("prerender.css")}">'
    f'<script src="{cache_headers.versioned_url("connections.js")}"></script>'
    f'<script src="{cache_headers.versioned_url("refusals.js")}"></script>'
    f'<script src="{cache_headers.versioned_url("prerender.js")}"></script>'
    f'<script defer src="{cache_headers.versioned_url("access.js")}"></script>'  # these two for the login page too
    f'<script defer src="{cache_headers.versioned_url("heard.js")}"></script>'
).encode()


def rewrite(page: bytes, request: Request) -> bytes:
    """Gradio's page with our head, the current language and our link preview."""
    page = page_html.with_head(page, page_language.script_messages().encode() + HEAD)
    return link_preview.with_preview(page_language.with_current_language(page), request)
