"""TinyWorld Ornament: an object with an emblem on it, or with that place left bare."""

from __future__ import annotations

import numpy as np
import torch
from comfy_api.latest import io
from torch import Tensor

from ..errors import ConfigError
from ..tinyworld.members import HELD_OUT, KINDS
from ..tinyworld.ornaments import ORNAMENTS, ornament_scene
from ..tinyworld.shapes import BACKGROUNDS
from .inputs import seed_input
from .shared import CATEGORY
from .tinyworld import size_input

BARE = "none"


class TinyWorldOrnament(io.ComfyNode):
    """A rendered object with an ornament, and exact masks of both."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomTinyWorldOrnament",
            display_name="TinyWorld Ornament",
            category=f"{CATEGORY}/TinyWorld",
            description="An object with an emblem that TinyWorld never saw, or with the emblem's "
            "place left bare: pictures for trying CLiC.",
            search_aliases=["example image", "test picture", "clic", "detail", "sample masks"],
            inputs=[
                io.String.Input(
                    "object",
                    default="yellow mug",
                    tooltip="A class, with a colour or without, such as yellow mug; or a class and "
                    f"a number from 1 to {HELD_OUT}, such as mug1. Classes: {', '.join(KINDS)}.",
                ),
                io.Combo.Input(
                    "ornament",
                    options=[*ORNAMENTS, BARE],
                    default="spiral",
                    tooltip=f"The emblem; {BARE} leaves the object bare, and the mask shows its "
                    "place.",
                ),
                io.Combo.Input(
                    "background",
                    options=list(BACKGROUNDS),
                    default="white",
                    tooltip="Background behind the object; plain ones make training easiest.",
                ),
                seed_input(
                    "Seed of the object, its position, size and tilt; the same seed gives the "
                    "same object with and without an ornament.",
                    default=1,
                ),
                size_input(),
            ],
            outputs=[
                io.Image.Output("image", tooltip="The picture, for Concept Scene or an edit."),
                io.Mask.Output("ornament_mask", tooltip="Mask of the ornament, or of its place."),
                io.Mask.Output(
                    "object_mask", tooltip="Mask of the whole object, including the ornament."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, object: str, ornament: str, background: str, seed: int, size: int
    ) -> io.NodeOutput:
        mark = "" if ornament == BARE else ornament
        return io.NodeOutput(*rendered_ornament(object, mark, background, seed, size))


def rendered_ornament(
    whole: str, ornament: str, background: str, seed: int, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """IMAGE [1, H, W, 3] and the MASKs [1, H, W] of ornament and object.

    Raises:
        ConfigError: the object is not known.
    """
    try:
        scene = ornament_scene(whole.strip(), ornament, seed, background, size)
    except KeyError as error:
        allowed = f"a class, with a colour or without, such as yellow mug: {error.args[0]}"
        raise ConfigError("object", whole, allowed) from error
    image = torch.from_numpy(scene.image.astype(np.float32) / 255)
    masks = torch.from_numpy(scene.masks).float()
    return image[None], masks[1:], masks[:1]
