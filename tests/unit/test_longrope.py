"""Rows of a model with longrope write what generate() does, whatever their length and whoever is beside them."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    Phi3Config,
    PhimoeConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from chatui.engine.batching import token_budget
from chatui.engine.batching.attention_probe import probe_layout
from chatui.engine.batching.blocks import BLOCK
from chatui.engine.batching.forward import Forward
from chatui.engine.batching.kv_cache import KVCache
from chatui.engine.batching.kv_files import KVFiles
from chatui.engine.batching.longrope import Longrope, LongropeByRow, encode_by_row, find_longrope
from chatui.engine.batching.scheduler import Scheduler
from chatui.engine.batching.sequence_state import SequenceState
from chatui.engine.loading.load_arguments import context_length
from chatui.engine.sampling.sampler import Sampler
from chatui.generation_settings import GenerationSettings
from tests import models
from tests.drafts import always_draft
from tests.kv import flush

LIMIT = 24
FACTORS: dict[str, Any] = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.0, 3.0, 9.0, 20.0]}
LONGROPE: dict[str, Any] = {**models.ROPE, **FACTORS, "rope_type": "longrope"}
LIMITS: dict[str, Any] = {"original_max_position_embeddings": LIMIT}
SMALL = {name: value for name, value in models.SMALL.items() if name != "head_dim"}
MSCALES = {"short_mscale": 1.1, "long_mscale": 1.3}
CONFIGS: dict[str, PreTrainedConfig] = {
    "phi3": Phi3Config(**SMALL, **LIMITS, rope_parameters=LONGROPE | LIMITS),
    "phimoe": PhimoeConfig(**SMALL, num_local_experts=4, rope_parameters=LONGROPE | LIMITS | MSCALES),
    # Its generate() keeps what it has read before the limit.
    "llama": LlamaConfig(**models.SMALL, rope_parameters=LONGROPE | LIMITS),
}
NEW = 10
LENGTHS = (LIMIT - 6, LIMIT, LIMIT + 1, 40)
PROMPTS = [tuple((seed + 37 * at) % 256 for at in range(count)) for seed, count in enumerate(LENGTHS)]


@cache
def model(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    made: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIGS[kind]).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() >= 2:
                parameter.mul_(8)
    made.generation_config.eos_token_id = None
    return made


@cache
def generated(kind: str, prompt: tuple[int, ...]) -> list[int]:
    return models.generate(copy.deepcopy(model(kind)), prompt, NEW)


def batch_of(kind: str, blocks: int = 20, files: KVFiles | None = None) -> Scheduler:
    own = copy.deepcopy(model(kind))
    layout = probe_layout(own)
    assert layout is not None
    return Scheduler(Forward(own, KVCache.allocate(layout, blocks, own.device)), 4, BLOCK * blocks, files=files)


def join(batch: Scheduler, prompt: tuple[int, ...]) -> SequenceState:
    row = batch.add(prompt, Sampler(GenerationSettings(temperature=0.0), 0))
    assert row is not None
    return row


def write(batch: Scheduler, *rows: SequenceState, count: int = NEW) -> None:
    while any(len(row.output_ids) < count for row in rows):
        batch.step()
    for row in rows:
        batch.finish(row)


@pytest.mark.parametrize("kind", CONFIGS)
class TestRows:
    def test_alone(self, kind: str) -> None:
        for prompt in PROMPTS:
            batch = batch_of(kind)
            row = join(batch, prompt)
            write(batch, row)
            assert row.output_ids[:NEW] == generated(kind, prompt)

    def test_beside_longer_ones_and_in_pieces(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(token_budget, "MAX_TOKENS", 16)
        batch = batch_of(kind)
        rows = [join(batch, prompt) for prompt in PROMPTS]
        write(batch, *rows)
        assert [row.output_ids[:NEW] for row in rows] == [generated(kind, prompt) for prompt in PROMPTS]

    def test_with_drafts_across_the_limit(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        batch = batch_of(kind)
        always_draft(monkeypatch, batch, lambda row: list(generated(kind, row.prompt)))
        rows = [join(batch, prompt) for prompt in PROMPTS]
        write(batch, *rows)
        assert [row.output_ids[:NEW] for row in rows] == [generated(kind, prompt) for prompt in PROMPTS]

    def test_whose_blocks_were_given_to_others(self, kind: str) -> None:
        """They are read again, one before it exceeds the limit, and all behind it."""
        batch = batch_of(kind)
        rows = [join(batch, prompt) for prompt in PROMPTS]
        for count in (4, 8):
            while any(len(row.output_ids) < count for row in rows):
                batch.step()
            for row in rows:
                batch.pool.discard(row.table)
        write(batch, *rows)
        assert [row.output_ids[:NEW] for row in rows] == [generated(kind, prompt) for prompt in PROMPTS]

    @pytest.mark.parametrize("lengths", [(20, 30), (30, 20), (LIMIT, 60), (60, 40), (20, 21)])
    def test_behind_one_with_the_same_beginning(self, kind: str, lengths: tuple[int, int]) -> None:
        batch, ids = batch_of(kind), tuple((5 + 91 * at) % 256 for at in range(60))
        first, then = (ids[:length] for length in lengths)
        write(batch, join(batch, first), count=1)
        row = join(batch, then)
        same_side = (lengths[0] > LIMIT) == (lengths[1] > LIMIT)
        assert (row.cached > 0) == same_side
        write(batch, row)
        assert row.output_ids[:NEW] == generated(kind, then)

    def test_after_a_restart(self, kind: str, tmp_path: Path) -> None:
        files = KVFiles(tmp_path, "a", 10**9)
        ids = tuple((5 + 91 * at) % 256 for at in range(40))
        for length, found in ((20, 0), (24, 20), (30, 0), (40, 30)):
            batch = batch_of(kind, files=files)
            row = join(batch, ids[:length])
            write(batch, row, count=1)
            flush(files)
            assert row.cached == found
            assert row.output_ids[0] == generated(kind, ids[:length])[0]


class TestFindLongrope:
    @pytest.mark.parametrize(("kind", "rereads"), [("phi3", True), ("phimoe", True), ("llama", False)])
    def test_what_generate_does_at_the_limit(self, kind: str, rereads: bool) -> None:
        assert find_longrope(model(kind)) == Longrope(LIMIT, rereads)

    def test_other_models_have_none(self) -> None:
        own = copy.deepcopy(models.model("phi3"))
        encode_by_row(own)
        assert find_longrope(own) is None
        assert not any(isinstance(module, LongropeByRow) for module in own.modules())


class TestEncodeByRow:
    def test_twice_is_as_once(self) -> None:
        own = copy.deepcopy(model("phi3"))
        encode_by_row(own)
        before = len(list(own.modules()))
        encode_by_row(own)
        assert len(list(own.modules())) == before
        assert find_longrope(own) == Longrope(LIMIT, True)

    def test_outside_a_pass_the_model_is_its_own(self) -> None:
        own = copy.deepcopy(model("phi3"))
        encode_by_row(own)
        assert models.generate(own, PROMPTS[0], NEW) == generated("phi3", PROMPTS[0])

    def test_a_model_with_several_ropes_is_refused(self) -> None:
        kinds = {"sliding_attention": models.ROPE, "full_attention": LONGROPE | LIMITS}
        config = Gemma3TextConfig(**models.SMALL, **models.WINDOWS, query_pre_attn_scalar=8, rope_parameters=kinds)
        assert probe_layout(AutoModelForCausalLM.from_config(config)) is None


def test_dynamic_ropes_change_only_behind_the_context() -> None:
    """So rows need no care: no conversation gets there."""
    rope = {**models.ROPE, "rope_type": "dynamic", "factor": 4.0}
    own: Any = AutoModelForCausalLM.from_config(LlamaConfig(**models.SMALL, rope_parameters=rope))
    before = own.model.rotary_emb.inv_freq.clone()
    length = context_length(own.config)
    own(torch.zeros(1, length, dtype=torch.long))
    assert torch.equal(own.model.rotary_emb.inv_freq, before)
    own(torch.zeros(1, length + 1, dtype=torch.long))
    assert not torch.equal(own.model.rotary_emb.inv_freq, before)
