import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from chatui import cli
from chatui.errors import SettingsError
from chatui.generation_settings import GenerationSettings
from chatui.setting_values import SECRETS, unknown_variables
from chatui.settings import AppSettings

FIELDS = GenerationSettings.model_fields
BAD = [-1, 1e9, math.nan, math.inf, "1", None, True, [], {}]


@pytest.mark.parametrize("name", [name for name in FIELDS if name not in ("seed", "stop")])
@pytest.mark.parametrize("value", BAD, ids=repr)
def test_absurd_numbers_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(SettingsError) as caught:
        GenerationSettings.from_values({name: value})
    assert caught.value.field == name
    assert name in str(caught.value)


@pytest.mark.parametrize("value", [-1, 2**32, 1.5, "1", math.nan])
def test_seed_is_a_whole_number_or_nothing(value: object) -> None:
    with pytest.raises(SettingsError, match="seed"):
        GenerationSettings.from_values({"seed": value})
    assert GenerationSettings.from_values({"seed": None}).seed is None
    assert GenerationSettings.from_values({"seed": 0}).seed == 0


@pytest.mark.parametrize("value", [["a", ""], ["x" * 201], ["a"] * 17, 3, None, [1]])
def test_stop_strings_are_checked(value: object) -> None:
    with pytest.raises(SettingsError, match="stop"):
        GenerationSettings.from_values({"stop": value})


def test_stop_takes_one_string_or_many() -> None:
    assert GenerationSettings.from_values({"stop": "END"}).stop == ("END",)
    assert GenerationSettings.from_values({"stop": ["a", "b"]}).stop == ("a", "b")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(SettingsError, match="temprature"):
        GenerationSettings.from_values({"temprature": 1.0})


@pytest.mark.parametrize("name", list(FIELDS))
def test_every_setting_explains_itself(name: str) -> None:
    assert FIELDS[name].title
    assert FIELDS[name].description


json_like = st.sampled_from(
    [None, True, False, -1, 0, 1, 7, 2**70, 0.5, 1.0, math.nan, math.inf, "", "x", [], [1], ["a"]]
)


@given(st.dictionaries(st.sampled_from([*FIELDS, "do_sample", "eos_token_id"]), json_like, max_size=6))
def test_any_generation_config_gives_defaults(config: dict[str, object]) -> None:
    settings = GenerationSettings.from_generation_config(config)
    if config.get("do_sample") is False:
        assert settings.temperature == 0.0


def test_generation_config_is_followed() -> None:
    config = {"do_sample": True, "temperature": 1, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.1}
    config["no_repeat_ngram_size"] = 3
    settings = GenerationSettings.from_generation_config(config)
    assert settings.model_dump(include=set(config)) == {
        "temperature": 1.0,
        "top_k": 20,
        "top_p": 0.8,
        "repetition_penalty": 1.1,
        "no_repeat_ngram_size": 3,
    }


def test_sharing_needs_a_login_or_a_clear_no(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="--auth"):
        AppSettings(share=True)
    assert AppSettings(share=True, auth="a:b").share
    assert AppSettings(share=True, share_without_login=True).share


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CHATUI_DATA_DIR", "~/data")
    settings = AppSettings(cache_dir=Path("~/cache"), chat_template=Path("~/own.jinja"))
    assert settings.data_dir == tmp_path / "data"
    assert settings.cache_dir == tmp_path / "cache"
    assert settings.chat_template == tmp_path / "own.jinja"
    with pytest.raises(ValueError, match="no home folder"):
        AppSettings(data_dir=Path("~nobody-of-that-name/x"))


def test_a_user_without_a_home_folder_is_told_what_to_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(*_: object) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("CHATUI_DATA_DIR", raising=False)
    monkeypatch.setattr("chatui.settings.user_data_path", no_home)
    with pytest.raises(SettingsError, match="--data-dir"):
        AppSettings()
    assert AppSettings(data_dir=Path("/data")).data_dir == Path("/data")


def test_environment_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATUI_MODEL", "owner/name")
    monkeypatch.setenv("CHATUI_PORT", "1234")
    settings = AppSettings()
    assert (settings.model, settings.port) == (("owner/name",), 1234)


@pytest.mark.parametrize(
    ("flags", "variable", "names"),
    [
        (["--model", "a/b"], "", ("a/b",)),
        (["--model", "a/b", "--model", "c"], "x/y", ("a/b", "c")),
        (["--model", "a/b,c"], "", ("a/b", "c")),
        (["--model", '["a,b", "c"]'], "", ("a,b", "c")),
        ([], "a/b, c,a/b", ("a/b", "c")),
        ([], '["a,b", "c"]', ("a,b", "c")),
    ],
)
def test_several_models_are_flags_or_a_list(
    flags: list[str], variable: str, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATUI_MODEL", variable)
    assert cli.parse(flags).model == names


def test_an_existing_path_with_a_comma_is_one_model(tmp_path: Path) -> None:
    folder = tmp_path / "a,b"
    folder.mkdir()
    assert cli.parse(["--model", str(folder)]).model == (str(folder),)


@pytest.mark.parametrize("value", ["", "[1]", "[broken", ",", "[]", '[""]'])
def test_no_name_is_no_model(value: str) -> None:
    with pytest.raises(SettingsError, match="model"):
        cli.parse(["--model", value])


@pytest.mark.parametrize("value", ["proxy.example.org", "10.0.0.1/8", "127.0.0.1,10.0.0.300"])
def test_proxies_are_addresses(value: str) -> None:
    with pytest.raises(ValidationError, match="addresses or networks"):
        AppSettings(forwarded_allow_ips=value)


@pytest.mark.parametrize("value", ["", "*", "127.0.0.1", "10.0.0.0/8, ::1"])
def test_any_proxies_may_be_believed(value: str) -> None:
    assert AppSettings(forwarded_allow_ips=value).forwarded_allow_ips == value


def test_uvicorns_variable_names_the_proxies_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "10.0.0.0/8")
    assert AppSettings().forwarded_allow_ips == "10.0.0.0/8"


def test_secrets_are_not_in_the_settings_repr() -> None:
    settings = AppSettings(auth="ada:secret", api_key="sesame-open", database_url="postgresql://u:hunter2@h/d")
    for secret in ("secret", "sesame", "hunter2"):
        assert secret not in f"{settings!r} {settings}"


@pytest.mark.parametrize("name", sorted(set(AppSettings.model_fields) - set(SECRETS)))
@pytest.mark.parametrize("empty", ["", None])
def test_an_empty_variable_counts_as_none(name: str, empty: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    variable = f"CHATUI_{name.upper()}"
    monkeypatch.delenv(variable, raising=False)
    without = AppSettings()
    if empty is not None:
        monkeypatch.setenv(variable, empty)
    assert AppSettings() == without


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_secret_never_leaves_the_door_open(name: str, empty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"CHATUI_{name.upper()}", empty)
    with pytest.raises(SettingsError, match=f"{name}: CHATUI_{name.upper()} is set, but empty"):
        AppSettings()


@pytest.mark.parametrize("value", ["x", " x ", '"x"', "'x'", ' "x" '])
def test_spaces_and_quotation_marks_around_a_value_are_not_part_of_it(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("model", "revision", "data_dir", "device_map"):
        monkeypatch.setenv(f"CHATUI_{name.upper()}", value)
    found = AppSettings()
    assert (found.model, found.revision, found.data_dir, found.device_map) == (("x",), "x", Path("x"), "x")


@pytest.mark.parametrize(
    ("name", "given", "read"),
    [
        ("root_path", "chat/", "/chat"),
        ("root_path", "/", ""),
        ("root_path", "/a/b", "/a/b"),
        ("host", "[::1]", "::1"),
        ("allowed_hosts", "https://chat.example.org:8443/x, *.a.org,[fd00::1]:80", "chat.example.org,*.a.org,fd00::1"),
        ("allowed_hosts", "fd00::1,*", "fd00::1,*"),
    ],
)
def test_what_can_only_mean_one_thing_is_taken_for_it(name: str, given: str, read: str) -> None:
    assert getattr(AppSettings.model_validate({name: given}), name) == read


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kv_memory", float("inf")),
        ("kv_memory", float("nan")),
        ("root_path", "https://x.org/chat"),
        ("data_dir", " "),
        ("kv_cache_dir", ""),
        ("kv_cache_size", 0),
    ],
)
def test_what_means_nothing_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name):
        AppSettings.model_validate({name: value})


def test_variables_that_are_no_setting_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unknown_variables(AppSettings.model_fields) == []
    monkeypatch.setenv("CHATUI_PROT", "1")
    monkeypatch.setenv("CHATUI_FROBNICATE", "1")
    assert unknown_variables(AppSettings.model_fields) == [
        "CHATUI_FROBNICATE is no setting and does nothing.",
        "CHATUI_PROT is no setting and does nothing. Is CHATUI_PORT meant?",
    ]


@pytest.mark.parametrize(
    ("flags", "variable", "read"),
    [
        (["--generation.temperature", "0.3"], "", {"temperature": 0.3}),
        (["--generation.temperature=1", "--generation.top-k=5"], "", {"temperature": 1.0, "top_k": 5}),
        (["--generation.stop", "###", "--generation.stop", "a b"], "", {"stop": ("###", "a b")}),
        (["--generation.no-repeat-ngram-size", "3"], "", {"no_repeat_ngram_size": 3}),
        ([], '{"seed": 4, "min_p": 0.1}', {"seed": 4, "min_p": 0.1}),
        ([], "'{\"top_p\": 0.5}'", {"top_p": 0.5}),
        ([], " ", {}),
    ],
)
def test_defaults_for_generation_are_flags_and_a_variable(
    flags: list[str], variable: str, read: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATUI_GENERATION", variable)
    assert cli.parse(flags).generation.model_dump(exclude_unset=True) == read


@pytest.mark.parametrize(
    ("flags", "variable", "field"),
    [
        (["--generation.temperature", "hot"], "", "generation.temperature"),
        (["--generation.top-k", "5.5"], "", "generation.top_k"),
        (["--generation.top-k", "900"], "", "generation.top_k"),
        ([], '{"topk": 3}', "generation.topk"),
        ([], "temperature=1", "generation"),
        ([], "[1]", "generation"),
    ],
)
def test_a_wrong_default_for_generation_names_its_setting(
    flags: list[str], variable: str, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATUI_GENERATION", variable)
    with pytest.raises(SettingsError) as found:
        cli.parse(flags)
    assert found.value.field == field
