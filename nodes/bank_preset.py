"""Presets of Concept Weaver's bank, and the widgets that each of them shows."""

from __future__ import annotations

from collections.abc import Iterator

from comfy_api.latest import io

from ..methods.concept_weaver import BankConfig
from ..tinyworld import presets as tinyworld
from ..training.recipe import LoopConfig
from .knobs import loop_knobs, phase_knobs, size_knobs
from .settings import Settings

BANK: dict[str, Settings] = {
    "Concept Weaver": Settings(
        config=BankConfig(),
        told="concepts to be woven later: one name each, keys and values of cross-attention, from "
        "pictures placed at random sizes",
    ),
    "TinyWorld Concept Weaver quick": Settings(
        config=tinyworld.BANK,
        told="the same with the larger steps that the bundled TinyWorld model wants",
    ),
}


def bank_knobs(config: BankConfig, loop: LoopConfig) -> Iterator[io.Input]:
    """Widgets of one preset, the ones that most people turn first."""
    yield from phase_knobs(config.token_phase, config.weight_phase)
    yield io.Float.Input(
        "smallest",
        default=config.smallest,
        min=0.05,
        max=1.0,
        step=0.001,
        round=0.001,
        optional=True,
        tooltip="Pictures come at random sizes down to this share of their side, at random places "
        "on grey. 1 shows them as they are: the concept then fits regions of its own size only.",
    )
    yield io.String.Input(
        "prompt",
        default=config.prompt,
        optional=True,
        advanced=True,
        tooltip="The prompt while learning; {handle} and {word} stand for the name and the word "
        "that it starts from. Regions calls the concept the same way.",
    )
    yield io.Int.Input(
        "views",
        default=config.views,
        min=1,
        max=256,
        optional=True,
        advanced=True,
        tooltip="How many copies of each picture are placed before the first step. 1 is one size "
        "and place; many vary more and take a little longer to start.",
    )
    yield from size_knobs(config)
    yield from loop_knobs(loop)
