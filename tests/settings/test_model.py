"""Tests of the declarations of the settings."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

import sglang_diffusion_routing
from sglang_diffusion_routing.settings import LogLevel, Settings

pytestmark = pytest.mark.core


def test_the_defaults_are_valid() -> None:
    assert Settings() == Settings.model_validate({})


def test_settings_are_frozen() -> None:
    settings = Settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1  # type: ignore[misc]


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        Settings.model_validate({"prot": 1})


@pytest.mark.parametrize(
    ("settings", "level"),
    [
        (Settings(), LogLevel.INFO),
        (Settings(log_level=LogLevel.ERROR), LogLevel.ERROR),
        (Settings(log_level=LogLevel.ERROR, verbose=True), LogLevel.DEBUG),
    ],
)
def test_verbose_means_debug(settings: Settings, level: LogLevel) -> None:
    assert settings.effective_log_level is level


def test_every_setting_is_read_by_the_router() -> None:
    package = Path(sglang_diffusion_routing.__file__).parent
    code = "\n".join(
        path.read_text() for path in package.rglob("*.py") if path.parent.name != "settings" and "sim" not in path.parts
    )
    unread = [field for field in Settings.model_fields if not re.search(rf"\.{field}\b", code)]
    assert [field for field in unread if field not in {"log_level", "verbose"}] == []  # read as effective_log_level
