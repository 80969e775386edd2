"""How like their prompts and the taught pictures drawn pictures of a scene's concepts are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import permutations

import torch
from harness.statistics import Measure
from torch import Tensor

from conceptloom.scenes.scene import ConceptScene

from .common import Found
from .encoders import Measures, on_black
from .prompts import Case

CLIP_T, CLIP_I, DINO, MASKED, FOUND = "CLIP-T", "CLIP-I", "DINO", "masked DINO", "found"


COLUMNS = (CLIP_T, CLIP_I, DINO, MASKED, FOUND)


MEASURES = [Measure(column, column, "") for column in COLUMNS]


MEANINGS = """\
* CLIP-T: cosine of picture and prompt, the class word in the handle's place (both papers; ours
  writes it with its article where the prompt has none).
* CLIP-I, DINO: mean cosine of the picture with every taught one, whole pictures (DreamBooth's
  protocol, which Personalized Residuals follows).
* masked DINO: the same between taught and drawn object, everything around both of them black
  (Break-A-Scene's); over those that were found. It does not say what becomes of the others. The
  pictures are made square with black and seen whole: DINO's own cut from the middle, which the
  column before has, would lose objects at the edge.
* found: share of the objects asked for that the segmenter found in the picture. Of MaskFormer's
  queries those count whose class has half of the score or more, "nothing" included, and that keep
  most of their mask; of Grounding DINO's boxes those above its threshold. Of several objects with
  one class word each counts for another concept, matched so that together they are likest."""


def measured(
    measures: Measures, scene: ConceptScene, drawn: Sequence[tuple[Case, Tensor]]
) -> list[Found]:
    """What the pictures of a scene give, for each case.

    Args:
        drawn: pictures [n, H, W, 3] of each case.
    """
    rows: list[Found] = []
    references = {name: References(measures, scene, name) for name in scene.names}
    for case, images in drawn:
        row: dict[str, list[float]] = {name: [] for name in COLUMNS}
        rows.append(row)
        seen, features = measures.clip.of_images(images), measures.dino.of_images(images)
        row[CLIP_T] += (seen @ measures.clip.of_texts([case.plain])[0]).tolist()
        taught = [references[name] for name in case.names]
        row[CLIP_I] += (seen @ torch.cat([r.clip for r in taught]).T).mean(dim=1).tolist()
        row[DINO] += (features @ torch.cat([r.dino for r in taught]).T).mean(dim=1).tolist()
        if measures.cutter is None:
            continue
        words = [scene.words[name] for name in case.names]
        for image in images:
            masks = measures.cutter.cut(image, words)
            row[FOUND] += [float(mask is not None) for mask in masks]
            for word in dict.fromkeys(words):
                alone = [seen_alone(measures, image, mask)
                         for of, mask in zip(words, masks, strict=True)
                         if of == word and mask is not None]  # fmt: skip
                its = [r.masked for of, r in zip(words, taught, strict=True) if of == word]
                row[MASKED] += likest(alone, its)
    return rows


def pooled(rows: Iterable[Found]) -> Found:
    """All that several cases gave."""
    every = list(rows)
    return {column: [number for row in every for number in row[column]] for column in COLUMNS}


def likest(objects: Sequence[Tensor], taught: Sequence[Tensor]) -> list[float]:
    """Mean cosine of every found object with the pictures of the concept that it is held to be.

    Two of a kind come in no order: each object is another concept, so that the sum is the largest.

    Args:
        objects: [1, D] each, no more than concepts.
        taught: [n, D] of each concept.
    """
    alike = [[float((one @ pictures.T).mean()) for pictures in taught] for one in objects]
    ways = permutations(range(len(taught)), len(objects))
    return max(([row[i] for row, i in zip(alike, way, strict=True)] for way in ways), key=sum)


def seen_alone(measures: Measures, image: Tensor, mask: Tensor) -> Tensor:
    """[1, D] DINO's of what a mask [H, W] marks in a picture [H, W, 3], on black."""
    return measures.dino.of_images(on_black(image[None], mask[None]), margin=1)


class References:
    """A concept's taught pictures, as CLIP and DINO see them.

    Attributes:
        clip, dino: [n, D] of the whole pictures that show it.
        masked: [n, D] DINO's of the concept alone, on black.
    """

    def __init__(self, measures: Measures, scene: ConceptScene, name: str) -> None:
        shown = [picture for picture in scene.images if name in picture.masks]
        images = [picture.image[None] for picture in shown]
        self.clip = torch.cat([measures.clip.of_images(image) for image in images])
        self.dino = torch.cat([measures.dino.of_images(image) for image in images])
        self.masked = torch.cat([seen_alone(measures, p.image, p.masks[name]) for p in shown])
