"""Types of what Gradio event handlers return."""

from collections.abc import AsyncGenerator
from typing import Any

ComponentUpdates = dict[Any, Any]
"""New values and properties by component; other components stay as they are."""

PageUpdates = AsyncGenerator[ComponentUpdates]
"""Successive updates of one event, as an async generator yields them."""
