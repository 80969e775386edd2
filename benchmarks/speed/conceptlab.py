"""A ConceptLab step: constraints and the empty prompt encoded once, or at every step as in the
official code.

The prior has random weights, which cost what trained ones do: TinyWorld's sizes on its text
encoder, Kandinsky 2.1's on that of Stable Diffusion 1 (a preset or a checkpoint), or it is a real
one from a folder. The larger, the more of a step it spends in itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from harness.interleaved import describe, interleaved, paired_ratio, timed
from harness.models import DTYPES, add_model_options, open_model
from harness.results import Column, Result, Section, Table, bound, stamp
from harness.subject import Options, add_common_options
from torch import nn

from conceptloom.cli.models import TINYWORLD
from conceptloom.host.diffusers import DiffusersHost
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

NEGATIVES = ("circle", "square", "triangle", "star", "ring", "cross")  # about half of what is found


def kandinsky_space(host: DiffusersHost) -> DiffusionPrior:
    """A random prior on a base model's text encoder; of Kandinsky 2.1's size where that is CLIP's.

    (20 layers, 32 heads of 64, embeddings of 768; kandinsky2/configs.py:64-163.)
    """
    from diffusers import PriorTransformer, UnCLIPScheduler

    (width,) = host.encoders.values()
    is_clip = width == 768
    sizes: dict[str, Any] = {"num_attention_heads": 32 if is_clip else 2, "embedding_dim": width}
    torch.manual_seed(0)
    with host.device:
        prior = PriorTransformer(
            attention_head_dim=64 if is_clip else 16, num_layers=20 if is_clip else 2, **sizes
        )
    scheduler = UnCLIPScheduler(
        variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=5.0
    )
    return prior_on_host(
        host,
        prior=prior.to(host.device, host.dtype),
        vision=nn.Identity(),
        projection=torch.eye(width, device=host.device),
        scheduler=scheduler,
    )


def stepper(space: DiffusionPrior, steps: int, *, cached: bool) -> Any:
    """Seconds of a step, after some that do not count."""
    config = ConceptLabConfig(
        positives=("object",),
        negatives=NegativesConfig(start=NEGATIVES, every=0),
        templates=SENTENCES,
        sampling=PriorSampling(checkpointing=False),
    )
    recipe = ConceptLab(space, "new", config, SamplingContext(CheckpointGallery({}, None)), {})
    phase = recipe.phases()[0]

    def step(number: int) -> None:
        if not cached:
            recipe._known.clear()
            space._fixed.clear()
        sum(recipe.losses(phase, step_generator(0, number)).values()).backward()

    def run() -> float:
        with recipe.computing(phase):
            for number in range(len(SENTENCES) * 3 if steps > 1 else 1):
                step(number)
            every = lambda: [step(number) for number in range(steps)]  # noqa: E731
            return timed(every, space.device.type) / steps

    return run


def space_of(given: Options) -> DiffusionPrior:
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


ONCE, ANEW = "encoded once (ours)", "encoded in every step, as in the official code"


def run(options: Options) -> Result:
    """Both ways in turns."""
    torch.set_num_threads(1)  # more of them burn time while they wait for each other
    space = space_of(options)
    steps, rounds = (1, 1) if options.quick else (20, options.rounds)
    runs = {name: stepper(space, steps, cached=name == ONCE) for name in (ONCE, ANEW)}
    times = interleaved(runs, space.device.type, rounds)
    sizes = sum(p.numel() for p in space.prior.parameters()) / 1e6
    name = f"Prior `{options.prior.name}`" if options.prior else "A prior of random weights"
    about = (
        f"{name}, {sizes:.4g} M parameters; {len(NEGATIVES)} negative constraints; {rounds} rounds "
        f"of {steps} steps in turns, on a CPU by its own time."
    )
    rows = [
        {
            "variant": name,
            "ms": 1e3 * describe(taken)["median"],
            "of ours": paired_ratio(taken, times[ONCE]),
        }
        for name, taken in times.items()
    ]
    slower = paired_ratio(times[ANEW], times[ONCE])
    return Result(
        **stamp(options.device, options.dtype, "one CPU thread"), about=[about],
        sections=[Section(table=Table(name="steps", columns=COLUMNS, rows=rows))],
        claims=[bound("Encoding constraints in every step takes at least 1.3 of ours", slower,
                      at_least=1.3)],
    )  # fmt: skip


COLUMNS = (
    Column(key="variant", title="constraints and the empty prompt", is_text=True),
    Column(key="ms", title="ms a step", digits=1),
    Column(key="of ours", title="of ours"),
)


def arguments(parser: argparse.ArgumentParser) -> None:
    add_common_options(parser)
    add_model_options(parser, preset=TINYWORLD)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prior", type=Path, help="a folder as diffusers saves it")
