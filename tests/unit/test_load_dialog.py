"""What the load dialog offers for a model, and the ledger of a choice."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatui.models.facts import ModelFacts, from_config
from chatui.models.fit import Device, best_fit
from chatui.models.overview import OverviewRow
from chatui.ui.models.load_dialog import choice_of, contexts_up_to, ledger_html
from tests.configs import PUBLISHED

GB = 10**9
CPU, GPU = Device("cpu", 16 * GB, 32 * GB, 20e9), Device("cuda:0", 8 * GB, 8 * GB, 900e9)
DEVICES = (GPU, CPU)


@pytest.fixture(scope="module")
def facts() -> ModelFacts:
    return from_config("Llama-3.1-8B", PUBLISHED["meta-llama/Llama-3.1-8B"].config, parameters=8_030_261_248)


def row(facts: ModelFacts | None) -> OverviewRow:
    return OverviewRow("m", facts=facts, best=best_fit(facts, DEVICES) if facts else None)


def test_at_first_it_is_the_best_way_to_run_the_model_here(facts: ModelFacts) -> None:
    best = best_fit(facts, DEVICES)
    assert best is not None
    choice = choice_of(row(facts), DEVICES)
    assert (choice.device, choice.precision, choice.context) == (best.device, best.precision, 4096)
    assert choice.fit == best
    assert choice.contexts[-1] == facts.layout.context_length


def test_the_ledger_follows_the_choice(facts: ModelFacts) -> None:
    small, large = (choice_of(row(facts), DEVICES, "int8", "cpu", tokens) for tokens in ("4096", "131072"))
    assert (small.device, small.precision, small.context) == (CPU, "int8", 4096)
    assert small.fit is not None
    assert large.fit is not None
    assert small.fit.verdict == "fits"
    assert large.fit.verdict == "too large"
    assert large.fit.kv.value > 31 * small.fit.kv.value
    assert ledger_html(small) != ledger_html(large)
    for part in (
        "Weights",
        "Keys and values",
        "Activations",
        "Memory in all",
        "Speed at most",
        "4,096 tokens before it",
    ):
        assert part in ledger_html(small)
    assert "With a context of" in ledger_html(large)  # what would make it fit


def test_a_precision_that_the_device_has_not_becomes_one_that_it_has(facts: ModelFacts) -> None:
    assert choice_of(row(facts), DEVICES, "int8", "cuda:0", "4096").precision in ("float32", "bfloat16", "8bit", "4bit")
    assert "int8" in choice_of(row(facts), DEVICES, "4bit", "cpu", "4096").precisions


@given(*(st.none() | st.text(max_size=8) | st.sampled_from(["cpu", "int4", "1024", "-1", "1e9"]) for _ in range(3)))
def test_whatever_a_client_sends_is_a_choice_that_is_offered(
    precision: str | None, device: str | None, context: str | None
) -> None:
    known = from_config("m", PUBLISHED["meta-llama/Llama-3.1-8B"].config, parameters=8_030_261_248)
    for found in (known, replace(known, anatomy=None), None):
        choice = choice_of(row(found), DEVICES, precision, device, context)
        assert choice.device in DEVICES
        assert choice.context in choice.contexts
        assert choice.precision in (choice.precisions or ("",))
        assert ledger_html(choice)


@pytest.mark.parametrize(
    ("max_context", "contexts"),
    [(512, (512,)), (1024, (1024,)), (3000, (1024, 2048, 3000)), (8192, (1024, 2048, 4096, 8192))],
)
def test_contexts_are_doubled_up_to_what_the_model_was_made_for(max_context: int, contexts: tuple[int, ...]) -> None:
    assert contexts_up_to(max_context) == contexts


def test_the_longest_context_of_an_unknown_model_is_moderate() -> None:
    assert contexts_up_to(0)[-1] == 32_768
