"""Asks the Hub within a time limit, and keeps the answers for a while. Every error is a HubError."""

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from chatui.errors import HubError
from chatui.models import hub_errors

if TYPE_CHECKING:
    from huggingface_hub import HfApi

T = TypeVar("T")
log = logging.getLogger(__name__)

TIME_LIMIT = 15.0
"""Seconds for one question to the Hub, with all retries of huggingface_hub."""
PROBE_SECONDS = 3.0
"""Seconds for finding out why there was no answer."""
CACHE_SECONDS = 300.0
CACHE_ENTRIES = 200
MAX_WAITING = 8
"""Questions without an answer that may wait at the same time. Each has a thread until the connection ends."""
MAX_JSON_BYTES = 10**7


class HubRequests:
    """Requests to the Hub at `endpoint` (HF_ENDPOINT by default) with `token` (the stored one by default)."""

    def __init__(self, endpoint: str | None, token: str | bool | None, time_limit: float = TIME_LIMIT) -> None:
        """`token` False sends none."""
        self._endpoint = endpoint
        self._token = token
        self.time_limit = time_limit
        self._lock = threading.Lock()
        self._cache: dict[Any, tuple[float, Any]] = {}
        self._waiting = threading.BoundedSemaphore(MAX_WAITING)

    @property
    def endpoint(self) -> str:
        """The address of the Hub."""
        from huggingface_hub import constants

        return self._endpoint or constants.ENDPOINT

    def api(self) -> "HfApi":
        """The client of huggingface_hub."""
        from huggingface_hub import HfApi

        return HfApi(endpoint=self._endpoint, token=self._token)

    def json(self, url: str, **query: str) -> Any:
        """The JSON at a URL. Raises what the client raises, so it is called within `cached`."""
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        headers = build_hf_headers(token=self._token)
        answer = get_session().get(url, headers=headers, params=query or None, follow_redirects=True)
        hf_raise_for_status(answer)
        return answer.json()

    def forget(self) -> None:
        """Empty the cache."""
        with self._lock:
            self._cache.clear()

    def cached(self, key: Any, name: str, ask: Callable[[], T], revision: str | None = None) -> T:
        """The cached answer for `key`, or what `ask` returns in time. `name` is what errors name. Raises HubError."""
        with self._lock:
            until, answer = self._cache.get(key, (0.0, None))
        if time.monotonic() < until:
            return answer  # type: ignore[no-any-return]  # the key tells the type
        answer = self._within_limit(name, ask, revision)
        with self._lock:
            while len(self._cache) >= CACHE_ENTRIES:
                del self._cache[next(iter(self._cache))]
            self._cache[key] = (time.monotonic() + CACHE_SECONDS, answer)
        return answer

    def _within_limit(self, name: str, ask: Callable[[], T], revision: str | None) -> T:
        """Run `ask` in a thread. list_models has no time limit, and retries for as long as the Hub tells it to."""
        outcome: list[T] = []
        errors: list[BaseException] = []
        done = threading.Event()
        if not self._waiting.acquire(blocking=False):
            raise hub_errors.no_answer(name)

        def run() -> None:
            try:
                outcome.append(_twice(ask))
            except BaseException as error:
                errors.append(error)
            finally:
                self._waiting.release()
                done.set()

        threading.Thread(target=run, name="hub", daemon=True).start()
        if not done.wait(self.time_limit):
            raise self._why_no_answer(name)
        if not errors:
            return outcome[0]
        known = hub_errors.hub_error(name, revision, errors[0])
        if known is None:
            log.warning("The answer for %s could not be read: %s", name, type(errors[0]).__name__)
            known = hub_errors.unreadable(name)
        raise known from errors[0]

    def _why_no_answer(self, name: str) -> HubError:
        """The reason for which huggingface_hub waits, as rate limits are: asked once more, without retries."""
        from huggingface_hub.utils import get_session, hf_raise_for_status

        found: list[HubError] = []

        def ask() -> None:
            try:
                url = f"{self.endpoint}/api/models"
                hf_raise_for_status(get_session().get(url, params={"limit": 1}, timeout=PROBE_SECONDS))
            except Exception as error:
                found.extend(filter(None, [hub_errors.hub_error(name, None, error)]))

        thread = threading.Thread(target=ask, name="hub", daemon=True)
        thread.start()
        thread.join(PROBE_SECONDS)
        return found[0] if found else hub_errors.no_answer(name)


def _twice(ask: Callable[[], T]) -> T:
    """Ask, and once more if the connection breaks: huggingface_hub closes its client for all threads on an error."""
    from huggingface_hub.utils import httpx

    try:
        return ask()
    except (RuntimeError, httpx.NetworkError):
        return ask()
