"""Presets of Break-A-Scene, and the widgets that each of them shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from comfy_api.latest import io

from ..methods.break_a_scene import BreakASceneConfig, ClassImages
from ..tinyworld import presets as tinyworld
from ..training.adapters import Scope
from ..training.phases import WeightPhase
from .knobs import loop_knobs, phase_knobs, size_knobs
from .settings import Settings


def _scoped(scope: Scope, **more: Any) -> BreakASceneConfig:
    return BreakASceneConfig(weight_phase=WeightPhase(scope=scope), **more)


BREAK_A_SCENE: dict[str, Settings] = {
    "Break-A-Scene": Settings(
        # a weight, its gradient and AdamW's two averages, 4 bytes each, times 0.98 G weights
        told="the paper's recipe: names, then every weight of the model, 16 bytes for each: 16 GB "
        "for SD 1.5 before activations"
    ),
    "Break-A-Scene K/V": Settings(
        config=_scoped(Scope.CROSS_ATTENTION_KV),
        told="names, then only what cross-attention reads from words: much less memory",
    ),
    "Break-A-Scene low-rank": Settings(
        config=_scoped(Scope.LOW_RANK, checkpointing=True),
        told="names, then low-rank changes of all linear layers: least memory and small files",
    ),
    "handles only": Settings(
        config=BreakASceneConfig(
            weight_phase=WeightPhase(scope=Scope.HANDLES, steps=0), prior_weight=0.0
        ),
        class_images=ClassImages(draw=0),
        told="names only, the model stays as it is: smallest files, least likeness",
    ),
    "TinyWorld quick": Settings(
        config=tinyworld.BREAK_A_SCENE,
        class_images=tinyworld.CLASS_IMAGES,
        told="low-rank with the larger steps that the bundled TinyWorld model wants: minutes on a "
        "laptop's CPU",
    ),
}


def break_a_scene_knobs(config: BreakASceneConfig, preset: Settings) -> Iterator[io.Input]:
    """Widgets of one preset, the ones that most people turn first."""
    yield from phase_knobs(config.token_phase, config.weight_phase)
    yield io.Float.Input(
        "attention_weight",
        default=config.attention_weight,
        min=0.0,
        max=10.0,
        step=0.001,
        optional=True,
        tooltip="How hard each name's attention is pulled onto its own mask. 0 does not look at "
        "it: faster, and the names mix. Much above 0.1 shape suffers.",
    )
    yield from _prior(config, preset.class_images)
    yield from _expert(config)
    yield from loop_knobs(preset.loop)


def _prior(config: BreakASceneConfig, pictures: ClassImages) -> Iterator[io.Input]:
    yield io.Float.Input(
        "prior_weight",
        default=config.prior_weight,
        min=0.0,
        max=10.0,
        step=0.05,
        optional=True,
        tooltip="How hard the model is held to what it could draw before. 0 lets it forget, and "
        "halves the work of a step; large values slow the learning down.",
    )
    yield io.Int.Input(
        "prior_pictures",
        default=pictures.draw,
        min=0,
        max=1000,
        optional=True,
        tooltip="How many pictures the model draws beforehand to be held to, when none are "
        "connected. 0 does without; fewer start sooner.",
    )
    yield io.String.Input(
        "prior_prompt",
        default=config.prior_prompt,
        optional=True,
        advanced=True,
        tooltip="What those pictures show. Something general that your concepts belong to.",
    )
    yield io.Int.Input(
        "prior_sampling_steps",
        default=pictures.steps,
        min=1,
        max=200,
        optional=True,
        advanced=True,
        tooltip="Sampling steps of each of those pictures. Few are quick and rough.",
    )
    yield io.Float.Input(
        "prior_cfg",
        default=pictures.cfg,
        min=1.0,
        max=30.0,
        step=0.5,
        optional=True,
        advanced=True,
        tooltip="Guidance of those pictures. 1 is none, 7.5 usual; high is harsh.",
    )


def _expert(config: BreakASceneConfig) -> Iterator[io.Input]:
    yield from size_knobs(config)
    yield io.Combo.Input(
        "attention_level",
        options=[0, 1, 2, 4, 8],
        default=config.attention_level,
        optional=True,
        advanced=True,
        tooltip="Where attention is compared with the masks: latents made this many times smaller. "
        "0 chooses: 4 as in the paper, less for small pictures.",
    )
    yield io.Boolean.Input(
        "masked_loss",
        default=config.masked_loss,
        optional=True,
        advanced=True,
        tooltip="On: only what the masks cover is learned. Off: the whole picture, background and "
        "all, sticks to the names.",
    )
    yield io.Boolean.Input(
        "union_sampling",
        default=config.union_sampling,
        optional=True,
        advanced=True,
        tooltip="On: steps show some or all concepts together, so that they can be drawn together. "
        "Off: one at a time.",
    )
    yield io.String.Input(
        "prompt_prefix",
        default=config.prompt_prefix,
        optional=True,
        advanced=True,
        tooltip="What stands before the names while learning. Use the names in prompts like it.",
    )
