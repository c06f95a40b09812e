from dataclasses import replace

import gradio as gr
import pytest

from chatui.errors import SettingsError
from chatui.generation_settings import GenerationSettings
from chatui.server_facts import ServerFacts
from chatui.ui.persona import setting_controls
from tests.fakes import INFO, UNTOLD

DEFAULTS = GenerationSettings()


def components() -> list[gr.components.Component]:
    with gr.Blocks():
        return setting_controls.build()


def test_there_is_one_component_per_setting_and_it_shows_the_default() -> None:
    built = components()
    assert [component.elem_id for component in built] == [f"setting-{name}" for name in setting_controls.NAMES]
    assert [component.value for component in built] == setting_controls.values_of(DEFAULTS)


def test_sliders_span_exactly_what_is_allowed() -> None:
    for name, component in zip(setting_controls.NAMES, components(), strict=True):
        if isinstance(component, gr.Slider):
            for value in (component.minimum, component.maximum):
                GenerationSettings.from_values({name: value})
            for value in (component.minimum - component.step, component.maximum + component.step):
                with pytest.raises(SettingsError, match=name):
                    GenerationSettings.from_values({name: value})


def test_values_come_back() -> None:
    settings = GenerationSettings(temperature=0.0, top_k=5, seed=3, stop=("END", "two words"))
    assert setting_controls.read(setting_controls.values_of(settings)) == settings


def test_components_hand_values_over_unchecked_so_that_the_field_is_named() -> None:
    values = setting_controls.values_of(DEFAULTS)
    for name, component in zip(setting_controls.NAMES, components(), strict=True):
        if name not in ("stop", "thinking"):
            changed = list(values)
            changed[setting_controls.NAMES.index(name)] = component.preprocess(1e9)
            with pytest.raises(SettingsError, match=name):
                setting_controls.read(changed)
            problems = setting_controls.problems(changed)
            assert [bool(problem) for problem in problems] == [name == other for other in setting_controls.NAMES]


def test_no_problems_with_the_defaults() -> None:
    assert not any(setting_controls.problems(setting_controls.values_of(DEFAULTS)))


def test_api_takes_the_models_default_for_what_is_left_out() -> None:
    defaults = GenerationSettings(temperature=0.3, top_k=7)
    given = dict.fromkeys(setting_controls.NAMES) | {"top_k": 9, "stop": ["x"]}
    assert setting_controls.read_api(given, defaults) == defaults.model_copy(update={"top_k": 9, "stop": ("x",)})
    with pytest.raises(SettingsError, match="top_p"):
        setting_controls.read_api({"top_p": 2}, defaults)


def test_what_a_server_does_not_take_is_greyed_out_with_the_reason_until_another_model_is_chosen() -> None:
    values = setting_controls.values_of(DEFAULTS)
    for info, active in ((UNTOLD, False), (INFO, True), (None, True)):
        shown = dict(zip(setting_controls.NAMES, setting_controls.for_model(values, info), strict=True))
        assert shown["top_k"]["interactive"] is active
        assert ("does not take it" in shown["top_k"]["info"]) is not active
        assert shown["temperature"]["interactive"]
        assert shown["temperature"]["info"] == GenerationSettings.model_fields["temperature"].description


def test_a_budget_is_shown_where_the_server_takes_one() -> None:
    taken, refused = ServerFacts("s"), ServerFacts("s", {"thinking_budget": "It does not."})
    assert setting_controls.has_budget(replace(UNTOLD, server=taken))
    assert not setting_controls.has_budget(replace(UNTOLD, server=refused))
