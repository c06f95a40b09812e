"""Wires backend, API and page into one ASGI app, and serves it: the one place that chooses the backend."""

import asyncio
import contextlib
import errno
import os
import socket
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import uvicorn
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from chatui import downloads, owners, uvicorn_protocol
from chatui.api import routes
from chatui.attempt_limiter import too_many_attempts
from chatui.body_limit import BodyLimit
from chatui.chat import Backend
from chatui.errors import ChatError, SettingsError
from chatui.local.engine import LocalBackend
from chatui.model_spec import ModelSpec
from chatui.owners import Cookies, OwnerMiddleware
from chatui.peers import OwnAccount
from chatui.runner import Runner
from chatui.security import AllowedHosts, ClientAddress, Login, SecurityMiddleware, is_local, read_login
from chatui.setting_values import split_list
from chatui.settings import AppSettings
from chatui.upload_folder import MB, UploadFolder

if TYPE_CHECKING:
    from chatui.store.store import Store

WAITING_THREADS = 64


def build_app(backend: Backend, settings: AppSettings) -> FastAPI:
    """The whole application around any backend. Raises StoreError."""
    from chatui.store.logins import Logins
    from chatui.store.quotas import Quotas
    from chatui.store.store import Store
    from chatui.ui.gradio_compat import serving
    from chatui.ui.page import page, prerender

    store = Store.open(settings)
    temporary_store = Store.in_memory(Quotas.for_temporary_chats(settings))
    runner, cookies = Runner(backend, store, temporary_store, settings.inspect), Cookies(store.cookie_secret())
    uploads = UploadFolder(serving.upload_folder(), settings.max_uploads * MB)
    passwords = read_login(settings.auth)
    login = too_many_attempts(passwords)
    logins = Logins(store.database, passwords) if passwords is not None else None

    def owner_of(request: Request) -> str | None:
        return owners.cookie_owner(request) if login is None else _login_owner(login_of(request))

    served = [
        *_routes(backend),
        *downloads.routes(runner.persistent_store, owner_of),
        prerender.route(runner, owner_of),
        routes.mount(backend, settings),
    ]
    lifespan = _lifespan(runner, uploads)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lambda _: lifespan, routes=served)
    account = OwnAccount(strict=login is not None)
    is_local = account.is_sender if _is_for_one(settings, store) else _is_nobody
    # Gradio grants any Origin on a public host unless its parent app has a CORS layer; ours grants none.
    app.add_middleware(CORSMiddleware, allow_origins=[])
    app.add_middleware(OwnerMiddleware, cookies=cookies, adopter=store.adoptions, is_local=is_local)
    app.add_middleware(BodyLimit, uploads=uploads)
    app.state.hosts = AllowedHosts(settings.host, split_list(settings.allowed_hosts), settings.share)
    app.add_middleware(SecurityMiddleware, hosts=app.state.hosts)
    login_of = page.mount(app, runner, cookies, login, logins, settings.root_path)
    app.add_middleware(ClientAddress, proxies=split_list(settings.forwarded_allow_ips))
    return app


@contextlib.asynccontextmanager
async def _lifespan(runner: Runner, uploads: UploadFolder) -> AsyncIterator[None]:
    """Run the runner, and sweep old uploads, while the application serves."""
    # A database that does not answer holds up many threads; temporary chats need some as well.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(WAITING_THREADS, "chatui-waiting"))
    runner.start()
    sweeping = asyncio.create_task(uploads.sweep_periodically())
    yield
    sweeping.cancel()
    await runner.close()


def run(settings: AppSettings) -> None:
    """Serve until interrupted, the page first and the model when it is loaded. Raises SettingsError."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    # Gradio's own is every Gradio program's.
    os.environ["GRADIO_TEMP_DIR"] = str(Path(os.environ.get("GRADIO_TEMP_DIR", settings.cache_dir), "chatui-uploads"))
    login = too_many_attempts(read_login(settings.auth))
    if os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true"):  # as `spaces` reads it
        _run_on_zero_gpu(settings, login)
        return
    listening = _listen(settings)
    backend = LocalBackend(ModelSpec.from_settings(settings), settings.cache_dir, longest_queue=settings.queue)
    app = build_app(backend, settings)
    backend.start()
    threading.Thread(target=_print_when_ready, args=(backend,), daemon=True).start()
    port = listening.getsockname()[1]
    if settings.share:
        threading.Thread(target=_share, args=(settings.host, port, app.state.hosts), daemon=True).start()
    listening.listen(2048)  # who comes as soon as the address is printed waits, and is not refused
    print(f"chatui is at {address(settings.host, port)}{settings.root_path}", flush=True)
    config = uvicorn_protocol.config(app, timeout_graceful_shutdown=2, lifespan="on")
    uvicorn.Server(config).run(sockets=[listening])


def address(host: str, port: int) -> str:
    """The URL at which this computer's browser finds a server that listens there."""
    host = _reached(host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _reached(host: str) -> str:
    """The host by which this computer itself reaches a server that listens there."""
    return "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104


def _is_for_one(settings: AppSettings, store: "Store") -> bool:
    """Whether the server and what it keeps are on this computer, and shown to no other."""
    seen_by_others = settings.share or settings.root_path or settings.allowed_hosts or not is_local(settings.host)
    return store.database.file is not None and not seen_by_others


def _login_owner(login: str | None) -> str | None:
    return owners.login_owner(login) if login else None


def _is_nobody(_: Scope) -> bool:
    return False


def _routes(backend: Backend) -> list[BaseRoute]:
    from chatui.ui.gradio_compat import serving
    from chatui.ui.page import theme

    async def livez(_: Request) -> JSONResponse:
        return JSONResponse({"status": "alive"})

    async def healthz(_: Request) -> JSONResponse:
        model = backend.models()[0]
        answer: dict[str, Any] = {"status": model.state, "model": model.name}
        if model.error is not None:
            answer["error"] = str(model.error)
        elif model.phase:
            answer["phase"] = model.phase
        headers = {"Cache-Control": "no-store"}
        if model.state == "loading":
            headers["Retry-After"] = "5"
        return JSONResponse(answer, 200 if model.state == "ready" else 503, headers)

    return [
        serving.icon_route(theme.FAVICON),
        Route("/healthz", healthz),
        Route("/livez", livez),
        Mount(theme.ASSETS_ROUTE, StaticFiles(directory=theme.ASSETS)),
    ]


def _listen(settings: AppSettings) -> socket.socket:
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise SettingsError(
            "host",
            f"{settings.host} is no address and no known name.",
            "Leave it out, or take 0.0.0.0 to listen on every network.",
        ) from None
    family, *_, own = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(own)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise SettingsError(
                "host",
                f"{settings.host} is not an address of this computer.",
                "Leave it out, or take 0.0.0.0 to listen on every network.",
            ) from error
        raise SettingsError(
            "port",
            f"{settings.host}:{settings.port} cannot be used ({error.strerror}).",
            "Choose another with --port, or --port 0 for any free one.",
        ) from error
    return listening


def _print_when_ready(backend: LocalBackend) -> None:
    try:
        info = backend.wait()
    except ChatError as error:
        print(f"chatui: {error}", flush=True)
    else:
        print(f"{info.name} is ready ({info.precision}, {info.device})", flush=True)


def _share(host: str, port: int, hosts: AllowedHosts) -> None:
    """Print a public link to the server that listens there, or why there is none."""
    from chatui.ui.gradio_compat import serving

    try:
        link = serving.share(_reached(host), port)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        print(f"chatui: no public link could be made ({reason}); the local page goes on.", flush=True)
    else:
        hosts.add(urlsplit(link).hostname or "")
        print(f"Public link, for a week at most: {link}", flush=True)


def _run_on_zero_gpu(settings: AppSettings, login: Login | None) -> None:
    """Serve on a ZeroGPU Space, where a GPU is lent for each reply: to the page's visitors, so there is no /v1.

    `spaces` must be imported before torch; its emulated GPU is known to this thread alone, and at launch it packs the
    weights that are there by then: so the model is loaded here, and first.
    """
    import spaces
    from chatui.local import zero_gpu
    from chatui.store.quotas import Quotas
    from chatui.store.store import Store
    from chatui.ui.gradio_compat import serving
    from chatui.ui.page import page, prerender

    spec = ModelSpec.from_settings(settings)
    backend = LocalBackend(spec, settings.cache_dir, zero_gpu.loader(spaces.GPU), settings.queue).load()
    _print_when_ready(backend)
    store = Store.open(settings)
    temporary_store = Store.in_memory(Quotas.for_temporary_chats(settings))
    runner, cookies = Runner(backend.start(), store, temporary_store, settings.inspect), Cookies(store.cookie_secret())

    def owner_of(request: Request) -> str | None:
        return owners.cookie_owner(request) if login is None else _login_owner(page.launched_login_of(request))

    routes_ = [*_routes(backend), *downloads.routes(store, owner_of), prerender.route(runner, owner_of)]
    page.launch(runner, cookies, login, routes_, UploadFolder(serving.upload_folder(), settings.max_uploads * MB))
