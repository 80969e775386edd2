"""Single objects in great number, for the describer: marks on many more members than scenes hold.

From scenes only, the describer learned its 9,000 emblems by heart: 98 % right on those, 73 % on
others. An object is drawn here without a scene and does not go through the autoencoder, which takes
a tenth of the time. Parts are a function of seed and number; what the folder lacks is made.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..judge.networks import PICTURE, SIDE
from ..members import KINDS, is_kept_away, training_member
from ..painters.kinds import EMBLEMS, STYLES, UNNAMED_EMBLEMS, Member
from ..planes import shrunk
from ..scenes import RADII, draw_thing, posed, random_light
from .judge_scenes import cut, labels_of, soften

log = logging.getLogger("conceptloom")

PARTS = 24
OBJECTS = 5000  # of a part
AT_ONCE = 250  # pictures that are softened together
MARKED = {"plain": 0.75, "patterned": 0.2}  # share of members that get an emblem


@dataclass(frozen=True, kw_only=True)
class JudgeObjects:
    """Crops with their labels.

    Attributes:
        crops: [M, 4, side, side] uint8  see `crop_object`.
        words: [M, heads] int64  number of the right word of each head, or IGNORE.
        forms: [M, forms] int8   1 or 0, -1 for forms of another class.
    """

    crops: Tensor
    words: Tensor
    forms: Tensor


def load_objects(
    folder: Path, seed: int, side: int, margin: float, count: int = PARTS
) -> JudgeObjects:
    """The objects of so many parts; draws those that the folder lacks.

    Args:
        side, margin: of the crops, see `crop_object`.
    """
    parts = []
    for index in range(count):
        path = folder / f"objects{index:02d}.pt"
        if not path.exists():
            part = draw_objects(OBJECTS, (37, seed, index), side, margin)
            torch.save(vars(part), folder / "part.pt")
            (folder / "part.pt").rename(path)
            log.info("part %d: %d objects", index, len(part.crops))
        parts.append(torch.load(path, weights_only=True))
    return JudgeObjects(**{n: torch.cat([p[n] for p in parts]) for n in parts[0]})


def draw_objects(count: int, seed: tuple[int, ...], side: int, margin: float) -> JudgeObjects:
    """Random objects of all classes, as large as scenes have them, on grounds of one colour."""
    rng = np.random.default_rng(seed)
    crops, words, forms = [], [], []
    for start in range(0, count, AT_ONCE):
        drawn = [_object(rng) for _ in range(min(AT_ONCE, count - start))]
        images = np.stack([image for image, _, _ in drawn])
        soften(images, None, (*seed, start))
        for image, (_, mask, labels) in zip(images, drawn, strict=True):
            x = torch.from_numpy(image).permute(2, 0, 1).float() / 255
            crops.append(cut(x, torch.from_numpy(mask).float() / 255, side, margin))
            words.append(labels[0])
            forms.append(labels[1])
    return JudgeObjects(
        crops=torch.stack(crops),
        words=torch.tensor(words),
        forms=torch.from_numpy(np.stack(forms)),
    )


Drawn = tuple[NDArray[np.uint8], NDArray[np.uint8], tuple[list[int], NDArray[np.int8]]]


def _object(rng: np.random.Generator) -> Drawn:
    """A picture, a coarse mask and labels of one object."""
    low, high = RADII[int(rng.integers(1, 4))]
    radius = float(rng.uniform(0.9 * low, high))
    spot = (*(float(at) for at in rng.uniform(radius, 1 - radius, 2)), radius)
    thing = posed(_member(rng), spot, rng)
    window, colour, covers = draw_thing(thing, random_light(rng), PICTURE)
    cover = np.zeros((PICTURE, PICTURE), np.float32)
    cover[window] = covers.pop("")
    image = np.float32(rng.uniform(0, 255, 3)) * (1 - cover[..., None])
    image[window] += colour
    pixels = np.clip(image + 0.5, 0, 255).astype(np.uint8)
    return pixels, shrunk(cover, SIDE), labels_of(thing, covers)


def _member(rng: np.random.Generator) -> Member:
    """A member that training may show, mostly with an emblem, of any name."""
    while True:
        one = training_member(str(rng.choice(list(KINDS))), rng)
        share = MARKED["plain" if one.pattern == "plain" else "patterned"]
        emblem = str(rng.choice((*EMBLEMS, *UNNAMED_EMBLEMS))) if rng.random() < share else ""
        style = str(rng.choice(STYLES)) if emblem else STYLES[0]
        one = one.changed(options={"emblem": emblem, "style": style})
        if not is_kept_away(one):
            return one
