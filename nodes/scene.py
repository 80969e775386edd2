"""Concept Scene: pictures with their masks and words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from comfy_api.latest import io
from torch import Tensor

from ..errors import HandleError, ImageError, MaskError
from ..scenes.scene import ConceptScene, make_scene, with_background
from ..viz.scene_preview import scene_preview
from .shared import (
    CATEGORY,
    LATENT_PX,
    assumed_latent_size,
    describe_handles,
    named_lines,
    picture,
    shown,
)
from .sockets import Scene

MOST_MASKS = 16


class ConceptSceneNode(io.ComfyNode):
    """Images + masks + words -> CONCEPT_SCENE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        masks = io.Autogrow.TemplatePrefix(
            io.Mask.Input(
                "mask",
                tooltip="The region of each concept: white (1) belongs to it, black (0) does "
                "not, grey belongs in part. With one picture, every mask of a batch is a "
                "separate concept. With several pictures, a batch holds one mask per picture; "
                "use a black mask where a picture does not show the concept.",
            ),
            prefix="mask",
            min=1,
            max=MOST_MASKS,
        )
        return io.Schema(
            node_id="ConceptLoomConceptScene",
            display_name="Concept Scene",
            category=CATEGORY,
            description="Defines what to learn: pictures, one mask per concept, and a name for "
            "each concept.",
            search_aliases=["break-a-scene", "training image", "mask", "dataset", "dreambooth"],
            inputs=[
                io.Image.Input(
                    "images",
                    tooltip="One picture, or a batch of pictures of the same size. One picture "
                    "is enough. The alpha channel is ignored.",
                ),
                io.Autogrow.Input(
                    "masks",
                    template=masks,
                    tooltip="One mask per concept, in the order of the names. Each connection "
                    f"adds a free socket, up to {MOST_MASKS}.",
                ),
                io.String.Input(
                    "concepts",
                    default="my-mug: cup\nmy-toy: toy",
                    multiline=True,
                    tooltip="One line per mask: the name to write as <my-mug> in prompts, a "
                    "colon, and a plain word close to the object. Training starts from that "
                    "word; without one it starts from a random vector and takes longer. Names "
                    "may contain letters, digits, - and _. Avoid names that are ordinary "
                    "words.",
                ),
                io.String.Input(
                    "background",
                    default="",
                    tooltip="Empty: areas outside all masks are not learned. A name such as "
                    "my-room: room makes the background another concept, which helps objects "
                    "keep their outlines.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Only for the preview: shows the masks at the resolution of this "
                    f"VAE's latents. Without it, the preview assumes {LATENT_PX} pixels per "
                    "latent.",
                ),
            ],
            outputs=[
                Scene.Output("scene", tooltip="The training scene, for a trainer."),
                io.Image.Output(
                    "preview",
                    tooltip="Every picture with its masks, numbered and named, and the masks "
                    "on the latent grid. Red marks masks that are too small or overlap too "
                    "much.",
                ),
                io.String.Output(
                    "handles",
                    tooltip="The names as prompts use them, for example <my-mug>, <my-toy>.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        images: Tensor,
        masks: dict[str, Tensor],
        concepts: str,
        background: str,
        vae: object = None,
    ) -> io.NodeOutput:
        scene = scene_of(images, list(masks.values()), concepts, background)
        preview = picture(scene_preview(scene, latent_grid(scene, vae)))
        handles = describe_handles(scene.names)
        summary = "\n".join([handles, *scene.remarks])
        return io.NodeOutput(scene, preview, handles, ui=shown(cls, preview, summary))


def scene_of(
    images: Tensor, masks: Sequence[Tensor], concepts: str, background: str
) -> ConceptScene:
    """The scene of the sockets and widgets.

    Args:
        images: [P, H, W, C].
        masks: [H, W] or [n, H, W] each, in the order of the concepts.
        concepts: one line per concept, `name: word`.
        background: `name: word`, or empty for none.

    Raises:
        InputError: see `make_scene` and `masks_by_name`.
    """
    if images.ndim != 4:
        raise ImageError(
            f"The images have the shape {list(images.shape)}; an IMAGE is pictures x height x "
            "width x 3. Connect a node that loads or makes pictures."
        )
    words = named_lines(concepts)
    by_name = masks_by_name(list(words), masks, len(images))
    scene = make_scene(list(images), by_name, words)
    for name, word in named_lines(background).items():
        scene = with_background(scene, name, word)
    return scene


def masks_by_name(
    names: Sequence[str], masks: Sequence[Tensor], n_pictures: int
) -> Mapping[str, Sequence[Tensor | None]]:
    """One mask [H, W] per picture for every name.

    With one picture, every row of every batch is a concept, whether it comes from SAM's individual
    masks or from several sockets; with more pictures, every socket is a concept.

    Raises:
        HandleError: there are more names than masks, or no name at all.
        MaskError: there are more masks than names, or a batch does not match the pictures.
    """
    if not names:
        raise HandleError(
            "No concept has a name; write one line for each mask, such as my-mug: cup."
        )
    batches = [mask if mask.ndim == 3 else mask[None] for mask in masks]
    if n_pictures == 1:
        batches = [row[None] for batch in batches for row in batch]
    for name, batch in zip(names, batches, strict=False):
        if len(batch) != n_pictures:
            raise MaskError(
                f"<{name}> has a batch of {len(batch)} masks for {n_pictures} pictures; give one "
                "mask per picture, black where a picture does not show it."
            )
    if len(batches) > len(names):
        raise MaskError(
            f"{len(batches)} masks came but only {len(names)} names ({describe_handles(names)}); "
            "write one line per mask, or disconnect the masks that you do not want to learn."
        )
    if len(batches) < len(names):
        raise HandleError(
            f"<{names[len(batches)]}> has no mask: {len(names)} names, but {len(batches)} masks. "
            "Connect a mask for every line, or remove the line."
        )
    return {name: list(batch) for name, batch in zip(names, batches, strict=True)}


def latent_grid(scene: ConceptScene, vae: object) -> tuple[int, int]:
    """(h, w) of the first picture's latents; an assumption without a VAE."""
    height, width = scene.images[0].image.shape[:2]
    return assumed_latent_size(height, width, vae)
