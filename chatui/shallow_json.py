"""JSON from strangers: what is nested deeply is refused before it is parsed.

`json.loads` recurses and raises RecursionError at the end of the stack, but whatever else runs down there fails too:
finalizers that the garbage collector calls, for example, whose errors nobody can catch.
"""

import json
import re
from typing import Any

MAX_DEPTH = 200
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)


def loads(data: str | bytes | bytearray, **options: Any) -> Any:
    """As `json.loads`; raises ValueError for all that is no JSON, and where it is nested more than MAX_DEPTH deep."""
    text = data if isinstance(data, str) else data.decode(json.detect_encoding(data), "surrogatepass")
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
    return json.loads(text, **options)


def _depth(text: str) -> int:
    """How deep brackets outside of strings are nested at most; of what is no JSON, something."""
    depth = deepest = 0
    for token in _TOKENS.finditer(text):
        if token[0] in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif token[0] in "]}":
            depth -= 1
    return deepest
