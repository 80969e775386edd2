"""LAG's cost: a denoising step with one and with three concepts beside a plain one.

A step is one pass with both prompts (guidance). The target is 1.05 of the plain step with one
concept and 1.15 with three.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from harness.results import Result
from harness.subject import Options

from conceptloom.attention.lag import LagEdit
from conceptloom.attention.lag_config import LagConfig
from conceptloom.attention.lag_plan import LagConcept
from conceptloom.host.ports import Role
from conceptloom.training.adapters import rank_for

from .turns import Promise, Steps, Turns, add_options, compare

WORDS = ("mug", "cat", "beach")
NARROW = (
    "TinyWorld is so narrow that the cost of a hook and of a call of torch counts; wider models "
    "keep the limit"
)


def concepts_of(host: Any, count: int, **config: Any) -> list[LagConcept]:
    generator = torch.Generator().manual_seed(0)

    def factors(width: int) -> tuple[torch.Tensor, torch.Tensor]:
        rank = rank_for(0.05, width)
        pair = (
            torch.randn(width, rank, generator=generator),
            torch.randn(rank, width, generator=generator),
        )
        return 0.01 * pair[0], pair[1]

    return [
        LagConcept(
            handle=f"my-{word}",
            class_tokens=host.tokenize(word),
            residuals={
                site.weight: factors(site.block.width)
                for site in host.sites.layers
                if Role.PROJ_OUT in site.roles
            },
            config=LagConfig(**config),
        )
        for word in WORDS[:count]
    ]


def variants_of(host: Any) -> dict[str, list[LagEdit]]:
    """Name -> edits of a step."""
    return {
        "plain": [],
        "LAG off": [LagEdit(concepts_of(host, 1, localised=False))],
        "one concept": [LagEdit(concepts_of(host, 1))],
        "three concepts": [LagEdit(concepts_of(host, 3))],
    }


def steps_of(host: Any, side: int, options: Options) -> Steps:
    """A step of every variant on the same latents and prompts."""
    handles = {
        f"my-{word}": {name: torch.randn(1, size) for name, size in host.encoders.items()}
        for word in WORDS
    }
    text = "a photo of " + " and ".join(f"<my-{word}> {word}" for word in WORDS)
    with torch.no_grad():
        prompts = [host.encode_prompt(""), host.encode_prompt(text, handles)]
    prompts = [prompt for prompt in prompts for _ in range(options.batch)]
    flags = [False] * options.batch + [True] * options.batch
    shape = (2 * options.batch, host.latent_channels, side, side)
    latent = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(host.device)
    timesteps = torch.full((2 * options.batch,), 500, device=host.device)

    @torch.no_grad()
    def step(edits: list[LagEdit]) -> None:
        host.predict(latent, timesteps, prompts, edits, conditional=flags)

    return {name: lambda e=edits: step(e) for name, edits in variants_of(host).items()}


TURNS = Turns(
    make=steps_of,
    models=("tinyworld", "35m", "sd15@32"),
    promises=(
        Promise(says="LAG off: at most 1.05 of plain sampling", variant="LAG off", at_most=1.05,
                why={"tinyworld": NARROW}),
        Promise(says="LAG, one concept: at most 1.05 of plain sampling", variant="one concept",
                at_most=1.05, why={"tinyworld": NARROW}),
        Promise(says="LAG, three concepts: at most 1.15 of plain sampling",
                variant="three concepts", at_most=1.15, why={"tinyworld": NARROW}),
    ),
    about=(
        "A step is one pass with both prompts. The variants take turns; medians, the ratio is the "
        "median of the ratios within a round; on a CPU its own time. TinyWorld and 35m are so "
        "narrow that the cost of a hook and of a call of torch counts; sd15 has the widths of "
        "Stable Diffusion 1.5.",
    ),
)  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, rounds=41, seconds=40)
    parser.add_argument("--batch", type=int, default=1, help="pictures")


def run(options: Options) -> Result:
    """Measure every model."""
    return compare(TURNS, options)
