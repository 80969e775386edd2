"""Blended sampling's and guidance's cost beside plain sampling, a short sampling run each."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

import torch
from harness.results import Result
from harness.subject import Options

from conceptloom.attention.capture import word_positions
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.ports import Place
from conceptloom.samplers.blended import BlendConfig
from conceptloom.samplers.ddim import sample_ddim, seeded_noise
from conceptloom.samplers.editing import EditConfig, Region, edit_latents
from conceptloom.samplers.guidance import GuidanceConfig
from conceptloom.samplers.masks import latent_masks

from .official import OfficialTransfer
from .turns import Promise, Steps, Turns, add_options, compare

PROMPT, WORD = "a photo of a mug", "mug"
TITLES = {
    "plain": "plain DDIM",
    "blended": "blended, eta 1, soft mask",
    "guided": "blended and guided in every step, all maps",
    "guided at level 4": "the same, maps of level 4 alone",
    "official": "guided in every step, the official way",
}
NOTE = """\
*The official way*: both rows of classifier-free guidance through the whole UNet, every attention in
full, the gradient back from there; without what its program computes in vain, gradients of the
weights, and without the picture that it decodes at every step. Ours passes the prompt's row alone,
as far as the last map that is read.
"""


def steps_of(host: DiffusersHost, side: int, options: Options) -> Steps:
    """A sampling run of every variant, on the same prompts and sizes."""
    pixels = side * host.pixels_per_latent
    noise = seeded_noise(host, 0, 1, (pixels, pixels))
    source = 0.5 * seeded_noise(host, 1, 1, (pixels, pixels)).to(host.device)
    with torch.no_grad():
        prompt, negative = host.encode_prompt(PROMPT), host.encode_prompt("")
    mask = torch.zeros(pixels, pixels)
    mask[pixels // 4 : pixels // 2, pixels // 4 : pixels // 2] = 1
    region = Region(prompt, mask, (WORD,))
    blended = EditConfig(steps=options.steps, cfg=options.cfg, blend=BlendConfig(start=0))
    guidance = GuidanceConfig(steps=options.steps)

    def plain() -> object:
        return sample_ddim(host, [prompt], negative, noise, steps=options.steps, cfg=options.cfg)

    def edit(guided: GuidanceConfig | None) -> Callable[[], object]:
        config = blended if guided is None else replace(blended, guidance=guided)
        return lambda: edit_latents(host, source, [region], negative, config)

    runs = {"plain": plain, "blended": edit(None), "guided": edit(guidance)}
    if host.sites.at_downsample(4, [Place.UP]):
        runs["guided at level 4"] = edit(replace(guidance, downsample=4))
    token, *_ = word_positions(host, prompt, WORD)
    official = OfficialTransfer(host, prompt, negative, token, options.cfg)
    on_grid = latent_masks(mask[None], (source.shape[-2], source.shape[-1])).to(host.device)
    runs["official"] = lambda: official.run(source, on_grid, options.steps)
    return runs


TURNS = Turns(
    make=steps_of,
    models=("tiny",),
    promises=(
        Promise(
            says="Blended sampling without guidance: at most 1.03 of plain sampling",
            variant="blended",
            at_most=1.03,
        ),
        Promise(says="A guided step: at most 3 plain ones", variant="guided", at_most=3.0),
    ),
    about=(
        "Short sampling runs take turns; seconds are of one step. Ratios are medians of the ratios "
        "within a round, by processor time on the CPU and by wall time on a GPU.",
    ),
    notes=NOTE,
    titles=TITLES,
    per_step=lambda options: options.steps,
)


def arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, rounds=7)
    parser.add_argument("--steps", type=int, default=4, help="sampling steps of each run")
    parser.add_argument("--cfg", type=float, default=7.5, help="1 asks for one row a picture")


def run(options: Options) -> Result:
    """Measure every model."""
    if options.quick:
        options.steps = 1
    return compare(TURNS, options)
