"""CLiC in the demo: an ornament of one object, transferred to another."""

from __future__ import annotations

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
from ...tinyworld.judge.judge import load_judge
from ...tinyworld.judge.lineup import LINEUP
from ...tinyworld.judge.named import ornament_identity, ornament_lineup
from ...tinyworld.judge.scores import Identity
from ...tinyworld.measures import localisation
from ...tinyworld.ornaments import ornament_scene
from ...training.method_spec import TINYWORLD
from ...viz.colors import concept_colours
from ...viz.overlays import attention_overlay
from .judge import as_image, mean
from .story import DemoContext, DemoSample, Figure, Section, Story, Table

ORNAMENT, WORD = "spiral", "ring"  # of `tinyworld.ornaments`, and what its name starts from
SOURCE, SOURCE_ON = "green mug", "white"
TARGET, TARGET_ON = "red teapot", "grass"
NAME = f"my-{ORNAMENT}"
COUNT, STEPS, FEATHER_PX = 6, 16, 1
CFG = 2.0  # with more, an emblem that the model knows shows through the ornament


def tell(context: DemoContext) -> Story:
    """Learn a detail in its context, put it on another object, leave the rest alone."""
    host = context.host
    context.say(f"CLiC: learning the {ORNAMENT} of a {SOURCE}")
    taught = ornament_scene(SOURCE, ORNAMENT, context.seed + 5, SOURCE_ON)
    bare = ornament_scene(TARGET, "", context.seed + 105, TARGET_ON)
    source, mark = as_image(taught.image), torch.from_numpy(taught.masks[1])
    image, place = as_image(bare.image), torch.from_numpy(bare.masks[1])
    overrides = {"object_word": SOURCE, "preview_steps": 1}
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
    goal = ornament_scene(TARGET, ORNAMENT, context.seed + 105, TARGET_ON).bearer
    others, judge = ornament_lineup(goal), load_judge()
    whole = bare.masks[0]
    results = [
        ornament_identity([judge.describe(picture, whole)], goal, others) for picture in pasted
    ]
    overlay = attention_overlay(source, {NAME: heat}, {NAME: mark}, None, concept_colours([NAME]))
    moved = float((pasted - image).abs()[:, place == 0].max())
    right = sum(one.right for one in results)
    scores = localisation(heat, mark)
    carried = [
        Figure(
            f"Transferred: {_told(one)}",
            [DemoSample(picture, one.right, f"{_told(one)}, likeness {one.similarity:.2f}")],
        )
        for picture, one in zip(pasted, results, strict=True)
    ]
    before = Figure.of(image, f"Before: a {TARGET}")
    source_figure = Figure.of(source, f"Training picture: a {SOURCE} with <{NAME}>")
    section = Section(
        "",
        f"<{NAME}> is not an object but an ornament on a {SOURCE}, of a kind that the model has "
        "never seen. CLiC learns it in that context, from one picture and a mask "
        f"({config.token_phase.steps} + {config.weight_phase.steps} steps), and draws it under a "
        f"mask on a {TARGET}. Every step restores the picture around the mask. A tick means that "
        f"the judge takes it for the same {TARGET} with the taught {ORNAMENT}, rather than one of "
        f"{LINEUP - 1} that differ in the ornament alone: bare, with another mark or in other "
        "colours.",
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
                    f"{mean([one.similarity for one in results]):.2f}",
                    f"{moved:g}",
                    f"{scores.iou:.2f} ({scores.auc:.2f})",
                )
            ],
        ),
        f"Likeness is the cosine of the judge's description with the {TARGET} that bears the "
        "ornament, 1 at best. Change outside is the largest difference of a pixel outside the "
        "mask.",
        "conceptloom train --method clic -i chair.png --mask my-carving=mask.png:pattern\n"
        "conceptloom transfer -c concept.safetensors -i photo.png --mask place.png "
        "-p 'a bench with <my-carving> style'",
    )
    title = "CLiC: a detail transferred to another object"
    return Story("clic", title, [NAME], [section], [source_figure, before, *carried[:1]])


def _told(seen: Identity) -> str:
    """What the target is nearest to; a good likeness is asked for besides."""
    return f"nearest to {seen.nearest}" if seen.right or seen.nearest != ORNAMENT else "not clear"


def _looks(context: DemoContext, image: Tensor, text: str, handles: HandleVectors) -> Tensor:
    """Attention of the learned word in a picture."""
    host, word = context.host, f"<{NAME}>"
    prompt = host.encode_prompt(text, handles)
    return read_attention(host, host.encode_image(image[None]), prompt, [word])[word]
