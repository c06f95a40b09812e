"""The default model takes the memory that the ledger says, and stays below its ceiling."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from chatui import estimates
from chatui.engine.batching.forward import PromptChunk
from chatui.engine.loading import bandwidth, embedded, loader
from chatui.engine.runners import batch_runner
from chatui.model_spec import PRECISIONS, ModelSpec
from chatui.settings import AppSettings

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(embedded.find() is None, reason=f"needs the default model: {embedded.INSTALL}"),
]

ROOT = Path(__file__).parents[2]
ONE = ("bfloat16", 8, 1024)
OWN_PRECISION = "Q4_1"
GRID = [
    (precision, slots, capacity)
    for precision in (*PRECISIONS, OWN_PRECISION)
    for slots in (1, 8)
    for capacity in (1024, 8192)
]
STEPS, BEGUN = 60, 10


@pytest.mark.parametrize(
    ("precision", "slots", "capacity"),
    [pytest.param(*each, marks=[] if each == ONE else pytest.mark.exhaustive) for each in GRID],
)
def test_memory_is_predicted_within_a_tenth(precision: str, slots: int, capacity: int) -> None:
    command = [sys.executable, "-m", "tests.real.filling", precision, str(slots), str(capacity)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    taken = json.loads(output)
    predicted = taken["weights predicted"] + taken["slots predicted"]
    assert taken["weights"] + taken["slots"] == pytest.approx(predicted, rel=0.1)
    assert taken["weights"] == pytest.approx(taken["weights predicted"], rel=0.1)


@pytest.mark.parametrize("precision", [pytest.param("bfloat16", marks=pytest.mark.exhaustive), "int4"])
@pytest.mark.alone
def test_one_user_does_not_pass_the_ceiling(precision: str) -> None:
    dtype, quantization = PRECISIONS[precision]
    asked = "auto" if quantization != "none" else dtype
    settings = AppSettings(dtype=asked, quantization=quantization, slots=1, kv_memory=1.0)
    spec = ModelSpec.from_settings(settings)
    loaded = loader.load(spec, settings.cache_dir, lambda _: None)
    model = batch_runner.open_batch_runner(loaded, spec)
    assert model is not None
    assert loaded.info.anatomy is not None
    forward, seconds = model.batch.forward, []
    forward.prefill([PromptChunk(range(1, 10), 0, range(100, 100 + BEGUN))])
    read, anatomy = bandwidth._measured.__wrapped__, loaded.info.anatomy
    for position in range(BEGUN, BEGUN + STEPS):
        start = time.perf_counter()
        forward.decode([100], [range(1, 10)], [position])
        seconds.append(time.perf_counter() - start)
        if position % 20 == 0:  # the machine may have been busy when the model was loaded, and be quiet now
            again = read(forward.model.device, anatomy.read[precision])
            anatomy = replace(anatomy, bandwidth=max(anatomy.bandwidth, again))
    reached, ceiling = 1 / min(seconds), estimates.max_tokens_per_second(anatomy, precision)
    assert reached <= ceiling.value, f"{reached:.0f} tokens/s, {ceiling.text} = {ceiling.formula}"
