"""Presets of the trainer, of every method that learns from a scene."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy_api.latest import io

from ..methods.registry import scene_presets, settings_of_preset
from ..training.method_spec import RunSettings, run_settings
from ..training.setting import settings_in
from .checked_inputs import check_inputs
from .widgets import widget, widgets_of

# The node has these for all presets together.
OF_THE_NODE = (
    *("seed", "preview_every", "preview_prompts", "preview_steps", "preview_cfg", "keep_state"),
)


def preset_input() -> io.DynamicCombo.Input:
    """The list of presets; each shows its own widgets with its own values."""
    listed = [(spec, preset) for spec, preset in scene_presets() if preset.title]
    return io.DynamicCombo.Input(
        "preset",
        options=[
            io.DynamicCombo.Option(
                preset.title,
                list(widgets_of(run_settings(spec, preset), without=OF_THE_NODE, optional=True)),
            )
            for spec, preset in listed
        ],
        tooltip="Training recipe. Selecting one sets the widgets below to its values; you can "
        "change each of them afterwards. "
        + " ".join(f"{one.title}: {one.summary}." for _, one in listed),
    )


def settings_of(preset: Mapping[str, Any], **of_the_node: Any) -> RunSettings:
    """The settings of a preset, its widgets and the node's own widgets.

    A missing widget keeps the preset's value: ComfyUI passes None for inputs that an API call
    omits. Widgets under a former name arrive next to the preset, as \"preset.clip\".

    Raises:
        ConfigError: a value is out of range.
    """
    widgets = {name: value for name, value in preset.items() if name != "preset"}
    run = settings_of_preset(preset["preset"])
    return run.changed(widgets | _by_todays_names(run, of_the_node))


def _by_todays_names(run: RunSettings, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by current names, without those of unknown settings."""
    current: dict[str, Any] = {}
    for one in settings_in(run):
        for name in (one.name, *(f"preset.{former}" for former in one.declared.former)):
            if values.get(name) is not None:
                check_inputs([widget(one)], {one.name: values[name]})
                current[one.name] = values[name]
    return current
