"""The map in docs/design.md can be trusted: imports point one way, and heavy libraries stay in their rooms."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RANK = {
    "generation_settings": 0.8,
    "settings": 1,
    "thinking_controls": 1.5,
    "setting_values": 0.5,
    "errors": 0,
    "i18n": 0,
    "gc_pause": 0,
    "subprocesses": 0,
    "ending_thread": 0,
    "wait_limit": 0,
    "priority": 0,
    "text_cleaning": 0,
    "traces": 0,
    "server_facts": 0.5,
    "kv_size": 0,
    "chat": 2,
    "backend": 2.05,
    "metrics": 2.1,
    "request_metrics": 2.2,
    "tracing": 2.1,
    "logs": 2.2,
    "listening": 3,
    "inspection": 2.5,
    "stored_tensors": 1.5,
    "shallow_json": 0,
    "units": 0,
    "model_spec": 3,
    "gguf_file": 3.1,
    "cards": 3.2,
    "character_prompt": 3.3,
    "keywords": 3,
    "lorebook": 3.15,
    "macros": 3.1,
    "estimates": 3.2,
    "python_code": 0,
    "python_model_loading": 3.1,
    "python_client": 3.1,
    "python_script": 3.2,
    "notebook": 3.4,
    "notebook_cells": 0,
    "personas": 3,
    "security": 3,
    "body_limit": 3.1,
    "attempt_limiter": 3.1,
    "upload_folder": 3.2,
    "models": 3.4,
    "store": 3.5,
    "reply_writer": 3.6,
    "chat_changes": 3.6,
    "other_servers": 3.6,
    "running_reply": 3.65,
    "runner": 3.7,
    "owners": 3,
    "peers": 3.1,
    "uvicorn_protocol": 3.1,
    "downloads": 4,
    "engine": 4,
    "fair_queue": 0.5,
    "remote": 4,
    "combined_backend": 4.5,
    "token_limits": 1,
    "limited_backend": 4.55,
    "backends": 4.6,
    "reply_text": 1,
    "ui": 4,
    "api": 4,
    "server": 5,
    "model_report": 5,
    "deploy": 5,
    "cli": 6,
    "__main__": 7,
}
HEAVY = {
    "torch": ("engine",),
    "transformers": ("engine",),
    "bitsandbytes": ("engine",),
    "safetensors": ("engine",),
    "tokenizers": ("engine",),
    "gradio": ("ui",),
    "sqlalchemy": ("store",),
    "alembic": ("store",),
    "psycopg": ("store",),
    "spaces": ("server",),
    "huggingface_hub": ("engine", "models", "deploy"),
    "opentelemetry": ("tracing",),
}
FILES = sorted((ROOT / "chatui").rglob("*.py"))


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imported(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def wrong_imports(path: Path) -> Iterator[str]:
    own = path.relative_to(ROOT).with_suffix("").parts[1]
    for name in imported(path):
        if name.startswith("chatui.") and room(name) in RANK and room(name) != own and RANK[room(name)] >= RANK[own]:
            yield f"{path.relative_to(ROOT)} must not import {name}"
        rooms = HEAVY.get(name.split(".")[0])
        if rooms is not None and own not in rooms:
            yield f"{name} belongs in {rooms}, not in {path.relative_to(ROOT)}"


def test_imports_point_one_way() -> None:
    inside = [path for path in FILES if path != ROOT / "chatui" / "__init__.py"]
    assert not [wrong for path in inside for wrong in wrong_imports(path)]


def package_imports() -> dict[str, set[str]]:
    """Packages by the package that imports them; a module at the top of chatui counts as a package of its own."""

    def package(module: str) -> str:
        return module if module.count(".") == 1 or module in packages else module.rpartition(".")[0]

    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}
    packages = {module for module, path in modules.items() if path.stem == "__init__"}
    found: dict[str, set[str]] = {}
    for module, path in modules.items():
        known = {name for name in imported(path) if name in modules and name != "chatui"}
        found.setdefault(package(module), set()).update({package(name) for name in known} - {package(module)})
    return found


def test_no_packages_import_each_other_in_a_circle() -> None:
    with pytest.raises(CycleError):
        TopologicalSorter({"a": {"b"}, "b": {"a"}}).prepare()
    imports = package_imports()
    assert "chatui.ui.gradio_compat" in imports["chatui.ui.page"]
    TopologicalSorter(imports).prepare()  # CycleError names the packages of a circle


def test_every_room_is_ranked() -> None:
    rooms = {path.relative_to(ROOT).with_suffix("").parts[1] for path in FILES}
    assert rooms - {"__init__"} == set(RANK)


@pytest.mark.parametrize("command", ["import chatui", "import chatui.cli", "import chatui.engine.backend"])
def test_light_imports_load_nothing_heavy(command: str) -> None:
    script = f"{command}; import sys; print([name for name in {list(HEAVY)} if name in sys.modules])"
    output = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys; from chatui.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        f"print([name for name in {list(HEAVY)} if name in sys.modules], file=sys.stderr)"
    )
    output = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--model" in output.stdout
    assert output.stderr.strip() == "[]"
