"""Members that stories learn with Personalized Residuals, each once for the whole demo."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ...concepts.concept import Concept
from ...concepts.concept_file import save_concept
from ...methods.personalized_residuals import learn_residuals
from ...methods.personalized_residuals.spec import ON_TINYWORLD
from ...tinyworld.concepts import CONCEPTS, concept_scene
from ...training.previews import PreviewConfig
from .judge import as_image
from .story import DemoContext

N_PICTURES = 3


def handle_of(name: str) -> str:
    """The word to learn for a held-out member, without brackets."""
    return f"my-{CONCEPTS[name]}"


def taught_pictures(context: DemoContext, name: str, background: str) -> list[Tensor]:
    """[H, W, 3] each: the member in several places, all on one background."""
    seeds = range(10 * context.seed, 10 * context.seed + N_PICTURES)
    return [as_image(concept_scene([name], seed, background).image) for seed in seeds]


def learned_member(context: DemoContext, name: str, background: str) -> Concept:
    """A held-out member, learned now or by an earlier story; its file is in the demo's folder."""
    handle = handle_of(name)
    if handle not in context.learned:
        learned = learn_residuals(
            context.host,
            taught_pictures(context, name, background),
            handle,
            CONCEPTS[name],
            replace(ON_TINYWORLD, seed=context.seed),
            previews=PreviewConfig(steps=1, cfg=1.0),
            progress=context.progress,
        )
        save_concept(learned.concept, context.folder / f"{handle}.safetensors")
        context.learned[handle] = learned.concept
    return context.learned[handle]
