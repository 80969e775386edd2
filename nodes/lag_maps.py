"""LAG Maps: LAG's masks for an existing picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..attention.lag_maps import LagMaps
from ..concepts.concept import Concept
from ..errors import ImageError
from ..methods.personalized_residuals import Localised, lag_setup
from ..viz.lag_overlays import blocks_sheet, masks_picture
from .lag_knobs import (
    LAG_CATEGORY,
    PROMPT,
    concepts_input,
    lag_inputs,
    localised_of,
    model_inputs,
)
from .shared import host_of, picture, shown


class LagMapsNode(io.ComfyNode):
    """Where LAG would put concepts in a given picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomLagMaps",
            display_name="LAG Maps",
            category=LAG_CATEGORY,
            description="Shows LAG's masks for an existing picture, block by block and "
            "averaged. It adds noise to the picture and reads one denoising step.",
            search_aliases=["attention mask", "localized attention", "mask preview"],
            inputs=[
                *model_inputs(),
                io.Vae.Input("vae", tooltip="Its VAE, which encodes the picture."),
                io.Image.Input("image", tooltip="The picture to analyse; the first of a batch."),
                concepts_input(),
                io.String.Input("prompt", default="", multiline=True, tooltip=PROMPT),
                io.Int.Input(
                    "timestep",
                    default=400,
                    min=0,
                    max=999,
                    tooltip="Noise level to analyse: 0 is the clean picture, 999 pure noise.",
                ),
                *lag_inputs(),
            ],
            outputs=[
                io.Image.Output("overlay", tooltip="The picture, darkened outside the concepts."),
                io.Image.Output("blocks", tooltip="The mask of every block."),
                io.Mask.Output("masks", tooltip="One mask for each concept: mean over the blocks."),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, vae: Any, image: Tensor, concepts: dict[str, Concept],
        prompt: str, timestep: int, mask: Tensor | None = None, **knobs: Any,
    ) -> io.NodeOutput:  # fmt: skip
        localised = [localised_of(concept, mask, knobs) for concept in concepts.values() if concept]
        names = names_of(localised)
        maps = read_masks(model, clip, vae, image, localised, prompt, timestep)
        masks, blocks = shown_masks(maps, names, image.shape[1:3], 1)
        overlay = picture(masks_picture(masks, names, image[0, ..., :3]))
        return io.NodeOutput(overlay, blocks, masks, ui=shown(cls, overlay))


def read_masks(
    model: Any,
    clip: Any,
    vae: Any,
    image: Tensor,
    localised: Sequence[Localised],
    prompt: str,
    timestep: int,
) -> LagMaps:
    """The masks of one forward pass over a noisy picture."""
    if image.ndim != 4 or image.shape[-1] not in (3, 4):
        raise ImageError(f"The image has the shape {list(image.shape)}; connect an RGB picture.")
    host = host_of(model, clip, vae)
    setup = lag_setup(host, localised)
    encoded = host.encode_prompt(prompt, setup.handles)
    maps = LagMaps()
    edit = setup.edit(host.noise_path.last_t, {prompt: encoded.tokens}, maps)
    latent = host.encode_image(image[:1, ..., :3])
    at = torch.tensor([timestep], device=latent.device)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0)).to(latent)
    host.predict(host.noise_path.add_noise(latent, noise, at), at, [encoded], [edit])
    return maps


def names_of(localised: Sequence[Localised]) -> list[str]:
    """Handles in the order of their masks; a concept that comes twice has one."""
    return list(dict.fromkeys(name for one in localised for name in one.concept.names))


def shown_masks(
    maps: LagMaps, names: Sequence[str], size: Sequence[int], pictures: int
) -> tuple[Tensor, Tensor]:
    """MASK [P * G, H, W] and IMAGE of the blocks; white and a blank sheet where LAG was off."""
    height, width = size
    if not maps:
        return torch.ones(pictures * len(names), height, width), torch.zeros(1, 64, 64, 3)
    masks = maps.averaged((height, width)).flatten(0, 1)
    return masks, picture(blocks_sheet(maps.blocks(), names))
