"""What the tab Compare takes as a message and as the value of a setting."""

import pytest

from chatui.errors import ChatError, SettingsError
from chatui.generation_settings import GenerationSettings
from chatui.ui.chat.api_endpoint import MAX_MESSAGE_LENGTH
from chatui.ui.models import compare_tab
from chatui.ui.models.ratings_section import NAMED


@pytest.mark.parametrize("name", compare_tab.SETTINGS.values())
def test_every_setting_may_differ(name: str) -> None:
    text, value = ("off", "off") if name == "thinking" else (" 1 ", 1)
    changes = compare_tab.changes(NAMED + name, text)
    assert getattr(GenerationSettings.from_values(changes), name) == value


def test_values_are_read_as_people_write_them() -> None:
    assert compare_tab.changes(f"{NAMED}temperature", "0,7") == {"temperature": 0.7}
    assert compare_tab.changes(f"{NAMED}temperature", " ") == {}
    assert {"seed", "stop"}.isdisjoint(compare_tab.SETTINGS.values())


@pytest.mark.parametrize("value", ["warm", "9", "-1", "nan", "1e999"])
def test_a_value_that_is_none_names_the_setting(value: str) -> None:
    with pytest.raises(SettingsError) as caught:
        GenerationSettings.from_values(compare_tab.changes(f"{NAMED}temperature", value))
    assert caught.value.field == "temperature"


def test_other_settings_are_refused() -> None:
    with pytest.raises(SettingsError):
        compare_tab.changes(f"{NAMED}seed", "1")


@pytest.mark.parametrize("message", ["", " \n", "x" * (MAX_MESSAGE_LENGTH + 1)], ids=["empty", "blank", "long"])
def test_a_message_has_some_text_and_not_too_much(message: str) -> None:
    with pytest.raises(ChatError):
        compare_tab.check_message(message)
    compare_tab.check_message("x" * MAX_MESSAGE_LENGTH)


def test_an_error_is_never_markup() -> None:
    assert "<img" not in compare_tab.error_html(ChatError("<img src=x>", "$x$"))
    assert "Something went wrong (ValueError)." in compare_tab.error_html(ValueError("secret"))
    assert "secret" not in compare_tab.error_html(ValueError("secret"))
