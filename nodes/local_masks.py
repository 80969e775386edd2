"""Localized LoRA Masks: where the LoRAs of a MODEL worked in the picture that it drew."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from comfy_api.latest import io
from torch import Tensor

from ..errors import ConfigError, ImageError
from ..viz.lag_overlays import masks_picture
from .local_lora import RECORD, MaskRecord
from .lora_files import LORA_CATEGORY
from .shared import picture, shown


class LocalizedLoraMasks(io.ComfyNode):
    """MODEL and the picture that it drew -> masks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomLocalizedLoraMasks",
            display_name="Localized LoRA Masks",
            category=LORA_CATEGORY,
            description="Shows the region of each LoRA of Load LoRA (Localized) in the latest "
            "picture of a model. To correct a region, paint over its mask and connect it to the "
            "loader.",
            search_aliases=["lora mask", "regional lora", "mask preview"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="From the last Load LoRA (Localized), as the sampler used it."
                ),
                io.Image.Input(
                    "image", tooltip="The decoded picture, so that this runs after the sampler."
                ),
            ],
            outputs=[
                io.Image.Output("overlay", tooltip="The picture, darkened outside the regions."),
                io.Mask.Output(
                    "masks",
                    tooltip="The masks of the first picture, then those of the next, one per LoRA.",
                ),
            ],
        )

    @classmethod
    def execute(cls, model: Any, image: Tensor) -> io.NodeOutput:
        if image.ndim != 4 or image.shape[-1] not in (3, 4):
            raise ImageError(f"The image has the shape {list(image.shape)}; connect a picture.")
        record = model.get_attachment(RECORD)
        masks, names = latest_masks(record)
        overlay = picture(masks_picture(masks[0], names, image[0, ..., :3].cpu()))
        size = (image.shape[1], image.shape[2])
        resized = F.interpolate(masks, size, mode="bilinear").clamp(0, 1)
        return io.NodeOutput(overlay, resized.flatten(0, 1), ui=shown(cls, overlay))


def latest_of(model: Any) -> dict[str, Tensor]:
    """Masks [P, h, w] of a MODEL's latest run, by what previews call each localised LoRA."""
    record: MaskRecord | None = model.get_attachment(RECORD)
    if record is None or record.masks is None:
        return {}
    return dict(zip(record.names, record.masks.unbind(dim=1), strict=True))


def latest_masks(record: MaskRecord | None) -> tuple[Tensor, tuple[str, ...]]:
    """Masks [P, G, h, w] of a MODEL's latest run, and what each belongs to.

    Raises:
        ConfigError: it has no localised LoRA, or has drawn nothing yet.
    """
    if record is None or record.masks is None:
        raise ConfigError(
            "model",
            "without masks",
            "the output of the last Load LoRA (Localized), with words to be found, after a sampler "
            "has drawn the image with it",
        )
    return record.masks, record.names
