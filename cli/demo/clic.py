"""CLiC in the demo: an ornament of one object, transferred to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ...attention.capture import read_attention
from ...concepts.concept import stacked
from ...concepts.concept_file import save_concept
from ...host.ports import HandleVectors
from ...methods.clic import CLiCConfig, learn_detail
from ...methods.registry import settings_of_method
from ...samplers.blended import BlendConfig
from ...samplers.editing import EditConfig, Region, edit_latents
from ...samplers.masks import composited
from ...scenes.scene import make_scene
from ...tinyworld.concepts import CONCEPTS, concept_scene
from ...tinyworld.measures import localisation
from ...tinyworld.oracle import likeness, load_oracle
from ...tinyworld.ornaments import ornament_scene
from ...tinyworld.world import Scene
from ...training.method_spec import TINYWORLD
from ...viz.colors import concept_colours
from ...viz.overlays import attention_overlay
from .judge import ELSEWHERE_SEED, as_image, mean
from .story import DemoContext, DemoSample, Figure, Section, Story, Table

ORNAMENT, WORD = "face", "circle"  # of `tinyworld.concepts`, and what its name starts from
SOURCE, SOURCE_ON = "purple square", "white"
TARGET, TARGET_ON = "green circle", "sky"
NAME = f"my-{ORNAMENT}"
COUNT, STEPS, CFG, FEATHER_PX = 4, 16, 3.0, 1
STEPS_OF_WEIGHTS = 120


def tell(context: DemoContext) -> Story:
    """Learn a detail in its context, put it on another object, leave the rest alone."""
    host = context.host
    context.say(f"CLiC: learning the {ORNAMENT} of a {SOURCE}")
    taught = ornament_scene(SOURCE, ORNAMENT, context.seed + 5, SOURCE_ON)
    bare = ornament_scene(TARGET, "", context.seed + 105, TARGET_ON)
    source, mark = as_image(taught.image), torch.from_numpy(taught.masks[1])
    image, place = as_image(bare.image), torch.from_numpy(bare.masks[1])
    overrides = {"weight_steps": STEPS_OF_WEIGHTS, "object_word": SOURCE, "preview_steps": 1}
    settings = settings_of_method("clic", TINYWORLD).changed(overrides)
    assert isinstance(settings.config, CLiCConfig)
    config = replace(settings.config, seed=context.seed)
    learned = learn_detail(
        host,
        make_scene([source], {NAME: [mark]}, {NAME: WORD}),
        config,
        loop=settings.loop,
        previews=replace(settings.previews, prompts=("a photo of an object",)),
        progress=context.progress,
    )
    save_concept(learned.concept, context.folder / f"{NAME}.safetensors")
    context.say(f"CLiC: transferring it to a {TARGET}")
    stack = stacked([(learned.concept, 1.0)])
    latent = host.encode_image(image[None])
    with host.edited(stack.edits, trainable=False), torch.no_grad():
        text = config.prompt_of(NAME).replace(SOURCE, TARGET)
        prompt, negative = host.encode_prompt(text, stack.handles), host.encode_prompt("")
        heat = _looks(context, source, config.prompt_of(NAME), stack.handles)
    drawn = edit_latents(
        host,
        latent,
        [Region(prompt, place)],
        negative,
        EditConfig(steps=STEPS, cfg=CFG, blend=BlendConfig(start=0)),
        weights=stack.edits,
        seed=context.seed,
        rows=COUNT,
        progress=context.progress,
    )
    pasted = composited(host.decode_latent(drawn), image[None], place, FEATHER_PX)
    references = _references(taught, bare)
    results = [_seen(picture, place, references) for picture in pasted]
    overlay = attention_overlay(source, {NAME: heat}, {NAME: mark}, None, concept_colours([NAME]))
    moved = float((pasted - image).abs()[:, place == 0].max())
    right = sum(name == ORNAMENT for name, _ in results)
    scores = localisation(heat, mark)
    carried = [
        Figure(
            f"Transferred, recognised as: {name}",
            [DemoSample(picture, name == ORNAMENT, f"recognised as {name}")],
        )
        for picture, (name, _) in zip(pasted, results, strict=True)
    ]
    before = Figure.of(image, f"Before: a {TARGET}")
    source_figure = Figure.of(source, f"Training picture: a {SOURCE} with <{NAME}>")
    section = Section(
        "",
        f"<{NAME}> is not an object but an ornament on a {SOURCE}. CLiC learns it in that "
        f"context, from one picture and a mask ({config.token_phase.steps} + "
        f"{config.weight_phase.steps} steps), and draws it under a mask on a {TARGET}. Every "
        "step restores the picture around the mask. A tick means that the oracle recognises the "
        f"{ORNAMENT} there, rather than one of the other {len(CONCEPTS) - 1} unseen objects or a "
        f"bare {TARGET}.",
        [
            Figure.of(overlay, f"Attention of <{NAME}> on the training picture", is_wide=True),
            source_figure,
            before,
            *carried,
        ],
        Table(
            ("word", "recognised", "likeness", "change outside", "attention IoU (AUC)"),
            [
                (
                    f"<{NAME}>",
                    f"{right} of {COUNT}",
                    f"{mean([score for _, score in results]):.2f}",
                    f"{moved:g}",
                    f"{scores.iou:.2f} ({scores.auc:.2f})",
                )
            ],
        ),
        "Likeness is the cosine of the oracle's description with the training ornament, 1 at "
        "best. Change outside is the largest difference of a pixel outside the mask.",
        "conceptloom train --method clic -i chair.png --mask my-carving=mask.png:pattern\n"
        "conceptloom transfer -c concept.safetensors -i photo.png --mask place.png "
        "-p 'a bench with <my-carving> style'",
    )
    title = "CLiC: a detail transferred to another object"
    return Story("clic", title, [NAME], [section], [source_figure, before, *carried[:1]])


def _looks(context: DemoContext, image: Tensor, text: str, handles: HandleVectors) -> Tensor:
    """Attention of the learned word in a picture."""
    host, word = context.host, f"<{NAME}>"
    prompt = host.encode_prompt(text, handles)
    return read_attention(host, host.encode_image(image[None]), prompt, [word])[word]


def _references(taught: Scene, bare: Scene) -> dict[str, Tensor]:
    """What the oracle knows: the taught ornament, its place left bare, all other unseen objects."""
    oracle = load_oracle()
    references = {
        ORNAMENT: oracle.reference(taught.image, taught.masks[1]),
        f"a bare {TARGET}": oracle.reference(bare.image, bare.masks[1]),
    }
    for name in CONCEPTS:
        if name != ORNAMENT:
            other = concept_scene([name], seed=ELSEWHERE_SEED)
            references[name] = oracle.reference(other.image, other.masks[0])
    return references


def _seen(picture: Tensor, place: Tensor, references: Mapping[str, Tensor]) -> tuple[str, float]:
    """What stands in the place, of all that the oracle knows, and how like the taught one."""
    seen = load_oracle().describe(picture, place)
    scores = {name: likeness(seen, views) for name, views in references.items()}
    return max(scores, key=scores.__getitem__), scores[ORNAMENT]
