"""Modules and functions are short enough to be read at once."""

import ast
from pathlib import Path

import pytest

CHATUI = Path(__file__).parents[2] / "chatui"
MAX_MODULE_LINES = 350
MAX_FUNCTION_LINES = 40
MODULES = {path.relative_to(CHATUI).as_posix(): path for path in sorted(CHATUI.rglob("*.py"))}


def test_modules_are_short() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert not {name: length for name, length in lengths.items() if length > MAX_MODULE_LINES}


@pytest.mark.parametrize("name", MODULES)
def test_functions_are_short(name: str) -> None:
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{node.name} has {length} lines"
