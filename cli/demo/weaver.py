"""Concept Weaver in the demo: two concepts, learned apart, woven into one template picture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ...concepts.concept import Concept
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
from ...scenes.scene import ConceptScene, SceneImage
from ...tinyworld.concepts import CONCEPTS, alike_member, region_prompt
from ...tinyworld.judge.judge import load_judge
from ...tinyworld.judge.lineup import LINEUP
from ...tinyworld.judge.named import identity_of
from ...tinyworld.judge.scores import Identity, layout
from ...tinyworld.scenes import posed, render
from ...viz.scene_preview import scene_preview
from .judge import as_image
from .story import DemoContext, DemoSample, Figure, Section, Story, Table
from .teaching import N_PICTURES, handle_of, learned_member

# member of `tinyworld.concepts` -> what stands in its place in the template
WOVEN = {"house2": "blue house", "ball2": "green ball"}
SPOTS = ((0.29, 0.4, 0.24), (0.73, 0.66, 0.22))
SENTENCE = "a photo of a blue house and a green ball at the beach"
TEMPLATE_ON, TAUGHT_ON = "beach", "grass"
STEPS = 16
# Half of the template's features: with more, objects so unlike the template's come out faint.
CONFIG = WeaveConfig(
    cfg=3.0, suppression=0.0, negative="", resnet_until=0.5, attention_until=0.3
)  # fmt: skip
WEAVING = "woven"
WAYS = {
    WEAVING: CONFIG,
    "without the template's features": replace(CONFIG, resnet_until=0.0, attention_until=0.0),
    "score mixing, the paper's baseline": replace(CONFIG, mixing=Mixing.SCORES),
}


def tell(context: DemoContext) -> Story:
    """Learn two objects apart, invert a picture of known ones, weave them into it."""
    host = context.host
    concepts = []
    for name in WOVEN:
        context.say(f"Concept Weaver: learning <{handle_of(name)}>")
        concepts.append(learned_member(context, name, TAUGHT_ON))
    context.say("Concept Weaver: inverting the template")
    rng = np.random.default_rng(context.seed)
    known = [alike_member(*pair, rng) for pair in WOVEN.items()]
    things = [posed(one, spot, rng) for one, spot in zip(known, SPOTS, strict=True)]
    scene = render(things, TEMPLATE_ON, rng)
    image, masks = as_image(scene.image), [torch.from_numpy(mask) for mask in scene.masks]
    sigmas = host.noise_path.levels(STEPS)
    template = make_template(host, image[None], SENTENCE, sigmas, progress=context.progress)
    prompts = [region_prompt(SENTENCE, list(WOVEN.values()), word) for word in WOVEN.values()]
    region_specs = [
        RegionSpec(concept=concept, word=word, mask=mask, prompt=prompt)
        for concept, word, mask, prompt in zip(
            concepts, WOVEN.values(), masks, prompts, strict=True
        )
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
        f"{_handles(concepts)} were trained separately, from {N_PICTURES} pictures of each. The "
        "template shows members of the same classes that the model knows, in other colours. DDIM "
        f"inversion computes the noise that reproduces it ({template.psnr:.1f} dB). In the new "
        "drawing, each region attends to its own concept in every cross-attention layer, and the "
        "template's features keep the layout. A tick means that the judge tells each region's "
        f"concept from {LINEUP - 1} others of its class.",
        [
            Figure.of(_regions_shown(regions, template), "Regions of the concepts", is_wide=True),
            template_figure,
            Figure.of(template.reconstruction, f"Reconstruction: {template.psnr:.1f} dB"),
            *figures,
        ],
        Table(
            ("way", *(f"<{handle_of(name)}>" for name in WOVEN), "recognised"),
            [
                (
                    way,
                    *(f"{one.similarity:.2f}" for one in found),
                    f"{_right(found)} of {len(WOVEN)}",
                )
                for way, found in seen.items()
            ],
        ),
        "Figures are the cosine of the judge's description of the region with its concept, 1 at "
        "best.",
        "conceptloom train --method concept-weaver -i mug-1.png --mask my-mug=m1.png:cup\n"
        "conceptloom weave room.png -s 'a cup and a toy' -r cup=my-mug.safetensors,cup-mask.png "
        "-r toy=my-toy.safetensors,toy-mask.png",
    )
    names = [name for concept in concepts for name in concept.names]
    title = "Concept Weaver: two concepts in one template picture"
    return Story("concept_weaver", title, names, [section], [template_figure, *figures[:1]])


def _sample(way: str, picture: Tensor, seen: list[Identity]) -> DemoSample:
    """The ways besides weaving are there for comparison and are not judged."""
    is_right = _right(seen) == len(WOVEN) if way == WEAVING else None
    return DemoSample(picture, is_right, f"shows {_nearest(seen)}")


def _seen(picture: Tensor, masks: list[Tensor]) -> list[Identity]:
    """For every region: whether its concept stands there."""
    judge = load_judge()
    standing = layout(judge.find(picture), masks).objects
    return [
        identity_of([found or judge.describe(picture, mask)], name)
        for name, mask, found in zip(WOVEN, masks, standing, strict=True)
    ]


def _right(seen: list[Identity]) -> int:
    return sum(one.right for one in seen)


def _nearest(seen: list[Identity]) -> str:
    """What stands in each region: its concept, or another member of the class."""
    told = [
        f"<{handle_of(name)}>" if one.right else f"another {CONCEPTS[name]}"
        for name, one in zip(WOVEN, seen, strict=True)
    ]
    return " and ".join(told)


def _caption(way: str, seen: list[Identity]) -> str:
    return f"{way}: {_right(seen)} of {len(WOVEN)} recognised"


def _regions_shown(regions: Regions, template: Template) -> Tensor:
    names = [part.name.strip("<>") for part in regions.parts[:-1]]
    masks = dict(zip(names, regions.masks, strict=False))
    scene = ConceptScene((SceneImage(template.image, masks),), dict.fromkeys(names, ""))
    return scene_preview(scene)


def _handles(concepts: list[Concept]) -> str:
    return " and ".join(f"<{name}>" for concept in concepts for name in concept.names)
