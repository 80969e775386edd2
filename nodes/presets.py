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
    """The list of presets; each shows the knobs that it has, at its own values."""
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
    """What a preset, its knobs and the node's own widgets ask for.

    A knob that is not given keeps the preset's value: ComfyUI gives None for what an API call
    leaves out. Knobs under an earlier name arrive beside the preset, as "preset.clip".

    Raises:
        ConfigError: a knob is out of its range.
    """
    knobs = {name: value for name, value in preset.items() if name != "preset"}
    run = settings_of_preset(preset["preset"])
    return run.changed(knobs | _by_todays_names(run, of_the_node))


def _by_todays_names(run: RunSettings, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a node that takes all inputs; those that no setting knows are left out."""
    current: dict[str, Any] = {}
    for one in settings_in(run):
        for name in (one.name, *(f"preset.{former}" for former in one.declared.former)):
            if values.get(name) is not None:
                check_inputs([widget(one)], {one.name: values[name]})
                current[one.name] = values[name]
    return current
