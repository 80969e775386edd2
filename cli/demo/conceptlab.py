"""ConceptLab in the demo: a new object that moves away from what its pictures resemble."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...concepts.concept_file import save_concept
from ...host.ports import HandleVectors
from ...methods.conceptlab import (
    OFFICIAL_LOOP,
    ConceptLabConfig,
    NegativesConfig,
    invent,
)
from ...samplers.ddim import sample_ddim, seeded_noise
from ...tinyworld.oracle import load_oracle
from ...tinyworld.presets import PRIOR_RATE
from ...tinyworld.shapes import BACKGROUNDS, SHAPES
from ...tinyworld.silhouettes import nearest_silhouette
from ...vision.ports import PriorSampling
from ..laboratory import on_host
from ..models import TINYWORLD
from .story import DemoContext, DemoSample, Figure, Section, Story, Table

NAME, CATEGORY, FIRST = "my-thing", "red object", "square"
STEPS, LOOK_EVERY = 100, 20
PLACES = ("white", "grass", "beach")
DDIM_STEPS, CFG, COUNT = 20, 3.0, 4
NEW = 0.8  # overlap below which an outline is none of the named ones


def tell(context: DemoContext) -> Story:
    """Invent, draw elsewhere, and let geometry say how new it is."""
    context.say(f"ConceptLab: inventing a {CATEGORY} without a name")
    laboratory = on_host(context.host, TINYWORLD, TINYWORLD)
    config = laboratory.defaults.fitted(
        ConceptLabConfig(
            positives=(CATEGORY,),
            negatives=NegativesConfig(every=LOOK_EVERY),
            steps=STEPS,
            learning_rate=PRIOR_RATE,
            initialiser_word=FIRST,
            sampling=PriorSampling(steps=3, checkpointing=False),
            seed=context.seed,
        )
    )
    made = invent(
        laboratory.space,
        NAME,
        config,
        image_generator=laboratory.image_generator,
        questions=laboratory.questions,
        loop=OFFICIAL_LOOP,
        progress=context.progress,
    )
    save_concept(made.concept, context.folder / f"{NAME}.safetensors")
    drawn = {place: _drawn(context, _prompt(place), made.concept.handles) for place in PLACES}
    outlines = [overlap for images in drawn.values() for overlap in _overlaps(images)]
    samples = [_shown(place, images[0]) for place, images in drawn.items()]
    circles = _overlaps(_drawn(context, "a photo of a circle on a white background", {}))
    left = ", ".join(made.negatives) or "nothing"
    section = Section(
        "",
        f"<{NAME}> started as the word {FIRST}, with the category {CATEGORY}. Every {LOOK_EVERY} "
        "steps the demo drew it and asked a model what the picture shows; the answer became "
        f"another negative. It moved away from: {left}.",
        [
            Figure.of(
                made.timeline(), "Round by round: each answer becomes a negative", is_wide=True
            ),
            *samples,
            Figure.of(made.plots()[0], "Similarity to every constraint", is_wide=True),
        ],
        Table(
            ("", "overlap with the nearest named shape", f"pictures below {NEW}"),
            [(f"<{NAME}>", *_cells(outlines)), ("a circle, for comparison", *_cells(circles))],
        ),
        f"Overlap of the outline with the nearest of {len(SHAPES)} named silhouettes, at the same "
        "area and the best rotation. This measure is pure geometry, without training. A named "
        "shape has 0.86 or more.",
        f"conceptloom invent {NAME} --of '{CATEGORY}' --from {FIRST}",
    )
    title = "ConceptLab: invent a new object"
    return Story("conceptlab", title, [NAME], [section], samples)


def _prompt(place: str) -> str:
    return f"a photo of a <{NAME}> {BACKGROUNDS[place]}"


def _shown(place: str, image: Tensor) -> Figure:
    overlaps = _overlaps(image[None])
    is_new = bool(overlaps) and overlaps[0] < NEW
    seen = f"overlap {overlaps[0]:.2f} with a named shape" if overlaps else "no object found"
    return Figure(f"<{NAME}> {BACKGROUNDS[place]}", [DemoSample(image, is_new, seen)])


@torch.no_grad()
def _drawn(context: DemoContext, text: str, handles: HandleVectors) -> Tensor:
    noise = torch.cat(
        [seeded_noise(context.host, seed, 1, (64, 64)) for seed in range(1, COUNT + 1)]
    )
    prompt, negative = context.host.encode_prompt(text, handles), context.host.encode_prompt("")
    latent = sample_ddim(context.host, [prompt], negative, noise, steps=DDIM_STEPS, cfg=CFG)
    return context.host.decode_latent(latent)


def _overlaps(images: Tensor) -> list[float]:
    """Of the largest object of every picture that shows one."""
    objects_found = [objects[0] for objects in map(load_oracle().find, images) if objects]
    return [nearest_silhouette(one.mask).overlap for one in objects_found]


def _cells(overlaps: Sequence[float]) -> tuple[str, str]:
    if not overlaps:
        return "no object found", "-"
    mean = sum(overlaps) / len(overlaps)
    return f"{mean:.2f}", f"{sum(o < NEW for o in overlaps)} of {len(overlaps)}"
