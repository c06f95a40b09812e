"""Our application without a model, in a process of its own: `python -m scripts.benchmark.no_model_server DATA_DIR`.

For what no model has a part in. Its address is the first line that it writes.
"""

import socket
import sys
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import uvicorn

from chatui.backend import PreviewMemo
from chatui.chat import (
    ChatRequest,
    Finish,
    LoadOptions,
    ModelInfo,
    ModelStatus,
    Prompt,
    ReplyDelta,
    TokenizeRequest,
    Tokens,
)
from chatui.generation_settings import GenerationSettings
from chatui.server import build_app
from chatui.settings import AppSettings

INFO = ModelInfo("none", "float32", 0, 0, 4096, "cpu", GenerationSettings())


class NoModel:
    """Is always ready, and has nothing to say."""

    def models(self) -> list[ModelStatus]:
        """The one there is not."""
        return [ModelStatus(INFO.name, "ready", info=INFO)]

    def load(self, _: str, options: LoadOptions | None = None) -> None:
        """There is nothing to load."""

    async def ensure_loaded(self, _: str) -> None:
        """There is nothing to load."""

    def unload(self, _: str) -> None:
        """There is nothing to free."""

    def add(self, source: str, revision: str | None = None) -> str:  # noqa: ARG002
        """There is nothing to serve."""
        return source

    def remove(self, _: str) -> None:
        """There is nothing to remove."""

    def refresh(self) -> None:
        """There is no folder."""

    def admit(self, _: str, model: str = "") -> str:  # noqa: ARG002
        """There is room."""
        return ""

    def answer_now(self, _: str) -> None:
        """There is no thought to end."""

    def release_ticket(self, _: str) -> None:
        """There still is."""

    async def stream(self, _: ChatRequest) -> AsyncGenerator[ReplyDelta]:
        """An empty reply."""
        yield ReplyDelta(finish=Finish("stop_token", 0, 0, 0, 0.0, 0.0, 0.0))

    async def preview(self, _: ChatRequest, memo: PreviewMemo | None = None) -> Prompt | None:  # noqa: ARG002
        """There is no template."""
        return None

    def decode_tokens(self, _: set[int], model: str = "") -> dict[int, str]:  # noqa: ARG002
        """There are no tokens."""
        return {}

    async def tokenize(self, _: TokenizeRequest) -> Tokens:
        """There are none."""
        return Tokens((), ())

    async def detokenize(self, _: Sequence[int], model: str = "") -> str:  # noqa: ARG002
        """There are none."""
        return ""

    async def activity(self, model: str = "") -> None:
        """Nothing is told."""

    def forget(self, _: str) -> None:
        """Nothing is remembered."""

    async def close(self) -> None:
        """There is nothing to free."""


def main(data_dir: Path) -> None:
    """Serve until terminated."""
    app = build_app(NoModel(), AppSettings(data_dir=data_dir))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
        config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1, ws="none", lifespan="on")
        uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
