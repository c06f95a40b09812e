"""Two real models that take turns in memory: each reply is its own model's, and the memory is given back."""

import asyncio
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from chatui.chat import ChatRequest, Message
from chatui.engine.backend import LocalBackend
from chatui.engine.loading.weights import release_memory
from chatui.generation_settings import GenerationSettings
from chatui.model_spec import ModelSpec
from chatui.models.instances import Memory
from chatui.models.registry import Registry
from tests import models

WARM_UP_SWAPS = 6
CONFIG = LlamaConfig(
    vocab_size=models.VOCABULARY,
    hidden_size=256,
    intermediate_size=1024,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=512,
)
"""4 million parameters, so that a model that stays in memory can be seen."""


class Swapper:
    """A registry of two models, of which memory has room for one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = [self._save(seed) for seed in (0, 1)]
        self.loads = 0
        specs = [self.spec(name) for name in self.names]
        memory = Memory(lambda _: 1, self._free, release_memory)
        self.registry = Registry(specs, self.open, memory, linger=0.0)

    def spec(self, name: str) -> ModelSpec:
        return ModelSpec(str(self.folder / name), device_map="cpu", slots=4, kv_memory=4_000_000, compile="off")

    def open(self, spec: ModelSpec) -> LocalBackend:
        self.loads += 1
        return LocalBackend(spec, self.folder)

    def _save(self, seed: int) -> str:
        torch.manual_seed(seed)
        model = LlamaForCausalLM(CONFIG)
        for parameter in model.parameters():
            parameter.data.mul_(4)
        name = f"model-{seed}"
        model.save_pretrained(self.folder / name)
        models.tokenizer().save_pretrained(self.folder / name)
        return name

    def _free(self) -> int:
        return 0 if any(instance.loaded for instance in self.registry._instances.all) else 1


def request(number: int, model: str = "") -> ChatRequest:
    settings = GenerationSettings(max_new_tokens=6 + number % 3, temperature=1.0, seed=number)
    return ChatRequest((Message("user", f"Question {number}?"),), settings, model, trace=True)


async def token_ids(backend: Registry | LocalBackend, asked: ChatRequest) -> list[int]:
    ids: list[int] = []
    async with aclosing(backend.stream(asked)) as deltas:
        async for delta in deltas:
            if delta.finish is not None and delta.snapshot is not None:
                ids = delta.snapshot().traces.chosen_ids
    assert ids
    return ids


@pytest.fixture
def swapper(tmp_path: Path) -> Swapper:
    return Swapper(tmp_path)


@pytest.mark.parametrize(
    ("swaps", "streams"), [(20, 4), pytest.param(200, 8, marks=pytest.mark.exhaustive)], ids=["some", "many"]
)
async def test_swapped_models_write_their_own_replies_and_leave_no_memory(
    swapper: Swapper, swaps: int, streams: int
) -> None:
    questions = 3
    expected: dict[tuple[str, int], list[int]] = {}
    for name in swapper.names:
        alone = LocalBackend(swapper.spec(name), swapper.folder).start()
        for number in range(questions):
            expected[name, number] = await token_ids(alone, request(number))
        await alone.close()
    assert expected[swapper.names[0], 0] != expected[swapper.names[1], 0]
    registry = swapper.registry.start()

    async def ask_until(loads: int, turn: int) -> None:
        while swapper.loads < loads:
            turn += 1
            name, number = swapper.names[turn % 2], turn // 2 % questions
            assert await token_ids(registry, replace(request(number), model=name)) == expected[name, number]

    async def resident_bytes(loads: int) -> int:
        await asyncio.gather(*(ask_until(loads, turn) for turn in range(streams)))
        await registry.ensure_loaded(swapper.names[0])
        return int(psutil.Process().memory_info().rss)

    before = await resident_bytes(WARM_UP_SWAPS)
    after = await resident_bytes(WARM_UP_SWAPS + swaps)
    info = registry.wait()
    assert swapper.loads >= WARM_UP_SWAPS + swaps
    await registry.close()
    # One model that stayed in memory at each swap would be as many times its weights.
    assert after - before < swaps / 4 * info.weight_bytes, f"{before:,} -> {after:,} bytes after {swaps} swaps"
