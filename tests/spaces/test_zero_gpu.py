"""On ZeroGPU: Gradio's own server, a GPU lent for each reply, and the real `spaces` package before a pretended API."""

import json
import pickle
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from gradio_client.exceptions import AppError

from chatui.errors import ChatError, PromptError, SettingsError
from tests.spaces.running import HOST, PATIENCE, Space

SHIM = Path(__file__).with_name("zero_gpu.py")
TOKEN = "aaa.e30.bbb"
"""What Hugging Face's proxy adds to a visitor's requests, for the quota: a JWT, its payload {}."""


class Lender(ThreadingHTTPServer):
    """The API that lends GPUs, as `spaces.zero.api` speaks to it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.asked: list[tuple[str, dict[str, list[str]]]] = []
        self.exhausted = False
        self.url = f"http://127.0.0.1:{self.server_port}"

    def of(self, path: str) -> list[dict[str, list[str]]]:
        return [query for asked, query in self.asked if asked == path]


class _Answer(BaseHTTPRequestHandler):
    server: Lender

    def do_POST(self) -> None:
        address = urlsplit(self.path)
        self.server.asked.append((address.path, parse_qs(address.query)))
        status, answer = 200, {}
        if address.path == "/schedule":
            idle = len(self.server.of("/schedule")) > 1
            answer = {"idle": idle, "nvidiaIndex": 0, "nvidiaUUID": "GPU-0", "allowToken": "token"}
            if self.server.exhausted:
                status, answer = 429, {"left": 0, "wait": 3600}
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def lender() -> Iterator[Lender]:
    with Lender() as lender:
        threading.Thread(target=lender.serve_forever, daemon=True).start()
        yield lender
        lender.shutdown()


def start(folder: Path, python: Path, home: Path, lender: Lender, **variables: str) -> Space:
    cgroup = home / "cgroup"
    cgroup.parent.mkdir(parents=True, exist_ok=True)
    cgroup.write_text("0::/kubepods/pod\n")
    return Space(
        folder,
        python,
        home,
        str(SHIM),
        SPACES_ZERO_GPU="true",
        SPACES_ZERO_DEVICE_API_URL=lender.url,
        ZEROGPU_PROC_SELF_CGROUP_PATH=str(cgroup),
        OMP_NUM_THREADS="1",  # a forked worker must not wait for the threads of its parent
        **variables,
    )


@pytest.fixture(scope="module")
def space(
    folder: Path, python: Path, model: Path, lender: Lender, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Space]:
    with start(folder, python, tmp_path_factory.mktemp("zero"), lender, CHATUI_MODEL=str(model)) as space:
        space.wait_for("ready")
        yield space


@pytest.fixture(autouse=True)
def forget(lender: Lender) -> None:
    lender.exhausted = False


def test_it_starts_through_gradios_launch_with_the_weights_packed(space: Space, lender: Lender, model: Path) -> None:
    # Gradio serves /healthz before it writes the address.
    output = space.wait_for_output("* Running on local URL")
    assert len(lender.of("/startup-report")) == 1
    packed = [line for line in output.splitlines() if line.startswith("packed ")]
    assert len(packed) == 1
    assert int(packed[0].split()[1]) >= 0.9 * (model / "model.safetensors").stat().st_size
    assert "chatui is at" not in output


def test_a_reply_is_written_on_a_borrowed_gpu(space: Space, lender: Lender) -> None:
    asked = len(lender.of("/schedule"))
    with space.client(**{"x-ip-token": TOKEN}) as client:
        first = client.predict("hi", api_name="/chat", max_new_tokens=5, temperature=0)
        second = client.predict("go on", api_name="/chat", max_new_tokens=5)
    assert isinstance(first, str)
    assert first
    assert isinstance(second, str)
    scheduled = lender.of("/schedule")[asked:]
    assert len(scheduled) == 2
    # Whose quota it is must get from the request through the engine's thread.
    assert [query["token"] for query in scheduled] == [[TOKEN], [TOKEN]]
    assert lender.of("/allow")
    assert lender.of("/release")
    assert "a worker has the weights" in space.output


def test_a_stopped_reply_gives_its_gpu_back(space: Space, lender: Lender) -> None:
    with space.client() as client:
        before = len(lender.of("/release"))
        job = client.submit("hi", api_name="/chat", max_new_tokens=400)
        end = time.monotonic() + PATIENCE
        while not job.outputs():
            assert time.monotonic() < end
            time.sleep(0.01)
        assert job.cancel()
        while len(lender.of("/release")) == before:
            assert time.monotonic() < end, "the GPU is still lent"
            time.sleep(0.05)
        assert client.predict("hi", api_name="/chat", max_new_tokens=3, temperature=0)
    assert len(lender.of("/release")) == len(lender.of("/schedule"))


def test_an_error_in_the_worker_keeps_its_words(space: Space) -> None:
    with space.client() as client, pytest.raises(AppError, match="Shorten the message"):
        client.predict("long " * 2000, api_name="/chat")


@pytest.mark.parametrize(
    "error", [SettingsError("field", "is wrong.", "Mend it."), PromptError("Too long.", "Cut it.")]
)
def test_errors_survive_the_way_back_from_a_worker(error: ChatError) -> None:
    crossed = pickle.loads(pickle.dumps(error))
    assert type(crossed) is type(error)
    assert str(crossed) == str(error)
    assert vars(crossed) == vars(error)


def test_a_spent_quota_is_told(space: Space, lender: Lender) -> None:
    lender.exhausted = True
    with space.client() as client, pytest.raises(AppError, match="GPU limit"):
        client.predict("hi", api_name="/chat")
    lender.exhausted = False
    with space.client() as client:
        assert client.predict("hi", api_name="/chat", max_new_tokens=3, temperature=0)


def test_the_routes_and_headers_are_those_of_the_own_server(space: Space) -> None:
    for path, kind in (("/", "text/html"), ("/healthz", "application/json"), ("/chatui-assets/chatui.css", "text/css")):
        answer = space.get(path, host=HOST)
        assert answer.status_code == 200, path
        assert answer.headers["content-type"].startswith(kind)
        assert "frame-ancestors 'self' https://huggingface.co" in answer.headers["content-security-policy"], path


def test_the_page_knows_its_public_address(space: Space) -> None:
    assert space.public_root() == f"https://{HOST}"


def test_no_foreign_origin_is_granted_or_served(space: Space) -> None:
    for origin, host, status in (
        ("https://evil.example", HOST, 403),
        ("https://evil.example", f"127.0.0.1:{space.port}", 403),
        (f"https://{HOST}", HOST, 200),
    ):
        headers = {"origin": origin, "host": host}
        for answer in (
            space.get("/config", **headers),
            httpx.options(
                f"{space.url}/config", headers={**headers, "access-control-request-method": "POST"}, timeout=PATIENCE
            ),
        ):
            granted = [name for name in answer.headers if name.startswith("access-control-allow")]
            assert granted == []
        cancel = {"session_hash": "a", "fn_index": 0, "event_id": "b"}
        asked = httpx.post(f"{space.url}/gradio_api/cancel", headers=headers, json=cancel, timeout=PATIENCE)
        assert asked.status_code == status


@pytest.mark.exhaustive  # test_space.py has the same before its own server, and above it is lent a GPU
def test_without_a_model_it_stays_up(folder: Path, python: Path, lender: Lender, tmp_path: Path) -> None:
    with start(folder, python, tmp_path, lender) as space:
        failed = space.wait_for("failed")
        assert "pip install" in failed["error"]
        assert space.output.count(f"chatui: {failed['error']}") == 1
        with space.client() as client, pytest.raises(AppError, match="The default model is neither installed"):
            client.predict("hi", api_name="/chat")
        # Gradio's hot reload, which runs on ZeroGPU, may drop an event loop that complains; our own code may not.
        assert not re.search(r'File ".*/chatui/', space.output)
