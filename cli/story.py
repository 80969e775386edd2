"""The story of the demo: a scene, two concepts learned from it, and what can be done with them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ..attention.reading import read_attention
from ..host.ports import HandleVectors, Host, Progress
from ..methods.break_a_scene import learn_scene
from ..samplers.ddim import sample_ddim, seeded_noise
from ..tinyworld.concepts import concept_scene
from ..tinyworld.measures import Localisation
from ..tinyworld.shapes import BACKGROUNDS
from ..tinyworld.world import Scene, article
from ..training.adapters import Scope
from ..training.concept import stacked
from ..training.concept_file import save_concept
from ..training.palette import concept_colours
from ..training.pictures import attention_overlay
from ..training.scene import ConceptScene, make_scene, with_background
from ..training.session import Learned
from .measures import ELSEWHERE_SEED, Judge, Verdict, as_image, word_localisation
from .presets import Preset, Settings, settings_of

# Every weight learns, as in the paper: low-rank changes of so small a model give little likeness.
# Without class images every word would bring the whole taught picture along.
LEARNING = {
    "token_steps": 40, "weight_steps": 200, "scope": Scope.FULL, "weight_rate": 6e-4,
    "batch_size": 2, "prior_weight": 1.0,
}  # fmt: skip
PREVIEWS = 5  # rows of the timeline
STATE = "demo-state"  # not the name that trainings use: it is cleared away


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """What the demo teaches and draws."""

    objects: tuple[str, ...] = ("split", "bullseye")  # of `tinyworld.concepts`
    words: tuple[str, ...] = ("square", "circle")  # that their handles start from
    scene_seed: int = 2
    background: str = "white"
    surroundings: str = "my-surroundings"  # what no mask covers is a concept too (paper Sec. 4.2)
    alone_on: tuple[str, ...] = ("gray", "beach", "bricks")
    together_on: tuple[str, ...] = ("sky", "gray", "grass")
    neighbour: str = "a red square"  # something the model knew before
    neighbour_on: str = "white"
    seeds: tuple[int, ...] = (1, 2)
    steps: int = 25  # DDIM
    cfg: float = 3.0
    settings: Settings = field(default_factory=lambda: settings_of(Preset.TINYWORLD, LEARNING))

    @property
    def handles(self) -> list[str]:
        """Names of the objects, without brackets."""
        return [f"my-{name}" for name in self.objects]


@dataclass(frozen=True, slots=True)
class Shot:
    """One prompt and its pictures."""

    prompt: str
    asked: tuple[str, ...]  # handles
    background: str  # a key of BACKGROUNDS
    images: Tensor  # [n, H, W, 3]
    verdicts: Sequence[Verdict] = ()


@dataclass(frozen=True, slots=True)
class Story:
    """All that the page shows."""

    plot: Plot
    truth: Scene
    scene: ConceptScene
    before: Sequence[Shot]
    learned: Learned
    shots: Sequence[Shot]
    maps: Sequence[tuple[str, Tensor]]  # prompt, overlay [H, W, 3]
    taught: Mapping[str, Localisation]  # attention in the taught picture
    unseen: Mapping[str, Localisation]  # attention in another arrangement on another background
    concept: Path


def tell(
    host: Host, plot: Plot, folder: Path, progress: Progress, say: Callable[[str], None]
) -> Story:
    """Everything from the scene to the figures; the concept file is left in `folder`.

    Args:
        progress: told of every step; may raise to cancel. Then the state is kept in `folder`.
    """
    truth = concept_scene(list(plot.objects), plot.scene_seed, plot.background)
    scene = taught_scene(truth, plot)
    judge = Judge(truth, plot.handles)
    say("Drawing what the model can do before")
    plain = " and ".join(article(word) for word in plot.words)
    prompt = f"a photo of {plain} {_on(plot.background)}"
    before = [_drawn(host, {}, prompt, (), plot.background, plot)]

    settings = plot.settings
    total = settings.config.token_phase.steps + settings.config.weight_phase.steps
    state = folder / STATE
    learned = learn_scene(
        host,
        scene,
        settings.config,
        loop=replace(settings.loop, preview_every=max(1, total // PREVIEWS)),
        class_images=settings.class_images,
        previews=settings.previews,
        folder=state,
        progress=progress,
    )
    concept = save_concept(learned.concept, folder / "concept.safetensors")
    say("Drawing the concepts in new places")
    stack = stacked([(learned.concept, 1.0)])
    elsewhere = concept_scene(list(plot.objects), ELSEWHERE_SEED, plot.alone_on[0])
    with host.edited(stack.edits, trainable=False), torch.no_grad():
        shots = []
        for prompt, asked, background in prompts_of(plot):
            shot = _drawn(host, stack.handles, prompt, asked, background, plot)
            verdicts = [judge.look(image, asked) for image in shot.images]
            shots.append(replace(shot, verdicts=verdicts))
            progress(len(shots), len(prompts_of(plot)), "drawing")
        together = [shot for shot in shots if len(shot.asked) > 1]
        maps = [(shot.prompt, _looks(host, stack.handles, shot)) for shot in together]
        taught = word_localisation(host, stack.handles, plot.handles, truth)
        unseen = word_localisation(host, stack.handles, plot.handles, elsewhere)
    shutil.rmtree(state, ignore_errors=True)  # the concept is safe; a next run starts anew
    return Story(plot, truth, scene, before, learned, shots, maps, taught, unseen, concept)


def taught_scene(truth: Scene, plot: Plot) -> ConceptScene:
    """A rendered scene as a user would give it: picture, masks, words."""
    masks = [[torch.from_numpy(mask)] for mask in truth.masks]
    scene = make_scene(
        [as_image(truth.image)],
        dict(zip(plot.handles, masks, strict=True)),
        dict(zip(plot.handles, plot.words, strict=True)),
    )
    return with_background(scene, plot.surroundings, plot.background)


def prompts_of(plot: Plot) -> list[tuple[str, tuple[str, ...], str]]:
    """(prompt, handles it asks for, background) of every shot: apart, together, with another."""
    words = [f"<{name}>" for name in plot.handles]
    every = [
        (f"a photo of {word} {_on(place)}", (name,), place)
        for name, word in zip(plot.handles, words, strict=True)
        for place in plot.alone_on
    ]
    both = " and ".join(words)
    every += [
        (f"a photo of {both} {_on(place)}", tuple(plot.handles), place)
        for place in plot.together_on
    ]
    place = plot.neighbour_on
    return every + [
        (f"a photo of {word} and {plot.neighbour} {_on(place)}", (name,), place)
        for name, word in zip(plot.handles, words, strict=True)
    ]


def _on(background: str) -> str:
    return BACKGROUNDS[background]


@torch.no_grad()
def _drawn(
    host: Host,
    handles: HandleVectors,
    prompt: str,
    asked: tuple[str, ...],
    background: str,
    plot: Plot,
) -> Shot:
    size = as_image(concept_scene([plot.objects[0]]).image).shape[:2]
    noise = torch.cat([seeded_noise(host, seed, 1, (size[0], size[1])) for seed in plot.seeds])
    encoded, negative = host.encode_prompt(prompt, handles), host.encode_prompt("")
    latent = sample_ddim(host, [encoded], negative, noise, steps=plot.steps, cfg=plot.cfg)
    return Shot(prompt, asked, background, host.decode_latent(latent))


def _looks(host: Host, handles: HandleVectors, shot: Shot) -> Tensor:
    """Where the words look in the first picture of a shot."""
    words = [f"<{name}>" for name in shot.asked]
    prompt = host.encode_prompt(shot.prompt, handles)
    read = read_attention(host, host.encode_image(shot.images[:1]), prompt, words)
    maps = dict(zip(shot.asked, read.values(), strict=True))
    return attention_overlay(shot.images[0], maps, colours=concept_colours(shot.asked))
