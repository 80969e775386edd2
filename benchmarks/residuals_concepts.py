"""Concepts that the benchmarks of residuals learn from TinyWorld's unseen objects, once for all."""

from __future__ import annotations

from dataclasses import asdict, replace

import torch
from quality_runs import ROOT
from residuals_plan import LESSONS, handle_of
from torch import Tensor

from conceptloom.cli.demo.judge import as_image
from conceptloom.concepts.concept import Concept
from conceptloom.concepts.concept_file import load_concept, save_concept
from conceptloom.concepts.fingerprints import content_key
from conceptloom.host.ports import Host
from conceptloom.methods.break_a_scene import BreakASceneConfig, learn_scene
from conceptloom.methods.concept_weaver import BankConfig, learn_for_bank
from conceptloom.methods.personalized_residuals import (
    PersonalizedResidualsConfig,
    learn_residuals,
)
from conceptloom.scenes.scene import make_scene
from conceptloom.tinyworld.concepts import concept_scene
from conceptloom.training.previews import PreviewConfig

STORE = ROOT / "runs" / "residuals_concepts"
Settings = PersonalizedResidualsConfig | BankConfig | BreakASceneConfig


def learned(
    host: Host, model: str, name: str, images: int, config: Settings, word: str | None = None
) -> Concept:
    """A concept that is kept, or is taught now.

    Args:
        model: digest of the base model.
        images: how many to learn from; which ones, the seed of the settings says.
        word: class word; that of the lesson if there is none.
    """
    word = LESSONS[name].word if word is None else word
    pictures = pictures_of(name, config.seed, images)
    settings = [name, word, type(config).__name__, asdict(config)]
    key = content_key(model, settings, {"pictures": pictures})
    path = STORE / f"{name}-{config.seed}-{key[:12]}.concept.safetensors"
    if path.is_file():
        return load_concept(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    concept = taught(host, pictures, handle_of(name), word, config)
    save_concept(concept, path)
    return concept


def pictures_of(name: str, seed: int, count: int) -> list[Tensor]:
    """[64, 64, 3] each, 0..1: the object in other places, on one background."""
    background = LESSONS[name].taught_on
    places = range(10 * seed, 10 * seed + count)
    return [as_image(concept_scene([name], place, background).image) for place in places]


def taught(host: Host, pictures: list[Tensor], handle: str, word: str, config: Settings) -> Concept:
    """By the method that the settings belong to; whole pictures count, for all of them."""
    quick = PreviewConfig(steps=1, cfg=1.0)
    if isinstance(config, PersonalizedResidualsConfig):
        return learn_residuals(host, pictures, handle, word, config, previews=quick).concept
    everything = [torch.ones_like(picture[..., 0]) for picture in pictures]
    scene = make_scene(pictures, {handle: everything}, {handle: word})
    quick = replace(quick, prompts=("a photo of an object",))
    if isinstance(config, BankConfig):
        return learn_for_bank(host, scene, config, previews=quick).concept
    return learn_scene(host, scene, config, previews=quick).concept
