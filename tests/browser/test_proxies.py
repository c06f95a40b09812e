"""The page behind nginx and Caddy, as deploy/ sets them up, and as others often do."""

import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, expect

from chatui.settings import AppSettings
from tests.browser.conftest import new_chat
from tests.browser.pages import FOREIGN_HOST, Site, wait_until
from tests.fakes import FakeBackend
from tests.ports import reserved_port

DEPLOY = Path(__file__).parents[2] / "deploy"
NGINX, CADDY = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin"), shutil.which("caddy")
BROWSER = {"ignore_https_errors": True}


@dataclass
class Proxied:
    """A site as its users see it."""

    url: str
    backend: FakeBackend


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("certificate")
    crt, key = str(folder / "chat.crt"), str(folder / "chat.key")
    made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    named = [
        "-subj",
        f"/CN={FOREIGN_HOST}",
        "-addext",
        f"subjectAltName=DNS:{FOREIGN_HOST}",
        "-out",
        crt,
        "-keyout",
        key,
    ]
    subprocess.run([openssl, *made, *named], check=True, capture_output=True)
    return crt, key


@contextmanager
def running(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def listens() -> bool:
        assert process.poll() is None, process.stdout and process.stdout.read().decode()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_until(listens, what="the proxy's start")
        yield
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def behind_nginx(
    folder: Path, certificate: tuple[str, str], changes: dict[str, str] | None = None, **settings: str
) -> Iterator[Proxied]:
    """The server of deploy/nginx, with some of its words changed."""
    if NGINX is None:
        pytest.skip("nginx is not installed")
    backend = FakeBackend(["Hello", " from", " behind."])
    own = AppSettings(data_dir=folder, **{"allowed_hosts": FOREIGN_HOST, **settings})  # type: ignore[arg-type]
    with reserved_port() as port, Site(backend, own) as site:
        server = (DEPLOY / "nginx" / "chatui.conf").read_text()
        for before, after in {
            "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
            "chat.example.org": FOREIGN_HOST,
            "/etc/ssl/chat.crt": certificate[0],
            "/etc/ssl/chat.key": certificate[1],
            "http://127.0.0.1:7860": site.url,
            **(changes or {}),
        }.items():
            assert before in server
            server = server.replace(before, after)
        paths = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"{name}_temp_path {folder}/{name};\n" for name in paths)
        configuration = folder / "nginx.conf"
        configuration.write_text(
            f"daemon off;\nmaster_process off;\npid {folder}/nginx.pid;\nerror_log stderr;\nevents {{}}\n"
            f"http {{\naccess_log off;\n{temporary}\n{server}\n}}\n"
        )
        with running([NGINX, "-p", str(folder), "-e", "stderr", "-c", str(configuration)], port):
            yield Proxied(f"https://{FOREIGN_HOST}:{port}", backend)


def chats(browser: Browser, proxied: Proxied) -> None:
    """A user opens the page, asks, reloads and finds the answer."""
    with ExitStack() as stack:
        chat = new_chat(stack, browser, proxied, **BROWSER)  # type: ignore[arg-type]
        chat.say("hi")
        expect(chat.page.get_by_text("Hello from behind.").last).to_be_visible()
        chat.page.reload()
        expect(chat.page.get_by_text("Hello from behind.").last).to_be_visible()


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("$http_host", id="as deployed"),
        pytest.param("$host", id="the port dropped", marks=pytest.mark.exhaustive),
    ],
)
def test_behind_nginx_the_page_works(browser: Browser, tmp_path: Path, certificate: tuple[str, str], host: str) -> None:
    with behind_nginx(tmp_path, certificate, {"$http_host": host}) as proxied:
        chats(browser, proxied)


@pytest.mark.exhaustive  # tests/integration/test_server.py asks below a path
def test_behind_nginx_the_page_works_below_a_path(
    browser: Browser, tmp_path: Path, certificate: tuple[str, str]
) -> None:
    below = {"location /": "location /chat/", ";\n        proxy_http_version": "/;\n        proxy_http_version"}
    with behind_nginx(tmp_path, certificate, below, root_path="/chat") as proxied:
        chats(browser, Proxied(f"{proxied.url}/chat/", proxied.backend))


def test_a_browser_that_says_no_more_than_its_origin_is_told_what_the_proxy_lacks(
    tmp_path: Path, certificate: tuple[str, str]
) -> None:
    with behind_nginx(tmp_path, certificate, {"$http_host": "$host"}) as proxied:
        port = proxied.url.rpartition(":")[2]
        insecure = ssl.create_default_context()
        insecure.check_hostname, insecure.verify_mode = False, ssl.CERT_NONE
        headers = {"Host": f"{FOREIGN_HOST}:{port}", "Origin": proxied.url}
        answer = httpx.post(
            f"https://127.0.0.1:{port}/gradio_api/queue/join", json={"data": []}, headers=headers, verify=insecure
        )
        assert answer.status_code == 403
        assert "proxy_set_header Host $http_host" in answer.json()["detail"]


def test_behind_caddy_the_page_works(browser: Browser, tmp_path: Path, certificate: tuple[str, str]) -> None:
    if CADDY is None:
        pytest.skip("Caddy is not installed")
    backend = FakeBackend(["Hello", " from", " behind."])
    own = AppSettings(data_dir=tmp_path, allowed_hosts=FOREIGN_HOST)
    with reserved_port() as port, Site(backend, own) as site:
        server = (DEPLOY / "caddy" / "Caddyfile").read_text()
        server = server.replace("127.0.0.1:7860", site.url.removeprefix("http://"))
        tls = f"https://{FOREIGN_HOST}:{port} {{\nbind 127.0.0.1\ntls {' '.join(certificate)}"
        file = tmp_path / "Caddyfile"
        file.write_text("{\nadmin off\nauto_https disable_redirects\n}\n" + server.replace("chat.example.org {", tls))
        with running([CADDY, "run", "--config", str(file), "--adapter", "caddyfile"], port):
            chats(browser, Proxied(f"https://{FOREIGN_HOST}:{port}", backend))


def test_the_login_says_how_long_to_wait(browser: Browser, tmp_path: Path) -> None:
    with ExitStack() as stack:
        settings = AppSettings(auth="ada:secret", data_dir=tmp_path)
        site = stack.enter_context(Site(FakeBackend(["fine"]), settings))
        for number in range(9):
            httpx.post(f"{site.url}/login", data={"username": "ada", "password": f"guess-{number}"})
        context = browser.new_context()
        stack.callback(context.close)
        page = context.new_page()
        page.goto(site.url)
        page.get_by_label("username").fill("ada")
        page.get_by_label("password").fill("wrong")
        page.get_by_role("button", name="Login").click()
        expect(page.get_by_role("alert")).to_contain_text(re.compile(r"Too many wrong passwords\. Wait \d\d seconds\."))
