"""ConceptLab in the demo: a new object, away from whatever its own pictures are taken for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...host.ports import HandleVectors
from ...methods.conceptlab import SIMILARITY, ConceptLabConfig, Invented, NegativesConfig, invent
from ...samplers.ddim import sample_ddim, seeded_noise
from ...tinyworld.oracle import load_oracle
from ...tinyworld.shapes import BACKGROUNDS, SHAPES
from ...tinyworld.silhouettes import nearest_silhouette
from ...training.concept_file import save_concept
from ...training.plots import loss_plot
from ...vision.ports import PriorSampling
from ..laboratory import LOOP, TINYWORLD_RATE, on_host
from ..models import TINYWORLD
from . import Chapter, Picture, Stage, Table

NAME, CATEGORY, FIRST = "my-thing", "red object", "square"
STEPS, LOOK_EVERY = 100, 20
PLACES = ("white", "grass", "beach")
DDIM_STEPS, CFG, COUNT = 20, 3.0, 4
NEW = 0.8  # overlap below which an outline is none of the named ones


def tell(stage: Stage) -> Chapter:
    """Invent, draw elsewhere, and let geometry say how new it is."""
    stage.say(f"ConceptLab: inventing a {CATEGORY} that has no name")
    laboratory = on_host(stage.host, TINYWORLD, TINYWORLD)
    config = laboratory.fitted(
        ConceptLabConfig(
            positives=(CATEGORY,),
            negatives=NegativesConfig(every=LOOK_EVERY),
            steps=STEPS,
            learning_rate=TINYWORLD_RATE,
            initialiser_word=FIRST,
            sampling=PriorSampling(steps=3, checkpointing=False),
            seed=stage.seed,
        )
    )
    made = invent(
        laboratory.space,
        NAME,
        config,
        painter=laboratory.painter,
        questions=laboratory.questions,
        loop=LOOP,
        progress=stage.progress,
    )
    save_concept(made.concept, stage.folder / f"{NAME}.safetensors")
    timeline = made.timeline()
    pictures = [Picture(timeline, "Look by look: what it was taken for leaves it", is_wide=True)]
    outlines: list[float] = []
    for place in PLACES:
        images = _drawn(stage, f"a photo of a <{NAME}> {BACKGROUNDS[place]}", made.concept.handles)
        outlines += _overlaps(images)
        shown = _overlaps(images[:1])
        pictures.append(
            Picture(images[0], f"<{NAME}> {BACKGROUNDS[place]}", bool(shown) and shown[0] < NEW)
        )
    circles = _overlaps(_drawn(stage, "a photo of a circle on a white background", {}))
    pictures.append(Picture(_plot(made), "Similarity with every constraint", is_wide=True))
    left = ", ".join(made.negatives) or "nothing"
    return Chapter(
        title="ConceptLab: invent something that nobody has drawn",
        text=f"<{NAME}> began as the word {FIRST} and should become a {CATEGORY}. Every "
        f"{LOOK_EVERY} steps its picture was drawn and a model was asked what it shows; the answer "
        f"became one more thing that it must not be. It left: {left}.",
        pictures=pictures,
        table=Table(
            heads=("", "overlap with the nearest named shape", f"pictures below {NEW}"),
            rows=(
                (f"<{NAME}>", *_told(outlines)),
                ("a circle, for comparison", *_told(circles)),
            ),
        ),
        meaning=f"Overlap of the outline with the nearest of {len(SHAPES)} named silhouettes, at "
        "the same area and the best rotation: geometry, nothing of it was trained. A named shape "
        "has 0.86 or more.",
        command=f"conceptloom invent {NAME} --of '{CATEGORY}' --from {FIRST}",
    )


@torch.no_grad()
def _drawn(stage: Stage, text: str, handles: HandleVectors) -> Tensor:
    noise = torch.cat([seeded_noise(stage.host, seed, 1, (64, 64)) for seed in range(1, COUNT + 1)])
    prompt, negative = stage.host.encode_prompt(text, handles), stage.host.encode_prompt("")
    latent = sample_ddim(stage.host, [prompt], negative, noise, steps=DDIM_STEPS, cfg=CFG)
    return stage.host.decode_latent(latent)


def _overlaps(images: Tensor) -> list[float]:
    """Of the largest object of every picture that shows one."""
    found = [objects[0] for objects in map(load_oracle().find, images) if objects]
    return [nearest_silhouette(one.mask).overlap for one in found]


def _told(overlaps: Sequence[float]) -> tuple[str, str]:
    if not overlaps:
        return "no object found", "-"
    mean = sum(overlaps) / len(overlaps)
    return f"{mean:.2f}", f"{sum(o < NEW for o in overlaps)} of {len(overlaps)}"


def _plot(made: Invented) -> Tensor:
    always = ("step", "phase")
    similar = [
        {k.removeprefix(SIMILARITY): v for k, v in row.items() if k in always or SIMILARITY in k}
        for row in made.history
    ]
    return loss_plot(similar)
