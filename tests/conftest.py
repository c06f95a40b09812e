"""What every test runs under: no network, no stray settings."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from httpx._config import DEFAULT_TIMEOUT_CONFIG
from hypothesis import settings

import tests.examples  # noqa: F401 - its profiles
from chatui.gc_pause import gc_paused

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
for name in [name for name in os.environ if name.startswith("CHATUI_")]:
    del os.environ[name]
DATA = tempfile.TemporaryDirectory(prefix="chatui-tests-", ignore_cleanup_errors=True)
os.environ["CHATUI_DATA_DIR"] = DATA.name
os.environ["GRADIO_TEMP_DIR"] = f"{DATA.name}/uploads"
os.environ["SSL_CERT_DIR"] = DATA.name  # without certificates: each HTTP client would parse them all, in 30 ms
os.environ.pop("SSL_CERT_FILE", None)
os.environ["CHATUI_ALLOWED_HOSTS"] = "*"  # test clients make up names; test_security.py has the default

# httpx waits five seconds by default, which a server may take on a busy machine.
DEFAULT_TIMEOUT_CONFIG.connect = DEFAULT_TIMEOUT_CONFIG.read = DEFAULT_TIMEOUT_CONFIG.write = 60.0

settings.load_profile("quick")  # scripts/test --all asks for "exhaustive"

pytest_plugins = ("tests.databases", "tests.hub_fixture")

LONGEST = (
    "integration/test_compiling.py",
    "real/test_engine.py",
    "crash/test_servers.py",
    "real/test_parity.py",
    "real/test_script.py",
    "spaces/test_space.py",
    "spaces/test_zero_gpu.py",
    "browser/test_real.py",
    "browser/test_access.py",
    "browser/test_keyboard.py",
    "browser/test_tabs.py",
    "browser/test_personas.py",
    "browser/test_chats.py",
    "browser/test_actions.py",
)
"""Files that take longest: processes that share the tests begin with them, so that none ends long after the others."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    with gc_paused():  # while what all tests import is imported
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    rank = {tests / name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))
