"""Scenes and captions to train TinyWorld's prior on: mostly one object, told of more or less.

The base model's captions name nearly every attribute. Here words are left out, and now and then a
named shape is called an object, a thing or a toy: that makes those words the category of which the
shapes are members, as "pet" is of cats and dogs.
"""

from __future__ import annotations

import numpy as np

from .shapes import BACKGROUNDS, COLOURS, SHAPES, TEXTURES
from .world import (
    OBJECT_WORDS,
    SIZE,
    Item,
    Scene,
    article,
    nameless_item,
    place,
    random_scene,
    render,
    vocabulary_item,
)

ALONE = 0.75  # share of scenes with a single object; the others are the base model's own
NAMELESS = 0.25  # share of single objects that no word is known for
AS_CATEGORY = 0.3  # how often a named shape is called an object
COLOUR_TOLD, TEXTURE_TOLD, PLACE_TOLD = 0.6, 0.75, 0.6
PREFIXES = ("a photo of ", "a picture of ", "an image of ", "")


def prior_scene(rng: np.random.Generator) -> Scene:
    """One training sample."""
    if rng.random() >= ALONE:
        return random_scene(rng)
    (spot,) = place(1, rng)
    if rng.random() < NAMELESS:
        item = nameless_item(spot, rng)
    else:
        texture = str(rng.choice(TEXTURES, p=[0.55, 0.15, 0.15, 0.15]))
        colour, shape = str(rng.choice(list(COLOURS))), str(rng.choice(list(SHAPES)))
        item = vocabulary_item(colour, shape, texture, spot, rng)
    background = str(rng.choice(list(BACKGROUNDS)))
    image, masks = render([item], background, rng, SIZE)
    caption = str(rng.choice(PREFIXES)) + article(_told(item, rng))
    if rng.random() < PLACE_TOLD:
        caption += f" {BACKGROUNDS[background]}"
    return Scene(image=image, masks=masks, caption=caption, items=(item,), background=background)


def _told(item: Item, rng: np.random.Generator) -> str:
    if item.shape is None:
        return item.words
    noun = str(rng.choice(OBJECT_WORDS)) if rng.random() < AS_CATEGORY else item.shape
    words = [noun]
    if item.texture != "plain" and rng.random() < TEXTURE_TOLD:
        words = [str(item.texture), *words]
    return " ".join([str(item.colour), *words] if rng.random() < COLOUR_TOLD else words)
