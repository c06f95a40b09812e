"""Replicas of llama.cpp behind Ray Serve: python ray_serve_peer.py MODEL.gguf ROUTER REPLICAS SLOTS FOLDER.

ROUTER is one of ROUTERS. Each replica has one thread, and so many SLOTS; its process id is the name of a file in FOLDER
that has the address of its llama.cpp. Runs in an environment of its own (peers.py), with nothing but the standard
library, Ray, httpx and xllamacpp. Prints its address when all replicas serve, and ends with its standard input.

The deployments are as in Ray Serve LLM: an ingress that reads requests, and engines between which a router chooses.
All of it listens on this computer only.
"""

import json
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import ray
from ray import serve
from ray.serve._private import replica
from ray.serve.config import RequestRouterConfig
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from scripts.benchmark import llama_cpp_peer

ROUTERS = {
    "power-of-two": "",
    "round-robin": "ray.serve.experimental.round_robin_router:RoundRobinRouter",
    "consistent-hash": "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter",
    # The name in ray.serve.llm needs vLLM.
    "prefix": "ray.llm._internal.serve.routing_policies.prefix_aware.prefix_aware_router:PrefixCacheAffinityRouter",
}
"""Where the classes of Ray 2.60 are; "" is Serve's own choice."""
SESSION = "x-session-id"
OBJECT_STORE_BYTES = 80_000_000
MAX_ONGOING = 64
"""Requests of one replica. Serve's own limit is 5."""


@dataclass(frozen=True)
class Sent:
    """A request as the router and an engine take it. The prefix router reads `messages`."""

    method: str
    path: str
    body: bytes
    messages: list[dict[str, Any]]


def listen_here_only() -> None:
    """Keep the port by which a replica's process is asked by other ones to this computer. Ray has no setting for it."""
    add_port = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: add_port(server, address.replace("[::]", "127.0.0.1"))


class Engine:
    """A llama.cpp server within the replica's process."""

    def __init__(self, model: str, slots: int, folder: str) -> None:
        listen_here_only()
        self._server = llama_cpp_peer.serving(model, slots, threads=1)
        url = self._server.listening_address
        self._client = httpx.AsyncClient(base_url=url, timeout=None, trust_env=False)
        Path(folder, str(os.getpid())).write_text(url)

    async def forward(self, sent: Sent) -> AsyncIterator[Any]:
        """(status, content type), then the pieces of the body."""
        async with self._client.stream(sent.method, sent.path, content=sent.body) as response:
            yield response.status_code, response.headers.get("content-type", "")
            async for piece in response.aiter_raw():
                yield piece


class Ingress:
    """Hands requests to the engines."""

    def __init__(self, engine: Any) -> None:
        listen_here_only()
        self._engine = engine.options(stream=True)

    async def __call__(self, request: Request) -> Response:
        body = await request.body()
        messages = json.loads(body).get("messages", []) if body else []
        sent = Sent(request.method, request.url.path, body, messages)
        engine = self._engine
        if session := request.headers.get(SESSION):
            engine = engine.options(session_id=session)
        # The prefix router reads positional arguments, and fails where there are no messages.
        pieces = engine.forward.remote(sent) if messages else engine.forward.remote(sent=sent)
        try:
            status, kind = await anext(pieces)
        except ray.exceptions.RayError as error:
            return JSONResponse({"error": {"message": type(error).__name__, "type": "server_error"}}, 503)
        return StreamingResponse(pieces, status, media_type=kind)


def router_options(router: str) -> dict[str, Any]:
    """The options of a deployment between whose replicas this router chooses."""
    name = ROUTERS[router]
    return {"request_router_config": RequestRouterConfig(request_router_class=name)} if name else {}


def main(model: str, router: str, replicas: int, slots: int, folder: str) -> None:
    """Serve until the standard input ends."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="ray-") as temporary:
        ray.init(
            num_cpus=replicas + 1,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            _temp_dir=temporary,
        )
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            engine = serve.deployment(
                Engine, num_replicas=replicas, max_ongoing_requests=MAX_ONGOING, **router_options(router)
            )
            ingress = serve.deployment(Ingress, max_ongoing_requests=MAX_ONGOING * replicas)
            serve.run(ingress.bind(engine.bind(model, slots, folder)))
            print(f"ready http://127.0.0.1:{port}", flush=True)
            sys.stdin.read()
        finally:
            serve.shutdown()
            ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
