"""`python -m tests.real.filling`: load the default model, fill its blocks, print what the process grew by, as JSON."""

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from chatui import estimates
from chatui.engine.loading import loader, model_info
from chatui.engine.runners import batch_runner
from chatui.model_spec import PRECISIONS, ModelSpec
from chatui.settings import AppSettings
from tests import models


def fill(precision: str, slots: int, capacity: int) -> dict[str, float]:
    """Bytes that were predicted, and those that the process grew by, without what the libraries take for themselves."""
    dtype, quantization = PRECISIONS.get(precision, ("auto", "auto"))  # the type of the default model's own file
    settings = AppSettings(dtype="auto" if quantization != "none" else dtype, quantization=quantization, compile="off")
    spec = replace(ModelSpec.from_settings(settings), slots=slots, kv_memory=2**40)
    with tempfile.TemporaryDirectory() as folder:
        small = replace(spec, name=str(models.save(Path(folder))), slots=1)
        batch_runner.open_batch_runner(loader.load(small, settings.cache_dir, lambda _: None), small)
    loaded = loader.load(spec, settings.cache_dir, lambda _: None)
    before = model_info.memory_in_use("cpu")
    model = batch_runner.open_batch_runner(replace(loaded, info=replace(loaded.info, context_length=capacity)), spec)
    if model is None or loaded.info.anatomy is None:
        raise RuntimeError("the default model has K/V blocks, and can be counted")
    for tensor in (*model.batch.forward.cache.keys, *model.batch.forward.cache.values):
        tensor.fill_(1)
    return {
        "weights predicted": estimates.weights(loaded.info.anatomy, precision).value,
        "weights": loaded.info.measured_bytes,
        "slots predicted": estimates.keys_and_values(loaded.info.anatomy, slots, capacity).value,
        "slots": model_info.memory_in_use("cpu") - before,
    }


if __name__ == "__main__":
    precision, slots, capacity = sys.argv[1:]
    sys.stdout.write(json.dumps(fill(precision, int(slots), int(capacity))))
