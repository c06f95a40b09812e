"""How many examples hypothesis makes: all with `scripts/test --all`, some of them in every other run."""

from hypothesis import settings

SHARE = 4
"""One in so many is made where the run is not exhaustive."""
AT_LEAST = 5

settings.register_profile("exhaustive", deadline=None)  # how long an example takes says nothing on a busy machine
ALL = settings.get_profile("exhaustive").max_examples
settings.register_profile("quick", deadline=None, max_examples=ALL // SHARE)


def some_of(count: int) -> int:
    """`count` examples, or a share of them."""
    return count if settings().max_examples >= ALL else min(count, max(AT_LEAST, count // SHARE))
