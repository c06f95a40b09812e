"""What huggingface_hub and its HTTP client raise -> one HubError: the cause in one sentence, and its remedy."""

import errno

from chatui.errors import HubError


def hub_error(name: str, revision: str | None, error: BaseException) -> HubError | None:
    """The HubError for an exception about the model `name`; None for exceptions that are not about the Hub."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if isinstance(error, HubError):
        return error
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, HfHubHTTPError):
        return _repository_error(name, revision, error) or _http_error(name, error)
    return _name_error(name, error) or disk_full(name, error) or unreachable(name, error)


def _repository_error(name: str, revision: str | None, error: BaseException) -> HubError | None:
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        DisabledRepoError,
        GatedRepoError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    page = f"{constants.ENDPOINT}/{name}"
    if isinstance(error, GatedRepoError):
        return HubError(
            "gated",
            f"{name} is gated: its authors ask you to accept a licence first.",
            f"Accept it at {page}, then set HF_TOKEN to a token of yours or run `hf auth login`.",
        )
    if isinstance(error, RevisionNotFoundError):
        return HubError("no revision", f"{name} has no revision {revision!r}.", f"See its branches and tags at {page}.")
    if isinstance(error, DisabledRepoError):
        return HubError("missing", f"The Hub has disabled {name}.", f"See {page}, or choose another model.")
    if isinstance(error, RemoteEntryNotFoundError):
        return HubError("missing", f"A file of {name} is not on the Hub any more.", f"See its files at {page}.")
    if isinstance(error, RepositoryNotFoundError):
        return HubError(
            "missing",
            f"There is no model {name!r} on the Hub, or it is private.",
            "Check the spelling (owner/name); for a private one set HF_TOKEN or run `hf auth login`.",
        )
    return None


def _http_error(name: str, error: BaseException) -> HubError:
    from huggingface_hub.utils import parse_ratelimit_headers

    response = error.response  # type: ignore[attr-defined]  # it is an HfHubHTTPError
    status = response.status_code
    if status in (401, 403):
        return HubError(
            "unauthorized",
            f"The Hub does not let you read {name} (HTTP {status}).",
            "Check that the token in HF_TOKEN is valid and may read this model.",
        )
    if status == 429:
        limits = parse_ratelimit_headers(response.headers)
        stated = response.headers.get("Retry-After", "")
        seconds = limits.reset_in_seconds if limits else int(stated) if stated.isdigit() else None
        remedy = f"Try again in {seconds} seconds." if seconds else "Try again in a few minutes."
        return HubError("rate limited", f"The Hub could not deliver {name} (HTTP {status}).", remedy, seconds)
    return HubError("server", f"The Hub could not deliver {name} (HTTP {status}).", "Try again in a while.")


def _name_error(name: str, error: BaseException) -> HubError | None:
    from huggingface_hub.errors import HFValidationError

    if not isinstance(error, HFValidationError):
        return None
    return HubError(
        "invalid name",
        f"{name!r} is neither a folder here nor a name that the Hub allows.",
        "Check the spelling (owner/name).",
    )


def disk_full(name: str, error: BaseException) -> HubError | None:
    """The HubError for a full disk; None for other errors."""
    from huggingface_hub import constants

    if not (isinstance(error, OSError) and error.errno == errno.ENOSPC) and "No space left" not in str(error):
        return None
    return HubError(
        "disk full",
        f"The disk is full, so {name} could not be stored.",
        f"Free some space, or set HF_HOME to a folder on another disk (now {constants.HF_HOME}).",
    )


def unreachable(name: str, error: BaseException) -> HubError | None:
    """The HubError where no answer came: offline mode, no network, a proxy, a time limit. None for other errors."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
    from huggingface_hub.utils import httpx

    if isinstance(error, OfflineModeIsEnabled):
        return HubError(
            "offline",
            f"{name} was not looked up on the Hub: offline mode is on.",
            "Unset HF_HUB_OFFLINE and start again.",
        )
    if isinstance(error, httpx.ProxyError):
        return HubError(
            "unreachable",
            f"The proxy did not let the request for {name} through to the Hub.",
            "Check HTTPS_PROXY, HTTP_PROXY and NO_PROXY.",
        )
    if isinstance(error, httpx.TimeoutException):
        return no_answer(name)
    if isinstance(error, httpx.TransportError | ConnectionError | LocalEntryNotFoundError):
        return HubError(
            "unreachable",
            f"The Hub cannot be reached for {name}.",
            "Check the connection to the internet (and HTTPS_PROXY if there is a proxy), then try again.",
        )
    return None


def no_answer(name: str) -> HubError:
    """The Hub did not answer within the time limit."""
    return HubError(
        "unreachable",
        f"The Hub did not answer in time for {name}.",
        "Try again in a while; what was fetched already is kept.",
    )


def unreadable(name: str) -> HubError:
    """Something answered, but not as the Hub does: a login page of a network, or another server."""
    return HubError(
        "server",
        f"The answer for {name} is not one of the Hub's.",
        "Check HF_ENDPOINT and the proxy; a network that asks for a login answers in place of the Hub.",
    )
