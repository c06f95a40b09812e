import pytest

from chatui import personas


def test_there_is_a_choice_with_the_robot_of_the_tutorial() -> None:
    assert len(personas.PRESETS) >= 6
    prompts = {preset.system_prompt for preset in personas.PRESETS}
    assert "You are a sassy, wise-cracking robot as imagined by Hollywood circa 1986." in prompts


@pytest.mark.parametrize("preset", personas.PRESETS, ids=lambda preset: preset.name)
def test_every_preset_greets_and_suggests(preset: personas.Persona) -> None:
    assert preset.greeting
    assert 2 <= len(preset.examples) <= 4
    assert personas.find(preset.label) is preset


def test_labels_are_distinct() -> None:
    assert len({preset.label for preset in personas.PRESETS}) == len(personas.PRESETS)


def test_an_unknown_label_is_nobody() -> None:
    assert personas.find("x") is None
