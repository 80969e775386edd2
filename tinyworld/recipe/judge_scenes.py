"""The judge's training pictures: members in families of four, each in several scenes.

A family is a member and near distractors of it, so that the judge learns to tell apart what looks
nearly alike. Pictures are a function of seed and shard; what is missing in the folder is made.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ..items import Item, nameless_item, vocabulary_item
from ..judge.networks import SIDE, crop_object
from ..judge.words import BACKGROUND_NAMES, FORMS, HEADS, seen_words
from ..members import KINDS, is_kept_away, near_distractor, training_member
from ..painters.kinds import UNNAMED_EMBLEMS, Member
from ..planes import shrunk
from ..scenes import Placed, Spot, place, posed, render
from ..shapes import COLOURS, SHAPES, TEXTURES

log = logging.getLogger("conceptloom")

FAMILIES = 240  # of each class: with 60 the describer learned its members by heart
FAMILY = 4  # members: one, and three near ones
VIEWS = 2  # scenes of each member
SHARDS = 16  # of all views
COUNTS = (0.04, 0.42, 0.44, 0.1)  # share of scenes with 0, 1, 2, 3 things
UNNAMED = 0.3  # share of emblems that become one which diffusion training never shows
OTHERS = 0.14  # share of things that are plain shapes or nameless
COVERED = 0.15  # share of scenes of two things where one hides a piece of the other
IGNORE = -100  # cross entropy's word for "no label"
THROUGH_VAE, THROUGH_JPEG = 0.3, 0.2  # share of pictures
VAE_BATCH = 24


@dataclass(frozen=True, kw_only=True)
class JudgeSamples:
    """One shard, or all of them.

    Attributes:
        images:      [N, 128, 128, 3] uint8
        covers:      [N, 64, 64] uint8  all things of a picture together.
        backgrounds: [N] int64
        scene:       [M] int64  the picture that an object is in.
        masks:       [M, 64, 64] uint8  its visible part.
        identity:    [M] int64  number of the member; IGNORE for plain shapes and the nameless.
        words:       [M, heads] int64  number of the right word of each head, or IGNORE.
        forms:       [M, forms] int8  1 or 0, -1 for forms of another class.
    """

    images: NDArray[np.uint8]
    covers: NDArray[np.uint8]
    backgrounds: NDArray[np.int64]
    scene: NDArray[np.int64]
    masks: NDArray[np.uint8]
    identity: NDArray[np.int64]
    words: NDArray[np.int64]
    forms: NDArray[np.int8]


def families(kind: str, count: int, rng: np.random.Generator) -> list[list[Member]]:
    """Members of a class with near distractors of each; none is near a held-out member."""
    made: list[list[Member]] = []
    while len(made) < count:
        base = training_member(kind, rng)
        if base.emblem and rng.random() < UNNAMED:
            base = base.changed(options={"emblem": str(rng.choice(UNNAMED_EMBLEMS))})
        family = [base]
        for _ in range(200):
            other = near_distractor(family[-1 if len(family) > 2 else 0], rng, 1 + len(family) % 2)
            if not is_kept_away(other) and other not in family:
                family.append(other)
            if len(family) == FAMILY:
                made.append(family)
                break
    return made


def labels_of(thing: Placed, parts: dict) -> tuple[list[int], NDArray[np.int8]]:
    """Numbers of the right words, and the right forms, of a drawn thing."""
    seen = seen_words(thing.what, parts)
    words = [
        list(names).index(seen[head]) if head in seen else IGNORE for head, names in HEADS.items()
    ]
    forms = np.full(len(FORMS), -1, np.int8)
    if thing.member is not None:
        for number, (kind, option, word) in enumerate(FORMS):
            if kind == thing.member.kind:
                forms[number] = thing.member.options[option] == word
    return words, forms


def spots_of(count: int, rng: np.random.Generator) -> list[Spot]:
    """Places as scenes have them, now and then one before the other."""
    spots = place(count, rng)
    if count == 2 and rng.random() < COVERED:
        (x1, y1, r1), (x2, y2, r2) = spots
        near = rng.uniform(1.0, 1.25) * (r1 + r2) * 0.78 / np.hypot(x2 - x1, y2 - y1)
        if near < 1:
            spots[1] = (x1 + (x2 - x1) * near, y1 + (y2 - y1) * near, r2)
    return [(x, y, r * rng.uniform(0.9, 1.0)) for x, y, r in spots]


def other_thing(radius: float, rng: np.random.Generator) -> Item:
    """A plain shape or something nameless."""
    if rng.random() < 0.4:
        return nameless_item(radius, rng)
    texture = str(rng.choice(TEXTURES, p=[0.4, 0.2, 0.2, 0.2]))
    return vocabulary_item(
        str(rng.choice(list(COLOURS))), str(rng.choice(list(SHAPES))), texture, radius, rng
    )


def render_scenes(members: Iterable[tuple[int, Member]], seed: tuple[int, ...]) -> JudgeSamples:
    """Every one of the numbered members in a scene, with others beside it."""
    rng = np.random.default_rng(seed)
    waiting = list(members)
    made: dict[str, list] = {name: [] for name in JudgeSamples.__dataclass_fields__}
    while waiting:
        count = int(rng.choice(len(COUNTS), p=COUNTS))
        things: list[Placed] = []
        for spot in spots_of(count, rng) if count else []:
            if not waiting or rng.random() < OTHERS:
                number, what = IGNORE, other_thing(spot[2], rng)
            else:
                number, what = waiting.pop()
            things.append(posed(what, spot, rng))
            made["identity"].append(number)
        background = str(rng.choice(BACKGROUND_NAMES))
        scene = render(things, background, rng)
        for thing, mask, parts in zip(things, scene.masks, scene.parts, strict=True):
            words, forms = labels_of(thing, dict(parts))
            made["words"].append(words)
            made["forms"].append(forms)
            made["masks"].append(shrunk(mask, SIDE))
            made["scene"].append(len(made["images"]))
        made["images"].append(scene.image)
        made["covers"].append(shrunk(scene.masks.sum(0), SIDE))
        made["backgrounds"].append(BACKGROUND_NAMES.index(background))
    stacked = {name: np.array(values) for name, values in made.items()}
    return JudgeSamples(**stacked)


def cut(image: Tensor, mask: Tensor, side: int, margin: float) -> Tensor:
    """An object of a picture [3, S, S] as uint8 [4, side, side], see `crop_object`.

    Args:
        mask: [64, 64], 0..1, at the finder's side.
    """
    wide = functional.interpolate(mask[None, None], image.shape[1:], mode="bilinear")[0, 0]
    if wide.max() <= 0.5:
        wide = torch.ones_like(wide)
    return (crop_object(image, wide, side, margin) * 255).round().byte()


@torch.no_grad()
def soften(images: NDArray[np.uint8], vae: nn.Module | None, seed: tuple[int, ...]) -> None:
    """Make some pictures [N, 128, 128, 3] look as a model draws them, in place.

    Some go through the autoencoder with noise on the latents, some through JPEG.
    """
    from PIL import Image

    rng = np.random.default_rng(seed)
    dice = rng.random(len(images))
    for i in np.flatnonzero((dice > THROUGH_VAE) & (dice < THROUGH_VAE + THROUGH_JPEG)):
        file = io.BytesIO()
        Image.fromarray(images[i]).save(file, "JPEG", quality=int(rng.integers(25, 80)))
        images[i] = np.array(Image.open(file))
    chosen = np.flatnonzero(dice < THROUGH_VAE)
    for start in range(0, len(chosen) if vae is not None else 0, VAE_BATCH):
        part = chosen[start : start + VAE_BATCH]
        x = torch.from_numpy(images[part]).permute(0, 3, 1, 2).float() / 127.5 - 1
        latent = vae.encode(x).latent_dist.mean  # type: ignore[misc, operator]
        strength = torch.from_numpy(rng.uniform(0, 0.4, (len(part), 1, 1, 1))).float()
        noise = torch.from_numpy(rng.standard_normal(latent.shape, np.float32))
        y = vae.decode(latent + latent.std() * strength * noise).sample  # type: ignore[operator]
        pixels = (y.clamp(-1, 1) + 1) * 127.5
        images[part] = pixels.permute(0, 2, 3, 1).round().byte().numpy()


def load_samples(
    folder: Path, vae: nn.Module | None, seed: int, count: int = SHARDS
) -> JudgeSamples:
    """The samples of so many shards; renders those that the folder lacks."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng((31, seed))
    members = [m for kind in KINDS for f in families(kind, FAMILIES, rng) for m in f]
    views = [(number, member) for number, member in enumerate(members) for _ in range(VIEWS)]
    views = [views[i] for i in rng.permutation(len(views))]
    shards = []
    for index in range(count):
        path = folder / f"judge{index:02d}.npz"
        if not path.exists():
            shard = render_scenes(views[index::SHARDS], (32, seed, index))
            soften(shard.images, vae, (33, seed, index))
            with (folder / "part.npz").open("wb") as file:
                np.savez(file, **vars(shard))
            (folder / "part.npz").rename(path)
            log.info(
                "shard %d: %d pictures, %d objects", index, len(shard.images), len(shard.scene)
            )
        with np.load(path) as saved:
            shards.append(JudgeSamples(**{n: saved[n] for n in JudgeSamples.__dataclass_fields__}))
    return joined(shards)


def joined(shards: list[JudgeSamples]) -> JudgeSamples:
    """Several shards as one."""
    starts = np.cumsum([0, *(len(s.images) for s in shards)])
    shifted = [replace(s, scene=s.scene + start) for s, start in zip(shards, starts, strict=False)]
    names = JudgeSamples.__dataclass_fields__
    return JudgeSamples(**{n: np.concatenate([getattr(s, n) for s in shifted]) for n in names})


def at_finder_side(images: NDArray[np.uint8]) -> Tensor:
    """Pictures [N, 128, 128, 3] as uint8 [N, 3, 64, 64]."""
    small = [
        functional.avg_pool2d(torch.from_numpy(part).permute(0, 3, 1, 2).float(), 2).round().byte()
        for part in np.array_split(images, max(1, len(images) // 256))
    ]
    return torch.cat(small)
