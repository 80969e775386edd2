"""Widgets, derived from the settings that configs declare."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from comfy_api.latest import io

from ..training.setting import BoundSetting, settings_in


def widgets_of(
    config: Any, *, without: Collection[str] = (), optional: bool = False
) -> Iterator[io.Input]:
    """A widget for every setting with an effect in a config, with its value as default."""
    for one in settings_in(config):
        if one.applies and one.declared.is_widget and one.name not in without:
            yield widget(one, optional=optional)


def named_widgets(
    config: Any, *names: str, optional: bool = False, **tooltips: str | None
) -> list[io.Input]:
    """Widgets of some settings, in this order; `tooltips` replace those of the settings."""
    known = {one.name: one for one in [*settings_in(config)][::-1]}  # the first of a name
    return [widget(known[name], optional=optional, tooltip=tooltips.get(name)) for name in names]


def widget(one: BoundSetting, *, optional: bool = False, tooltip: str | None = None) -> io.Input:
    """The widget of a setting, with its value as default."""
    declared, shared = one.declared, _shared(one, optional, tooltip)
    if one.choices:
        by_value = {meant: word for word, meant in one.choices.items()}
        # Numbers stay numbers, as saved graphs hold them.
        words = list(by_value if one.kind is int else one.choices)
        chosen = one.value if one.kind is int else by_value[one.value]
        return io.Combo.Input(options=words, default=chosen, **shared)
    if one.is_several or one.kind is str:
        text = declared.separators[0].join(one.value) if one.is_several else one.value
        # Fields of a single line say nothing of it.
        lines = {"multiline": True} if declared.is_multiline or declared.is_prompt else {}
        lines |= {"dynamic_prompts": True} if declared.is_prompt else {}
        return io.String.Input(default=text, **lines, **shared)
    if one.kind is bool:
        return io.Boolean.Input(default=one.value, **shared)
    limits = {"min": declared.minimum, "max": declared.maximum, "step": declared.step}
    if one.kind is float:
        return io.Float.Input(default=one.value, round=declared.rounding, **limits, **shared)
    # The editor would change numbers called "seed" after every run.
    fixed = {"control_after_generate": False} if one.name.endswith("seed") else {}
    return io.Int.Input(default=one.value, **limits, **fixed, **shared)


def _shared(one: BoundSetting, optional: bool, tooltip: str | None) -> dict[str, Any]:
    return {
        "id": one.name,
        "tooltip": tooltip or one.declared.help,
        "optional": optional,
        **({"advanced": True} if one.declared.is_advanced else {}),
    }
