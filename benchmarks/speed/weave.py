"""Concept Weaver's cost: N concepts in one pass, a plain step, score mixing.

Every step injects the same features, so only the fusing is compared.
"""

from __future__ import annotations

import argparse

import torch
from harness.results import Claim, Result, bound
from harness.subject import Options

from conceptloom.attention.fusion import RegionFusion, RegionSource
from conceptloom.attention.regions import with_background
from conceptloom.concepts.concept import Diff
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.methods.concept_weaver import (
    InversionConfig,
    Template,
    WeaveConfig,
    make_template,
)
from conceptloom.methods.concept_weaver.features import feature_cost
from conceptloom.methods.concept_weaver.weave import host_injection
from conceptloom.samplers.sigmas import guided_output_at, output_at
from conceptloom.training.adapters import Scope, scope_weight_names

from .turns import Promise, Steps, Turns, add_options, compare

COUNTS = (1, 2, 4)
STEPS = 4  # of the template that is timed; every step costs the same
SENTENCE = "a photo of a mug and a cat"
INVERSION = InversionConfig(refinements=0)


def sources_of(host: DiffusersHost, count: int) -> list[RegionSource]:
    """Concepts that change every K and V, and the base model's background."""
    names = scope_weight_names(host.weight_names(), Scope.CROSS_ATTENTION_KV)
    prompt = host.encode_prompt("a photo of a mug and a cat")
    found = []
    for i in range(count):
        generator = torch.Generator().manual_seed(i)
        changes = {
            name: Diff(0.01 * torch.randn(host.weight(name).shape, generator=generator))
            for name in names
        }
        found.append(RegionSource(prompt.context, changes))
    return [*found, RegionSource(prompt.context)]


def stripes(count: int, side: int) -> torch.Tensor:
    """Regions side by side over the middle half of the picture."""
    masks = torch.zeros(count, side, side)
    for i in range(count):
        masks[i, side // 4 : -side // 4, i * side // count : (i + 1) * side // count] = 1
    return with_background(masks)


def template_of(host: DiffusersHost, side: int) -> Template:
    """Of a random picture."""
    pixels = side * host.pixels_per_latent
    image = torch.rand(1, pixels, pixels, 3, generator=torch.Generator().manual_seed(0))
    return make_template(host, image, SENTENCE, host.noise_path.levels(STEPS), INVERSION)


@torch.no_grad()
def steps_of(host: DiffusersHost, side: int, options: Options) -> Steps:
    """A step of every variant."""
    for network in (host.unet, host.vae, *(encoder.model for encoder in host._encoders)):
        network.eval().requires_grad_(False)
    template = template_of(host, side)
    injection = host_injection(host, template, WeaveConfig())
    base, negative = host.encode_prompt(SENTENCE), host.encode_prompt("")
    point, sigma = template.trajectory[:1].to(host.device), float(template.sigmas[0])

    @torch.no_grad()
    def guided(*edits: object) -> None:
        guided_output_at(host, point, sigma, base, negative, 7.5, [injection, *edits])

    found: dict[str, object] = {"plain step": guided}
    for count in COUNTS:
        fusion = RegionFusion(sources_of(host, count), stripes(count, side), 0.2)
        found[f"{count} concepts"] = lambda f=fusion: guided(f)
    everywhere = torch.ones(1, side, side)
    models = [RegionFusion([source], everywhere) for source in sources_of(host, 2)]

    @torch.no_grad()
    def mixing() -> None:
        for model in models:
            output_at(host, point, sigma, [base], [injection, model])
        output_at(host, point, sigma, [negative], [injection], [False])

    found["2 concepts, score mixing"] = mixing
    return found


def cache(host: DiffusersHost, side: int, options: Options) -> tuple[str, list[Claim]]:
    """Whether the cache of features has the size that is reported before."""
    template = template_of(host, side)
    size = (template.trajectory.shape[-2], template.trajectory.shape[-1])
    reported = feature_cost(host, template.blocks, size, INVERSION, STEPS)
    kept = template.feature_bytes()
    told = f"Cache of features: {reported:,} bytes reported before, {kept:,} bytes kept."
    ratio = kept / reported
    return told, [bound("The cache of features is as large as reported", ratio, at_most=1.0)]


TURNS = Turns(
    make=steps_of,
    models=("35m",),
    promises=[
        Promise(
            says=f"A step with {n} concept(s): at most {1 + 0.1 * (n + 1):.1f} of a plain one",
            variant=f"{n} concepts",
            at_most=1 + 0.1 * (n + 1),
        )
        for n in COUNTS
    ],
    about=(
        "Every step has two rows (with and without prompt) and injects the same features. The "
        "variants take turns; medians, the ratio is the median of the ratios within a round.",
    ),
    notes="Score mixing takes N + 1 passes of one row and one for the negative prompt, where a "
    "plain step has two rows: (N + 2) / 2 plain steps, or N + 1 without guidance.",
    after=cache,
)


def arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, rounds=7)


def run(options: Options) -> Result:
    """Measure every model."""
    return compare(TURNS, options)
