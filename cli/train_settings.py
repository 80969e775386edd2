"""The settings of `conceptloom train`, by the names of its options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError
from ..training.adapters import Scope
from .models import TINYWORLD
from .options import MethodName, PresetName, ScopeName
from .presets import Method, Preset, Settings, settings_of

SCOPES = {
    ScopeName.HANDLES: Scope.HANDLES,
    ScopeName.KV: Scope.CROSS_ATTENTION_KV,
    ScopeName.CROSS: Scope.CROSS_ATTENTION,
    ScopeName.LOW_RANK: Scope.LOW_RANK,
    ScopeName.FULL: Scope.FULL,
}
# options whose names are not those of the fields
_FIELDS = {
    "resolution": "resolution_px", "roi_prompt": "roi_prompts", "preview_prompt": "preview_prompts",
}  # fmt: skip
_LISTS = {"roi_prompt", "preview_prompt"}


def settings_from_options(
    options: Mapping[str, Any],
    model: str,
    preset: PresetName = PresetName.AUTO,
    method: MethodName = MethodName.BREAK_A_SCENE,
) -> Settings:
    """Settings of a run, from the values of options; None among them takes the preset's.

    Args:
        options: named as on the command line, with _ for -; a scope is "handles", "kv", "cross",
            "low-rank" or "full".
        model: the base model; `PresetName.AUTO` goes by it.

    Raises:
        ConfigError: a value makes no sense, or there is no such option.
    """
    is_tiny = preset is PresetName.TINYWORLD or (preset is PresetName.AUTO and model == TINYWORLD)
    start = Preset.TINYWORLD if is_tiny else Preset.OFFICIAL
    wanted = {_FIELDS.get(name, name): _held(name, value) for name, value in options.items()}
    if wanted.get("scope") is not None:
        try:
            wanted["scope"] = SCOPES[ScopeName(wanted["scope"])]
        except ValueError as error:
            known = ", ".join(name.value for name in ScopeName)
            raise ConfigError("scope", wanted["scope"], f"one of {known}") from error
    return settings_of(start, wanted, Method(method.value))


def _held(name: str, value: Any) -> Any:
    """Lists as tuples; an empty one is nothing, and a prompt by itself is a list of one."""
    if name in _LISTS and isinstance(value, str):
        return (value,)
    return (tuple(value) or None) if isinstance(value, list) else value
