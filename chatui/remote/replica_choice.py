"""Chooses the server that answers a request: the one that has its prefix cached, unless that has much more to do.

Rendezvous hashing: https://en.wikipedia.org/wiki/Rendezvous_hashing
"""

import hashlib
from collections.abc import Sequence

from chatui.chat import ChatRequest
from chatui.remote.replica import Replica

MAX_IMBALANCE = 4
"""How many replies more than the least loaded server another may have to write, and be chosen for its cache."""


def prefix_key(request: ChatRequest) -> bytes:
    """Equal for the turns of one conversation, and for conversations that begin alike.

    A conversation that has lost its oldest turns, or was branched from later on, still has the same beginning here.
    """
    beginning: list[str] = []
    for message in request.messages:
        beginning.append(f"{message.role}\n{message.content}")
        if message.role == "user":
            break
    return hashlib.sha256("\n\n".join(beginning).encode("utf-8", "surrogatepass")).digest()


def session_header(request: ChatRequest) -> dict[str, str]:
    """Tells a balancer between us and the servers which conversation it is: it can do as we do."""
    return {"X-Session-Id": prefix_key(request).hex()[:32]}


def in_order(replicas: Sequence[Replica], key: bytes) -> list[Replica]:
    """The servers in the order in which they are to be tried."""
    ranked = sorted(replicas, key=lambda replica: _weight(replica, key), reverse=True)
    if not ranked:
        return []
    least = min(replica.outstanding for replica in ranked)
    preferred = next(replica for replica in ranked if replica.outstanding <= least + MAX_IMBALANCE)
    others = sorted((replica for replica in ranked if replica is not preferred), key=lambda each: each.outstanding)
    return [preferred, *others]


def _weight(replica: Replica, key: bytes) -> bytes:
    return hashlib.sha256(replica.spec.url.encode() + key).digest()
