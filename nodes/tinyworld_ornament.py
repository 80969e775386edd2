"""TinyWorld Ornament: an object with a detail on one of its parts, or with that part left bare."""

from __future__ import annotations

import numpy as np
import torch
from comfy_api.latest import io
from torch import Tensor

from ..errors import ConfigError
from ..tinyworld.concepts import CONCEPTS
from ..tinyworld.ornaments import PARTS, ornament_scene
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
            description="An object that TinyWorld knows, with an unknown ornament on one of "
            "its parts, or without it: pictures for trying CLiC.",
            search_aliases=["example image", "test picture", "clic", "detail", "sample masks"],
            inputs=[
                io.String.Input(
                    "object",
                    default="yellow square",
                    tooltip="A colour, optionally a texture, and a shape: red striped circle.",
                ),
                io.Combo.Input(
                    "ornament",
                    options=[*CONCEPTS, BARE],
                    default="bullseye",
                    tooltip=f"The ornament; {BARE} leaves the part bare, and the mask shows its "
                    "place.",
                ),
                io.Combo.Input(
                    "part",
                    options=list(PARTS),
                    default="middle",
                    tooltip="The part of the object with the ornament; not every shape has "
                    "every part.",
                ),
                io.Combo.Input(
                    "background",
                    options=list(BACKGROUNDS),
                    default="white",
                    tooltip="Background behind the object; plain ones make training easiest.",
                ),
                seed_input(
                    "Seed of the object's position, size and rotation; the same seed gives the "
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
        cls, object: str, ornament: str, part: str, background: str, seed: int, size: int
    ) -> io.NodeOutput:
        mark = "" if ornament == BARE else ornament
        return io.NodeOutput(*rendered_ornament(object, mark, part, background, seed, size))


def rendered_ornament(
    whole: str, ornament: str, part: str, background: str, seed: int, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """IMAGE [1, H, W, 3] and the MASKs [1, H, W] of ornament and object.

    Raises:
        ConfigError: the object is not known, or lacks that part.
    """
    try:
        scene = ornament_scene(whole.strip(), ornament, seed, background, part=part, size=size)
    except KeyError as error:
        allowed = f"a colour and a shape such as yellow square: {error.args[0]}"
        raise ConfigError("object", whole, allowed) from error
    image = torch.from_numpy(scene.image.astype(np.float32) / 255)
    masks = torch.from_numpy(scene.masks).float()
    return image[None], masks[1:], masks[:1]
