"""Nothing outside chatui/ui/gradio_compat reaches into what Gradio does not promise."""

import ast
from pathlib import Path

import pytest

CHATUI = Path(__file__).parents[2] / "chatui"
SEAM = CHATUI / "ui" / "gradio_compat"
PUBLIC = {"gradio", "gradio.components"}
INNER = {"_queue", "_id", "_config", "state_holder", "session_data", "has_launched", "is_template", "fake_api_btn"}
FILES = [path for path in sorted((CHATUI / "ui").rglob("*.py")) if SEAM not in path.parents]


@pytest.mark.parametrize("path", [*FILES, CHATUI / "server.py"], ids=lambda path: str(path.relative_to(CHATUI)))
def test_gradios_inside_is_reached_by_the_seam_alone(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        inner = [name for name in modules if name.startswith("gradio") and name not in PUBLIC]
        assert not inner, f"{path.name} imports {inner}: this belongs into chatui/ui/gradio_compat"
        name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
        assert name not in INNER, f"{path.name} uses {name} of Gradio's: this belongs into chatui/ui/gradio_compat"
