"""Tests of how a setting is declared."""

import pytest
from pydantic.fields import FieldInfo

from sglang_diffusion_routing.settings.choices import setting

pytestmark = pytest.mark.core


def test_a_setting_carries_all_that_help_and_docs_say_of_it() -> None:
    declared = setting("Routing", 3, "what it does", ge=1, le=9, word="NAME")
    assert isinstance(declared, FieldInfo)
    assert (declared.default, declared.description) == (3, "what it does")
    assert declared.json_schema_extra == {"group": "Routing", "word": "NAME"}
    assert sorted(map(str, declared.metadata)) == ["Ge(ge=1)", "Le(le=9)"]
