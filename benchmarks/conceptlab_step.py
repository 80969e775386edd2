"""Time of a ConceptLab step: constraints and the empty prompt encoded once, or at every step as in
the official code.

    python benchmarks/conceptlab_step.py [--quick]
    python benchmarks/conceptlab_step.py --preset sd15 --device cuda --dtype bf16
    python benchmarks/conceptlab_step.py --prior kandinsky-2-1-prior --device cuda --dtype bf16

The prior has random weights, which cost what trained ones do: TinyWorld's sizes on its text
encoder, Kandinsky 2.1's on that of Stable Diffusion 1 (a preset or a checkpoint), or it is a real
one from a folder. The larger, the more of a step it spends in itself.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from base_model import DTYPES, add_model_options, open_model
from measuring import settle
from random_prior import NEGATIVES, kandinsky_space

from conceptloom.cli.models import TINYWORLD
from conceptloom.methods.conceptlab import ConceptLab, ConceptLabConfig, NegativesConfig, Studio
from conceptloom.methods.conceptlab.album import Album
from conceptloom.tinyworld.prior import SENTENCES, build_prior
from conceptloom.training.loop import step_generator
from conceptloom.vision.ports import PriorSampling
from conceptloom.vision.prior import DiffusionPrior
from conceptloom.vision.prior_files import load_prior, prior_on_host


def seconds(space: DiffusionPrior, steps: int, *, cached: bool) -> float:
    config = ConceptLabConfig(
        positives=("object",),
        negatives=NegativesConfig(start=NEGATIVES, every=0),
        templates=SENTENCES,
        sampling=PriorSampling(checkpointing=False),
    )
    recipe = ConceptLab(space, "new", config, Studio(Album({}, None)), {})
    phase = recipe.phases()[0]
    with recipe.computing(phase):
        for step in range(-len(SENTENCES) * 3, steps):
            if step == 0:
                settle(space.device.type)
                began = time.perf_counter()
            if not cached:
                recipe._known.clear()
                space._fixed.clear()
            sum(recipe.losses(phase, step_generator(0, abs(step))).values()).backward()
        settle(space.device.type)
    return (time.perf_counter() - began) / steps


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_model_options(parser, preset=TINYWORLD)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--prior", type=Path, help="a folder as diffusers saves it")
    given = parser.parse_args()
    space = space_of(given)
    steps = 8 if given.quick else 100
    anew = seconds(space, steps, cached=False)
    once = seconds(space, steps, cached=True)
    print(f"encoded anew {anew * 1e3:.1f} ms a step, once {once * 1e3:.1f} ms: {anew / once:.2f}x")


if __name__ == "__main__":
    main()
