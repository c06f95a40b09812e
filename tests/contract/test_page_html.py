import re

from tests.contract.upstream import index_html, needs, needs_source

MODULE = "page_html"


def test_gradios_page_has_the_places_that_we_rewrite() -> None:
    from chatui.ui.gradio_compat.page_html import HEAD_END, HTML_LANG, PREVIEW_TAGS

    page = index_html()
    needs(page.count(HEAD_END) == 1, "Gradio's index.html no longer has one </head>", MODULE)
    needs(len(HTML_LANG.findall(page)) == 1, 'Gradio\'s index.html no longer begins with <html lang="...">', MODULE)
    needs(PREVIEW_TAGS.search(page), "Gradio's index.html has no tags for link previews any more", MODULE)
    left = re.findall(rb"<meta[^>]*(?:og:|twitter:)[^>]*>", PREVIEW_TAGS.sub(b"", page))
    needs(not left, f"Gradio's index.html has another kind of tag for link previews: {left[:1]}", MODULE)
    needs_source(
        "gradio.routes:App.create_app",
        r"\"frontend/index\.html\"",
        "Gradio's page is no longer made from frontend/index.html",
        MODULE,
    )


def test_gradios_own_files_tell_their_content_by_their_names() -> None:
    from chatui.ui.page.cache_headers import HASHED

    found = re.findall(rb"(?:src|href)=\"\.?(/[^\"]*assets/[^\"]+\.(?:js|css))\"", index_html())
    needs(found, "Gradio's index.html names no script in assets/ any more", MODULE)
    plain = [path.decode() for path in found if not HASHED.match(path.decode())]
    needs(not plain, f"The name of Gradio's {plain[:1]} does not tell its content: it must not be cached", MODULE)


def test_a_page_is_rewritten() -> None:
    from chatui.ui.gradio_compat import page_html

    page = page_html.with_head(page_html.with_language(index_html(), "ar", "rtl"), b"<script>1</script>")
    assert b'<html lang="ar" dir="rtl"' in page
    assert b"<script>1</script></head>" in page
    assert b"og:title" not in page_html.without_previews(page)
