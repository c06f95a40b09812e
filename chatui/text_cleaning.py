"""Cleans texts for storage. Knows no other module."""


def clean(text: str, nul: str = "\ufffd") -> str:
    """`text` as every database can store it.

    `nul` replaces NUL. U+FFFD replaces an unpaired surrogate; a pair of them becomes one character.
    """
    text = text.replace("\0", nul)
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def clean_lines(text: str) -> str:
    r"""Cleaned text without NUL, with "\n" for every line end, as browsers have them."""
    return clean(text, nul="").replace("\r\n", "\n").replace("\r", "\n")


def one_line(text: str, limit: int | None = None) -> str:
    """Cleaned text on one line, with single spaces, cut to `limit` characters."""
    return " ".join(clean(text).split())[:limit].strip()
