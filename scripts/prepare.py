"""`python -m scripts.prepare`: does once what many tests need: imports compiled, default model and kernels made."""

import chatui.server  # noqa: F401
from chatui.engine.loading.loader import load
from chatui.model_spec import ModelSpec
from chatui.settings import DEFAULT_MODEL, AppSettings

load(ModelSpec(DEFAULT_MODEL, device_map="cpu"), AppSettings().cache_dir, print)
