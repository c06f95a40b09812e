"""However many threads build models, torch's default dtype is what it was before."""

import threading
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, modeling_utils

from chatui.engine.loading import anatomy
from chatui.engine.loading.build_lock import BUILD_LOCK
from tests import models

SOON = 60.0


def test_two_builds_do_not_restore_each_others_dtype() -> None:
    inside, may_leave, dtypes = threading.Event(), threading.Event(), list[torch.dtype]()

    def first() -> None:
        with modeling_utils.local_torch_dtype(torch.bfloat16):
            inside.set()
            assert may_leave.wait(SOON)

    def second() -> None:
        with modeling_utils.local_torch_dtype(torch.float16):
            dtypes.append(torch.get_default_dtype())

    before = torch.get_default_dtype()
    threads = [threading.Thread(target=work) for work in (first, second)]
    threads[0].start()
    assert inside.wait(SOON)
    threads[1].start()
    free = BUILD_LOCK.acquire(blocking=False)
    may_leave.set()
    for thread in threads:
        thread.join(SOON)
    assert not free
    assert dtypes == [torch.float16]
    assert torch.get_default_dtype() == before


def test_transformers_builds_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = models.save(tmp_path)
    change, held = torch.set_default_dtype, list[bool]()

    def changed(dtype: torch.dtype) -> None:
        taker = threading.Thread(target=lambda: held.append(not BUILD_LOCK.acquire(blocking=False)))
        taker.start()
        taker.join(SOON)
        change(dtype)

    monkeypatch.setattr(torch, "set_default_dtype", changed)
    anatomy.blank(models.CONFIGS["llama"], torch.bfloat16)
    assert held
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert len(held) >= 4
    assert all(held)
