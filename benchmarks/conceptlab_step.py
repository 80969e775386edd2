"""Time of a ConceptLab step: constraints and the empty prompt encoded once, or at every step as in
the official code.

    python benchmarks/conceptlab_step.py [--quick]
    python benchmarks/conceptlab_step.py --preset sd15 --device cuda --dtype bf16
    python benchmarks/conceptlab_step.py --prior kandinsky-2-1-prior --device cuda --dtype bf16

The prior has random weights, which cost what trained ones do: TinyWorld's sizes on its text
encoder, Kandinsky 2.1's on that of Stable Diffusion 1 (a preset or a checkpoint), or it is a real
one from a folder. The larger, the more of a step it spends in itself. Both ways take turns, and
what counts is the median of the ratios within a round.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
from datetime import date
from pathlib import Path

import torch
from base_model import DTYPES, add_model_options, open_model, page_of
from measuring import clock_for, processor, settle, versions
from random_prior import NEGATIVES, kandinsky_space

from conceptloom.cli.models import TINYWORLD
from conceptloom.methods.conceptlab import (
    ConceptLab,
    ConceptLabConfig,
    NegativesConfig,
    SamplingContext,
)
from conceptloom.methods.conceptlab.checkpoint_gallery import CheckpointGallery
from conceptloom.tinyworld.prior import SENTENCES, build_prior
from conceptloom.training.loop import step_generator
from conceptloom.vision.ports import PriorSampling
from conceptloom.vision.prior import DiffusionPrior
from conceptloom.vision.prior_files import load_prior, prior_on_host

PAGE = Path(__file__).resolve().parent.parent / "docs" / "results" / "conceptlab_step.md"
ROUNDS = 5


def seconds(space: DiffusionPrior, steps: int, *, cached: bool) -> float:
    """Of a step, after some that do not count."""
    clock = clock_for(space.device.type)
    config = ConceptLabConfig(
        positives=("object",),
        negatives=NegativesConfig(start=NEGATIVES, every=0),
        templates=SENTENCES,
        sampling=PriorSampling(checkpointing=False),
    )
    recipe = ConceptLab(space, "new", config, SamplingContext(CheckpointGallery({}, None)), {})
    phase = recipe.phases()[0]
    with recipe.computing(phase):
        for step in range(-len(SENTENCES) * 3, steps):
            if step == 0:
                settle(space.device.type)
                began = clock()
            if not cached:
                recipe._known.clear()
                space._fixed.clear()
            sum(recipe.losses(phase, step_generator(0, abs(step))).values()).backward()
        settle(space.device.type)
    return (clock() - began) / steps


def space_of(given: argparse.Namespace) -> DiffusionPrior:
    """The prior that was asked for."""
    if given.prior:
        return load_prior(given.prior, torch.device(given.device), DTYPES[given.dtype])
    host = open_model(given)
    if given.checkpoint or given.preset != TINYWORLD:
        return kandinsky_space(host)
    tiny = build_prior()
    for network in (tiny.prior, tiny.vision):
        network.to(host.device, host.dtype).eval().requires_grad_(False)
    return prior_on_host(
        host,
        prior=tiny.prior,
        vision=tiny.vision,
        projection=tiny.projection.to(host.device),
        scheduler=tiny.scheduler,
    )


def page(rows: list[tuple[float, float]], prior: str, steps: int, device: str) -> str:
    """`rows` are seconds (encoded anew, encoded once) of every round."""
    anew, once = (statistics.median(row[i] for row in rows) for i in range(2))
    faster = statistics.median(before / after for before, after in rows)
    return "\n".join(
        [
            "# A step of ConceptLab",
            "",
            f"    {shlex.join(['python', 'benchmarks/conceptlab_step.py', *sys.argv[1:]])}",
            "",
            f"{date.today()}, {processor(device)}, {versions()}. {prior}; {len(NEGATIVES)} "
            f"negative constraints; {len(rows)} rounds of {steps} steps in turns, on a CPU by its "
            "own time.",
            "",
            "| constraints and the empty prompt | ms a step | of ours |",
            "|---|--:|--:|",
            f"| encoded once (ours) | {once * 1e3:.1f} | 1.00 |",
            f"| encoded in every step, as in the official code | {anew * 1e3:.1f} | {faster:.2f} |",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_model_options(parser, preset=TINYWORLD)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--prior", type=Path, help="a folder as diffusers saves it")
    parser.add_argument("--out", type=Path, help=f"by default {PAGE.name} for TinyWorld's prior")
    given = parser.parse_args()
    torch.set_num_threads(1)  # more of them burn time while they wait for each other
    space = space_of(given)
    steps = 2 if given.quick else 20
    rows = [
        (seconds(space, steps, cached=False), seconds(space, steps, cached=True))
        for _ in range(ROUNDS)
    ]
    sizes = sum(p.numel() for p in space.prior.parameters()) / 1e6
    told = f"Prior `{given.prior.name}`" if given.prior else "A prior of random weights"
    text = page(rows, f"{told}, {sizes:.4g} M parameters, {given.dtype}", steps, given.device)
    print(text)
    if target := given.out or (None if given.prior else page_of(given, None, PAGE, TINYWORLD)):
        target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
