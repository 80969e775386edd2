"""Settings of a training run: a preset, and what the user wants otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from typing import Any

from ..errors import ConfigError
from ..methods.break_a_scene import BreakASceneConfig, ClassImages
from ..methods.clic import (
    OFFICIAL,
    OFFICIAL_LOOP,
    PAPER_LOOP,
    CLiCConfig,
    Form,
    as_custom_diffusion,
)
from ..methods.concept_weaver import BankConfig
from ..tinyworld import presets as tinyworld
from ..training.adapters import Scope
from ..training.loop import LoopConfig
from ..training.phases import RATE_OF_SCOPE
from ..training.previews import PreviewConfig


class Method(str, Enum):
    """How a scene is learned; the names are those of the command line."""

    BREAK_A_SCENE = "break-a-scene"  # objects, kept apart
    CLIC = "clic"  # a detail of an object, in its context, as the paper has it
    CLIC_OFFICIAL = "clic-official"  # the same as the authors' code computes it
    CUSTOM_DIFFUSION = "custom-diffusion"  # the plain loss on whole pictures
    CONCEPT_WEAVER = "concept-weaver"  # objects for the bank, to be woven later


class Preset(str, Enum):
    """Where the numbers start."""

    OFFICIAL = "official"  # the authors' own, for Stable Diffusion
    TINYWORLD = "tinyworld"  # for the bundled model: larger rates, fewer steps


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """All that a run needs besides the model and the scene."""

    config: BreakASceneConfig | CLiCConfig | BankConfig = field(default_factory=BreakASceneConfig)
    class_images: ClassImages = field(default_factory=ClassImages)
    loop: LoopConfig = field(default_factory=LoopConfig)
    previews: PreviewConfig = field(default_factory=PreviewConfig)


_CLIC = {
    Method.CLIC: (CLiCConfig(), PAPER_LOOP),
    Method.CLIC_OFFICIAL: (OFFICIAL, OFFICIAL_LOOP),
    Method.CUSTOM_DIFFUSION: (as_custom_diffusion(CLiCConfig()), PAPER_LOOP),
}


def _tiny(config: BreakASceneConfig | CLiCConfig | BankConfig, base: Settings) -> Settings:
    """Settings for the bundled model, whose runs are short."""
    return replace(
        base,
        config=config,
        loop=replace(base.loop, save_every=50),
        previews=PreviewConfig(cfg=tinyworld.CFG),
    )


TINYWORLD = _tiny(tinyworld.BREAK_A_SCENE, Settings(class_images=tinyworld.CLASS_IMAGES))
_RATES = {Preset.OFFICIAL: RATE_OF_SCOPE, Preset.TINYWORLD: tinyworld.RATE_OF_SCOPE}


def _start(preset: Preset, method: Method) -> Settings:
    """Where the numbers of a method start."""
    is_tiny = preset is Preset.TINYWORLD
    if method is Method.BREAK_A_SCENE:
        return TINYWORLD if is_tiny else Settings()
    if method is Method.CONCEPT_WEAVER:
        bank = Settings(config=BankConfig())
        return _tiny(tinyworld.BANK, bank) if is_tiny else bank
    config, loop = _CLIC[method]
    official = Settings(config=config, loop=loop)
    return _tiny(tinyworld.clic(config), official) if is_tiny else official


def settings_of(
    preset: Preset,
    wanted: Mapping[str, Any] | None = None,
    method: Method = Method.BREAK_A_SCENE,
) -> Settings:
    """A preset with other values; None among them means "as the preset has it".

    Args:
        wanted: fields of the method's config by their names; those of its phases as
            token_steps, token_rate, weight_steps, weight_rate, scope and rank; class_draw,
            class_steps and class_cfg; preview_prompts, preview_steps, preview_cfg and preview_seed;
            and fields of `LoopConfig`. A scope without a rate gets the preset's rate for it.

    Raises:
        ConfigError: a value makes no sense, or there is no such setting.
    """
    base, rates = _start(preset, method), _RATES[preset]
    given = {name: value for name, value in (wanted or {}).items() if value is not None}
    if "scope" in given and "weight_rate" not in given:
        scope = Scope(given["scope"])
        if scope not in rates:
            raise ConfigError("scope", given["scope"], f"one that {method.value} trains")
        given["weight_rate"] = rates[scope]
    token = _taken(given, token_steps="steps", token_rate="learning_rate")
    weight = _taken(
        given, weight_steps="steps", weight_rate="learning_rate", scope="scope", rank="rank"
    )
    class_images = _taken(given, class_draw="draw", class_steps="steps", class_cfg="cfg")
    previews = _taken(
        given,
        preview_prompts="prompts",
        preview_steps="steps",
        preview_cfg="cfg",
        preview_seed="seed",
    )
    own = {f.name for f in fields(base.config)}
    config = {name: given.pop(name) for name in list(given) if name in own}
    config |= {name: _form(name, config[name]) for name in _FORMS if name in config}
    if unknown := set(given) - {f.name for f in fields(LoopConfig)}:
        raise ConfigError("setting", sorted(unknown)[0], f"one that {method.value} has")
    return Settings(
        config=replace(
            base.config,
            token_phase=replace(base.config.token_phase, **token),
            weight_phase=replace(base.config.weight_phase, **weight),
            **config,
        ),
        class_images=_class_images(base, class_images, method),
        loop=replace(base.loop, **given),
        previews=replace(base.previews, **previews),
    )


_FORMS = ("context_form", "roi_form")


def _form(name: str, value: str) -> Form:
    try:
        return Form(value)
    except ValueError:
        raise ConfigError(name, value, "paper or official") from None


def _class_images(base: Settings, wanted: Mapping[str, Any], method: Method) -> ClassImages:
    if wanted and method is not Method.BREAK_A_SCENE:
        raise ConfigError("setting", f"class_{next(iter(wanted))}", f"one that {method.value} has")
    return replace(base.class_images, **wanted)


def _taken(given: dict[str, Any], **names: str) -> dict[str, Any]:
    """Settings of one dataclass, out of all: the user's name -> the field's."""
    return {names[name]: given.pop(name) for name in list(given) if name in names}
