"""Presets of the trainer, of every method that learns from a scene."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..methods.clic import CLiCConfig
from ..methods.concept_weaver import BankConfig
from .bank_preset import BANK, bank_knobs
from .break_a_scene_preset import BREAK_A_SCENE, break_a_scene_knobs
from .clic_preset import CLIC, clic_knobs, clic_values
from .settings import Settings

PRESETS = {**BREAK_A_SCENE, **CLIC, **BANK}


def preset_input() -> io.DynamicCombo.Input:
    """The list of presets; each shows the knobs that it has, at its own values."""
    return io.DynamicCombo.Input(
        "preset",
        options=[
            io.DynamicCombo.Option(name, list(_knobs(preset))) for name, preset in PRESETS.items()
        ],
        tooltip="What learns. Choosing one sets the knobs below to its values; change any of them "
        "afterwards. " + " ".join(f"{name}: {preset.told}." for name, preset in PRESETS.items()),
    )


def settings_of(preset: Mapping[str, Any], seed: int, preview_every: int) -> Settings:
    """What a preset and its knobs ask for; a knob that is not given keeps the preset's value.

    Raises:
        ConfigError: a knob is out of its range.
    """
    base = PRESETS[preset["preset"]]
    # ComfyUI gives None for what an API call leaves out.
    given = {k: value for k, value in preset.items() if k != "preset" and value is not None}
    config = base.config

    def of(prefix: str, names: Mapping[str, str]) -> dict[str, Any]:
        return {n: given.pop(prefix + knob) for n, knob in names.items() if prefix + knob in given}

    tokens = replace(
        config.token_phase, **of("token_", {"steps": "steps", "learning_rate": "rate"})
    )
    weights = replace(
        config.weight_phase,
        **of("weight_", {"steps": "steps", "learning_rate": "rate"}),
        **of("", {"rank": "rank"}),
    )
    class_images = replace(
        base.class_images,
        **of("prior_", {"draw": "pictures", "steps": "sampling_steps", "cfg": "cfg"}),
    )
    loop = replace(
        base.loop, **of("", {name: name for name in ("clip", "weight_decay", "save_every")})
    )
    if isinstance(config, CLiCConfig):
        given = clic_values(given)
    config = replace(config, token_phase=tokens, weight_phase=weights, seed=seed, **given)
    return Settings(
        config=config,
        loop=replace(loop, preview_every=preview_every),
        class_images=class_images,
        told=base.told,
    )


def _knobs(preset: Settings) -> Iterator[io.Input]:
    """Widgets of one preset."""
    if isinstance(preset.config, CLiCConfig):
        return clic_knobs(preset.config, preset.loop)
    if isinstance(preset.config, BankConfig):
        return bank_knobs(preset.config, preset.loop)
    return break_a_scene_knobs(preset.config, preset)
