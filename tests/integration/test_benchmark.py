"""The pure parts of scripts/bench, and the whole of it against a server that answers from a script."""

import asyncio
import io
import json
import re
import subprocess
import sys
import threading
import venv
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from chatui.settings import AppSettings
from scripts.benchmark import bandwidth, figures, options, peers, plain_page, replicas, report, run, server, texts
from scripts.benchmark.figures import Interruption, Wave
from scripts.benchmark.sse import EventReader
from scripts.benchmark.target import BenchError, Reply
from tests import models

OVERHEAD = 30
TOKENS = 8


def reply(sent: float, first: float, step: float, tokens: int, cached: int | None = None) -> Reply:
    """A reply whose tokens come one by one."""
    pieces = tuple(first + step * number for number in range(tokens))
    return Reply(sent, pieces, pieces[-1], "x" * tokens, 50, tokens, cached)


EVENTS = (
    'data: {"a": "é"}\r\n\r\n: a comment\n\nevent: x\ndata: one\ndata:two\n\nid: 1\n\ndata: [DONE]\n\ndata: cut'
).encode()


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(EVENTS)])
def test_events_are_the_same_however_they_are_cut(size: int) -> None:
    reader = EventReader()
    events = [event for at in range(0, len(EVENTS), size) for event in reader.feed(EVENTS[at : at + size])]
    assert events == ['{"a": "é"}'.encode(), b"one\ntwo", b"[DONE]"]


def test_percentile_and_median() -> None:
    assert figures.percentile([], 0.95) is None
    assert figures.percentile([3.0], 0.95) == 3.0
    assert figures.percentile([4.0, 1.0, 3.0, 2.0, 5.0], 0.5) == 3.0
    assert figures.percentile([0.0, 10.0], 0.95) == pytest.approx(9.5)
    assert figures.median_or_none([None, 4.0, None, 2.0]) == 3.0
    assert figures.median_or_none([None]) is None


def test_where_a_median_surely_is() -> None:
    # From tables of the sign test.
    for count, rank in ((3, 1), (6, 1), (8, 1), (9, 2), (10, 2), (20, 6), (40, 14)):
        found = [float(number) for number in range(count, 0, -1)]
        assert figures.median_interval(found) == (rank, count + 1 - rank)


def test_figures_of_one_reply() -> None:
    one = reply(sent=10.0, first=11.0, step=0.1, tokens=11)
    assert one.seconds_to_first == 1.0
    assert one.ms_per_token == pytest.approx(100)
    assert figures.tokens_per_second([one]) == pytest.approx(10)
    assert figures.concurrent_tokens_per_second([one]) == pytest.approx(10)


def test_a_reply_of_one_token_has_no_speed() -> None:
    one = reply(sent=0.0, first=1.0, step=0.1, tokens=1)
    assert one.ms_per_token is None
    assert figures.tokens_per_second([one]) is None
    assert figures.concurrent_tokens_per_second([one]) is None


def test_a_reply_without_text_has_its_first_token_at_its_end() -> None:
    silent = Reply(1.0, (), 3.0, "", 5, 4)
    assert silent.seconds_to_first == 2.0
    assert silent.tokens_between(0.0, 9.0) == 0.0


def test_tokens_are_counted_by_usage_where_a_piece_has_several() -> None:
    pieces = Reply(0.0, (1.0, 2.0, 3.0, 4.0), 4.0, "", 5, completion_tokens=12)
    assert pieces.tokens_between(1.0, 3.0) == 6.0


def test_speed_of_all_spans_the_queue_and_together_does_not() -> None:
    side_by_side = [reply(0.0, 1.0, 0.1, 101), reply(0.0, 2.0, 0.1, 101)]
    assert figures.tokens_per_second(side_by_side) == pytest.approx(201 / 11)
    assert figures.concurrent_tokens_per_second(side_by_side) == pytest.approx(20, rel=0.02)
    one_by_one = [reply(0.0, 1.0, 0.1, 11), reply(0.0, 3.0, 0.1, 11)]
    assert figures.tokens_per_second(one_by_one) == pytest.approx(21 / 3)
    assert figures.concurrent_tokens_per_second(one_by_one) is None


def test_wave_figures_are_medians_over_rounds_and_replies() -> None:
    waves = [Wave((reply(0.0, wait, 0.1, 11),), (reply(0.0, wait / 10, 0.1, 4, 40),)) for wait in (1.0, 2.0, 9.0)]
    found = figures.wave_figures(waves)
    assert (found.first, found.second, found.cached, found.prompt_tokens) == (2.0, 0.2, 40, 50)
    assert found.first_p95 == pytest.approx(8.3)
    assert figures.wave_figures([]) == figures.WaveFigures(*[None] * 9)


def test_an_interruption_is_measured_over_the_others_prompt() -> None:
    before = [0.1 * number for number in range(11)]
    during = [1.5, 2.0]
    after = [2.1, 2.2]
    writer = Reply(-1.0, (*before, *during, *after), 2.2, "", 50, 15)
    found = figures.interruption_figures([Interruption(writer, Reply(1.05, (1.95,), 1.95, "x", 1000, 1))])
    assert found.quiet_ms == pytest.approx(100)
    assert found.meanwhile_ms == pytest.approx(500)
    assert found.slowdown == pytest.approx(5)
    assert found.longest_gap_ms == pytest.approx(500)
    assert found.other_first == pytest.approx(0.9)


def test_a_writer_that_stands_still_is_as_slow_as_the_wait() -> None:
    writer = Reply(0.0, (1.0, 1.1, 1.2, 3.2), 3.2, "", 50, 4)
    found = figures.interruption_figures([Interruption(writer, Reply(1.25, (3.0,), 3.0, "x", 1000, 1))])
    assert found.meanwhile_ms == pytest.approx(2000)


def test_where_the_other_waits_for_the_writers_end_the_writer_is_not_slower() -> None:
    writer = reply(0.0, 1.0, 0.1, 21)
    found = figures.interruption_figures([Interruption(writer, Reply(1.55, (9.0,), 9.0, "x", 1000, 1))])
    assert found.slowdown == pytest.approx(1)


def test_numbers_have_three_digits() -> None:
    values = (None, 0.1234, 9.994, 9.996, 12.34, 99.94, 99.96, 12345.6)
    shown = ["–", "0.12", "9.99", "10.0", "12.3", "99.9", "100", "12,346"]
    assert [report.format_number(value) for value in values] == shown
    assert report.format_ratio(200.0, 20.0) == "200 (10.0×)"
    assert report.format_ratio(0.5, 5.0, smaller_is_better=True) == "0.50 (10.0×)"
    assert report.format_ratio(0.5, None) == "0.50"
    assert report.format_ratio(None, 1.0) == "–"


def test_tables_are_markdown_in_line() -> None:
    rows = [["1", "chatui", "90.0"], ["16", "a", "1,234"]]
    assert report.table(("users", "server", "tokens/s"), rows).splitlines() == [
        "| users | server | tokens/s |",
        "| ----: | ------ | -------: |",
        "|     1 | chatui |     90.0 |",
        "|    16 | a      |    1,234 |",
    ]


def test_prompts_differ_between_users_and_return_with_their_seed() -> None:
    prompts = {texts.conversation(40, 7, user)[0]["content"] for user in range(16)}
    assert len({" ".join(prompt.split()[:4]) for prompt in prompts}) == 16
    assert texts.conversation(40, 7, 3) == texts.conversation(40, 7, 3)


def test_words_are_counted_from_probes() -> None:
    few, many = (OVERHEAD + 2 * words for words in texts.PROBES)
    lengths = texts.Lengths.from_probes(few, many)
    assert lengths.words(1000) == (1000 - OVERHEAD) / 2
    assert lengths.words(5) == 1


def test_flags_describe_the_url_before_them() -> None:
    first = "--url http://a:1/v1 --name A --model m1 --api-key k"
    found = options.read(f"--model m0 {first} --url http://b:2/v1 --weight-bytes 5 -- --port 1".split())
    assert found.flags == ("--port", "1", "--model", "m0")
    assert found.others == (
        server.Address("http://a:1/v1", "A", "m1", "k"),
        server.Address("http://b:2/v1", "b:2", weight_bytes=5),
    )
    assert (found.users, found.prompts, found.tokens, found.rounds) == ((1, 4, 8, 16), (50, 1000), 128, 3)
    assert options.read(["--quick", "--tokens", "9"]).tokens == 9


@pytest.mark.parametrize(
    "words", ["--name A", "--users 0", "--tokens x", "--no-own --no-baseline", "--url http://a/v1 --url http://a/v1"]
)
def test_wrong_flags_are_refused(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        options.read(words.split())
    assert caught.value.code == 2
    assert "scripts/bench: error: " in capsys.readouterr().err


def test_what_servers_say_of_their_cache() -> None:
    assert server.cached_tokens({"prompt_tokens_details": {"cached_tokens": 3}}, {}) == 3
    assert server.cached_tokens({}, {"cache_n": 4}) == 4
    assert server.cached_tokens({"prompt_tokens_details": None}, {}) is None


class FakeServer:
    """OpenAI's dialect over a script: as many tokens as asked for; refuses `ignore_eos` like a stricter server."""

    def __init__(self, fail_from: int = 10**9) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.writing = 0
        self.most_at_once = 0
        self.refused = 0
        self.interrupted = 0
        self._fail_from = fail_from
        self._other_came = asyncio.Event()
        self.app = Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ]
        )

    async def _models(self, request: Request) -> Response:
        self.keys.add(request.headers.get("authorization"))
        return JSONResponse({"data": [{"id": "fake", "weight_bytes": 1000}]})

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        if body.pop("ignore_eos", None):
            self.refused += 1
            return JSONResponse({"error": {"message": "ignore_eos: unknown"}}, 400)
        self.bodies.append(body)
        if body["max_tokens"] == 1 and self.writing:
            self.interrupted += 1
            self._other_came.set()
        if len(body["messages"][0]["content"].split()) >= self._fail_from:
            return JSONResponse({"error": {"message": "too\nlong"}}, 400)
        return StreamingResponse(self._write(body), media_type="text/event-stream")

    async def _write(self, body: dict[str, Any]) -> AsyncIterator[str]:
        tokens = body["max_tokens"]
        self.writing += 1
        self.most_at_once = max(self.most_at_once, self.writing)
        yield _event(choices=[{"delta": {"role": "assistant", "content": ""}}])
        for number in range(tokens):
            if tokens == 2 * TOKENS and number == TOKENS:
                await asyncio.wait_for(self._other_came.wait(), 10)
                self._other_came.clear()
            await asyncio.sleep(0.002)
            yield ": a comment\n\n" + _event(choices=[{"delta": {"content": "é "}}])
        self.writing -= 1
        words = sum(len(message["content"].split()) for message in body["messages"])
        cached = words // 2 if len(body["messages"]) > 1 else 0
        counts = {"prompt_tokens": OVERHEAD + words, "completion_tokens": tokens}
        yield _event(choices=[{"delta": {}, "finish_reason": "length"}])
        yield _event(choices=[], usage={**counts, "prompt_tokens_details": {"cached_tokens": cached}})
        yield "data: [DONE]\n\n"


def _event(**fields: Any) -> str:
    return f"data: {json.dumps(fields)}\n\n"


class Served:
    """The fake on a free port, in a thread."""

    def __init__(self, fake: FakeServer) -> None:
        self._server = uvicorn.Server(uvicorn.Config(fake.app, port=0, log_level="error"))
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self) -> str:
        self._thread.start()
        while not self._server.started:
            self._thread.join(0.01)
            assert self._thread.is_alive()
        return f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}/v1"

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()


@pytest.fixture
def quick_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    async def reading(size: int) -> float:
        assert size > 0
        return 20.0

    monkeypatch.setattr(bandwidth, "gigabytes_per_second", reading)
    monkeypatch.setattr(run, "LISTEN_SECONDS", 0.01)


def bench(url: str, *words: str) -> int:
    fixed = ["--no-own", "--no-baseline", "--tokens", str(TOKENS), "--rounds", "2", "--users", "1,3"]
    return run.main([*fixed, "--url", url, "--name", "fake", "--api-key", "key", *words])


@pytest.mark.usefixtures("quick_machine")
def test_a_run_against_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake, file = FakeServer(), tmp_path / "figures.json"
    with Served(fake) as url:
        assert bench(url, "--prompts", "50,80", "--seed", "1", "--json", str(file)) == 0
    assert (fake.refused, fake.most_at_once, fake.interrupted) == (1, 3, 2)
    assert fake.keys == {"Bearer key"}
    assert all(body["temperature"] == 0 and body["model"] == "fake" for body in fake.bodies)
    openings = [body["messages"][0]["content"] for body in fake.bodies if len(body["messages"]) == 1]
    assert len(set(openings)) == len(openings)

    record = json.loads(file.read_text())
    scenes = {(each["round"], each["prompt"], each["users"]) for each in record["measured"]}
    assert scenes == {(r, p, u) for r in (0, 1) for p in (50, 80) for u in (1, 3)} | {(0, 80, None), (1, 80, None)}
    wave = next(each for each in record["measured"] if each["users"] == 3 and each["prompt"] == 80)
    assert [(one["prompt_tokens"], one["completion_tokens"]) for one in wave["first"]] == [(80, TOKENS)] * 3
    assert all(one["cached_tokens"] > 0 and one["text"] == "é " * TOKENS for one in wave["second"])
    assert record["gigabytes_per_second"] == [20.0, 20.0]
    assert record["weight_bytes"] == {"fake": 1000}
    assert record["versions"]["torch"]
    assert record["machine"]["cores"]
    assert "key" not in json.dumps(record["options"])

    shown = capsys.readouterr().out
    assert "## Prompts of about 50 tokens, replies of 8" in shown
    assert "Memory reads: 20.0 GB/s" in shown
    assert sum(line.startswith("|") and "fake" in line for line in shown.splitlines()) == 5


@pytest.mark.usefixtures("quick_machine")
def test_what_a_server_refuses_is_told_and_the_rest_measured(capsys: pytest.CaptureFixture[str]) -> None:
    with Served(FakeServer(fail_from=300)) as url:
        assert bench(url, "--prompts", "50,1000") == 1
    shown = capsys.readouterr().out
    assert shown.count("1,000 tokens: fake answered 400: too long") == 3
    assert "|     3 | fake   |     50 | " in shown
    assert "|     3 | fake   |      – |        – | " in shown


def test_a_server_that_is_not_there_gives_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Served(FakeServer()) as url:
        pass
    assert bench(url) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"bench: fake at {url} cannot be reached")
    assert error.count("\n") == 1


def test_an_address_without_v1_gives_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Served(FakeServer()) as url:
        assert bench(url.removesuffix("/v1")) == 2
    assert "answered 404" in capsys.readouterr().err


PEER = """
import json, sys, threading
from http.server import BaseHTTPRequestHandler, HTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"data": [{"id": sys.argv[1].rpartition("/")[2]}]}).encode())

    def do_POST(self):
        tokens = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["max_tokens"]
        self.send_response(200)
        self.end_headers()
        for event in [{"choices": [{"delta": {"content": "a "}}]}] * tokens + [
            {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": tokens}}
        ]:
            self.wfile.write(b"data: " + json.dumps(event).encode() + b"\\n\\n")

server = HTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(f"ready http://127.0.0.1:{server.server_address[1]}", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The script of a peer, which needs no packages."""
    script = tmp_path / "peer.py"
    monkeypatch.setitem(peers.PEERS, "openvino", peers.Peer((), str(script)))
    monkeypatch.setattr(peers, "_environment", lambda *_: Path(sys.executable))
    return script


def test_a_peer_is_started_with_the_servers_model(
    peer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peer.write_text(PEER)
    model = tmp_path / "some.gguf"
    model.write_bytes(b"GGUF")
    flags = "--no-own --no-baseline --peer openvino --users 2 --prompts 20 --tokens 8 --rounds 1 --seed 1"
    assert run.main([*flags.split(), "--model", str(model)]) == 0
    assert re.search(r"^\| +2 \| openvino \| +9 \|", capsys.readouterr().out, re.MULTILINE)


async def test_a_peer_that_cannot_start_gives_its_last_line(peer: Path, tmp_path: Path) -> None:
    peer.write_text("raise SystemExit('no such model')")
    with pytest.raises(BenchError, match="openvino did not start: no such model"):
        async with peers.running("openvino", tmp_path, 1, tmp_path):
            pass


def test_conversations_over_two_servers(
    peer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    peer.write_text(PEER)
    monkeypatch.setitem(peers.PEERS, "llama.cpp", peers.Peer((), str(peer)))
    monkeypatch.setattr(peers, "model_file", lambda _: tmp_path / "some.gguf")
    flags = "ours --conversations 2 --turns 2 --words 5 --tokens 4"
    assert replicas.main(flags.split()) == 0
    assert re.search(r"^\| ours +\| +0.0% \| +9 \|", capsys.readouterr().out, re.MULTILINE)


def test_peers_need_a_gguf_file() -> None:
    assert peers.model_file(AppSettings(model=("some.gguf",))) == Path("some.gguf").absolute()
    with pytest.raises(BenchError, match="GGUF"):
        peers.model_file(AppSettings(model=("Qwen/Qwen3-0.6B",)))


def test_the_environment_of_a_peer_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = [subprocess.CompletedProcess([], 1, "", "no network"), subprocess.CompletedProcess([], 0, "", "")]
    monkeypatch.setattr(venv, "create", lambda folder, **_: folder.mkdir(parents=True, exist_ok=True))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: results.pop(0))
    with pytest.raises(BenchError, match="engine==1 cannot be installed: no network"):
        peers._environment(("engine==1",), tmp_path)
    python = peers._environment(("engine==1",), tmp_path)
    assert peers._environment(("engine==1",), tmp_path) == python
    assert not results


def test_the_plain_page_writes_exactly_as_many_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = io.StringIO()
    monkeypatch.setattr(plain_page, "ANSWERS", answers)
    page = plain_page.Page(str(models.save(tmp_path)))
    page.reply([{"role": "user", "content": "Hello"}], 7)
    *pieces, usage = [json.loads(line) for line in answers.getvalue().splitlines()]
    assert usage["completion_tokens"] == 7
    assert usage["prompt_tokens"] > len("Hello")
    assert all(set(piece) == {"text"} for piece in pieces)
    tables = page.model.get_input_embeddings().weight.nbytes
    assert page.weight_bytes() == sum(weight.nbytes for weight in page.model.parameters()) - tables
