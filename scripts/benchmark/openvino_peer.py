"""OpenVINO GenAI behind /v1/chat/completions, as the benchmark asks it: python openvino_peer.py MODEL.gguf USERS.

Runs in an environment of its own (peers.py), with nothing but the standard library and openvino_genai. Prints its
address when it is ready, and ends with its standard input.
"""

import itertools
import json
import os
import queue
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import openvino_genai

CACHE_GB = 2
Tokens = list[int]


class Engine:
    """Continuous batching in a thread: requests come in, token ids go out through a queue for each."""

    def __init__(self, model: str, users: int) -> None:
        config = openvino_genai.SchedulerConfig()
        config.enable_prefix_caching, config.cache_size, config.max_num_seqs = True, CACHE_GB, max(users, 16)
        self.pipeline = openvino_genai.ContinuousBatchingPipeline(model, config, "CPU", {"PERFORMANCE_HINT": "LATENCY"})
        self.tokenizer = self.pipeline.get_tokenizer()
        self._asked: queue.Queue[tuple[Any, int, queue.Queue[Tokens | None]]] = queue.Queue()
        threading.Thread(target=self._run, daemon=True).start()

    def ask(self, messages: list[dict[str, str]], tokens: int) -> tuple[int, "queue.Queue[Tokens | None]"]:
        """(tokens of the prompt, a queue of the reply's token ids with None behind the last)."""
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        ids = self.tokenizer.encode(text, add_special_tokens=False).input_ids
        out: queue.Queue[Tokens | None] = queue.Queue()
        self._asked.put((ids, tokens, out))
        return ids.shape[1], out

    def _run(self) -> None:
        running: list[tuple[Any, queue.Queue[Tokens | None]]] = []
        numbers = itertools.count()  # requests are told apart by them
        while True:
            while not running or not self._asked.empty():
                ids, tokens, out = self._asked.get()
                config = openvino_genai.GenerationConfig()
                config.max_new_tokens, config.ignore_eos, config.do_sample = tokens, True, False
                running.append((self.pipeline.add_request(next(numbers), ids, config), out))
            self.pipeline.step()
            for each in list(running):
                handle, out = each
                while handle.can_read():
                    for part in handle.read().values():
                        out.put(part.generated_ids)
                        if part.finish_reason != openvino_genai.GenerationFinishReason.NONE:
                            out.put(None)
                            running.remove(each)


class Handler(BaseHTTPRequestHandler):
    """What the benchmark needs of OpenAI's API."""

    engine: Engine
    protocol_version = "HTTP/1.0"

    def do_GET(self) -> None:
        """The one model."""
        self._head("application/json")
        self.wfile.write(json.dumps({"data": [{"id": "openvino"}]}).encode())

    def do_POST(self) -> None:
        """A greedy reply, streamed."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt_tokens, out = self.engine.ask(body["messages"], body["max_tokens"])
        self._head("text/event-stream")
        count = 0
        while (ids := out.get()) is not None:
            count += len(ids)
            self._event({"choices": [{"delta": {"content": self.engine.tokenizer.decode(ids)}}]})
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": count}
        self._event({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged."""

    def _head(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()

    def _event(self, fields: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(fields).encode() + b"\n\n")
        self.wfile.flush()


class Server(ThreadingHTTPServer):
    """Takes the connections of many users at once also while the engine keeps the interpreter busy."""

    request_queue_size = 128


if __name__ == "__main__":
    Handler.engine = Engine(sys.argv[1], int(sys.argv[2]))
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"ready http://127.0.0.1:{server.server_address[1]}", flush=True)
    sys.stdin.read()
    os._exit(0)
