"""Measures that know the truth: what a picture shows, where a map points, what leaked.

Pictures are [H, W, 3], 0..1 float or uint8, numpy or torch; masks and maps are [h, w]. The
networks were trained on the renderer; their own ceiling is printed by `gates`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

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
class Localisation:
    """How well a map points at a mask; 1 is perfect."""

    iou: float  # of the map above half of its range
    iou_area: float  # of as many of the map's largest values as the mask has pixels
    auc: float  # chance that a pixel inside beats one outside; 0.5 is guessing


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
        found = self.find(image)
        if not found:
            return Identity(similarity=0.0, nearest="", right=False, mask=None)
        best = max(found, key=lambda f: likeness(f, references[name]))
        similarity = likeness(best, references[name])
        nearest = max(references, key=lambda r: likeness(best, references[r]))
        right = nearest == name and similarity >= SAME
        return Identity(similarity=similarity, nearest=nearest, right=right, mask=best.mask)

    def leaked(
        self,
        image: ArrayLike | Tensor,
        references: Mapping[str, Tensor],
        asked: Collection[str] = (),
    ) -> list[str]:
        """Concepts that the picture shows though not asked, or more often than once."""
        seen: list[str] = []
        for found in self.find(image):
            name = max(references, key=lambda r: likeness(found, references[r]))
            if likeness(found, references[name]) >= SAME:
                seen.append(name)
        return [n for i, n in enumerate(seen) if n not in asked or n in seen[:i]]

    def reads(
        self, image: ArrayLike | Tensor, wanted: Sequence[tuple[str, str]]
    ) -> list[tuple[bool, bool]]:
        """For every wanted (colour, shape): is the colour there, and has it that shape?

        Only as many of the largest objects are looked at as are wanted.
        """
        found = self.find(image)[: len(wanted)]
        verdicts: list[tuple[bool, bool]] = []
        for colour, shape in wanted:
            shapes = [f.shape for f in found if f.colour == colour]
            verdicts.append((bool(shapes), shape in shapes))
        return verdicts


def likeness(found: Found, reference: Tensor) -> float:
    """Best cosine of an object with the views of a reference, [K, 64] or [64]."""
    return float((reference @ found.embedding).max())


@lru_cache(maxsize=1)
def load_oracle() -> Oracle:
    """The bundled oracle."""
    return Oracle()


def picture(image: ArrayLike | Tensor) -> Tensor:
    """[H, W, 3] (or [3, H, W] torch) of any size -> [3, 64, 64], 0..1."""
    x = image if isinstance(image, Tensor) else torch.from_numpy(np.array(image))
    x = x.detach().cpu()
    x = x.float() / 255 if x.dtype == torch.uint8 else x.float()
    x = x.permute(2, 0, 1) if x.shape[-1] == 3 else x
    if x.shape[-2:] != (SIDE, SIDE):
        x = functional.interpolate(
            x[None], (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False
        )[0]
    return x.clamp(0, 1)


def at_side(mask: ArrayLike | Tensor, side: int = SIDE) -> Tensor:
    """A mask or map [h, w] as float [side, side]; area average or nearest."""
    x = mask if isinstance(mask, Tensor) else torch.from_numpy(np.array(mask))
    x = x.detach().cpu().float()
    if x.shape[-1] == side:
        return x
    if x.shape[-1] > side:
        return functional.adaptive_avg_pool2d(x[None], side)[0]
    return functional.interpolate(x[None, None], (side, side))[0, 0]


def components(mask: Tensor) -> list[Tensor]:
    """8-connected parts of a bool mask [h, w], the largest first."""
    h, w = mask.shape
    labels = torch.arange(1, h * w + 1).view(1, 1, h, w).float() * mask
    while True:
        spread = functional.max_pool2d(labels, 3, 1, 1) * mask
        if torch.equal(spread, labels):
            break
        labels = spread
    values, counts = labels[labels > 0].unique(return_counts=True)
    order = counts.argsort(descending=True)
    return [labels[0, 0] == values[i] for i in order]


def grown(parts: list[Tensor], allowed: Tensor, steps: int = 3) -> list[Tensor]:
    """Parts spread over the allowed pixels around them; who comes first keeps a pixel."""
    labels = torch.zeros(allowed.shape)
    for number, part in enumerate(parts, 1):
        labels[part] = number
    for _ in range(steps):
        spread = functional.max_pool2d(labels[None, None], 3, 1, 1)[0, 0]
        labels = torch.where((labels == 0) & allowed, spread, labels)
    return [labels == number for number in range(1, len(parts) + 1)]


def blurred(x: Tensor) -> Tensor:
    """A picture [3, h, w] as soft as the autoencoder makes it: 1 2 1 in both directions."""
    row = torch.tensor([0.25, 0.5, 0.25])
    kernel = (row[:, None] * row).expand(3, 1, 3, 3)
    padded = functional.pad(x[None], (1, 1, 1, 1), mode="replicate")
    return functional.conv2d(padded, kernel, groups=3)[0]


@lru_cache(maxsize=1)
def _empty_backgrounds() -> list[Tensor]:
    rng = np.random.default_rng(0)
    return [picture(render([], kind, rng, SIDE)[0]) for kind in BACKGROUND_NAMES]


def localisation(pointer: ArrayLike | Tensor, mask: ArrayLike | Tensor) -> Localisation:
    """How well a map [h, w] points at a mask of any size, at the map's resolution."""
    values = torch.as_tensor(np.array(pointer) if not isinstance(pointer, Tensor) else pointer)
    values = values.detach().cpu().float()
    truth = at_side(mask, values.shape[-1]) > 0.5
    inside = int(truth.sum())
    if inside == 0 or inside == truth.numel():
        raise ValueError("the mask covers nothing or everything at the map's resolution")
    low, high = values.min(), values.max()
    above = values > (low + high) / 2
    chosen = torch.zeros(truth.numel(), dtype=torch.bool)
    chosen[values.flatten().topk(inside).indices] = True
    ranks = np.empty(values.numel())
    order = np.argsort(values.flatten().numpy(), kind="stable")
    ranks[order] = np.arange(1, values.numel() + 1)
    outside = truth.numel() - inside
    above_others = ranks[truth.flatten().numpy()].sum() - inside * (inside + 1) / 2
    return Localisation(
        iou=iou(above, truth),
        iou_area=iou(chosen.view_as(truth), truth),
        auc=float(above_others / (inside * outside)),
    )


def iou(a: Tensor, b: Tensor) -> float:
    """Intersection over union of two bool masks; 0 when both are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 0.0


def attention_leak(probs: ArrayLike | Tensor, mask: ArrayLike | Tensor) -> float:
    """Share of a non-negative map's total that lies outside the mask; 0 is none."""
    values = torch.as_tensor(np.array(probs) if not isinstance(probs, Tensor) else probs).float()
    inside = at_side(mask, values.shape[-1])
    return float(1 - (values * inside).sum() / values.sum().clamp(min=1e-12))


def background_change(
    before: ArrayLike | Tensor, after: ArrayLike | Tensor, edited: ArrayLike | Tensor
) -> tuple[float, float]:
    """Change of a picture where it was not edited: (PSNR in dB, largest difference 0..1).

    Compared at the pictures' own size; `edited` [H, W] marks what was allowed to change. The
    PSNR is infinite when nothing changed.
    """
    a, b = _unit(before), _unit(after)
    if a.shape != b.shape:
        raise ValueError(f"pictures differ in size: {a.shape} and {b.shape}; compare equals")
    kept = np.asarray(edited, dtype=np.float32) < 0.5
    difference = np.abs(a - b)[kept]
    error = float(np.square(difference).mean())
    return (float(-10 * np.log10(error)) if error else float("inf")), float(difference.max())


def _unit(image: ArrayLike | Tensor) -> NDArray[np.float32]:
    x = np.asarray(image.detach().cpu() if isinstance(image, Tensor) else image)
    return x.astype(np.float32) / (255 if x.dtype == np.uint8 else 1)
