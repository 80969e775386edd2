"""Concept Weaver in the demo: two concepts, learned apart, woven into one template picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ...concepts.concept import Concept
from ...concepts.concept_file import save_concept
from ...methods.concept_weaver import (
    Mixing,
    Regions,
    RegionSpec,
    Template,
    WeaveConfig,
    make_regions,
    make_template,
    weave,
)
from ...methods.personalized_residuals import PersonalizedResidualsConfig, learn_residuals
from ...scenes.scene import ConceptScene, SceneImage
from ...tinyworld.concepts import CONCEPTS, concept_scene, item
from ...tinyworld.oracle import likeness, load_oracle
from ...tinyworld.planes import iou
from ...tinyworld.world import render
from ...training.previews import PreviewConfig
from ...viz.scene_preview import scene_preview
from .judge import ELSEWHERE_SEED, as_image
from .story import DemoContext, DemoSample, Figure, Section, Story, Table

# object of `tinyworld.concepts` -> what stands in its place in the template, and the learned word
WOVEN = {"bullseye": ("blue circle", "circle"), "split": ("green square", "square")}
SPOTS = ((0.29, 0.4, 0.2), (0.72, 0.62, 0.2))
SENTENCE = "a photo of a blue circle and a green square on a white background"
TAUGHT_ON = ("white", "grass", "beach")
STEPS = 16
STANDS = 0.2  # IoU from which on an object that is found stands in a region
TEACHING = PersonalizedResidualsConfig(
    steps=110, learning_rate=1e-2, ratio=0.25, train_handle=True, handle_rate=5e-3
)
CONFIG = WeaveConfig(cfg=3.0, suppression=0.2, negative="")
WEAVING = "woven"
WAYS = {
    WEAVING: CONFIG,
    "without the template's features": replace(CONFIG, resnet_until=0.0, attention_until=0.0),
    "score mixing, the paper's baseline": replace(CONFIG, mixing=Mixing.SCORES),
}


def tell(context: DemoContext) -> Story:
    """Learn two objects apart, invert a picture of plain ones, weave them into it."""
    host = context.host
    concepts = [_learned(context, name) for name in WOVEN]
    context.say("Concept Weaver: inverting the template")
    rng = np.random.default_rng(context.seed)
    plain = [item(word, spot, rng) for (word, _), spot in zip(WOVEN.values(), SPOTS, strict=True)]
    pixels, drawn_masks = render(plain, "white", rng)
    image, masks = as_image(pixels), [torch.from_numpy(mask) for mask in drawn_masks]
    sigmas = host.noise_path.levels(STEPS)
    template = make_template(host, image[None], SENTENCE, sigmas, progress=context.progress)
    region_specs = [
        RegionSpec(concept=concept, word=word, mask=mask)
        for concept, (word, _), mask in zip(concepts, WOVEN.values(), masks, strict=True)
    ]
    regions = make_regions(SENTENCE, region_specs)
    context.say("Concept Weaver: weaving both concepts into the template")
    woven = {
        way: weave(host, template, regions, config, progress=context.progress).image[0]
        for way, config in WAYS.items()
    }
    seen = {way: _seen(picture, masks) for way, picture in woven.items()}
    figures = [
        Figure(_caption(way, seen[way]), [_sample(way, picture, seen[way])])
        for way, picture in woven.items()
    ]
    template_figure = Figure.of(image, "The template")
    section = Section(
        "",
        f"{_handles(concepts)} were trained separately, from {len(TAUGHT_ON)} pictures of each "
        f"({TEACHING.steps} steps). The template shows plain objects. DDIM inversion computes "
        f"the noise that reproduces it ({template.psnr:.1f} dB). In the new drawing, each region "
        "attends to its own concept in every cross-attention layer, and the template's features "
        "keep the layout. A tick means that the oracle recognises each region's concept, among "
        f"{len(CONCEPTS)} unseen objects.",
        [
            Figure.of(_regions_shown(regions, template), "Regions of the concepts", is_wide=True),
            template_figure,
            Figure.of(template.reconstruction, f"Reconstruction: {template.psnr:.1f} dB"),
            *figures,
        ],
        Table(
            ("way", *(f"<my-{name}>" for name in WOVEN), "recognised"),
            [
                (
                    way,
                    *(f"{score:.2f}" for _, score in nearest),
                    f"{_right(nearest)} of {len(WOVEN)}",
                )
                for way, nearest in seen.items()
            ],
        ),
        "Figures are the cosine of the oracle's description of the region with its concept, 1 at "
        "best.",
        "conceptloom train --method concept-weaver -i mug-1.png --mask my-mug=m1.png:cup\n"
        "conceptloom weave room.png -s 'a cup and a toy' -r cup=my-mug.safetensors,cup-mask.png "
        "-r toy=my-toy.safetensors,toy-mask.png",
    )
    names = [name for concept in concepts for name in concept.names]
    title = "Concept Weaver: two concepts in one template picture"
    return Story("concept_weaver", title, names, [section], [template_figure, *figures[:1]])


def _sample(way: str, picture: Tensor, seen: list[tuple[str, float]]) -> DemoSample:
    """The ways besides weaving are there for comparison and are not judged."""
    is_right = _right(seen) == len(WOVEN) if way == WEAVING else None
    return DemoSample(
        picture, is_right, f"recognised as {' and '.join((name for name, _ in seen))}"
    )


def _learned(context: DemoContext, name: str) -> Concept:
    """One object, from a few pictures of it alone."""
    context.say(f"Concept Weaver: learning the {name}")
    images = [
        as_image(concept_scene([name], context.seed + i, background).image)
        for i, background in enumerate(TAUGHT_ON, 2)
    ]
    config = replace(TEACHING, seed=context.seed)
    learned = learn_residuals(
        context.host, images, f"my-{name}", WOVEN[name][1], config,
        previews=PreviewConfig(steps=1, cfg=1.0), progress=context.progress,
    )  # fmt: skip
    save_concept(learned.concept, context.folder / f"my-{name}.safetensors")
    return learned.concept


def _seen(picture: Tensor, masks: list[Tensor]) -> list[tuple[str, float]]:
    """For every region: what it is taken for, and how like its own concept it is."""
    oracle = load_oracle()
    references: dict[str, Tensor] = {}
    for name in CONCEPTS:
        alone = concept_scene([name], seed=ELSEWHERE_SEED)
        references[name] = oracle.reference(alone.image, alone.masks[0])
    similarities: list[tuple[str, float]] = []
    for name, mask in zip(WOVEN, masks, strict=True):
        region = mask > 0.5
        standing = max(oracle.find(picture), key=lambda one: iou(one.mask, region), default=None)
        is_there = standing is not None and iou(standing.mask, region) > STANDS
        there = standing if is_there else oracle.describe(picture, mask)
        nearest = max(references, key=lambda other: likeness(there, references[other]))
        similarities.append((nearest, likeness(there, references[name])))
    return similarities


def _right(similarities: list[tuple[str, float]]) -> int:
    return sum(nearest == name for name, (nearest, _) in zip(WOVEN, similarities, strict=True))


def _caption(way: str, nearest_concepts: list[tuple[str, float]]) -> str:
    return f"{way}: recognised as {' and '.join((nearest for nearest, _ in nearest_concepts))}"


def _regions_shown(regions: Regions, template: Template) -> Tensor:
    names = [part.name.strip("<>") for part in regions.parts[:-1]]
    masks = dict(zip(names, regions.masks, strict=False))
    scene = ConceptScene((SceneImage(template.image, masks),), dict.fromkeys(names, ""))
    return scene_preview(scene)


def _handles(concepts: list[Concept]) -> str:
    return " and ".join(f"<{name}>" for concept in concepts for name in concept.names)
