import json
from collections.abc import Iterator
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.testclient import TestClient

from tests.contract.upstream import needs

MODULE = "chatui/ui/chat/event_runner.py"


def _messages(updates: list[Any]) -> list[dict[str, Any]]:
    """The messages of an event that yields these updates."""
    with gr.Blocks() as page:
        box = gr.Textbox()

        def yield_all() -> Iterator[Any]:
            yield from updates

        box.submit(yield_all, None, box)
    app = gr.mount_gradio_app(FastAPI(), page, "")
    with TestClient(app) as client:
        client.post("/gradio_api/queue/join", json={"data": [], "fn_index": 0, "session_hash": "s"})
        lines = client.get("/gradio_api/queue/data?session_hash=s").text.splitlines()
    return [json.loads(line.removeprefix("data: ")) for line in lines if line]


def test_an_events_last_update_is_sent_again_when_it_has_ended() -> None:
    def completed(updates: list[Any]) -> Any:
        [found] = [message for message in _messages(updates) if message["msg"] == "process_completed"]
        return found["output"]["data"]

    needs(completed(["one", "two"]) == ["two"], "The end of an event no longer repeats its last update", MODULE)
    update = completed(["one", gr.skip()])
    needs(update == [{"__type__": "update"}], f"The end of an event whose last update skips is {update}", MODULE)
