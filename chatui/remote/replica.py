"""One server of a backend: what it last told, and whether requests go to it. A thread of its own asks it."""

import logging
import ssl
import threading
import time
from collections.abc import Callable
from functools import cache

import httpx

from chatui.remote.backend_spec import BackendSpec, ReplicaSpec
from chatui.remote.circuit_breaker import CircuitBreaker
from chatui.remote.probe import Probe, ProbeError, ServerReport

log = logging.getLogger(__name__)

POLL_SECONDS, RETRY_SECONDS = 5.0, 1.0
"""Time between two lists of models, and that after one that failed."""
PROBE_TIMEOUT = httpx.Timeout(5.0)


@cache
def tls_context(http2: bool) -> ssl.SSLContext:  # noqa: ARG001
    """The certificates that all connections trust: reading them takes longer than to connect.

    Connections with and without HTTP/2 have one each, for they write into it what they offer.
    """
    return httpx.create_ssl_context()


def uses_proxies(url: str) -> bool:
    """Whether the variables of proxies (HTTPS_PROXY, NO_PROXY) count for a server: not for one of the own network."""
    return url.startswith("https:")


class Replica:
    """A server, its circuit breaker, and the number of its `outstanding` replies.

    `report` is what it told last, None before the first time. `problem` says why it cannot be asked now, "" if it can.
    `loading`: it will answer once its model is loaded. `settled` is set once it has answered or failed.
    """

    def __init__(self, spec: BackendSpec, replica: ReplicaSpec, on_change: Callable[[], None] = lambda: None) -> None:
        """`on_change` is called in the thread when `report` or `problem` have changed."""
        self.spec = replica
        self.breaker = CircuitBreaker()
        self.outstanding = 0
        self.report: ServerReport | None = None
        self.problem = ""
        self.loading = False
        self.settled = threading.Event()
        self._backend, self._on_change = spec, on_change
        self._wake = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=f"chatui-probe-{replica.host}", daemon=True)

    @property
    def is_up(self) -> bool:
        """Whether it has answered the last time that it was asked, and its circuit is closed."""
        return self.report is not None and not self.problem and self.breaker.is_closed

    def has(self, model: str) -> bool:
        """Whether it serves a model of this name."""
        return self.report is not None and any(each.id == model for each in self.report.models)

    def latency(self) -> float | None:
        """The seconds that its last list of models took; None if it has not answered the last time."""
        return None if self.report is None or self.problem else self.report.seconds

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def check(self) -> None:
        """Have the thread ask the server now."""
        self._wake.set()

    def close(self) -> None:
        """End the thread. Does not wait for it."""
        self._closing = True
        self._wake.set()

    def _run(self) -> None:
        # Redirects are not followed: a server's answer must not choose where requests and keys go.
        with httpx.Client(
            base_url=self.spec.url,
            headers=dict(self.spec.headers),
            timeout=PROBE_TIMEOUT,
            trust_env=uses_proxies(self.spec.url),
            verify=tls_context(http2=False),
        ) as client:
            probe = Probe(client, self._backend)
            while not self._closing:
                self._ask(probe)
                self.settled.set()
                self._wake.wait(RETRY_SECONDS if self.problem else POLL_SECONDS)
                self._wake.clear()

    def _ask(self, probe: Probe) -> None:
        before = self.report, self.problem, self.loading
        try:
            report = probe.read()
        except ProbeError as error:
            self.problem, self.loading = str(error), error.loading
        except Exception as error:
            log.exception("a server's answer could not be read")
            self.problem, self.loading = f"its answer cannot be read ({type(error).__name__})", False
        else:
            self.report, self.problem, self.loading = report, "", False
            # Lists may work where replies fail: they close an open circuit after its pause, and count for nothing else.
            if not self.breaker.is_closed and self.breaker.allow():
                self.breaker.record_success()
        if before != (self.report, self.problem, self.loading):
            self._on_change()


def wait_until_settled(replicas: list[Replica], seconds: float) -> None:
    """Wait until each of them has answered or failed, at most for so long."""
    deadline = time.monotonic() + seconds
    for replica in replicas:
        replica.settled.wait(max(0.0, deadline - time.monotonic()))
