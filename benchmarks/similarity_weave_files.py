"""Weaves from a folder: concepts with their pictures, a template and a sentence.

    WEAVES/park/weave.json
        {"template": "template.png",
         "sentence": "a dog and a cat playing with a ball, mountain background",
         "concepts": {
           "my-dog": {"word": "dog", "pictures": ["dog/1.jpg", "dog/2.jpg"], "region": "dog.png"},
           "my-cat": {"word": "cat", "pictures": ["cat/1.jpg"], "masks": ["cat/1-mask.png"]}},
         "background": {"name": "my-hills", "word": "mountain", "pictures": ["hills/1.jpg"]}}
    WEAVES/park/template.png ...

Files are named relative to the folder; weaves may share pictures ("../dogs/1.jpg"), and a concept
that two of them have is learned once. `word` stands in the sentence and is the class word. `region`
is the concept's mask in the template: without it a segmenter looks for the word there. `masks` are
of the pictures; with them drawn and taught object are compared square by square, without them the
whole taught pictures are taken. `background` may be left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from similarity_folders import document_of, each_folder
from torch import Tensor

from conceptloom.cli.mask_reader import read_mask
from conceptloom.cli.picture_reader import read_image
from conceptloom.errors import InputError
from conceptloom.scenes.scene import ConceptScene, make_scene

WEAVE_FILE = "weave.json"


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A concept and what stands in the template for it.

    Attributes:
        word: of the sentence; also the class word.
        taught: its pictures; where no masks were given each of them shows it all over.
        region: [H, W] of the template; None leaves it to a segmenter.
    """

    name: str
    word: str
    taught: ConceptScene
    region: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class WeaveJob:
    """One picture to weave.

    Attributes:
        template: [H, W, 3], 0..1.
        sentence: with class words, as CLIP is asked too.
        parts: the concepts with a region.
        background: a concept of what they leave, or None.
    """

    template: Tensor
    sentence: str
    parts: tuple[Part, ...]
    background: Part | None = None

    @property
    def every(self) -> tuple[Part, ...]:
        """All that is to be learned."""
        return (*self.parts, *([self.background] if self.background else []))


def weaves_of(folder: Path) -> dict[str, WeaveJob]:
    """Name of a folder -> its weave.

    Raises:
        InputError: there is none, or one is not as the top of this file shows it.
    """
    return each_folder(folder, WEAVE_FILE, weave_of, "similarity_weave_files.py")


def weave_of(file: Path) -> WeaveJob:
    """The weave of a JSON file.

    Raises:
        InputError: it is not as the top of this file shows it, or a picture cannot be read.
    """
    document = document_of(file)
    try:
        parts = [_part(name, of, file) for name, of in document["concepts"].items()]
        behind = document.get("background")
        background = _part(behind["name"], behind, file) if behind else None
        template = read_image(file.parent / document["template"])
        return WeaveJob(template, str(document["sentence"]), tuple(parts), background)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{file} is not as the top of similarity_weave_files.py shows a weave: {error!r}."
        ) from error


def _part(name: str, entry: Mapping[str, Any], file: Path) -> Part:
    word, pictures, masks = entry["word"].strip(), entry["pictures"], entry.get("masks")
    if not word:
        raise InputError(f"{file}: <{name}> needs a class word under 'word'.")
    if not isinstance(pictures, list) or (masks and len(masks) != len(pictures)):
        raise InputError(f"{file}: <{name}> needs a list of pictures, and masks for all or none.")
    images = [read_image(file.parent / picture) for picture in pictures]
    shown = [torch.ones(image.shape[:2]) for image in images]
    if masks:
        shown = [read_mask(file.parent / mask) for mask in masks]
    taught = make_scene(images, {name: shown}, {name: word})
    region = entry.get("region")
    return Part(name, word, taught, read_mask(file.parent / region) if region else None)
