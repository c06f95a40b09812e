"""What --backend and --backends-file say, and what they may not say."""

from pathlib import Path

import pytest

from chatui import cli
from chatui.errors import SettingsError
from chatui.remote import backend_spec
from chatui.remote.backend_spec import BackendSpec
from chatui.settings import AppSettings


def specs(*flags: str, file: Path | None = None) -> list[BackendSpec]:
    return backend_spec.from_settings(AppSettings(backend=flags, backends_file=file))


def test_an_address_alone() -> None:
    (spec,) = specs("gpu1:8000/v1/")
    assert spec.replicas[0].url == "http://gpu1:8000"
    assert (spec.title, spec.name, spec.replicas[0].headers) == ("gpu1:8000", "", {})


def test_all_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_KEY", " sk-1 \n")
    (spec,) = specs(
        "https://x.example/base/v1,name=team,key-env=TEAM_KEY,header=X-Bill-To: a, b,dialect=vllm,context=4096,"
        "max-requests=8,models=Qwen/*+b"
    )
    assert spec.replicas[0].url == "https://x.example/base"
    assert spec.replicas[0].headers == {"Authorization": "Bearer sk-1", "X-Bill-To": "a, b"}
    assert (spec.name, spec.dialect, spec.context, spec.max_requests) == ("team", "vllm", 4096, 8)
    assert spec.models == ("Qwen/*", "b")


def test_the_same_name_is_one_backend() -> None:
    first, second = specs("http://a:1,name=team", "http://c:1", "http://b:1,name=team,max-requests=9")
    assert [replica.url for replica in first.replicas] == ["http://a:1", "http://b:1"]
    assert (first.max_requests, second.title) == (9, "c:1")


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "backends.toml"
    file.write_text('[[backend]]\nurls = ["a:1", "b:1"]\nname = "x"\nkey = "secret-key"\nheaders = {X-A = "1"}\n')
    file.chmod(0o600)
    (spec,) = specs(file=file)
    assert [replica.host for replica in spec.replicas] == ["a:1", "b:1"]
    assert spec.replicas[1].headers == {"Authorization": "Bearer secret-key", "X-A": "1"}
    assert "secret-key" not in repr(spec)
    file.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        specs(file=file)


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("http://a,key=sk-1", "key-env"),
        ("http://user:pw@a", "password"),
        ("http://a/?key=1", r"\?"),
        ("ftp://a", "no address"),
        ("http://", "no address"),
        ("http://a,colour=red", "no option"),
        ("http://a,dialect=klingon", "no dialect"),
        ("http://a,context=many", "whole number"),
        ("http://a,max-requests=0", "whole number"),
        ("http://a,key-env=NOT_SET_AT_ALL", "not set"),
        ("http://a,name=a b", "no name"),
        ("http://a,header=X-Key sk-1", "no header"),
        ("http://user:pw@a:x", "password"),
    ],
)
def test_what_is_refused(flag: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as refused:
        specs(flag)
    assert "sk-1" not in str(refused.value)
    assert "pw" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "no .*tables"), ("[[backend]]\nurl = 1", "wrong type"), ("[[backend]]\nname = 'x'", "no url"), ("=", "TOML")],
)
def test_files_that_are_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "backends.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=said):
        specs(file=file)


def test_the_variable_has_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATUI_BACKEND", "http://a:1,name=x,header=Authorization: Bearer sk-1 http://b:2\n  c:3")
    first, second, third = backend_spec.from_settings(AppSettings())
    assert first.replicas[0].headers == {"Authorization": "Bearer sk-1"}
    assert (first.title, second.title, third.title) == ("x", "b:2", "c:3")


def test_several_flags() -> None:
    settings = cli.parse(
        ["--backend=http://a:1,name=x,header=X-A: 1, 2,key-env=K", "--backend=b:2", "--backend=http://c"]
    )
    assert settings.backend == ("http://a:1,name=x,header=X-A: 1, 2,key-env=K", "b:2", "http://c")
