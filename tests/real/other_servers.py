"""Servers of others: installed once in the user's cache folder, started on a port of their own, and asked."""

import asyncio
import contextlib
import hashlib
import os
import shutil
import subprocess
import time
import venv
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import httpx
from filelock import FileLock
from platformdirs import user_cache_path

from chatui.chat import ChatRequest, Message, Prompt, ReplyDelta, TokenizeRequest
from chatui.generation_settings import GenerationSettings
from chatui.remote.backend import RemoteBackend
from chatui.remote.backend_spec import BackendSpec, ReplicaSpec

CACHE = user_cache_path("chatui-test-servers", appauthor=False)
"""Where the servers are installed once, each in an environment of its own."""
START_SECONDS, REPLY_SECONDS = 600, 600
SETTINGS = GenerationSettings(seed=1, max_new_tokens=12, temperature=0.0)
ASKED = ChatRequest((Message("system", "Be brief."), Message("user", "What is the capital of France?")), SETTINGS)


def installed(*packages: str, without: Sequence[str] = (), renamed: tuple[str, str, str] = ("", "", "")) -> Path:
    """The `bin` folder of an environment that has these packages, `without` some that they require.

    `renamed` is (a package, its name and version for those who look it up).
    """
    folder = CACHE / hashlib.sha256(repr((packages, without, renamed)).encode()).hexdigest()[:16]
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "ready").exists():
            venv.create(folder, clear=True, with_pip=True)
            pip = str(folder / "bin" / "pip")
            subprocess.run([pip, "install", "-q", *packages], check=True)
            if without:
                subprocess.run([pip, "uninstall", "-q", "-y", *without], check=True)
            if renamed[0]:
                _rename(folder, *renamed)
            (folder / "ready").touch()
    return folder / "bin"


def _rename(folder: Path, package: str, name: str, version: str) -> None:
    """Write the metadata of a package once more, under another name and version."""
    (metadata,) = folder.glob(f"lib/*/site-packages/{package.replace('-', '_')}-*.dist-info")
    copied = metadata.with_name(f"{name}-{version}.dist-info")
    shutil.copytree(metadata, copied)
    head, body = (copied / "METADATA").read_text().split("\n\n", 1)
    fields = {"Name": name, "Version": version}
    lines = [line for line in head.splitlines() if line.partition(":")[0] not in fields]
    lines[1:1] = [f"{field}: {value}" for field, value in fields.items()]
    (copied / "METADATA").write_text("\n".join(lines) + "\n\n" + body)


@contextlib.contextmanager
def running(command: Sequence[str], port: int, log: Path, **environment: str) -> Iterator[str]:
    """A server, once it lists its models; gives its address."""
    url = f"http://127.0.0.1:{port}"
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", **environment}
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=variables)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/v1/models", trust_env=False).status_code == 200:
                    break
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:  # one that waits for a reply that nobody reads
            process.kill()
            process.wait(15)


@contextlib.asynccontextmanager
async def backend_of(url: str) -> AsyncIterator[RemoteBackend]:
    backend = RemoteBackend(BackendSpec((ReplicaSpec(url),), "real")).start()
    try:
        await asyncio.to_thread(backend.wait)
        async with asyncio.timeout(REPLY_SECONDS):
            yield backend
    finally:
        await backend.close()


async def reply(backend: RemoteBackend, request: ChatRequest) -> tuple[str, list[ReplyDelta]]:
    """The text of a reply, and its deltas."""
    text, deltas = "", []
    async for delta in backend.stream(request):
        text, _ = delta.apply_to(text, "")
        deltas.append(delta)
    return text, deltas


async def begun_and_stopped(backend: RemoteBackend) -> None:
    """Begin a reply that would be long, and close it after its first piece."""
    long = replace(ASKED, settings=GenerationSettings(seed=1, max_new_tokens=900))
    async with contextlib.aclosing(backend.stream(long)) as deltas:
        async for delta in deltas:
            if delta.text:
                break
    assert backend._replicas[0].outstanding == 0


async def prompts_told(backend: RemoteBackend) -> tuple[Prompt, Prompt]:
    """The prompt as it is told before a reply, and with one: what it says, probabilities and tokens are looked at."""
    prompt = await backend.preview(ASKED)
    assert prompt is not None
    assert "Be brief." in prompt.text
    _, deltas = await reply(backend, replace(ASKED, trace=True, alternatives=3))
    finish, traced = deltas[-1].finish, [delta.snapshot for delta in deltas if delta.snapshot][-1]().traces
    assert finish is not None
    assert len(prompt.token_ids) == finish.prompt_tokens
    in_reply = [delta.prompt for delta in deltas if delta.prompt][-1]
    texts = backend.decode_tokens({trace.id for trace in traced})
    assert "Paris" in "".join(texts[trace.id] for trace in traced)
    assert all(trace.rank == 1 and len(trace.ids) == 3 for trace in traced)
    tokens = await backend.tokenize(TokenizeRequest("Hello there"))
    assert await backend.detokenize(tokens.ids) == "Hello there"
    return prompt, in_reply
