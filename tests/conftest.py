"""What every test runs under: no network, no stray settings."""

import os
import tempfile

from hypothesis import settings

import tests.examples  # noqa: F401 - its profiles

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
for name in [name for name in os.environ if name.startswith("CHATUI_")]:
    del os.environ[name]
DATA = tempfile.TemporaryDirectory(prefix="chatui-tests-", ignore_cleanup_errors=True)
os.environ["CHATUI_DATA_DIR"] = DATA.name
os.environ["GRADIO_TEMP_DIR"] = f"{DATA.name}/uploads"
os.environ["CHATUI_ALLOWED_HOSTS"] = "*"  # test clients make up names; test_security.py has the default

settings.load_profile("quick")  # scripts/test --all asks for "exhaustive"

pytest_plugins = ("tests.databases", "tests.hub_fixture")
