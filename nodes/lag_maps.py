"""LAG Maps: LAG's masks for an existing picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from comfy_api.latest import io
from torch import Tensor

from ..attention.lag_maps import LagMaps
from ..attention.local_setup import local_setup
from ..concepts.concept import Concept, stacked
from ..errors import ImageError
from ..host.ports import UNetEdit
from ..methods.personalized_residuals import (
    Localised,
    by_engine,
    is_merged,
    lag_setup,
    local_lora_of,
)
from ..viz.lag_overlays import blocks_sheet, masks_picture
from .inputs import OF_ITS_FAMILY, model_inputs
from .lag_inputs import (
    LAG_CATEGORY,
    PROMPT,
    concepts_input,
    lag_inputs,
    localised_of,
)
from .shared import host_of, picture, shown


class LagMapsNode(io.ComfyNode):
    """LAG's masks for a given picture."""

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
                *model_inputs(OF_ITS_FAMILY, vae="Its VAE, which encodes the picture."),
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
        prompt: str, timestep: int, mask: Tensor | None = None, **widgets: Any,
    ) -> io.NodeOutput:  # fmt: skip
        localised = [
            localised_of(concept, mask, widgets) for concept in concepts.values() if concept
        ]
        names = names_of(localised)
        seen = read_masks(model, clip, vae, image, localised, prompt, timestep)
        masks, blocks = seen.shown(image.shape[1:3], 1)
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
) -> SeenMasks:
    """The masks of one forward pass over a noisy picture."""
    if image.ndim != 4 or image.shape[-1] not in (3, 4):
        raise ImageError(f"The image has the shape {list(image.shape)}; connect an RGB picture.")
    host = host_of(model, clip, vae)
    residuals, loras = by_engine(localised)
    loras = [one for one in loras if not is_merged(one)]  # others work in the whole picture
    handles = stacked([(one.concept, 0.0) for one in localised]).handles
    encoded = host.encode_prompt(prompt, handles)
    tokens, maps, edits = {prompt: encoded.tokens}, LagMaps(), list[UNetEdit]()
    if residuals:
        edits.append(lag_setup(host, residuals).edit(host.noise_path.last_t, tokens, maps))
    located = [replace(local_lora_of(host, one), text_strength=0, strength=0) for one in loras]
    local: dict[str, Tensor] = {}
    if located:
        setup = local_setup(host, located)
        labels = [lora.shown_as for lora in setup.loras]

        def keep(masks: Tensor) -> None:
            local.update(zip(labels, masks.float().cpu().unbind(dim=1), strict=True))

        edits.append(setup.reading_edit(tokens, keep))
        for lora in setup.loras:
            if lora.is_exact and lora.mask is not None:
                local[lora.shown_as] = lora.mask[None].float().cpu()
    latent = host.encode_image(image[:1, ..., :3])
    at = torch.tensor([host.noise_path.numbered(timestep)], device=latent.device)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0)).to(latent)
    host.predict(host.noise_path.add_noise(latent, noise, at), at, [encoded], edits)
    return SeenMasks(maps, names_of(localised), local)


def names_of(localised: Sequence[Localised]) -> list[str]:
    """Handles in the order of their masks; duplicates share one."""
    return list(dict.fromkeys(name for one in localised for name in one.concept.names))


@dataclass(frozen=True, slots=True)
class SeenMasks:
    """Masks of both engines.

    Attributes:
        maps: of the concepts that the paper's LAG applied, in the order of `names`.
        names: of all concepts, without brackets.
        local: "<name>" of the others -> [P, h, w].
    """

    maps: LagMaps
    names: Sequence[str]
    local: Mapping[str, Tensor]

    def shown(self, size: Sequence[int], pictures: int) -> tuple[Tensor, Tensor]:
        """MASK [P * G, H, W] and IMAGE of the blocks; white and a blank sheet if LAG was off."""
        height, width = size
        local = {name: self.local[f"<{name}>"] for name in self.names if f"<{name}>" in self.local}
        rest = [name for name in self.names if name not in local]
        planes = {
            name: F.interpolate(mask[:, None], (height, width), mode="bilinear").clamp(0, 1)[:, 0]
            for name, mask in local.items()
        }
        blocks = {"whole picture": torch.stack(list(local.values()), dim=1)} if local else {}
        if self.maps:
            averaged = self.maps.averaged((height, width))  # [P, G, H, W]
            planes |= dict(zip(rest, averaged.unbind(dim=1), strict=True))
            blocks = self.maps.blocks()
        white = torch.ones(pictures, height, width)
        masks = torch.stack([planes.get(name, white) for name in self.names], dim=1)
        sheet = torch.zeros(64, 64, 3)
        if blocks:
            sheet = blocks_sheet(blocks, rest if self.maps else list(local))
        return masks.flatten(0, 1), picture(sheet)
