"""What fits which memory, what would make it fit, how fast it can be, and which model is recommended."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatui.gguf_file import GgufValue
from chatui.model_spec import GPU_PRECISIONS, PRECISIONS
from chatui.models.facts import ModelFacts, from_config, from_gguf
from chatui.models.fit import (
    COMFORTABLE,
    TIGHT,
    VERDICTS,
    Device,
    Fit,
    Machine,
    best_fit,
    fit,
    fits,
    is_for_chats,
    recommend,
    runs_well,
)
from chatui.settings import KvDtype
from chatui.stored_tensors import StoredTensor
from tests.configs import PUBLISHED

GB = 10**9
LAPTOP = Device("cpu", free=12 * GB, total=16 * GB, bandwidth=40e9)


def published(name: str) -> ModelFacts:
    return from_config(name, PUBLISHED[name].config, parameters=PUBLISHED[name].parameters)


def device(free: float, bandwidth: float = 40e9, name: str = "cpu") -> Device:
    return Device(name, int(free * GB), int(free * GB), bandwidth)


def test_the_figures_of_an_8b_model() -> None:
    found = fit(published("meta-llama/Llama-3.1-8B"), device(20), "bfloat16", 8192)
    assert found.weights.formula == "8,030,261,248 parameters × 2 B"
    assert found.kv.formula == "1 conversation × 8,192 tokens × 131,072 B"
    assert found.total.value == found.weights.value + found.kv.value + found.activations.value
    assert found.speed is not None
    # All but the embeddings, 128,256 × 4,096 parameters, is read for a token.
    assert found.speed.value == pytest.approx(40e9 / (2 * (8_030_261_248 - 128_256 * 4096)), rel=1e-6)
    assert (found.verdict, found.remedies, found.missing) == ("fits", (), 0)


def test_a_mixture_takes_the_memory_of_all_experts_and_the_time_of_some() -> None:
    found = fit(published("mistralai/Mixtral-8x7B-v0.1"), device(200), "bfloat16")
    assert found.weights.value == 2 * 46_702_792_704
    assert found.speed is not None
    assert found.speed.value == pytest.approx(40e9 / (2 * (12_879_925_248 - 32000 * 4096)), rel=1e-6)


@pytest.mark.parametrize("name", ["Qwen/Qwen3-8B", "openai/gpt-oss-20b", "openai-community/gpt2"])
@pytest.mark.parametrize("where", ["cpu", "cuda:0"])
def test_each_device_has_its_precisions(name: str, where: str) -> None:
    found = fits(published(name), device(100, name=where))
    assert [one.precision for one in found] == list(PRECISIONS if where == "cpu" else GPU_PRECISIONS)


def test_what_is_too_large_says_what_would_help() -> None:
    found = fit(published("Qwen/Qwen3-8B"), device(11), "bfloat16", 4096)
    assert found.verdict == "too large"
    assert [text.partition(" it takes")[0] for text in found.remedies[:2]] == ["In int8", "In int4"]
    assert found.remedies[-1] == "6.1 GB more of free memory would do."
    assert found.missing == pytest.approx(6.05 * GB, rel=0.01)


def test_a_shorter_context_may_make_it_fit() -> None:
    facts, memory = published("Qwen/Qwen3-0.6B"), device(2)
    found = fit(facts, memory, "bfloat16", 32_768)
    assert found.verdict == "too large"
    (sentence,) = [text for text in found.remedies if "context of" in text]
    tokens = int("".join(filter(str.isdigit, sentence)))
    assert fit(facts, memory, "bfloat16", tokens).verdict != "too large"
    assert fit(facts, memory, "bfloat16", tokens + 1024).verdict == "too large"


def test_the_context_of_the_model_is_the_most_that_counts() -> None:
    assert fit(published("openai-community/gpt2"), LAPTOP, "bfloat16", 100_000).context == 1024


@given(
    st.sampled_from(sorted(PUBLISHED)),
    st.floats(0.1, 500),
    st.integers(1024, 100_000),
    st.sampled_from(["cpu", "cuda:0"]),
)
def test_verdicts_follow_the_total_and_remedies_are_true(name: str, free: float, context: int, where: str) -> None:
    facts, memory = published(name), device(free, name=where)
    for found in fits(facts, memory, context):
        share = found.total.value / memory.free
        assert found.verdict == ("fits" if share <= TIGHT else "tight" if share <= 1 else "too large")
        assert bool(found.remedies) == (found.verdict == "too large")
        for sentence in found.remedies:
            if sentence.startswith("In "):
                assert fit(facts, memory, sentence.split()[1], context).verdict != "too large"
        enough = Device(where, memory.free + int(found.missing) + 1)
        assert fit(facts, enough, found.precision, context).verdict != "too large"


@given(st.sampled_from(sorted(PUBLISHED)), st.floats(0.1, 500), st.floats(1e9, 1e12))
def test_the_best_way_is_comfortable_and_exact_if_any_is(name: str, free: float, bandwidth: float) -> None:
    facts, memory = published(name), device(free, bandwidth)
    best = best_fit(facts, [memory])
    assert best is not None
    usable = [one for one in fits(facts, memory) if one.verdict != "too large" and one.precision != "float32"]
    assert (best.verdict != "too large") == bool(usable)
    comfortable = [one for one in usable if speed_of(one) >= COMFORTABLE]
    if comfortable:
        assert best in comfortable
        relaxed = [one for one in comfortable if one.verdict == "fits"]
        assert best.weights.value == max(one.weights.value for one in relaxed or comfortable)
    elif usable:
        assert speed_of(best) == max(map(speed_of, usable))


def speed_of(found: Fit) -> float:
    return found.speed.value if found.speed else 0.0


def test_a_gguf_file_whose_levels_are_kept_comes_as_it_is() -> None:
    fields: dict[str, GgufValue] = {
        "general.architecture": "llama",
        "llama.block_count": 1,
        "llama.embedding_length": 64,
        "llama.attention.head_count": 4,
    }
    tensors = [
        StoredTensor("blk.0.ffn_up.weight", "GGUF-2", (64, 96)),
        StoredTensor("token_embd.weight", "GGUF-8", (64, 96)),
    ]
    best = best_fit(from_gguf("x-Q4_0.gguf", fields, tensors), [LAPTOP])
    assert best is not None
    assert best.precision == "Q4_0"
    # On a GPU it is unpacked.
    elsewhere = best_fit(from_gguf("x-Q4_0.gguf", fields, tensors), [device(10, name="cuda:0")])
    assert elsewhere is not None
    assert elsewhere.precision == "bfloat16"


def test_models_are_sorted_by_what_runs_well_here() -> None:
    names = [
        "meta-llama/Llama-3.1-70B",
        "Qwen/Qwen3-0.6B",
        "Qwen/Qwen3-4B",
        "google/gemma-2-9b",
        "mistralai/Mixtral-8x7B-v0.1",
    ]
    found = [best for name in names if (best := best_fit(published(name), [LAPTOP]))]
    ranked = sorted(found, key=runs_well)
    assert [one.facts.name for one in ranked[:3]] == ["Qwen/Qwen3-4B", "Qwen/Qwen3-0.6B", "google/gemma-2-9b"]
    assert [one.verdict for one in ranked] == sorted((one.verdict for one in ranked), key=VERDICTS.index)
    assert ranked[3].missing < ranked[4].missing


def test_keys_and_values_in_int8_are_counted_so_wherever_they_are() -> None:
    facts = published("meta-llama/Llama-3.1-8B")
    machine = Machine((device(20),)).with_kv_dtype("int8")
    found = best_fit(facts, machine.devices, 8192)
    assert found is not None
    # 32 layers of 8 heads: keys and values of 128 numbers and 2 bytes each.
    assert found.kv.value == 8192 * 32 * 8 * 2 * (128 + 2)
    assert {each.kv.value for each in fits(facts, machine.devices[0], 8192)} == {found.kv.value}


def test_a_shorter_context_is_longer_in_int8() -> None:
    facts = published("Qwen/Qwen3-0.6B")

    def context(kv_dtype: KvDtype) -> int:
        found = fit(facts, Device("cpu", 2 * GB, kv_dtype=kv_dtype), "bfloat16", 32_768)
        (sentence,) = [text for text in found.remedies if "context of" in text]
        return int("".join(filter(str.isdigit, sentence)))

    assert context("int8") > 1.3 * context("auto")


def test_the_recommendation_has_its_reason() -> None:
    models = [published(name) for name in ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-4B", "meta-llama/Llama-3.1-70B")]
    found = recommend(models, [LAPTOP])
    assert found is not None
    assert found.fit.facts.name == "Qwen/Qwen3-4B"
    assert found.reason.startswith(
        "Qwen/Qwen3-4B: with 4.02B parameters, it takes 4.2 GB of 12.0 GB free in int4 and can"
    )
    assert found.reason.endswith("faster than one reads; the strongest by size of 2 that fit.")


def test_a_slow_machine_gets_the_fastest_and_is_told() -> None:
    found = recommend([published("Qwen/Qwen3-8B"), published("Qwen/Qwen3-4B")], [device(100, bandwidth=1e9)])
    assert found is not None
    assert found.fit.facts.name == "Qwen/Qwen3-4B"
    assert "slower than one reads" in found.reason


def test_there_may_be_nothing_to_recommend() -> None:
    unknown = from_config("owner/unknown", {"model_type": "llama"})
    assert fits(unknown, LAPTOP) == ()
    assert best_fit(unknown, [LAPTOP]) is None
    assert recommend([unknown, published("meta-llama/Llama-3.1-70B")], [LAPTOP]) is None


def test_what_only_continues_text_is_not_recommended() -> None:
    assert not is_for_chats(from_config("ibm-granite/granite-3.0-1b-a400m-base", {}))
    assert not is_for_chats(from_config("x", {}, has_chat_template=False))
    assert is_for_chats(from_config("x-base", {}, has_chat_template=True))
