"""The fixture `hub`: an empty local Hub that huggingface_hub asks, in this process and in those that it starts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.local_hub import LocalHub, served


@pytest.fixture(scope="module")
def hub_server() -> Iterator[LocalHub]:
    with served() as hub:
        yield hub


@pytest.fixture
def hub(hub_server: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub_server.url)
    monkeypatch.setattr(constants, "DATASETS_SERVER_ENDPOINT", hub_server.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "60")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    hub_server.forget()
    yield hub_server
    hub_server.heal()
