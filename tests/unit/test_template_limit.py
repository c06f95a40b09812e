"""A template that computes on and on is refused, and tracing is left as it was."""

import sys

import pytest

from chatui.engine.text import template_limit
from chatui.engine.text.chat_template import _probed, probe
from chatui.errors import ModelError
from tests import models
from tests.templates import FAMILIES

NESTED = "{% for a in range(90000) %}{% for b in range(90000) %}{% set c = b %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    "chat_template",
    [
        NESTED + models.CHATML,
        "{% if messages | length > 2 %}" + NESTED + "{% endif %}" + models.CHATML,
        models.CHATML + "{% if messages[0].role == 'system' %}" + NESTED + "{% endif %}",
    ],
)
def test_a_template_that_does_not_end_is_refused(chat_template: str) -> None:
    before = sys.gettrace()
    with pytest.raises(ModelError, match="without coming to an end"):
        probe(models.tokenizer(chat_template))
    assert sys.gettrace() is before


@pytest.mark.parametrize("name", FAMILIES)
def test_templates_of_models_are_far_below_the_limit(name: str) -> None:
    tokenizer = FAMILIES[name].tokenizer()
    with template_limit.enforced(template_limit.MAX_LINES // 20):
        _probed(tokenizer)
