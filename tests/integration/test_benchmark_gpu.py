"""`scripts/bench gpu` on the CPU, with a tiny shape and without graphs."""

import re

import pytest
import torch

from scripts.benchmark import gpu

ARGUMENTS = ["--users", "1,3", "--prompt", "9", "--long-prompt", "70", "--tokens", "4", "--rounds", "1"]


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize(
    "engines", [["chatui"], pytest.param(["chatui", "transformers"], marks=pytest.mark.exhaustive)], ids=len
)
def test_every_case_has_its_line(capsys: pytest.CaptureFixture[str], engines: list[str]) -> None:
    assert gpu.main([*ARGUMENTS, "--engines", ",".join(engines)]) == 0
    device, weights, *lines = capsys.readouterr().out.splitlines()
    assert device.startswith("No GPU")
    assert re.search(r"tiny: .* bandwidth \d+ GB/s", weights)
    cases = [f"tiny, {users}, {prompt} tokens" for users, prompt in (("1 user", 9), ("3 users", 9), ("1 user", 70))]
    assert [line.split(":")[0] for line in lines] == [f"{case}, {engine}" for case in cases for engine in engines]
    for line in lines:
        assert re.search(r"first token after \d+ ms, [1-9]\d* tokens/s in all", line)
        assert ("a step of" in line) == ("chatui:" in line)


def test_what_the_time_does_not_hold_is_left_out_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([*ARGUMENTS, "--engines", "chatui", "--seconds", "0"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "tiny, 1 user, 9 tokens: left out, the time is up"


def test_prompts_have_nothing_in_common_and_return_with_their_seed() -> None:
    first, again, other = (gpu.prompts_of(3, 40, 500, seed) for seed in (1, 1, 2))
    assert first == again
    assert len({tuple(prompt) for prompt in [*first, *other]}) == 6


@pytest.mark.parametrize("wrong", [["--shapes", "70b"], ["--engines", "vllm"], ["--users", "many"]])
def test_wrong_flags_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        gpu.main(wrong)
    assert wrong[0] in capsys.readouterr().err
