"""The settings of `conceptloom train`, by the names of its options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..methods.registry import settings_of_method
from ..training.method_spec import TINYWORLD as TINYWORLD_FAMILY
from ..training.method_spec import RunSettings
from .models import TINYWORLD
from .options import PresetName
from .setting_options import changed_by_options

BREAK_A_SCENE = "break-a-scene"  # what `train` does unless asked otherwise


def settings_from_options(
    options: Mapping[str, Any],
    model: str,
    preset: PresetName = PresetName.AUTO,
    method: str = BREAK_A_SCENE,
) -> RunSettings:
    """Settings of a run, from the values of options; None among them takes the preset's.

    Args:
        options: named as on the command line, with _ for -; a scope is "handles", "kv", "cross",
            "low-rank" or "full".
        model: the base model; `PresetName.AUTO` goes by it.

    Raises:
        ConfigError: a value is invalid, or there is no such option or method.
    """
    is_asked = preset is PresetName.TINYWORLD
    is_tiny = is_asked or (preset is PresetName.AUTO and model == TINYWORLD)
    family = TINYWORLD_FAMILY if is_tiny else ""
    return changed_by_options(settings_of_method(method, family, is_strict=is_asked), options)
