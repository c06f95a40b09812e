"""People at the page, each with a browser of their own, who all read replies at once over Gradio's queue."""

import asyncio
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import httpx

Config = Mapping[str, Any]


async def config_of(url: str) -> Config:
    """What the page says of its components and events."""
    async with httpx.AsyncClient(base_url=url, timeout=60, verify=False) as http:
        found: Config = (await http.get("/config")).json()
        await http.get("/gradio_api/startup-events")  # answers the first event otherwise
        return found


def send_event(config: Config, message: str, turn: str = "") -> dict[str, Any]:
    """The event of Send, as the page of somebody who has just come would tell it; `turn` is the id of the turn."""
    event = next(found for found in config["dependencies"] if found["api_name"] == "_send")
    parts = {part["id"]: part["props"] for part in config["components"]}
    props = [parts[id] for id in event["inputs"]]
    own = {"message": message, "where": json.dumps({"turn": turn})}
    data = [own.get(part.get("elem_id"), part.get("value")) for part in props]
    return {"data": data, "fn_index": event["id"], "event_data": None, "trigger_id": None}


async def visit(url: str, config: Config, message: str = "Hi") -> str:
    """Come, send a message and hear its reply to the end. Returns what is kept of the chat, as the page exports it."""
    session = uuid.uuid4().hex[:11]
    async with httpx.AsyncClient(base_url=url, timeout=120, verify=False) as http:
        (await http.get("/", headers={"accept": "text/html"})).raise_for_status()
        body = {**send_event(config, message), "session_hash": session}
        (await http.post("/gradio_api/queue/join", json=body)).raise_for_status()
        async with http.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
            async for line in stream.aiter_lines():
                event = json.loads(line[5:]) if line.startswith("data:") else {}
                if event.get("msg") == "process_completed":
                    assert event["success"], event
                    break
        return (await http.get("/chats/export")).text


async def concurrent_visits(url: str, config: Config, count: int) -> Sequence[str]:
    """So many at once."""
    return await asyncio.gather(*(visit(url, config) for _ in range(count)))
