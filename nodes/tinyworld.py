"""The bundled checkpoint, and test pictures of its world."""

from __future__ import annotations

import numpy as np
import torch
from comfy_api.latest import io
from torch import Tensor

from ..errors import ConfigError
from ..host.comfyui.tinyworld import load_tinyworld
from ..host.comfyui.tinyworld_dit import load_tinyworld_dit
from ..tinyworld.concepts import KNOWN, concept_scene
from ..tinyworld.dit.sizes import FAMILIES
from ..tinyworld.members import KINDS
from ..tinyworld.scenes import SIZE
from ..tinyworld.shapes import BACKGROUNDS
from .inputs import seed_input
from .shared import CATEGORY, listed

MOST_OBJECTS = 3


def size_input() -> io.Int.Input:
    """The side of a rendered picture."""
    return io.Int.Input(
        "size",
        default=SIZE,
        min=16,
        max=1024,
        step=8,
        tooltip=f"Side of the picture in pixels. The checkpoint was trained at {SIZE}; larger "
        "ones suit other models.",
        advanced=True,
    )


class TinyWorldCheckpoint(io.ComfyNode):
    """The bundled model as MODEL, CLIP and VAE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomTinyWorldCheckpoint",
            display_name="TinyWorld Checkpoint",
            category=f"{CATEGORY}/TinyWorld",
            description="A Stable Diffusion model of 6 million parameters that ships with this "
            f"pack: {SIZE} px pictures of {len(KINDS)} classes of objects, such as mugs, fish and "
            "houses. Every workflow runs on it without a download or a GPU.",
            search_aliases=["tiny model", "demo checkpoint", "load checkpoint"],
            inputs=[
                io.Combo.Input(
                    "family",
                    options=["sd1", *FAMILIES],
                    default="sd1",
                    optional=True,
                    tooltip="Structure of the model. sd1: a UNet like Stable Diffusion 1's. "
                    "anima and zimage: small transformers like Anima and Z-Image, where their "
                    "weights come with this version.",
                )
            ],
            outputs=[
                io.Model.Output("model", tooltip="Its UNet or transformer, for any sampler."),
                io.Clip.Output(
                    "clip",
                    tooltip="Its text encoder. It knows words such as a red mug, a blue fish with "
                    "a star, a green house, on the grass, at the beach.",
                ),
                io.Vae.Output(
                    "vae", tooltip=f"Its VAE, for pictures of {SIZE} px or any multiple of it."
                ),
            ],
        )

    @classmethod
    def execute(cls, family: str = "sd1") -> io.NodeOutput:
        if family in FAMILIES:
            return io.NodeOutput(*load_tinyworld_dit(family))
        return io.NodeOutput(*load_tinyworld())


class TinyWorldScene(io.ComfyNode):
    """A rendered picture with exact masks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomTinyWorldScene",
            display_name="TinyWorld Scene",
            category=f"{CATEGORY}/TinyWorld",
            description="A test picture for training: objects that TinyWorld never saw, with "
            "exact masks.",
            search_aliases=["example image", "test picture", "sample masks"],
            inputs=[
                io.String.Input(
                    "objects",
                    default="mug1, fish2",
                    tooltip=f"One to {MOST_OBJECTS} names, separated by commas: {KNOWN}. Class and "
                    "number are a member of the class that the model never saw.",
                ),
                io.Combo.Input(
                    "background",
                    options=list(BACKGROUNDS),
                    default="white",
                    tooltip="Background behind the objects; plain ones make training easiest.",
                ),
                seed_input(
                    "Seed of the position and size of the objects; the same seed draws the same "
                    "picture.",
                    default=2,
                ),
                size_input(),
            ],
            outputs=[
                io.Image.Output("image", tooltip="The picture, for Concept Scene."),
                io.Mask.Output(
                    "masks",
                    tooltip="A batch with one mask per object, in the order of the names.",
                ),
            ],
        )

    @classmethod
    def execute(cls, objects: str, background: str, seed: int, size: int) -> io.NodeOutput:
        return io.NodeOutput(*rendered(listed(objects), background, seed, size))


def rendered(
    names: list[str], background: str, seed: int, size: int = SIZE
) -> tuple[Tensor, Tensor]:
    """IMAGE [1, H, W, 3] and MASK [n, H, W] of a scene.

    Raises:
        ConfigError: a name is unknown, or there are too many.
    """
    if not 1 <= len(names) <= MOST_OBJECTS:
        raise ConfigError("objects", ", ".join(names), f"1 to {MOST_OBJECTS} names")
    try:
        scene = concept_scene(names, seed, background, size)
    except KeyError as error:
        raise ConfigError("objects", ", ".join(names), str(error.args[0])) from error
    image = torch.from_numpy(scene.image.astype(np.float32) / 255)
    return image[None], torch.from_numpy(scene.masks)
