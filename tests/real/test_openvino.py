"""A server over OpenVINO GenAI, installed and started here: it tells little, and the client does not make it up.

OpenVINO's own Model Server is no package of Python. KernelLoom is one that serves its models with OpenAI's API.
"""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest

from chatui.chat import Message
from chatui.engine.loading import embedded
from chatui.errors import ModelError, PromptError
from tests.ports import reserved_port
from tests.real.other_servers import ASKED, SETTINGS, backend_of, begun_and_stopped, installed, reply, running

pytestmark = [pytest.mark.real, pytest.mark.exhaustive]

CONVERT = """
import sys, openvino_genai
openvino_genai.LLMPipeline(sys.argv[1], "CPU", enable_save_ov_model=True)
"""


@pytest.fixture(scope="module")
def openvino(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    gguf = embedded.find()
    if gguf is None:
        pytest.skip(f"needs the default model: {embedded.INSTALL}")
    bin = installed("kernelloom[server,genai]==0.4.1", "openvino-genai==2026.4.1.0")
    folder = tmp_path_factory.mktemp("openvino")
    python, model = str(bin / "python"), folder / "model"
    model.mkdir()
    shutil.copy(gguf, model)  # what it makes of the file is written beside it
    subprocess.run([python, "-c", CONVERT, str(model / gguf.name)], check=True)
    with reserved_port() as port:
        command = [str(bin / "kernelloom"), "serve", "--port", str(port), "--model-path", str(model)]
        command += ["--model-id", "smol", "--backend", "openvino"]
        variables = {"KERNELLOOM_DATA_DIR": str(folder), "KERNELLOOM_ACCELERATOR_PYTHON": python}
        with running(command, port, folder / "log", **variables) as url:
            yield url


async def test_it_chats_and_tells_little(openvino: str) -> None:
    async with backend_of(openvino) as backend:
        info = backend.models()[0].info
        assert info is not None
        assert info.server is not None
        assert (info.name, info.server.software, info.context_length) == ("real/smol", "OpenAI API", 0)
        text, deltas = await reply(backend, replace(ASKED, trace=True, alternatives=3))
        assert "Paris" in text
        finish, told = deltas[-1].finish, [delta.prompt for delta in deltas if delta.prompt][-1]
        assert finish is not None
        assert (finish.told_prompt_tokens, finish.told_cached_tokens) == (None, None)
        assert finish.completion_tokens >= 6, "the pieces are counted"
        assert (told.text, told.token_ids, told.messages) == ("", (), ASKED.messages)
        assert await backend.preview(ASKED) is None
        assert await backend.activity() is None
        with pytest.raises(ModelError, match="does not tell"):
            await backend.detokenize([1])


async def test_it_takes_its_settings_and_no_others(openvino: str) -> None:
    async with backend_of(openvino) as backend:
        text, _ = await reply(backend, ASKED)
        cut, _ = await reply(backend, replace(ASKED, settings=SETTINGS.model_copy(update={"stop": ("Par",)})))
        assert text.startswith(cut)
        assert "Par" not in cut
        short, _ = await reply(backend, replace(ASKED, settings=SETTINGS.model_copy(update={"max_new_tokens": 3})))
        assert len(short) < len(text)
        wide = {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "thinking": "off", "temperature": 0.7}
        assert (await reply(backend, replace(ASKED, settings=SETTINGS.model_copy(update=wide))))[0]
        begun = replace(ASKED, messages=(*ASKED.messages, Message("assistant", "The")))
        with pytest.raises(PromptError, match="cannot go on"):
            await reply(backend, begun)


async def test_stop_closes_the_connection(openvino: str) -> None:
    # It goes on by itself, and keeps the next request waiting: nothing is asked of it after this.
    async with backend_of(openvino) as backend:
        await begun_and_stopped(backend)
