"""Work of PyTorch beside the thread in which a model runs."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


def run_in_ending_thread(function: Callable[[], Result]) -> Result:
    """Call a function in a thread that ends with it, and return what it returns or raise what it raises.

    OpenMP keeps threads for each thread that has called it, until that one ends. With more of them than cores none
    spins any more while it waits for others, and a step of a small model takes twice as long.
    """
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(function).result()
