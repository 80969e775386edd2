"""Presets of the trainer, and the widgets that each of them shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from comfy_api.latest import io

from ..methods.break_a_scene import BreakASceneConfig, ClassImages, TokenPhase, WeightPhase
from ..training.adapters import Scope
from ..training.loop import LoopConfig
from ..training.phases import RATE_OF_SCOPE

SMALLEST_RATE = 1e-7  # of the widgets; an optimizer does nothing below it


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How one run learns."""

    config: BreakASceneConfig = field(default_factory=BreakASceneConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    class_images: ClassImages = field(default_factory=ClassImages)
    told: str = ""  # about the preset, for its tooltip


def _scoped(scope: Scope, **more: Any) -> BreakASceneConfig:
    rate = RATE_OF_SCOPE[scope]
    return BreakASceneConfig(weight_phase=WeightPhase(scope=scope, learning_rate=rate), **more)


PRESETS: dict[str, Settings] = {
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
        config=BreakASceneConfig(
            token_phase=TokenPhase(steps=60, learning_rate=5e-3),
            weight_phase=WeightPhase(steps=240, learning_rate=3e-3, scope=Scope.LOW_RANK, rank=2),
            attention_weight=0.1,  # words that start as shapes of one world mix at the paper's 0.01
            # In so few steps it forgets little, and beside class images it would learn little.
            prior_weight=0.0,
            prior_prompt="a photo of an object",
            batch_size=4,
        ),
        class_images=ClassImages(draw=12, steps=12, cfg=3.0),
        told="low-rank with the larger steps that the bundled TinyWorld model wants: minutes on a "
        "laptop's CPU",
    ),
}


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
    config = replace(config, token_phase=tokens, weight_phase=weights, seed=seed, **given)
    return Settings(
        config=config,
        loop=replace(loop, preview_every=preview_every),
        class_images=class_images,
        told=base.told,
    )


def _knobs(preset: Settings) -> Iterator[io.Input]:
    """Widgets of one preset, the ones that most people turn first."""
    yield from _phases(preset.config)
    yield io.Float.Input(
        "attention_weight",
        default=preset.config.attention_weight,
        min=0.0,
        max=10.0,
        step=0.001,
        optional=True,
        tooltip="How hard each name's attention is pulled onto its own mask. 0 does not look at "
        "it: faster, and the names mix. Much above 0.1 shape suffers.",
    )
    yield from _prior(preset)
    yield from _expert(preset)


def _phases(config: BreakASceneConfig) -> Iterator[io.Input]:
    tokens, weights = config.token_phase, config.weight_phase
    yield _steps("token_steps", tokens.steps, "Steps of phase 1, in which only the names learn.")
    yield _rate(
        "token_rate",
        tokens.learning_rate,
        "How far the names move in a step. Lower takes longer; too high and they wander off.",
    )
    if weights.scope is Scope.HANDLES:
        return
    yield _steps(
        "weight_steps",
        weights.steps,
        "Steps of phase 2, in which weights of the model learn too. 0 leaves the model as it is; "
        "many steps give likeness but forget the rest.",
    )
    yield _rate(
        "weight_rate",
        weights.learning_rate,
        "How far weights move in a step. Too low: no likeness. Too high: everything looks like "
        "the training picture, or the loss explodes and the run stops at the last good state.",
    )
    if weights.scope is Scope.LOW_RANK:
        yield io.Int.Input(
            "rank",
            default=weights.rank,
            min=1,
            max=512,
            optional=True,
            tooltip="How much each layer can learn. 1 is a very small file, 64 and more costs "
            "memory and seldom helps.",
        )


def _prior(preset: Settings) -> Iterator[io.Input]:
    config, pictures = preset.config, preset.class_images
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


def _expert(preset: Settings) -> Iterator[io.Input]:
    config, loop = preset.config, preset.loop
    yield io.Int.Input(
        "resolution_px",
        default=config.resolution_px,
        min=0,
        max=4096,
        step=8,
        optional=True,
        tooltip="Learn at the size of a square of this side; the aspect stays. 0 keeps the "
        "pictures' size. Smaller is faster and needs less memory, and loses detail.",
    )
    yield io.Boolean.Input(
        "checkpointing",
        default=config.checkpointing,
        optional=True,
        tooltip="On: much less memory and about a third more time. Off: faster.",
    )
    yield io.Int.Input(
        "batch_size",
        default=config.batch_size,
        min=1,
        max=64,
        optional=True,
        advanced=True,
        tooltip="Pictures in a forward pass. More are steadier and need more memory.",
    )
    yield io.Int.Input(
        "accumulation",
        default=config.accumulation,
        min=1,
        max=64,
        optional=True,
        advanced=True,
        tooltip="Forward passes in a step. More are steadier and take longer, with no more memory.",
    )
    yield io.Float.Input(
        "flip",
        default=config.flip,
        min=0.0,
        max=1.0,
        step=0.05,
        optional=True,
        advanced=True,
        tooltip="Chance that a step sees picture and masks mirrored. 0 for things with writing or "
        "a left and a right, 1 mirrors always.",
    )
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
    yield io.Float.Input(
        "clip",
        default=loop.clip,
        min=0.0,
        max=100.0,
        step=0.1,
        optional=True,
        advanced=True,
        tooltip="Longest step that gradients may ask for. 0 lets them; small is careful and slow.",
    )
    yield io.Float.Input(
        "weight_decay",
        default=loop.weight_decay,
        min=0.0,
        max=1.0,
        step=0.001,
        optional=True,
        advanced=True,
        tooltip="How strongly everything learned is drawn back to zero. 0 not at all.",
    )
    yield io.Int.Input(
        "save_every",
        default=loop.save_every,
        min=0,
        max=100_000,
        optional=True,
        advanced=True,
        tooltip="Steps between saved states, from which a crashed run goes on. 0 saves only at the "
        "end and when you cancel.",
    )


def _steps(name: str, default: int, tooltip: str) -> io.Input:
    return io.Int.Input(name, default=default, min=0, max=100_000, optional=True, tooltip=tooltip)


def _rate(name: str, default: float, tooltip: str) -> io.Input:
    return io.Float.Input(
        name,
        default=default,
        min=SMALLEST_RATE,
        max=1.0,
        step=SMALLEST_RATE,
        round=False,
        optional=True,
        tooltip=tooltip,
    )
