"""Two networks that know the truth: what a picture shows, of which concept, and what leaked.

Pictures are [H, W, 3], 0..1 float or uint8, numpy or torch; masks are [h, w]. The networks were
trained on the renderer; their own ceiling is printed by `gates`. Measures without networks are in
measures.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from .oracle_nets import (
    BACKGROUND_NAMES,
    COLOUR_NAMES,
    SHAPE_NAMES,
    SIDE,
    TEXTURE_NAMES,
    WEIGHTS,
    Describer,
    Finder,
    crop_object,
)
from .planes import at_side, blurred, components, grown, iou, picture
from .world import render

SAME = 0.60  # least cosine at which two objects count as the same one; see `gates`
LEAST_SHARE = 0.008  # a found object covers at least this share of the picture
SURE = 3.0  # mask logit at which neighbours come apart; the rest of each is grown back to 0


@dataclass(frozen=True, kw_only=True)
class Found:
    """One object that the oracle sees in a picture."""

    mask: Tensor  # [64, 64] bool
    share: float  # of the picture's area
    embedding: Tensor  # [64], unit length
    colour: str  # a key of COLOURS, or "other"
    shape: str  # a key of SHAPES, or "other"
    texture: str


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Whether a picture shows one concept rather than another."""

    similarity: float  # best cosine of any found object with the concept's reference
    nearest: str  # the reference that this object is nearest to; "" when nothing was found
    right: bool  # nearest is the concept, and similar enough
    mask: Tensor | None  # [64, 64] bool, where it is


class Oracle:
    """The two networks with what can be asked of them. Deterministic, CPU, no gradients."""

    def __init__(self, path: Path = WEIGHTS) -> None:
        from safetensors.torch import load_file

        weights = {k: v.float() for k, v in load_file(str(path)).items()}
        self.finder, self.describer = Finder().eval(), Describer().eval()
        for name, net in (("finder.", self.finder), ("describer.", self.describer)):
            part = {k.removeprefix(name): v for k, v in weights.items() if k.startswith(name)}
            net.load_state_dict(part)
            net.requires_grad_(False)

    def find(self, image: ArrayLike | Tensor) -> list[Found]:
        """All objects of a picture, the largest first."""
        x = picture(image)
        return [self.describe(x, mask) for mask in self._masks(x)]

    def _masks(self, x: Tensor) -> list[Tensor]:
        logits = self.finder(x[None])[0][0]
        sure = components(logits > SURE)
        return grown([c for c in sure if c.float().mean() >= LEAST_SHARE], logits > 0)

    def describe(self, image: ArrayLike | Tensor, mask: ArrayLike | Tensor) -> Found:
        """The object under a mask of the picture."""
        x, cover = picture(image), at_side(mask)
        if cover.max() <= 0.5:
            raise ValueError("the mask is empty; give one that covers at least a few pixels")
        out = self.describer(crop_object(x, cover)[None])
        return Found(
            mask=cover > 0.5,
            share=float((cover > 0.5).float().mean()),
            embedding=out["embedding"][0],
            colour=COLOUR_NAMES[int(out["colour"].argmax())],
            shape=SHAPE_NAMES[int(out["shape"].argmax())],
            texture=TEXTURE_NAMES[int(out["texture"].argmax())],
        )

    def background(self, image: ArrayLike | Tensor) -> str:
        """The kind of background, a key of BACKGROUNDS."""
        return BACKGROUND_NAMES[int(self.finder(picture(image)[None])[1].argmax())]

    def reference(self, image: ArrayLike | Tensor, mask: ArrayLike | Tensor) -> Tensor:
        """[K, 64] what the object under the mask looks like, to compare others with.

        The object is seen in its picture and, cut out and a little blurred, before every
        background: by its mask, and by what the finder makes of it there, which lacks the parts
        that look like the background.
        """
        x, cover = picture(image), at_side(mask)
        views = [self.describe(x, cover).embedding]
        for background in _empty_backgrounds():
            y = blurred(x * cover + background * (1 - cover))
            views.append(self.describe(y, cover).embedding)
            best = max(self._masks(y), key=lambda m: iou(m, cover > 0.5), default=None)
            if best is not None and iou(best, cover > 0.5) > 0.3:
                views.append(self.describe(y, best).embedding)
        return torch.stack(views)

    def identity(
        self, image: ArrayLike | Tensor, references: Mapping[str, Tensor], name: str
    ) -> Identity:
        """Whether the picture shows `name`, against all references as distractors."""
        objects = self.find(image)
        if not objects:
            return Identity(similarity=0.0, nearest="", right=False, mask=None)
        best = max(objects, key=lambda f: likeness(f, references[name]))
        similarity = likeness(best, references[name])
        nearest = max(references, key=lambda r: likeness(best, references[r]))
        right = nearest == name and similarity >= SAME
        return Identity(similarity=similarity, nearest=nearest, right=right, mask=best.mask)

    def leaked(
        self,
        image: ArrayLike | Tensor,
        references: Mapping[str, Tensor],
        expected: Collection[str] = (),
    ) -> list[str]:
        """Concepts that the picture shows though not asked, or more often than once."""
        seen: list[str] = []
        for found in self.find(image):
            name = max(references, key=lambda r: likeness(found, references[r]))
            if likeness(found, references[name]) >= SAME:
                seen.append(name)
        return [n for i, n in enumerate(seen) if n not in expected or n in seen[:i]]

    def reads(
        self, image: ArrayLike | Tensor, expected: Sequence[tuple[str, str]]
    ) -> list[tuple[bool, bool]]:
        """For every wanted (colour, shape): is the colour there, and has it that shape?

        Only as many of the largest objects are looked at as are wanted.
        """
        objects = self.find(image)[: len(expected)]
        verdicts: list[tuple[bool, bool]] = []
        for colour, shape in expected:
            shapes = [f.shape for f in objects if f.colour == colour]
            verdicts.append((bool(shapes), shape in shapes))
        return verdicts


@lru_cache(maxsize=1)
def _empty_backgrounds() -> list[Tensor]:
    rng = np.random.default_rng(0)
    return [picture(render([], kind, rng, SIDE)[0]) for kind in BACKGROUND_NAMES]


def likeness(found: Found, reference: Tensor) -> float:
    """Best cosine of an object with the views of a reference, [K, 64] or [64]."""
    return float((reference @ found.embedding).max())


@lru_cache(maxsize=1)
def load_oracle() -> Oracle:
    """The bundled oracle."""
    return Oracle()
