"""Soft Mask Builder: the shape of a region, and the weight of its surroundings."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..attention.site_selection import grid_at
from ..scenes.soft_masks import (
    SoftMaskConfig,
    checked_masks,
    shaped_mask,
    soft_mask,
    strengthened,
)
from ..viz.soft_mask_preview import describe_weights, soft_mask_preview
from .shared import CATEGORY, assumed_latent_size, picture, shown

_PLAIN = SoftMaskConfig()


class SoftMaskBuilder(io.ComfyNode):
    """MASK -> MASK, softened or only shaped."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomSoftMaskBuilder",
            display_name="Soft Mask Builder",
            category=CATEGORY,
            description="Adjusts masks (threshold, grow, shrink, feather, invert) and softens "
            "them as CLiC does, a + (1 - a) M. Shows a preview of the mask that the loss uses.",
            search_aliases=["clic", "grow mask", "feather", "expand mask", "blur mask", "alpha"],
            inputs=_inputs(),
            outputs=[
                io.Mask.Output(
                    "soft_mask",
                    tooltip="a + (1 - a) M: 1 in the region, a outside it. Use it to see the "
                    "weights of the loss. Trainers soften masks themselves, and samplers need "
                    "the mask.",
                ),
                io.Mask.Output(
                    "mask",
                    tooltip="The adjusted mask without softening. Connect it to Concept Scene.",
                ),
                io.Image.Output(
                    "preview",
                    tooltip="The weights in pixels, on the latent grid and on the grid of "
                    "attention maps: black is 0, white 1.",
                ),
                io.String.Output("report", tooltip="Weights inside and outside each mask."),
            ],
        )

    @classmethod
    def execute(
        cls, mask: Tensor, background_weight: float, grow_px: int, feather_px: float,
        threshold: float, invert: bool, attention_level: int, vae: Any = None,
    ) -> io.NodeOutput:  # fmt: skip
        config = SoftMaskConfig(
            invert=invert,
            threshold=threshold or None,
            grow_px=grow_px,
            feather_px=feather_px,
            background_weight=background_weight,
        )
        shaped = shaped_mask(mask, config)
        grids = grids_of(shaped, vae, attention_level)
        remarks = [] if config.threshold else strengthened(checked_masks(mask))[1]
        preview = picture(soft_mask_preview(shaped, background_weight, grids, remarks))
        summary = "\n".join([*remarks, describe_weights(shaped, background_weight, grids)])
        soft = soft_mask(shaped, background_weight)
        return io.NodeOutput(soft, shaped, preview, summary, ui=shown(cls, preview, summary))


def _inputs() -> list[io.Input]:
    return [
        io.Mask.Input(
            "mask",
            tooltip="White (1) is the region, black (0) is not. All masks of a batch "
            "get the same treatment.",
        ),
        io.Float.Input(
            "background_weight",
            default=_PLAIN.background_weight,
            min=0.0,
            max=1.0,
            step=0.05,
            tooltip="a: weight outside the region. 0 keeps the mask itself, 1 weighs the whole "
            "picture equally; the paper uses 0.5. The loss squares it, so 0.5 counts a "
            "quarter.",
        ),
        io.Int.Input(
            "grow_px",
            default=_PLAIN.grow_px,
            min=-512,
            max=512,
            tooltip="Grows the region by this many pixels on all sides; negative values shrink it.",
        ),
        io.Float.Input(
            "feather_px",
            default=_PLAIN.feather_px,
            min=0.0,
            max=256.0,
            step=0.5,
            tooltip="Softness of the edge: standard deviation of a blur that follows growing. "
            "0 is sharp.",
        ),
        io.Float.Input(
            "threshold",
            default=0.0,
            min=0.0,
            max=0.99,
            step=0.01,
            tooltip="Values above the threshold become 1, all others 0. 0 keeps grey values.",
        ),
        io.Boolean.Input(
            "invert",
            default=_PLAIN.invert,
            tooltip="On: inverts the mask, before all other steps.",
        ),
        io.Combo.Input(
            "attention_level",
            options=[1, 2, 4, 8],
            default=4,
            tooltip="Only for the preview: attention maps are this many times coarser than the "
            "latents. The loss reads 1 to 4; 8 shows the coarsest blocks.",
        ),
        io.Vae.Input(
            "vae",
            optional=True,
            tooltip="Only for the preview: sets the resolution of the latents. Without it, the "
            "preview assumes 8 pixels per latent.",
        ),
    ]


def grids_of(masks: Tensor, vae: Any, level: int) -> dict[str, tuple[int, int]]:
    """Title of a panel -> its grid: pixels, latents, attention."""
    size = masks.shape[1], masks.shape[2]
    latent = assumed_latent_size(*size, vae)
    return {"pixels": size, "latents": latent, "attention": grid_at(level, latent)}
