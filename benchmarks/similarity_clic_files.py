"""Pairs from a folder: a detail of one object, and another object that is to carry it.

    PAIRS/carving/pair.json
        {"source": {"image": "bench.jpg", "mask": "carving.png", "object": "bench"},
         "target": {"image": "chair.jpg", "mask": "back.png", "object": "chair"}}
    PAIRS/carving/bench.jpg ...

`mask` is white where the detail is, or belongs; `object` is the word for what carries it. Files are
named relative to the folder; pairs may share pictures ("../bench.jpg"), and a source that two of
them have is learned once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from similarity_folders import document_of, each_folder
from torch import Tensor

from conceptloom.cli.mask_reader import read_mask
from conceptloom.cli.picture_reader import read_image
from conceptloom.errors import InputError
from conceptloom.scenes.scene import ConceptScene, make_scene, resized_scene

PAIR_FILE = "pair.json"
CONCEPT = "my-detail"  # the handle of every detail
INITIAL_WORD = "ktn"  # that it starts from, a rare token (learning.py:578)


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """A picture with the place of a detail.

    Attributes:
        scene: the picture, and its mask as the one of <CONCEPT>.
        word: for the object: "chair".
    """

    scene: ConceptScene
    word: str

    @property
    def image(self) -> Tensor:
        """[H, W, 3], 0..1."""
        return self.scene.images[0].image

    @property
    def mask(self) -> Tensor:
        """[H, W], 0..1."""
        return self.scene.images[0].masks[CONCEPT]


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Where a detail is learned, and where it is drawn."""

    source: Side
    target: Side

    def at(self, resolution_px: int, multiple_px: int) -> Pair:
        """Both at the size that is learned and drawn at, see `resized_scene`."""
        source, target = (
            replace(side, scene=resized_scene(side.scene, resolution_px, multiple_px))
            for side in (self.source, self.target)
        )
        return Pair(source, target)


def pairs_of(folder: Path) -> dict[str, Pair]:
    """Name of a folder -> its pair.

    Raises:
        InputError: there is none, or one is not as the top of this file shows it.
    """
    return each_folder(folder, PAIR_FILE, pair_of, "similarity_clic_files.py")


def pair_of(file: Path) -> Pair:
    """The pair of a JSON file.

    Raises:
        InputError: it is not as the top of this file shows it, a picture cannot be read, or a mask
            is empty or of another aspect than its picture.
    """
    document = document_of(file)
    try:
        source, target = (_side(document[name], file.parent) for name in ("source", "target"))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file} is not as the top of similarity_clic_files.py shows a pair: {error!r}."
        ) from error
    return Pair(source, target)


def _side(entry: Mapping[str, Any], folder: Path) -> Side:
    image, mask = read_image(folder / entry["image"]), read_mask(folder / entry["mask"])
    word = entry["object"].strip()
    if not word:
        raise InputError(f"{folder}: {entry['image']} needs a word for its object under 'object'.")
    return Side(make_scene([image], {CONCEPT: [mask]}, {CONCEPT: INITIAL_WORD}), word)
