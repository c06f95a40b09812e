"""What every test runs under: no network, no stray settings."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
for name in [name for name in os.environ if name.startswith("CHATUI_")]:
    del os.environ[name]
