"""A scheduler that keeps K/V on disk, to be killed: `python -m tests.crash.kv_writer FOLDER`.

A JSON list of a prompt's ids a line on stdin; on stdout the ids of its greedy reply, and how many were read from disk.
"""

import json
import sys
from pathlib import Path

from chatui.engine.batching.blocks import BLOCK
from chatui.engine.batching.kv_files import KVFiles
from chatui.engine.batching.scheduler import Scheduler
from chatui.engine.sampling.sampler import Sampler
from chatui.generation_settings import GenerationSettings
from tests import models

BLOCKS = 60
NEW = 20


def reply(batch: Scheduler, prompt: list[int]) -> tuple[list[int], int]:
    """(ids of the greedy reply, tokens that were not computed)."""
    row = batch.add(tuple(prompt), Sampler(GenerationSettings(temperature=0.0), 0))
    assert row is not None
    while len(row.output_ids) < NEW:
        batch.step()
    batch.finish(row)
    return row.output_ids, row.cached


def scheduler(folder: Path | None) -> Scheduler:
    """With a tiny model, the same in each process."""
    files = None if folder is None else KVFiles(folder, "tiny", 10**9)
    return Scheduler(models.over_blocks(blocks=BLOCKS), 1, BLOCK * BLOCKS, files=files)


if __name__ == "__main__":
    batch = scheduler(Path(sys.argv[1]))
    print("ready", flush=True)  # noqa: T201
    for line in sys.stdin:
        print(json.dumps(reply(batch, json.loads(line))), flush=True)  # noqa: T201
