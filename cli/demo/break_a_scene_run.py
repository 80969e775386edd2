"""The computations of Break-A-Scene's demo: train on a scene, draw its words, read their maps."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...attention.capture import read_attention
from ...concepts.concept import AppliedConcepts, stacked
from ...concepts.concept_file import save_concept
from ...host.ports import HandleVectors, Host
from ...methods.break_a_scene import learn_scene
from ...methods.registry import settings_of_method
from ...samplers.blended import BlendConfig
from ...samplers.ddim import sample_ddim, seeded_noise
from ...samplers.editing import EditConfig, Region, edit_latents
from ...samplers.masks import composited
from ...scenes.masks import dilate
from ...scenes.scene import ConceptScene, make_scene, with_background
from ...tinyworld.captions import article
from ...tinyworld.concepts import CONCEPTS, concept_scene
from ...tinyworld.judge.named import SceneJudge, Verdict
from ...tinyworld.measures import Localisation
from ...tinyworld.presets import SIZE
from ...tinyworld.scenes import Scene, render
from ...tinyworld.shapes import BACKGROUNDS
from ...training.method_spec import TINYWORLD, RunSettings
from ...training.runner import TrainingResult
from ...viz.colors import concept_colours
from ...viz.overlays import attention_overlay
from .judge import ELSEWHERE_SEED, as_image, word_localisation
from .story import DemoContext, DemoSample, Figure

PREVIEWS = 3  # rows of the timeline
FEATHER_PX = 2
STATE = "demo-state"  # not the name that trainings use: it is deleted at the end


def demo_settings(overrides: Mapping[str, Any]) -> RunSettings:
    """TinyWorld's own settings, with those of a caller, named as on the command line."""
    return settings_of_method("break-a-scene", TINYWORLD).changed(overrides)


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoConfig:
    """What this story teaches and draws."""

    objects: tuple[str, ...] = ("mug1", "fish2")  # of `tinyworld.concepts`
    scene_seed: int = 3
    background: str = "white"
    surroundings: str = "my-surroundings"  # what no mask covers is a concept too (paper Sec. 4.2)
    alone_on: tuple[str, ...] = ("beach", "sky", "gray")
    together_on: tuple[str, ...] = ("beach", "sky", "gray")
    place_seed: int = 5  # of the pictures that an object is painted into
    room_px: int = 5  # around the mask of an object, to paint it in
    seeds: tuple[int, ...] = (1, 2)
    steps: int = 20  # DDIM
    cfg: float = 3.0
    settings: RunSettings = field(default_factory=lambda: demo_settings({}))

    @property
    def words(self) -> list[str]:
        """Initialiser words: the classes of the objects."""
        return [CONCEPTS[name] for name in self.objects]

    @property
    def handles(self) -> list[str]:
        """Words to learn, without brackets."""
        return [f"my-{word}" for word in self.words]


@dataclass(frozen=True, slots=True)
class DrawnPrompt:
    """A prompt, its pictures and the judge's verdicts."""

    prompt: str
    asked: tuple[str, ...]  # handles
    background: str  # a key of BACKGROUNDS
    images: Tensor  # [n, H, W, 3]
    verdicts: Sequence[Verdict] = ()

    def figure(self) -> Figure:
        """The pictures side by side over the prompt."""
        judged, place = zip(self.images, self.verdicts, strict=True), self.background
        samples = [DemoSample(image, v.is_right(place), v.summary(place)) for image, v in judged]
        return Figure(self.prompt, samples)


@dataclass(frozen=True, slots=True)
class DemoRun:
    """What learning and drawing gave."""

    before: Tensor  # [n, H, W, 3] of the base model
    learned: TrainingResult
    drawn: Sequence[DrawnPrompt]
    maps: Sequence[Figure]
    taught: Mapping[str, Localisation]  # attention in the taught picture
    unseen: Mapping[str, Localisation]  # attention in another arrangement on another background
    concept: Path


def learn_and_draw(
    context: DemoContext, config: DemoConfig, truth: Scene, scene: ConceptScene
) -> DemoRun:
    """Everything that takes time; the concept file is left in the context's folder."""
    host = context.host
    context.say("Break-A-Scene: drawing before training")
    plain = " and ".join(article(word) for word in config.words)
    before = _draw(host, {}, f"a photo of {plain} {BACKGROUNDS[config.background]}", config)
    settings = config.settings
    total = settings.config.token_phase.steps + settings.config.weight_phase.steps
    state = context.folder / STATE
    learned = learn_scene(
        host,
        scene,
        settings.config,
        loop=replace(settings.loop, preview_every=max(1, total // PREVIEWS)),
        previews=settings.previews,
        folder=state,
        progress=context.progress,
    )
    concept = save_concept(learned.concept, context.folder / "concept.safetensors")
    context.say("Break-A-Scene: drawing the concepts in new places")
    stack = stacked([(learned.concept, 1.0)])
    elsewhere = concept_scene(list(config.objects), ELSEWHERE_SEED, config.alone_on[0])
    judge = SceneJudge(dict(zip(config.handles, config.objects, strict=True)))
    prompts = prompts_of(config)
    drawn: list[DrawnPrompt] = []
    masks = dict(zip(config.handles, map(torch.from_numpy, truth.masks), strict=True))
    for prompt, names, background in prompts:
        if len(names) == 1:
            images = _painted_in(host, stack, prompt, masks[names[0]], background, config)
        else:
            with host.edited(stack.edits, trainable=False):
                images = _draw(host, stack.handles, prompt, config)
        verdicts = [judge.look(image, names) for image in images]
        drawn.append(DrawnPrompt(prompt, names, background, images, verdicts))
        context.progress(len(drawn), len(prompts), "drawing")
    with host.edited(stack.edits, trainable=False), torch.no_grad():
        maps = [_map(host, stack.handles, one) for one in drawn if len(one.asked) > 1]
        taught = word_localisation(host, stack.handles, config.handles, truth)
        unseen = word_localisation(host, stack.handles, config.handles, elsewhere)
    shutil.rmtree(state, ignore_errors=True)  # the concept is safe; the next run starts afresh
    return DemoRun(before, learned, drawn, maps, taught, unseen, concept)


def taught_scene(truth: Scene, config: DemoConfig) -> ConceptScene:
    """A rendered scene as a user would give it: picture, masks, words."""
    masks = [[torch.from_numpy(mask)] for mask in truth.masks]
    scene = make_scene(
        [as_image(truth.image)],
        dict(zip(config.handles, masks, strict=True)),
        dict(zip(config.handles, config.words, strict=True)),
    )
    return with_background(scene, config.surroundings, config.background)


def prompts_of(config: DemoConfig) -> list[tuple[str, tuple[str, ...], str]]:
    """(prompt, requested handles, background): each word alone, then all together."""
    apart = [((name,), place) for name in config.handles for place in config.alone_on]
    together = [(tuple(config.handles), place) for place in config.together_on]
    return [
        (f"a photo of {_words(names)} {BACKGROUNDS[place]}", names, place)
        for names, place in [*apart, *together]
    ]


def _words(names: Sequence[str]) -> str:
    return " and ".join(f"<{name}>" for name in names)


@torch.no_grad()
def _painted_in(
    host: Host,
    stack: AppliedConcepts,
    prompt: str,
    mask: Tensor,
    background: str,
    config: DemoConfig,
) -> Tensor:
    """Pictures [n, H, W, 3] of a place with the prompt drawn under `mask` [H, W] and a margin.

    Blended Latent Diffusion, which the paper uses for local editing: the rest stays.
    """
    empty = render([], background, np.random.default_rng(config.place_seed))
    place, room = as_image(empty.image)[None], dilate(mask, config.room_px)
    with host.edited(stack.edits, trainable=False):
        encoded = host.encode_prompt(prompt, stack.handles)
        negative = host.encode_prompt("")
    latent = edit_latents(
        host,
        host.encode_image(place),
        [Region(encoded, room)],
        negative,
        EditConfig(steps=config.steps, cfg=config.cfg, blend=BlendConfig(start=0)),
        weights=stack.edits,
        seed=config.seeds[0],
        rows=len(config.seeds),
    )
    return composited(host.decode_latent(latent), place, room, FEATHER_PX)


@torch.no_grad()
def _draw(host: Host, handles: HandleVectors, prompt: str, config: DemoConfig) -> Tensor:
    """Pictures [n, H, W, 3] of a prompt, one for each seed."""
    noise = torch.cat([seeded_noise(host, seed, 1, (SIZE, SIZE)) for seed in config.seeds])
    encoded, negative = host.encode_prompt(prompt, handles), host.encode_prompt("")
    latent = sample_ddim(host, [encoded], negative, noise, steps=config.steps, cfg=config.cfg)
    return host.decode_latent(latent)


def _map(host: Host, handles: HandleVectors, drawn: DrawnPrompt) -> Figure:
    """Where the words look in the first picture of a prompt."""
    words = [f"<{name}>" for name in drawn.asked]
    prompt = host.encode_prompt(drawn.prompt, handles)
    read = read_attention(host, host.encode_image(drawn.images[:1]), prompt, words)
    maps = dict(zip(drawn.asked, read.values(), strict=True))
    overlay = attention_overlay(drawn.images[0], maps, colours=concept_colours(drawn.asked))
    return Figure.of(overlay, drawn.prompt, is_wide=True)
