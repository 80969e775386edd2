"""Soft Mask Builder: the shape of a region, and the weight of what lies around it."""

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
from ..viz.soft_mask_preview import soft_mask_preview, weights_told
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
            description="Shapes masks (threshold, grow, shrink, feather, invert) and softens them "
            "as CLiC does, a + (1 - a) M, with a preview of what the loss sees.",
            search_aliases=["clic", "grow mask", "feather", "expand mask", "blur mask", "alpha"],
            inputs=_inputs(),
            outputs=[
                io.Mask.Output(
                    "soft_mask",
                    tooltip="a + (1 - a) M: 1 in the region, a around it. For a look at what the "
                    "loss weighs by: the trainer softens by itself, and samplers want the mask.",
                ),
                io.Mask.Output("mask", tooltip="The shaped mask, not softened. For Concept Scene."),
                io.Image.Output(
                    "preview",
                    tooltip="The weights in pixels, on the latents and on the grid of attention "
                    "maps: black is 0, white 1.",
                ),
                io.String.Output("report", tooltip="Weights inside and outside, mask by mask."),
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
        told = "\n".join([*remarks, weights_told(shaped, background_weight, grids)])
        soft = soft_mask(shaped, background_weight)
        return io.NodeOutput(soft, shaped, preview, told, ui=shown(cls, preview, told))


def _inputs() -> list[io.Input]:
    return [
        io.Mask.Input(
            "mask", tooltip="White (1) is the region, black (0) is not. A batch is shaped alike."
        ),
        io.Float.Input(
            "background_weight",
            default=_PLAIN.background_weight,
            min=0.0,
            max=1.0,
            step=0.05,
            tooltip="a: the weight around the region. 0 is the mask itself, 1 the whole picture "
            "alike; 0.5 as in the paper. It stands inside the square, so 0.5 counts a quarter.",
        ),
        io.Int.Input(
            "grow_px",
            default=_PLAIN.grow_px,
            min=-512,
            max=512,
            tooltip="Pixels that the region grows by on all sides; below 0 it shrinks.",
        ),
        io.Float.Input(
            "feather_px",
            default=_PLAIN.feather_px,
            min=0.0,
            max=256.0,
            step=0.5,
            tooltip="Softness of the edge: deviation of a blur, after growing. 0 is sharp.",
        ),
        io.Float.Input(
            "threshold",
            default=0.0,
            min=0.0,
            max=0.99,
            step=0.01,
            tooltip="Values above it become 1, the rest 0. At 0 grey values stay as they are.",
        ),
        io.Boolean.Input(
            "invert",
            default=_PLAIN.invert,
            tooltip="On: the region is what the mask leaves out. Comes first.",
        ),
        io.Combo.Input(
            "attention_level",
            options=[1, 2, 4, 8],
            default=4,
            tooltip="For the preview: maps are this many times coarser than the latents. 1 to 4 "
            "are read by the loss, 8 shows what the coarsest blocks see.",
        ),
        io.Vae.Input(
            "vae",
            optional=True,
            tooltip="For the preview: how coarse the latents are. Without it 8 pixels per latent.",
        ),
    ]


def grids_of(masks: Tensor, vae: Any, level: int) -> dict[str, tuple[int, int]]:
    """Title of a panel -> its grid: pixels, latents, attention."""
    size = masks.shape[1], masks.shape[2]
    latent = assumed_latent_size(*size, vae)
    return {"pixels": size, "latents": latent, "attention": grid_at(level, latent)}
