"""Sentences that a concept and its constraints are compared in (official training/templates.py)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...rng import randint

CONCEPT, ARTICLE = "{concept}", "{a}"
ARTICLES = ("a", "the", "my")

_STANDARD = (
    "Professional high-quality photo of {a} {concept}. photorealistic, 4k, HQ",
    "A photo of {a} {concept}",
    "A photo of {a} {concept}. photorealistic, 4k, HQ",
)
_EDITS = (
    "Professional high-quality art of {a} {concept}. photorealistic",
    "A painting of {a} {concept}",
    "A watercolor painting of {a} {concept}",
    "A painting of {a} {concept} in the style of monet",
    "Colorful graffiti of {a} {concept}. photorealistic, 4k, HQ",
    "A line drawing of {a} {concept}",
    "Oil painting of {a} {concept}",
    "Professional high-quality art of {a} {concept} in the style of a cartoon",
    "A close-up photo of {a} {concept}",
)
OBJECTS = _STANDARD * 3 + _EDITS  # 18 entries: a photo as often as all edits together

_SUBJECTS = (
    "dog",
    "cat",
    "vase with flowers",
    "valley",
    "fruit bowl",
    "bicycle",
    "pair of shoes",
    "cup of coffee with steam",
    "seashell",
    "vintage camera",
    "bouquet of wildflowers",
    "table set with fine china",
    "bookshelf",
    "glass jar filled with marbles",
    "collection of antique keys",
    "pair of sunglasses",
)
_PORTRAITS = ("", " of a musician", " of a dancer")
STYLES = (
    "a painting in the style of {concept}",
    *(f"a painting of a {subject} in the style of {{concept}}" for subject in _SUBJECTS),
    *(f"a painting portrait{whose} in the style of {{concept}}" for whose in _PORTRAITS),
)
IN_STYLE = " in the style of {concept}"

# The first is the one that the question is about (coach.py:78-92).
OBJECT_GALLERY = (
    "Professional high-quality art of a {concept}. photorealistic, 4k, HQ",
    "a photo of a {concept}",
    "A watercolor painting of a {concept}",
)
STYLE_GALLERY = (
    "a painting of a horse and a barn in a valley in the style of {concept}",
    "a painting of a dog in the style of {concept}",
    "a painting of fruit bowl in the style of {concept}",
)


def random_template(templates: Sequence[str], generator: torch.Generator) -> str:
    """One of the templates, with an article; `{concept}` is left to be filled."""
    template = templates[randint(len(templates), generator)]
    return template.replace(ARTICLE, ARTICLES[randint(len(ARTICLES), generator)])


def filled(template: str, words: str) -> str:
    """The template about these words."""
    return template.replace(CONCEPT, words).replace(ARTICLE, ARTICLES[0])


def without_style(template: str) -> str:
    """What a style template shows, whatever the style: the positive constraint of styles."""
    return template.replace(IN_STYLE, "").replace(CONCEPT, "").strip()
