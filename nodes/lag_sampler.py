"""LAG Sampler: several concepts and a sampler in one node, with a live view of the masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from comfy_api.latest import io
from torch import Tensor

from ..attention.lag_maps import LagMaps
from ..concepts.concept import Concept
from ..host.comfyui.ksampler import SAMPLERS, SCHEDULERS, KSamplerCall, sampled
from ..host.comfyui.progress import NodeProgress
from ..methods.personalized_residuals import by_engine
from ..viz.lag_overlays import masks_picture
from .inputs import OF_ITS_FAMILY, model_inputs, seed_input
from .lag import with_lag
from .lag_inputs import (
    LAG_CATEGORY,
    PROMPT,
    concepts_input,
    lag_inputs,
    localised_of,
)
from .lag_maps import SeenMasks, names_of
from .local_masks import latest_of
from .shared import shown


class LagSampler(io.ComfyNode):
    """MODEL, CLIP, CONCEPTs and prompts -> LATENT, and where each concept was."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomLagSampler",
            display_name="LAG Sampler",
            category=LAG_CATEGORY,
            description="Draws one or several concepts, each only in its own region, and shows "
            "the masks during sampling. The settings apply to every concept; to set them "
            "separately, chain Apply LAG before any sampler.",
            search_aliases=["ksampler", "personalized residuals", "localized attention"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                *model_inputs(OF_ITS_FAMILY),
                concepts_input(),
                *_sampler_inputs(),
                *lag_inputs(),
            ],
            outputs=[
                io.Latent.Output(
                    "latent", tooltip="The sampled latents; decode them with VAE Decode."
                ),
                io.Mask.Output(
                    "masks",
                    tooltip="One mask for every concept and picture: mean over blocks and steps.",
                ),
                io.Image.Output("blocks", tooltip="The mask of every block, mean over the steps."),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, concepts: dict[str, Concept], positive: str, negative: str,
        latent_image: dict[str, Any], seed: int, steps: int, cfg: float, sampler_name: str,
        scheduler: str, denoise: float, mask: Tensor | None = None, **widgets: Any,
    ) -> io.NodeOutput:  # fmt: skip
        localised_concepts = [
            localised_of(concept, mask, widgets) for concept in concepts.values() if concept
        ]
        maps, names = LagMaps(), names_of(localised_concepts)
        patched, knowing = with_lag(model, clip, localised_concepts, maps)
        call = KSamplerCall(
            positive=positive, negative=negative, seed=seed, steps=steps, cfg=cfg,
            sampler=sampler_name, scheduler=scheduler, denoise=denoise,
        )  # fmt: skip
        read_by_lag = names_of(by_engine(localised_concepts)[0])
        live = _Live(NodeProgress(cls.hidden.unique_id), maps, read_by_lag)
        latent = sampled(patched, knowing, latent_image, call, live)
        seen, drawn = SeenMasks(maps, names, latest_of(patched)), latent["samples"]
        masks, blocks = seen.shown(drawn.shape[-2:], len(drawn))
        return io.NodeOutput(latent, masks, blocks, ui=shown(cls, blocks))


def _sampler_inputs() -> list[io.Input]:
    return [
        io.String.Input(
            "positive",
            default="a photo of a <my-cat> cat",
            multiline=True,
            dynamic_prompts=True,
            tooltip=PROMPT,
        ),
        io.String.Input(
            "negative",
            default="",
            multiline=True,
            dynamic_prompts=True,
            tooltip="What the picture should not show.",
        ),
        io.Latent.Input("latent_image", tooltip="An empty latent, or the latent of a picture "
        "to draw over."),
        seed_input(
            "Seed of the noise; the same seed gives the same picture.",
            most=2**64 - 1,
            changes=True,
        ),
        io.Int.Input(
            "steps", default=30, min=1, max=10_000, tooltip="Sampling steps. Few are fast and "
            "rough, 50 fine."
        ),
        io.Float.Input(
            "cfg",
            default=7.5,
            min=1.0,
            max=100.0,
            step=0.1,
            tooltip="Guidance scale: how closely the picture follows the prompt. 1 ignores the "
            "negative prompt; high values oversaturate.",
        ),
        io.Combo.Input(
            "sampler_name",
            options=SAMPLERS,
            default="ddim",
            tooltip="The same schedulers as in KSampler.",
        ),
        io.Combo.Input(
            "scheduler",
            options=SCHEDULERS,
            default="normal",
            tooltip="The same schedulers as in KSampler.",
        ),
        io.Float.Input(
            "denoise",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Denoising strength. 1 draws a new picture; lower keeps more of the input "
            "latent.",
        ),
    ]  # fmt: skip


class _Live:
    """Progress with the newest masks over the preview picture."""

    def __init__(self, progress: NodeProgress, maps: LagMaps, names: Sequence[str]) -> None:
        self._progress, self._maps, self._names = progress, maps, names

    def __call__(self, step: int, total: int, rough: Tensor | None) -> None:
        seen = rough
        if self._maps:
            size = (64, 64) if rough is None else tuple(rough.shape[:2])
            masks = self._maps.newest((size[0], size[1]))[0]
            seen = masks_picture(masks, self._names, rough)
        if seen is not None and max(seen.shape) < 256:  # easier to see
            scale = 256 // max(seen.shape)
            large = F.interpolate(seen.movedim(-1, 0)[None], scale_factor=scale)
            seen = large[0].movedim(0, -1)
        self._progress(step, total, preview=seen)
