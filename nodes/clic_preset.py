"""Presets of CLiC, and the widgets that each of them shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from comfy_api.latest import io

from ..methods.clic import (
    OFFICIAL,
    OFFICIAL_LOOP,
    PAPER_LOOP,
    CLiCConfig,
    Form,
    as_custom_diffusion,
)
from ..tinyworld import presets as tinyworld
from ..training.adapters import Scope
from ..training.phases import RATE_OF_SCOPE, WeightPhase
from ..training.recipe import LoopConfig
from .knobs import loop_knobs, phase_knobs, size_knobs, weight
from .settings import Settings
from .shared import lines_of


def _scoped(scope: Scope, **more: Any) -> CLiCConfig:
    rate = RATE_OF_SCOPE[scope]
    return CLiCConfig(weight_phase=WeightPhase(steps=500, scope=scope, learning_rate=rate), **more)


CLIC: dict[str, Settings] = {
    "CLiC": Settings(
        config=CLiCConfig(),
        loop=PAPER_LOOP,
        told="a detail of an object in its context, by the paper: one name and cross-attention, 44 "
        "million numbers of SD 1.5",
    ),
    "CLiC official": Settings(
        config=OFFICIAL, loop=OFFICIAL_LOOP, told="the same as the authors' code computes it"
    ),
    "CLiC low-rank": Settings(
        config=_scoped(Scope.LOW_RANK, checkpointing=True),
        loop=PAPER_LOOP,
        told="the same with low-rank changes of all linear layers: for SDXL, and small files",
    ),
    "Custom Diffusion": Settings(
        config=as_custom_diffusion(_scoped(Scope.CROSS_ATTENTION_KV)),
        loop=PAPER_LOOP,
        told="the plain loss on whole pictures, keys and values of cross-attention",
    ),
    "TinyWorld CLiC quick": Settings(
        config=tinyworld.clic(CLiCConfig()),
        loop=PAPER_LOOP,
        told="CLiC with the larger steps that the bundled TinyWorld model wants: minutes on a "
        "laptop's CPU",
    ),
}
_FORMS = ("context_form", "roi_form")


def clic_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """What the widgets say, as `CLiCConfig` takes it."""
    values = dict(given)
    for name in _FORMS:
        if name in values:
            values[name] = Form(values[name])
    if "roi_prompts" in values:
        values["roi_prompts"] = lines_of(values["roi_prompts"])
    return values


def clic_knobs(config: CLiCConfig, loop: LoopConfig) -> Iterator[io.Input]:
    """Widgets of one preset, the ones that most people turn first."""
    yield io.String.Input(
        "object_word",
        default=config.object_word,
        optional=True,
        tooltip="What carries the detail in your pictures: chair, bench, ring. A plain word that "
        "the model knows; the detail learns to stand on other objects beside it.",
    )
    yield from phase_knobs(config.token_phase, config.weight_phase)
    yield from _weights(config)
    yield from _forms(config)
    yield from _copies(config)
    yield from size_knobs(config)
    yield from loop_knobs(loop)


def _weights(config: CLiCConfig) -> Iterator[io.Input]:
    yield weight(
        "context_weight",
        config.context_weight,
        "How hard the detail is learned where it is, on its object. 0 leaves it out: its shape "
        "suffers.",
    )
    yield weight(
        "attention_weight",
        config.attention_weight,
        "How hard the name's attention is pulled onto the mask. 0 does not look at it: faster, and "
        "the detail spreads over the object.",
    )
    yield weight(
        "roi_weight",
        config.roi_weight,
        "How hard the region alone is learned, cut out of its picture. 0 halves the work of a "
        "step, and likeness suffers; much above 1 the detail forgets where it belongs.",
    )
    yield io.Float.Input(
        "background_weight",
        default=config.background_weight,
        min=0.0,
        max=1.0,
        step=0.05,
        optional=True,
        tooltip="Weight of what lies around the mask (alpha). 0 does not see it, 1 counts it like "
        "the detail itself; 0.5 as in the paper learns the detail on its object.",
    )


def _forms(config: CLiCConfig) -> Iterator[io.Input]:
    yield io.String.Input(
        "prompt",
        default=config.prompt,
        optional=True,
        advanced=True,
        tooltip="The prompt while learning; {object} and {concept} stand for the two. Use the name "
        "in prompts like it.",
    )
    yield io.String.Input(
        "roi_prompts",
        default="\n".join(config.roi_prompts),
        multiline=True,
        optional=True,
        advanced=True,
        tooltip="Prompts for the region alone, one per line, one of them by chance in a step.",
    )
    for name, told in (
        ("context_form", "the weight inside the square, mean over all; official: by area"),
        ("roi_form", "the region of the noisy latents; official: on blank pixels, loss inside"),
    ):
        yield io.Combo.Input(
            name,
            options=[form.value for form in Form],
            default=getattr(config, name).value,
            optional=True,
            advanced=True,
            tooltip=f"Where paper and authors' code differ. paper: {told}.",
        )
    yield io.Combo.Input(
        "attention_level",
        options=[1, 2, 4, 8],
        default=config.attention_level,
        optional=True,
        advanced=True,
        tooltip="Where attention is compared with the mask: latents made this many times smaller. "
        "1 is finest, as in the authors' code; 8 is too coarse for a detail.",
    )
    yield io.Boolean.Input(
        "detach_start",
        default=config.detach_start,
        optional=True,
        advanced=True,
        tooltip="On: what every prompt begins with teaches the model nothing, so other prompts "
        "keep their pictures. Off: it learns along.",
    )


def _copies(config: CLiCConfig) -> Iterator[io.Input]:
    yield io.Float.Input(
        "brightness",
        default=config.brightness,
        min=0.0,
        max=1.0,
        step=0.05,
        optional=True,
        advanced=True,
        tooltip="Pictures are made this much darker or brighter while learning. 0 leaves them as "
        "they are; 0.5 is half to one and a half times as bright. 0 where the colour matters.",
    )
    yield io.Boolean.Input(
        "random_scale",
        default=config.random_scale,
        optional=True,
        advanced=True,
        tooltip="On: pictures also come smaller and larger, and the prompt says so. Off as in the "
        "authors' runs.",
    )
    yield io.Int.Input(
        "views",
        default=config.views,
        min=1,
        max=256,
        optional=True,
        advanced=True,
        tooltip="How many altered copies of each picture are made before the first step. 1 is one "
        "brightness; many vary more and take a little longer to start.",
    )
