"""Builds the ASGI application from backend, API and page, and serves it."""

import asyncio
import contextlib
import importlib.util
import os
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psutil
import uvicorn
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from chatui import downloads, listening, owners, uvicorn_protocol
from chatui.api import routes
from chatui.api.access import CALLER
from chatui.attempt_limiter import too_many_attempts
from chatui.backend import Backend, StartableBackend
from chatui.backends import open_backend, runs_models
from chatui.body_limit import BodyLimit
from chatui.chat import ModelStatus
from chatui.engine.backend import LocalBackend
from chatui.errors import ChatError
from chatui.limited_backend import LimitedBackend
from chatui.metrics import Metrics
from chatui.model_spec import ModelSpec
from chatui.models.download_manager import DownloadManager
from chatui.models.fit import Device, Machine
from chatui.models.overview import OverviewReader
from chatui.models.permissions import Permissions
from chatui.models.services import ModelServices
from chatui.models.token_file import TokenFiles
from chatui.owners import Cookies, OwnerMiddleware
from chatui.peers import OwnAccount
from chatui.request_metrics import RequestMetrics
from chatui.runner import Runner
from chatui.security import (
    AllowedHosts,
    ClientAddress,
    Login,
    SecurityMiddleware,
    is_local,
    read_login,
    serves_one_computer,
)
from chatui.setting_values import api_keys, split_list
from chatui.settings import MB, AppSettings, KvDtype
from chatui.token_limits import TokenLimits, TokenUsage
from chatui.upload_folder import UploadFolder

if TYPE_CHECKING:
    from chatui.store.store import Store

WAITING_THREADS = 64


def build_app(backend: Backend, settings: AppSettings, metrics: Metrics | None = None) -> FastAPI:
    """Build the ASGI application for any backend, which is measured in `metrics`. Raises StoreError."""
    from chatui.store.logins import Logins
    from chatui.store.quotas import Quotas
    from chatui.store.store import Store
    from chatui.ui.gradio_compat import serving
    from chatui.ui.page import changes, page, prerender

    store = Store.open(settings)
    temporary_store = Store.in_memory(Quotas.for_temporary_chats(settings))
    backend, usage = _limited(backend, settings, store)
    runner = Runner(backend, store, temporary_store, settings.inspect, usage)
    cookies = Cookies(store.cookie_secret())
    metrics = metrics or Metrics()
    metrics.watch_server(lambda: runner.running_count, store.database)
    uploads = UploadFolder(serving.upload_folder(), settings.max_uploads * MB)
    passwords = read_login(settings.auth)
    login = too_many_attempts(passwords)
    logins = Logins(store.database, passwords) if passwords is not None else None
    services = _services(backend, settings, Permissions.from_settings(settings, passwords or {}))

    def owner_of(request: Request) -> str | None:
        return owners.cookie_owner(request) if login is None else _login_owner(login_of(request))

    app_routes = [
        *_routes(backend),
        *downloads.routes(runner.persistent_store, owner_of),
        prerender.route(runner, owner_of),
        changes.route(runner.chat_changes, owner_of),
        *routes.mounts(backend, settings, metrics, usage),
    ]
    lifespan = _lifespan(runner, uploads, services.downloads, settings.graceful_timeout)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lambda _: lifespan, routes=app_routes)
    _add_inner_middleware(app, settings, cookies, store, uploads, login)
    login_of = page.mount(app, runner, services, cookies, login, logins, settings.root_path)
    app.add_middleware(ClientAddress, proxies=split_list(settings.forwarded_allow_ips))
    app.add_middleware(RequestMetrics, metrics=metrics)
    return app


def _add_inner_middleware(
    app: FastAPI, settings: AppSettings, cookies: Cookies, store: "Store", uploads: UploadFolder, login: Login | None
) -> None:
    """Add what protects the page and the API from foreign sites, and tells whose a request is."""
    account = OwnAccount(strict=login is not None)
    is_local_owner = account.is_sender if _is_local_only(settings, store) else _never_local
    # On a public host Gradio allows any Origin, unless its parent app has CORS middleware. This one allows none.
    app.add_middleware(CORSMiddleware, allow_origins=[])
    app.add_middleware(
        OwnerMiddleware,
        cookies=cookies,
        adopter=store.adoptions,
        is_local=is_local_owner,
        is_operator=account.is_sender if serves_one_computer(settings) else _never_local,
    )
    app.add_middleware(BodyLimit, uploads=uploads)
    app.state.hosts = AllowedHosts(settings.host, split_list(settings.allowed_hosts), settings.share)
    app.add_middleware(SecurityMiddleware, hosts=app.state.hosts)


@contextlib.asynccontextmanager
async def _lifespan(runner: Runner, uploads: UploadFolder, loads: DownloadManager, wait: float) -> AsyncIterator[None]:
    """ASGI lifespan of the runner and the sweep of old uploads. Replies may go on for `wait` seconds after it."""
    # Calls to a database that does not answer block many threads. Temporary chats need free ones.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(WAITING_THREADS, "chatui-waiting"))
    runner.start()
    sweep_task = asyncio.create_task(uploads.sweep_periodically())
    yield
    sweep_task.cancel()
    await asyncio.to_thread(loads.close)
    await runner.close(wait)


def run(settings: AppSettings) -> None:
    """Serve until interrupted. The page is served while the model loads. Raises SettingsError."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    # Gradio's default folder is shared by all Gradio programs.
    os.environ["GRADIO_TEMP_DIR"] = str(Path(os.environ.get("GRADIO_TEMP_DIR", settings.cache_dir), "chatui-uploads"))
    login = too_many_attempts(read_login(settings.auth))
    if os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true"):  # as `spaces` reads it
        _run_on_zero_gpu(settings, login)
        return
    server_socket = listening.bind(settings)
    metrics = Metrics()
    backend = open_backend(settings, metrics)
    app = build_app(backend, settings, metrics)
    backend.start()
    threading.Thread(target=_print_when_ready, args=(backend,), daemon=True).start()
    port = server_socket.getsockname()[1]
    if settings.share:
        threading.Thread(target=_share, args=(settings.host, port, app.state.hosts), daemon=True).start()
    server_socket.listen(2048)  # before the address is printed: early connections are queued, not refused
    print(f"chatui is at {browser_url(settings.host, port)}{settings.root_path}", flush=True)
    config = uvicorn_protocol.config(app, timeout_graceful_shutdown=2, lifespan="on")
    uvicorn.Server(config).run(sockets=[server_socket])


def _limited(backend: Backend, settings: AppSettings, store: "Store") -> tuple[Backend, TokenUsage | None]:
    """The backend, and what counts the tokens of its users if some of them have limits."""
    from chatui.store.token_counts import TokenCounts

    of_all = TokenLimits(settings.tokens_per_minute, settings.tokens_per_day)
    of_keys = {
        f"{CALLER}{key.name}": TokenLimits(
            of_all.per_minute if key.tokens_per_minute is None else key.tokens_per_minute,
            of_all.per_day if key.tokens_per_day is None else key.tokens_per_day,
        )
        for key in api_keys(settings.api_key)
        if key.name
    }
    if not any(limits.any for limits in (of_all, *of_keys.values())):
        return backend, None
    usage = TokenUsage(lambda user: of_keys.get(user, of_all))
    return LimitedBackend(backend, usage, TokenCounts(store.database)), usage


def _services(backend: Backend, settings: AppSettings, permissions: Permissions) -> ModelServices:
    """What the page manages models with. A model that has come is served."""
    machine = partial(_machine, settings.kv_dtype) if runs_models(settings) else None
    overviews = OverviewReader(machine, [settings.models_dir] if settings.models_dir else [])
    fetches = DownloadManager(
        settings.data_dir / "downloads",
        lambda plan: backend.add(plan.model, plan.pinned_revision),
        TokenFiles(settings.data_dir / "tokens"),
    )
    return ModelServices(overviews, permissions, fetches)


# Imports torch, which is imported by the time that the Models view is opened.
def _machine(kv_dtype: KvDtype) -> Machine:
    if importlib.util.find_spec("torch") is None:  # only a page in front of other servers is installed
        memory = psutil.virtual_memory()
        return Machine((Device("cpu", memory.available, memory.total, kv_dtype=kv_dtype),))
    from chatui.engine import devices

    return devices.machine().with_kv_dtype(kv_dtype)


def browser_url(host: str, port: int) -> str:
    """The URL, for a browser on this computer, of a server that listens on `host` and `port`."""
    host = _connectable_host(host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _connectable_host(host: str) -> str:
    """The host to connect to, from this computer, for a server that listens on `host`."""
    return "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104


def _is_local_only(settings: AppSettings, store: "Store") -> bool:
    """Whether the database is a file on this computer, and the server cannot be reached from others."""
    is_exposed = settings.share or settings.root_path or settings.allowed_hosts or not is_local(settings.host)
    return store.database.file is not None and not is_exposed


def _login_owner(login: str | None) -> str | None:
    return owners.login_owner(login) if login else None


def _never_local(_: Scope) -> bool:
    return False


def _routes(backend: Backend) -> list[BaseRoute]:
    from chatui.ui.gradio_compat import serving, status_tracker
    from chatui.ui.page import theme

    async def livez(_: Request) -> JSONResponse:
        return JSONResponse({"status": "alive"})

    async def healthz(_: Request) -> JSONResponse:
        models = backend.models()
        body = {"status": models[0].state, "model": models[0].name, **_progress(models[0])}
        if len(models) > 1:
            body["models"] = [{"model": each.name, "status": each.state, **_progress(each)} for each in models]
        headers = {"Cache-Control": "no-store"}
        never_loaded = models[0].state == "loading" and models[0].info is None
        if never_loaded:
            headers["Retry-After"] = "5"
        return JSONResponse(body, 503 if never_loaded or models[0].state == "failed" else 200, headers)

    return [
        serving.icon_route(theme.FAVICON),
        *status_tracker.routes(),
        Route("/healthz", healthz),
        Route("/livez", livez),
        Mount(theme.ASSETS_ROUTE, StaticFiles(directory=theme.ASSETS)),
    ]


def _progress(model: ModelStatus) -> dict[str, Any]:
    """Why a model failed, or the phase of its loading."""
    if model.error is not None:
        return {"error": str(model.error)}
    return {"phase": model.phase} if model.phase else {}


def _print_when_ready(backend: StartableBackend) -> None:
    try:
        info = backend.wait()
    except ChatError as error:
        print(f"chatui: {error}", flush=True)
    else:
        facts = ", ".join(filter(None, (info.precision, info.server.software if info.server else "", info.device)))
        print(f"{info.name} is ready ({facts})", flush=True)


def _share(host: str, port: int, hosts: AllowedHosts) -> None:
    """Print a public link to the server on `host` and `port`, or why there is none. Allows the link's host name."""
    from chatui.ui.gradio_compat import serving

    try:
        link = serving.share(_connectable_host(host), port)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        print(f"chatui: no public link could be made ({reason}); the local page goes on.", flush=True)
    else:
        hosts.add(urlsplit(link).hostname or "")
        print(f"Public link, for a week at most: {link}", flush=True)


def _run_on_zero_gpu(settings: AppSettings, login: Login | None) -> None:
    """Serve on a ZeroGPU Space, which lends a GPU for each reply.

    GPUs are lent to visitors of the page, so there is no /v1. `spaces` must be imported before torch. Its emulated GPU
    exists in this thread only, and it packs the weights at launch. So the model is loaded here, before the launch.
    """
    import spaces
    from chatui.engine.runners import zero_gpu
    from chatui.store.quotas import Quotas
    from chatui.store.store import Store
    from chatui.ui.gradio_compat import serving
    from chatui.ui.page import changes, page, prerender

    spec = ModelSpec.from_settings(settings)
    backend = LocalBackend(spec, settings.cache_dir, zero_gpu.loader(spaces.GPU), settings.queue).load_in_this_thread()
    _print_when_ready(backend)
    store = Store.open(settings)
    temporary_store = Store.in_memory(Quotas.for_temporary_chats(settings))
    runner, cookies = Runner(backend.start(), store, temporary_store, settings.inspect), Cookies(store.cookie_secret())

    def owner_of(request: Request) -> str | None:
        return owners.cookie_owner(request) if login is None else _login_owner(page.launched_login_of(request))

    app_routes = [
        *_routes(backend),
        *downloads.routes(store, owner_of),
        prerender.route(runner, owner_of),
        changes.route(runner.chat_changes, owner_of),
    ]
    uploads = UploadFolder(serving.upload_folder(), settings.max_uploads * MB)
    page.launch(runner, _services(backend, settings, Permissions()), cookies, login, app_routes, uploads)
