"""Time of a ConceptLab step: constraints and the empty prompt encoded once, or at every step as in
the official code. `python benchmarks/conceptlab_step.py [--quick]`

The prior has TinyWorld's sizes and random weights, which cost what trained ones do; a large prior
spends more of a step in itself, so run it with --prior FOLDER for figures of that one.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from conceptloom.host.diffusers import DiffusersHost
from conceptloom.methods.conceptlab import ConceptLab, ConceptLabConfig, NegativesConfig, Studio
from conceptloom.methods.conceptlab.album import Album
from conceptloom.tinyworld.prior import SENTENCES, build_prior
from conceptloom.training.loop import step_generator
from conceptloom.vision.ports import PriorSampling
from conceptloom.vision.prior_files import load_prior, prior_on_host

NEGATIVES = ("circle", "square", "triangle", "star", "ring", "cross")


def seconds(space: object, steps: int, *, cached: bool) -> float:
    config = ConceptLabConfig(
        positives=("object",),
        negatives=NegativesConfig(start=NEGATIVES, every=0),
        templates=SENTENCES,
        sampling=PriorSampling(checkpointing=False),
    )
    recipe = ConceptLab(space, "new", config, Studio(Album({}, None)), {})  # type: ignore[arg-type]
    phase = recipe.phases()[0]
    with recipe.computing(phase):
        for step in range(-len(SENTENCES) * 3, steps):
            if step == 0:
                began = time.perf_counter()
            if not cached:
                recipe._known.clear()
                space._fixed.clear()  # type: ignore[attr-defined]
            sum(recipe.losses(phase, step_generator(0, abs(step))).values()).backward()
    return (time.perf_counter() - began) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--prior", type=Path, help="a folder as diffusers saves it")
    given = parser.parse_args()
    if given.prior:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        space = load_prior(given.prior, device, torch.float32)
    else:
        tiny = build_prior()
        for network in (tiny.prior, tiny.vision):
            network.eval().requires_grad_(False)
        space = prior_on_host(
            DiffusersHost.tinyworld(),
            prior=tiny.prior,
            vision=tiny.vision,
            projection=tiny.projection,
            scheduler=tiny.scheduler,
        )
    steps = 8 if given.quick else 100
    anew = seconds(space, steps, cached=False)
    once = seconds(space, steps, cached=True)
    print(f"encoded anew {anew * 1e3:.1f} ms a step, once {once * 1e3:.1f} ms: {anew / once:.2f}x")


if __name__ == "__main__":
    main()
