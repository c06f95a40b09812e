"""Answers from a script as vLLM does, in a process of its own: `python -m scripts.benchmark.scripted_vllm`.

It is the engine of measurements of what stands in front of one. The number of tokens of a reply and its tokens/s are
those that the question names, like `tokens=200 rate=30`. Its port is the first line that it writes.
"""

import asyncio
import contextlib
import json
import random
import re
from typing import Any

from scripts.benchmark.texts import WORDS

MODEL = "scripted"
CONTEXT = 32_768
FIRST_SECONDS = 0.2
"""Time to the first token."""
HEAD = "HTTP/1.1 200 OK\r\nContent-Type: %s\r\n%s\r\n"


def numbers(question: str) -> tuple[int, float]:
    """(tokens, tokens/s) of the reply to a question."""
    found = dict(re.findall(r"\b(tokens|rate)=(\d+)", question))
    return int(found.get("tokens", 100)), float(found.get("rate", 30))


def token(word: str, chance: random.Random, alternatives: int) -> dict[str, Any]:
    """What vLLM tells of one token, with so many alternatives."""

    def entry(text: str) -> dict[str, Any]:
        return {"token": text, "logprob": -round(chance.uniform(0.01, 12), 6), "bytes": list(text.encode())}

    return {**entry(word), "top_logprobs": [entry(f" {chance.choice(WORDS)}") for _ in range(alternatives)]}


def chunk(delta: dict[str, Any], logprobs: Any = None, reason: str | None = None, **more: Any) -> bytes:
    """One event of a reply."""
    choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason, "token_ids": None}
    data = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": [choice]}
    return b"data: " + json.dumps({**data, **more}).encode() + b"\n\n"


def events(alternatives: int) -> list[bytes]:
    """The events of some tokens, made once for all replies: the engine's own time does not count here."""
    chance, found = random.Random(1), []
    for word in WORDS:
        text = f" {word}"
        told = {"content": [token(text, chance, alternatives)]} if alternatives else None
        found.append(chunk({"content": text}, told))
    return found


class Engine:
    """The routes of vLLM that chatui asks."""

    def __init__(self) -> None:
        self._events: dict[int, list[bytes]] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
                body = json.loads(await reader.readexactly(int(length[1])) if length else b"null")
                await self._answer(head.split(" ", 2)[1], body, writer)
        writer.close()

    async def _answer(self, path: str, body: Any, writer: asyncio.StreamWriter) -> None:
        if path == "/v1/chat/completions":
            await self._reply(body, writer)
            return
        words = "".join(str(message["content"]) for message in (body or {}).get("messages", ())).split()
        known: dict[str, Any] = {
            "/v1/models": {"data": [{"id": MODEL, "owned_by": "vllm", "max_model_len": CONTEXT}]},
            "/version": {"version": "0"},
            "/tokenize": {"tokens": list(range(len(words))), "token_strs": [f"Ġ{word}" for word in words]},
        }
        data = json.dumps(known.get(path, {})).encode()
        writer.write((HEAD % ("application/json", f"Content-Length: {len(data)}\r\n")).encode() + data)
        await writer.drain()

    async def _reply(self, body: Any, writer: asyncio.StreamWriter) -> None:
        count, rate = numbers(body["messages"][-1]["content"])
        alternatives = body["top_logprobs"] if body.get("logprobs") else 0
        pieces = self._events.setdefault(alternatives, events(alternatives))
        writer.write((HEAD % ("text/event-stream", "Transfer-Encoding: chunked\r\n")).encode())
        loop = asyncio.get_running_loop()
        start = loop.time() + FIRST_SECONDS
        for number in range(count):
            await asyncio.sleep(max(0.0, start + number / rate - loop.time()))
            self._write(writer, pieces[number % len(pieces)])
        usage = {"prompt_tokens": 100, "completion_tokens": count, "total_tokens": 100 + count}
        self._write(writer, chunk({"content": ""}, reason="stop") + chunk({}, usage=usage) + b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if writer.is_closing():
            raise ConnectionResetError
        writer.write(b"%x\r\n%b\r\n" % (len(data), data))


async def main() -> None:
    """Serve until terminated."""
    server = await asyncio.start_server(Engine().serve, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
