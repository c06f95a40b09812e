"""Modules and functions are short enough to be read at once."""

import ast
from pathlib import Path

CHATUI = Path(__file__).parents[2] / "chatui"
MAX_MODULE_LINES = 350
MAX_FUNCTION_LINES = 40
MODULES = {path.relative_to(CHATUI).as_posix(): path for path in sorted(CHATUI.rglob("*.py"))}


def test_modules_are_short() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert not {name: length for name, length in lengths.items() if length > MAX_MODULE_LINES}


def test_functions_are_short() -> None:
    lengths = [
        (name, node.name, (node.end_lineno or node.lineno) - node.lineno + 1)
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert not [each for each in lengths if each[2] > MAX_FUNCTION_LINES]
