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
from ...tinyworld.captions import article
from ...tinyworld.judge.judge import load_judge
from ...tinyworld.judge.lineup import BANK
from ...tinyworld.judge.scores import CLEAR, Novelty, novelty
from ...tinyworld.members import CATEGORIES
from ...tinyworld.presets import PRIOR_RATE, SIZE
from ...tinyworld.shapes import BACKGROUNDS
from ...vision.ports import PriorSampling
from ..laboratory import on_host
from ..models import TINYWORLD
from .judge import mean
from .story import DemoContext, DemoSample, Figure, Section, Story, Table

NAME, CATEGORY = "my-building", "building"
MEMBERS = CATEGORIES[CATEGORY]
STEPS, LOOK_EVERY = 100, 20
PLACES = ("white", "grass", "beach")
DDIM_STEPS, CFG, COUNT = 20, 3.0, 2


def tell(context: DemoContext) -> Story:
    """Invent, draw elsewhere, and let the judge say how new it is."""
    context.say(f"ConceptLab: inventing {article(CATEGORY)} without a name")
    laboratory = on_host(context.host, TINYWORLD, TINYWORLD)
    config = laboratory.defaults.fitted(
        ConceptLabConfig(
            positives=(CATEGORY,),
            negatives=NegativesConfig(every=LOOK_EVERY),
            steps=STEPS,
            learning_rate=PRIOR_RATE,
            initialiser_word=CATEGORY,
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
    seen = [one for images in drawn.values() for one in map(_novelty, images)]
    samples = [_shown(place, image) for place, images in drawn.items() for image in images]
    plain = [f"a photo of {article(CATEGORY)} {BACKGROUNDS[place]}" for place in PLACES]
    base = [_novelty(image) for text in plain for image in _drawn(context, text, {})]
    left = ", ".join(made.negatives) or "nothing"
    section = Section(
        "",
        f"<{NAME}> started as the word {CATEGORY}, of which the model knows {len(MEMBERS)} "
        f"classes: {', '.join(MEMBERS)}. Every {LOOK_EVERY} steps the demo drew it and asked a "
        "model what the picture shows; the answer became another negative. It moved away from: "
        f"{left}. A tick means that the judge names no class of the world without doubt, and finds "
        "no known member.",
        [
            Figure.of(
                made.timeline(), "Round by round: each answer becomes a negative", is_wide=True
            ),
            *samples,
            Figure.of(made.plots()[0], "Similarity to every constraint", is_wide=True),
        ],
        Table(
            (
                "",
                f"probability of {CATEGORY}",
                "surest class",
                "likeness to the nearest known member",
                "new",
            ),
            [
                (f"<{NAME}>", *_cells(seen)),
                (f"the word {CATEGORY}, for comparison", *_cells(base)),
            ],
        ),
        f"Doubt begins below a probability of {CLEAR:g}: 2 % of true members are in doubt, 6 % of "
        "the model's own drawings of its class words, and 43 % of objects put together from halves "
        "of two classes. A poor drawing can leave the judge in doubt too. Likeness is the cosine "
        f"with the nearest of {len(load_judge().bank)} members, {BANK} of each class; from "
        f"{load_judge().calibration.same:.2f} on, an object counts as that member.",
        f"conceptloom invent {NAME} --of {CATEGORY}",
    )
    title = "ConceptLab: invent a new object"
    return Story("conceptlab", title, [NAME], [section], samples[::COUNT])


def _prompt(place: str) -> str:
    return f"a photo of a <{NAME}> {BACKGROUNDS[place]}"


def _shown(place: str, image: Tensor) -> Figure:
    found = _novelty(image)
    is_new = found is not None and found.novel
    seen = "no object found" if found is None else f"surest class at {found.clearest:.2f}"
    return Figure(f"<{NAME}> {BACKGROUNDS[place]}", [DemoSample(image, is_new, seen)])


@torch.no_grad()
def _drawn(context: DemoContext, text: str, handles: HandleVectors) -> Tensor:
    noise = torch.cat(
        [seeded_noise(context.host, seed, 1, (SIZE, SIZE)) for seed in range(1, COUNT + 1)]
    )
    prompt, negative = context.host.encode_prompt(text, handles), context.host.encode_prompt("")
    latent = sample_ddim(context.host, [prompt], negative, noise, steps=DDIM_STEPS, cfg=CFG)
    return context.host.decode_latent(latent)


def _novelty(image: Tensor) -> Novelty | None:
    """Of the largest object; None where there is none."""
    judge = load_judge()
    objects = judge.find(image)
    return novelty(judge, objects[0], CATEGORY) if objects else None


def _cells(seen: Sequence[Novelty | None]) -> tuple[str, ...]:
    found = [one for one in seen if one is not None]
    return (
        f"{mean([one.category for one in found]):.2f}",
        f"{mean([one.clearest for one in found]):.2f}",
        f"{mean([one.nearest for one in found]):.2f}",
        f"{sum(one.novel for one in found)} of {len(seen)}",
    )
