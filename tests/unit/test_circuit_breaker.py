"""A server that fails is left alone, tried now and then, and used again once it answers."""

from chatui.remote.circuit_breaker import FAILURES, FIRST_PAUSE, LONGEST_PAUSE, CircuitBreaker


def test_closed_open_half_open() -> None:
    now = 0.0
    breaker = CircuitBreaker(lambda: now)
    for _ in range(FAILURES):
        assert breaker.allow()
        breaker.record_failure(breaker.failures)
    assert not breaker.is_closed
    assert not breaker.allow()
    now = FIRST_PAUSE
    assert breaker.allow()
    assert not breaker.allow()  # one trial at a time
    breaker.record_failure(breaker.failures)
    now += FIRST_PAUSE
    assert not breaker.allow()  # the pause has doubled
    now += FIRST_PAUSE
    assert breaker.allow()
    breaker.record_success()
    assert breaker.is_closed
    assert breaker.allow()


def test_a_trial_without_end_is_forgotten() -> None:
    now = 0.0
    breaker = CircuitBreaker(lambda: now)
    for _ in range(FAILURES):
        breaker.record_failure(breaker.failures)
    now = FIRST_PAUSE
    assert breaker.allow()
    now = 2 * FIRST_PAUSE
    assert breaker.allow()


def test_pauses_have_a_limit() -> None:
    now = 0.0
    breaker = CircuitBreaker(lambda: now)
    for _ in range(50):
        breaker.record_failure(breaker.failures)
    now = LONGEST_PAUSE
    assert breaker.allow()


def test_requests_that_end_together_count_once() -> None:
    now = 0.0
    breaker = CircuitBreaker(lambda: now)
    for _ in range(FAILURES):
        begun = breaker.failures
        for _ in range(16):
            breaker.record_failure(begun)
        assert breaker.is_closed == (begun + 1 < FAILURES)
    now = FIRST_PAUSE  # which has not doubled 15 times
    assert breaker.allow()
