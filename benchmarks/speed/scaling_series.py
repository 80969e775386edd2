"""What `speed scaling` measures: one thing each, at growing sizes, everything else the same.

A series makes ready for one of its values and gives back what makes `n` timed steps of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch
from harness.machine import clock_for, settle

from conceptloom.attention.fusion import RegionFusion
from conceptloom.attention.lag import LagEdit
from conceptloom.attention.lag_plan import LagConcept
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.ports import UNetEdit
from conceptloom.methods.break_a_scene import (
    BreakAScene,
    BreakASceneConfig,
    TokenPhase,
    WeightPhase,
)
from conceptloom.methods.concept_weaver import InversionConfig, WeaveConfig, make_template
from conceptloom.methods.concept_weaver.weave import host_injection
from conceptloom.methods.personalized_residuals import PersonalizedResidualsConfig
from conceptloom.methods.personalized_residuals.dataset import make_dataset
from conceptloom.methods.personalized_residuals.recipe import PersonalizedResiduals
from conceptloom.samplers.blended import BlendConfig
from conceptloom.samplers.editing import EditConfig, Region, edit_latents
from conceptloom.samplers.sigmas import guided_output_at
from conceptloom.scenes.scene import make_scene
from conceptloom.training.loop import run
from conceptloom.training.recipe import Events, LoopConfig, Recipe

from .lag import concepts_of
from .weave import sources_of, stripes

WORDS = ("mug", "cat", "beach", "photo", "the")
SENTENCE = "a photo of a mug and a cat"
CFG, LATENT = 7.5, 24  # cells a side, where the size itself does not grow
Steps = Callable[[int], Iterator[float]]


@dataclass(frozen=True, slots=True)
class Series:
    """One table."""

    title: str
    axis: str
    values: tuple[int, ...]
    make: Callable[[DiffusersHost, int], Steps]
    remark: str = ""


# ---------------------------------------------------------------- clocks


def calls(host: DiffusersHost, step: Callable[[], object], per_call: int = 1) -> Steps:
    """Seconds of every call without gradients, shared out on the steps that it makes.

    One call before them does not count: it fills what is computed once for a run.
    """
    device = host.device.type
    clock = clock_for(device)

    def measured(count: int) -> Iterator[float]:
        for number in range(count + 1):
            began = clock()
            with torch.no_grad():
                step()
            settle(device)
            if number:
                yield (clock() - began) / per_call

    return measured


def training(host: DiffusersHost, recipe_for: Callable[[int], Recipe]) -> Steps:
    """Seconds of every step of our loop; the optimizer's state is made in one before them."""
    clock, device = clock_for(host.device.type), host.device.type

    def measured(count: int) -> Iterator[float]:
        times: list[float] = []

        def on_step(row: dict[str, float]) -> None:
            settle(device)
            times.append(clock())

        run(recipe_for(count + 1), LoopConfig(save_every=0), Events(on_step=on_step))
        yield from (after - before for before, after in pairwise(times))

    return measured


# ---------------------------------------------------------------- training


def pictures(host: DiffusersHost, latent: int, count: int = 1) -> list[torch.Tensor]:
    side = latent * host.pixels_per_latent
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(side, side, 3, generator=generator) for _ in range(count)]


def break_a_scene(host: DiffusersHost, concepts: int, latent: int) -> Steps:
    """All weights, one picture and one class picture a step."""
    image, class_image = pictures(host, latent, 2)
    names = [f"my-{word}" for word in WORDS[:concepts]]
    masks = stripes(concepts, image.shape[0])[:-1]
    named = {name: [mask] for name, mask in zip(names, masks, strict=True)}
    scene = make_scene([image], named, dict(zip(names, WORDS, strict=False)))

    def recipe(steps: int) -> BreakAScene:
        config = BreakASceneConfig(
            token_phase=TokenPhase(steps=0), weight_phase=WeightPhase(steps=steps)
        )
        made = BreakAScene(host, scene, config)
        made.class_latents = host.encode_image(class_image[None])
        return made

    return training(host, recipe)


def residuals(host: DiffusersHost, batch: int) -> Steps:
    config = PersonalizedResidualsConfig(batch_size=batch)
    lesson = make_dataset(pictures(host, LATENT, batch), "my-mug", "mug", prompt=config.prompt)

    def recipe(steps: int) -> PersonalizedResiduals:
        return PersonalizedResiduals(host, lesson, replace(config, steps=steps))

    return training(host, recipe)


# ---------------------------------------------------------------- sampling


def guided(host: DiffusersHost, latent: int, text: str, *edits: UNetEdit, **handles: object):
    """A sampling step of two rows, with and without prompt."""
    with torch.no_grad():
        prompt, negative = host.encode_prompt(text, handles), host.encode_prompt("")
    shape = (1, host.latent_channels, latent, latent)
    noisy = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(host.device)
    sigma = float(host.noise_path.levels(2)[0])
    return calls(host, lambda: guided_output_at(host, noisy, sigma, prompt, negative, CFG, edits))


def plain(host: DiffusersHost, latent: int) -> Steps:
    return guided(host, latent, SENTENCE)


def lag(host: DiffusersHost, concepts: int, latent: int) -> Steps:
    """All of the words stand in the prompt, however many have a residual."""
    words = WORDS[:4]
    (one,) = concepts_of(host, 1)
    learned: list[LagConcept] = [
        replace(one, handle=f"my-{word}", class_tokens=host.tokenize(word))
        for word in words[:concepts]
    ]
    vectors = {name: torch.randn(1, width) for name, width in host.encoders.items()}
    text = "a photo of " + " and ".join(f"<my-{word}> {word}" for word in words)
    handles = {f"my-{word}": vectors for word in words}
    return guided(host, latent, text, LagEdit(learned), **handles)


@torch.no_grad()
def weave(host: DiffusersHost, concepts: int, latent: int) -> Steps:
    """A step with the template's features put in."""
    (image,) = pictures(host, latent)
    sigmas = host.noise_path.levels(2)
    template = make_template(host, image[None], SENTENCE, sigmas, InversionConfig(refinements=0))
    fusion = RegionFusion(sources_of(host, concepts), stripes(concepts, latent), 0.2)
    edits = [host_injection(host, template, WeaveConfig()), fusion]
    prompt, negative = host.encode_prompt(SENTENCE), host.encode_prompt("")
    point, sigma = template.trajectory[:1].to(host.device), float(template.sigmas[0])
    return calls(host, lambda: guided_output_at(host, point, sigma, prompt, negative, CFG, edits))


def blended(host: DiffusersHost, masks: int, latent: int) -> Steps:
    """Every mask with a prompt of its own."""
    (image,) = pictures(host, latent)
    with torch.no_grad():
        source, negative = host.encode_image(image[None]), host.encode_prompt("")
        prompts = [host.encode_prompt(f"a photo of a {word}") for word in WORDS[:masks]]
    planes = stripes(masks, image.shape[0])[:-1]
    regions = [Region(prompt, mask) for prompt, mask in zip(prompts, planes, strict=True)]
    config = EditConfig(steps=2, cfg=CFG, blend=BlendConfig(start=0))
    step = partial(edit_latents, host, source, regions, negative, config)
    return calls(host, step, per_call=config.steps)


def inversion(host: DiffusersHost, steps: int) -> Steps:
    """The whole way of a template, its features kept in memory."""
    (image,) = pictures(host, LATENT)
    sigmas, config = host.noise_path.levels(steps), InversionConfig(refinements=0)
    kept: list[object] = []

    def invert() -> None:
        kept[:] = [make_template(host, image[None], SENTENCE, sigmas, config)]

    return calls(host, invert)


SIDES = (16, 24, 32)
SERIES = {
    "scene-concepts": Series(
        "Break-A-Scene: a training step, all weights",
        "concepts",
        (1, 2, 3, 4, 5),
        lambda host, n: break_a_scene(host, n, LATENT),
        "A step draws some of the concepts, by chance; the steps are the same in every round.",
    ),
    "scene-latent": Series(
        "Break-A-Scene: a training step of two concepts, all weights",
        "latent side",
        SIDES,
        lambda host, n: break_a_scene(host, 2, n),
    ),
    "residuals-batch": Series(
        "Personalized Residuals: a training step", "batch", (1, 2, 4, 8), residuals
    ),
    "lag-concepts": Series(
        "LAG: a sampling step", "concepts", (1, 2, 3, 4), lambda host, n: lag(host, n, LATENT)
    ),
    "weave-concepts": Series(
        "Concept Weaver: a sampling step",
        "concepts",
        (1, 2, 3, 4),
        lambda host, n: weave(host, n, LATENT),
    ),
    "blended-masks": Series(
        "Blended editing: a sampling step",
        "masks",
        (1, 2, 3, 4),
        lambda host, n: blended(host, n, LATENT),
        "Every mask with a prompt of its own is a row more in the pass.",
    ),
    "plain-latent": Series("A plain sampling step", "latent side", SIDES, plain),
    "lag-latent": Series(
        "LAG: a sampling step of one concept", "latent side", SIDES, lambda host, n: lag(host, 1, n)
    ),
    "weave-latent": Series(
        "Concept Weaver: a sampling step of two concepts",
        "latent side",
        SIDES,
        lambda host, n: weave(host, 2, n),
    ),
    "blended-latent": Series(
        "Blended editing: a sampling step of one mask",
        "latent side",
        SIDES,
        lambda host, n: blended(host, 1, n),
    ),
    "template-steps": Series(
        "Concept Weaver: a template from its picture, as a whole", "steps", (4, 8), inversion
    ),
}
