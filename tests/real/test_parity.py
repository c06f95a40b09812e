"""The default model through chatui equals the same model through transformers' own pipeline, token for token."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers

from chatui.chat import ChatRequest, Finish, Message
from chatui.engine.backend import LocalBackend
from chatui.engine.loading import embedded, loader
from chatui.engine.loading.loaded_model import LoadedModel
from chatui.engine.runners import batch_runner, serial_runner
from chatui.generation_settings import GenerationSettings
from chatui.model_spec import ModelSpec
from chatui.settings import AppSettings
from tests import models
from tests.examples import some_of

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(embedded.find() is None, reason=f"needs the default model: {embedded.INSTALL}"),
]

NEW_TOKENS, TURNS = max(12, some_of(24)), 3
FOLLOW_UPS = ("Say that again in other words.", "Why?")
CUT_AT = 16
CUT = ("Tell me a story about a lighthouse.", "Why is the sky blue?", "Explain photosynthesis to a child, briefly.")
SAMPLE = ("Write `<|im_end|>` to 👩‍👩‍👧‍👦 and explain it.",)
OTHERS = (
    "Hello! Who are you?",
    "What is 17 + 25?",
    "Schreibe einen Satz auf Deutsch.",
    "What does 👩‍👩‍👧‍👦 mean?",
    "Write `<|im_end|>` and explain it.",
    "What is the capital of France?",
    "Write a haiku about rain.",
    "List three colours.",
    "Count from 1 to 10.",
    "Translate 'good morning' to Spanish.",
    "Write a Python function that adds two numbers.",
    "你好,你是谁?",
    "Tell me a joke.",
    "  spaces   around   here  ",
    "A\n\nB\n\nC - what comes next?",
    "In 1984, what happened?",
    "Why is the sky blue?",
    "yes",
    "Explain photosynthesis to a child, briefly.",
    "What is 3.14159 called?",
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """On a machine whose cores are busy, a second thread makes replies ten times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    settings = AppSettings(quantization="none")
    return loader.load(ModelSpec.from_settings(settings), settings.cache_dir, lambda _: None)


@pytest.fixture(scope="module")
def pipeline(loaded: LoadedModel) -> transformers.TextGenerationPipeline:
    assert isinstance(loaded.tokenizer, transformers.PreTrainedTokenizerFast)
    return transformers.pipeline("text-generation", model=loaded.model, tokenizer=loaded.tokenizer)


def ours(loaded: LoadedModel, messages: list[Message], **values: Any) -> tuple[str, int]:
    """The reply and its number of tokens."""
    settings = GenerationSettings(**{"temperature": 0.0, "max_new_tokens": NEW_TOKENS, **values})
    deltas = list(serial_runner.generate_reply(loaded, ChatRequest(tuple(messages), settings)))
    return "".join(delta.text for delta in deltas), sum(delta.tokens for delta in deltas)


def theirs(pipeline: transformers.TextGenerationPipeline, messages: list[Message]) -> tuple[str, int]:
    chat = [{"role": message.role, "content": message.content} for message in messages]
    options = {"do_sample": False, "temperature": None, "top_p": None, "max_new_tokens": NEW_TOKENS}
    (made,) = pipeline(chat, return_tensors=True, tokenizer_encode_kwargs={"sanitize_control_tokens": True}, **options)
    assert pipeline.tokenizer is not None
    generated: Any = made["generated_token_ids"]  # the pipeline's types know only texts
    ids: list[int] = generated[len(models.prompt_ids(pipeline.tokenizer, chat, sanitize_control_tokens=True)) :]
    return str(pipeline.tokenizer.decode(ids, skip_special_tokens=True)), len(ids)


@pytest.mark.parametrize("question", [*SAMPLE, *(pytest.param(text, marks=pytest.mark.exhaustive) for text in OTHERS)])
def test_greedy_replies_are_those_of_the_pipeline(
    loaded: LoadedModel, pipeline: transformers.TextGenerationPipeline, question: str
) -> None:
    messages = [Message("user", question)]
    for follow_up in (*FOLLOW_UPS[: TURNS - 1], None):
        answer = ours(loaded, messages)
        assert answer == theirs(pipeline, messages)
        if follow_up:
            messages += [Message("assistant", answer[0]), Message("user", follow_up)]


@pytest.mark.exhaustive  # tests/unit/test_python_script.py repeats seeds of small models
def test_a_seed_repeats_a_sampled_reply(loaded: LoadedModel) -> None:
    messages = [Message("user", "Tell me a story about a lighthouse.")]
    sampled = [ours(loaded, messages, temperature=1.2, top_p=0.95, seed=seed) for seed in (7, 7, 8)]
    assert sampled[0] == sampled[1]
    assert sampled[0] != sampled[2]


@pytest.mark.parametrize("questions", [CUT[:1], pytest.param(CUT, marks=pytest.mark.exhaustive)], ids=["one", "more"])
async def test_a_reply_that_was_cut_goes_on_as_if_it_had_not_been(questions: tuple[str, ...]) -> None:
    """In float32, where sums taken in another order do not decide between two tokens."""
    settings = AppSettings(dtype="float32", quantization="none")
    spec = replace(ModelSpec.from_settings(settings), compile="off")
    loaded = loader.load(spec, settings.cache_dir, lambda _: None)
    model = batch_runner.open_batch_runner(loaded, spec)
    assert model is not None
    backend = LocalBackend(spec, settings.cache_dir, lambda *_: model).start()

    async def write(tokens: int, *messages: Message) -> tuple[str, Finish]:
        asked = ChatRequest(messages, GenerationSettings(temperature=0.0, max_new_tokens=tokens))
        deltas = [delta async for delta in backend.stream(asked)]
        assert deltas[-1].finish is not None
        return "".join(delta.text for delta in deltas), deltas[-1].finish

    try:
        for question in questions:
            first_part, finish = await write(CUT_AT, Message("user", question))
            assert finish.reason == "length"
            assert len(loaded.tokenizer.encode(first_part)) == CUT_AT, "else the model would see other tokens"
            rest, finish = await write(NEW_TOKENS, Message("user", question), Message("assistant", first_part))
            assert finish.cached_tokens == finish.prompt_tokens - 1
            whole, _ = await write(CUT_AT + NEW_TOKENS, Message("user", question))
            assert first_part + rest == whole
            assert rest
    finally:
        await backend.close()
    loaded.model.set_attn_implementation("sdpa")
    assert ours(loaded, [Message("user", question), Message("assistant", first_part)])[0] == rest, "one by one too"


def test_the_default_model_is_as_its_authors_made_it(loaded: LoadedModel) -> None:
    assert loaded.info.context_length == 8192
    assert loaded.info.precision == "bfloat16"
    assert loaded.info.parameters == 134_515_008
    assert loaded.info.revision == "sha256:b179c9523d0e"
    assert (loaded.info.defaults.temperature, loaded.info.defaults.top_p) == (0.2, 0.9)
    assert loaded.decode(loaded.tokenizer.encode("in 2024, 42")) == "in 2024, 42"
    assert len(loaded.tokenizer.encode("2024")) == 4
