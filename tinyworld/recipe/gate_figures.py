"""The figures behind the gates: pictures from fixed seeds, read by the judge.

What the judge says of true pictures of the same prompts stands beside each: no model gets further.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..captions import article
from ..checkpoint import TinyWorldModules
from ..judge.judge import Judge, load_judge
from ..measures import localisation
from ..members import KINDS, training_member
from ..painters.kinds import Member
from ..sampling import draw, encode_prompts, word_maps
from ..scenes import Scene, member_scene, random_scene
from ..shapes import BACKGROUNDS

BATCH = 16
TIMESTEP = 400  # at which attention is looked at
Objects = list[tuple[str, str]]  # (colour, class)


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One figure of the model, what it must reach, and what the ruler says of true pictures."""

    name: str
    reached: float
    asked: float
    unit: str = "%"
    ceiling: float | None = None
    at_most: bool = False

    @property
    def passed(self) -> bool:
        """Whether the figure is on the right side."""
        return self.reached <= self.asked if self.at_most else self.reached >= self.asked


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt and what it asks for."""

    text: str
    objects: Objects
    background: str


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Shares of what the judge reads as it was asked for, 0..1."""

    colour: float  # of the objects
    kind: float  # of the objects
    both: float  # of the pictures: every object has its colour and its class
    background: float  # of the pictures


def prompts_of(count: int, objects: int, seed: int) -> list[Prompt]:
    """Random prompts: so many objects, classes and colours all different, before a background."""
    rng = np.random.default_rng((61, objects, seed))
    made = []
    for _ in range(count):
        wanted: Objects = []
        for kind in rng.permutation(list(KINDS))[:objects]:
            words = next(iter(KINDS[str(kind)].colours.values()))
            free = [word for word in words if all(word != colour for colour, _ in wanted)]
            wanted.append((str(rng.choice(free)), str(kind)))
        background = str(rng.choice(list(BACKGROUNDS)))
        things = " and ".join(article(f"{colour} {kind}") for colour, kind in wanted)
        text = f"a photo of {things} {BACKGROUNDS[background]}"
        made.append(Prompt(text=text, objects=wanted, background=background))
    return made


def true_members(objects: Objects, rng: np.random.Generator) -> list[Member]:
    """A member of each class in its colour."""
    made = []
    for colour, kind in objects:
        while (one := training_member(kind, rng)).colour != colour:
            pass
        made.append(one)
    return made


def true_pictures(prompts: Sequence[Prompt], size: int) -> list[Tensor]:
    """Pictures [size, size, 3], 0..1, that the prompts describe."""
    rng = np.random.default_rng(62)
    scenes = [
        member_scene(true_members(p.objects, rng), 3000 + i, p.background, size)
        for i, p in enumerate(prompts)
    ]
    return [torch.from_numpy(scene.image).float() / 255 for scene in scenes]


def read(judge: Judge, images: Sequence[Tensor], prompts: Sequence[Prompt]) -> Reading:
    """What the judge reads in the pictures, against what was asked.

    Only as many of the largest objects are looked at as were asked for.
    """
    colours, kinds, both, grounds = [], [], [], []
    for image, prompt in zip(images, prompts, strict=True):
        found = judge.find(image)[: len(prompt.objects)]
        pairs = [(f.colour, f.kind) for f in found]
        colours += [any(colour == c for c, _ in pairs) for colour, _ in prompt.objects]
        kinds += [any(kind == k for _, k in pairs) for _, kind in prompt.objects]
        both.append(all(pair in pairs for pair in prompt.objects))
        grounds.append(judge.background(image) == prompt.background)
    return Reading(
        colour=float(np.mean(colours)),
        kind=float(np.mean(kinds)),
        both=float(np.mean(both)),
        background=float(np.mean(grounds)),
    )


def drawn(world: TinyWorldModules, prompts: Sequence[str], seed: int) -> list[Tensor]:
    """Pictures [H, W, 3] of the prompts, in batches."""
    parts = [
        draw(world, prompts[start : start + BATCH], seed + start)
        for start in range(0, len(prompts), BATCH)
    ]
    return list(torch.cat(parts))


@torch.no_grad()
def reconstructed(world: TinyWorldModules, images: Tensor) -> Tensor:
    """Pictures [B, H, W, 3] through the autoencoder and back."""
    x = images.permute(0, 3, 1, 2) * 2 - 1
    y = world.vae.decode(world.vae.encode(x).latent_dist.mean).sample
    return (y / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)


def reconstruction(world: TinyWorldModules, count: int) -> float:
    """PSNR in dB over all pixels of scenes that no training shows."""
    rng = np.random.default_rng((63, 0))
    scenes = [random_scene(rng, world.config.resolution_px).image for _ in range(count)]
    error = []
    for start in range(0, count, BATCH):
        images = torch.from_numpy(np.stack(scenes[start : start + BATCH])).float() / 255
        error.append((reconstructed(world, images) - images).square().mean((1, 2, 3)))
    return float(-10 * torch.log10(torch.cat(error).mean()))


def word_attention(world: TinyWorldModules, count: int) -> float:
    """Mean IoU of the map of a class word at TIMESTEP with the object it speaks of."""
    rng = np.random.default_rng((64, 0))
    scores: list[float] = []
    for index, prompt in enumerate(prompts_of(count, 2, 1000)):
        members = true_members(prompt.objects, rng)[: 1 + index % 2]
        size = world.config.resolution_px
        scene = member_scene(members, 4000 + index, prompt.background, size)
        maps, ids = class_maps(world, scene, rng)
        for member, mask in zip(members, scene.masks, strict=True):
            word = world.tokenizer(member.kind, add_special_tokens=False).input_ids
            scores.append(localisation(maps[last_token(ids, word)], mask).iou)
    return float(np.mean(scores))


def class_maps(
    world: TinyWorldModules, scene: Scene, rng: np.random.Generator
) -> tuple[Tensor, list[int]]:
    """Cross-attention maps [77, h, w] of a scene under its plain caption, and the caption's ids."""
    members = [thing.member for thing in scene.things]
    things = " and ".join(article(f"{one.colour} {one.kind}") for one in members if one)
    x = torch.from_numpy(scene.image)[None].permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        latent = world.vae.encode(x).latent_dist.mean * world.config.scaling_factor
    prompt = f"a photo of {things} {BACKGROUNDS[scene.background]}"
    ids, context = encode_prompts(world, [prompt])
    noise = torch.from_numpy(rng.standard_normal(latent.shape, np.float32))
    return word_maps(world, latent, context, noise, TIMESTEP)[0], ids[0].tolist()


def last_token(ids: list[int], word: list[int]) -> int:
    """Position of the last token of a word's first occurrence."""
    starts = range(len(ids) - len(word) + 1)
    return next(i for i in starts if ids[i : i + len(word)] == word) + len(word) - 1


def percent(share: float) -> float:
    """A share 0..1 in percent, one digit after the point."""
    return round(100 * share, 1)


def measure(world: TinyWorldModules, path: Path, count: int) -> list[Gate]:
    """All gates of a checkpoint; `count` prompts, scenes or pictures for each figure."""
    judge, size = load_judge(), world.config.resolution_px
    readings = []
    for objects in (1, 2):
        prompts = prompts_of(count, objects, 0)
        readings.append(read(judge, drawn(world, [p.text for p in prompts], 100), prompts))
        readings.append(read(judge, true_pictures(prompts, size), prompts))
    one, one_true, two, two_true = readings
    grounds = (one.background + two.background) / 2
    grounds_true = (one_true.background + two_true.background) / 2
    shares = (
        ("one object: class", one.kind, 95, one_true.kind),
        ("one object: colour", one.colour, 95, one_true.colour),
        ("two objects: class and colour of both right", two.both, 75, two_true.both),
        ("background", grounds, 97, grounds_true),
    )
    gates = [
        Gate(name=name, reached=percent(reached), asked=asked, ceiling=percent(ceiling))
        for name, reached, asked, ceiling in shares
    ]
    pointing = round(word_attention(world, count), 3)
    decibel = round(reconstruction(world, count), 2)
    name = f"attention of the class word, IoU at t = {TIMESTEP}"
    return [
        *gates,
        Gate(name=name, reached=pointing, asked=0.65, unit=""),
        Gate(name="reconstruction", reached=decibel, asked=28, unit="dB"),
        Gate(
            name="file",
            reached=round(path.stat().st_size / 1e6, 2),
            asked=16,
            unit="MB",
            at_most=True,
        ),
    ]
