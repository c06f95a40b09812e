"""The process that compiles a decode step: `python -m chatui.engine.compile_worker ORDER FOLDER TENSORS`."""

import os
import sys
import threading
import time
from pathlib import Path

from chatui.engine.batching.compiling import COMPILE_JOB, compile_step
from chatui.engine.loading.loader import load
from chatui.gc_pause import gc_paused


def _end_with(parent: int) -> None:
    """End this process when the server that started it has ended, however it did."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    """What the process does: compile what the first argument orders into the folder that the second one names.

    The third one is the digest of the tensors that the step has in the server.
    """
    if hasattr(os, "nice"):
        os.nice(19)
    spec, folder = COMPILE_JOB.validate_json(sys.argv[1]), Path(sys.argv[2])
    _end_with(os.getppid())
    with gc_paused():
        loaded = load(spec, folder.parent.parent, lambda _: None)
        compile_step(loaded.model, folder, spec.kv_dtype, sys.argv[3])


if __name__ == "__main__":
    main()
