import gc
import weakref

import pytest

from chatui.gc_pause import gc_paused


def raising() -> None:
    with gc_paused():
        assert not gc.isenabled()
        raise ImportError


def test_the_collector_rests_inside_and_works_again_after_an_error() -> None:
    with pytest.raises(ImportError):
        raising()
    assert gc.isenabled()


def test_a_pause_within_another_does_not_end_it() -> None:
    with gc_paused():
        with gc_paused():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


class Cycle:
    def __init__(self) -> None:
        self.itself = self


def test_garbage_made_meanwhile_does_not_stay_for_good() -> None:
    with gc_paused():
        garbage = weakref.ref(Cycle())
        kept = Cycle()
    assert garbage() is None
    assert kept.itself is kept
