"""LAG sampling: as a patch for any sampler, as a sampler in one piece, and its masks to look at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from comfy_api.latest import io
from torch import Tensor

from ..attention.lag import LagConcept, LagEdit, OnMasks
from ..attention.lag_maps import LagMaps
from ..errors import ConfigError, ImageError
from ..host.comfyui.edits import SamplingRun, with_edits
from ..host.comfyui.ksampler import SAMPLERS, SCHEDULERS, KSamplerCall, sampled
from ..host.comfyui.progress import NodeProgress
from ..host.comfyui.prompts import clip_with_handles
from ..methods.personalized_residuals import Localised, check_prompts, lag_concept
from ..training.concept import Concept, stacked
from ..training.lag_pictures import blocks_sheet, masks_picture
from .lag_knobs import lag_inputs, localised_of
from .shared import CATEGORY, host_of, picture, shown
from .sockets import LearnedConcept

LAG_CATEGORY = f"{CATEGORY}/LAG"
KEY = "conceptloom.lag"
MOST_CONCEPTS = 8


class ApplyLag(io.ComfyNode):
    """MODEL, CLIP and CONCEPT -> MODEL that localises it in any sampler, CLIP that knows it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomApplyLag",
            display_name="Apply LAG",
            category=LAG_CATEGORY,
            description="Adds what was learned only where the picture shows the concept; the rest "
            "stays with the base model. Works with any sampler, ControlNet and LoRA. Chain "
            "several for several concepts.",
            search_aliases=["personalized residuals", "lora bleeding", "lora mask", "regional"],
            inputs=[
                *_model_inputs(),
                LearnedConcept.Input("concept", tooltip=_OF_ONE),
                *lag_inputs(),
            ],
            outputs=[
                io.Model.Output("model", tooltip="For any sampler; what came in is unchanged."),
                io.Clip.Output(
                    "clip",
                    tooltip="For the prompts: it knows the name, and tells LAG where it stands.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, concept: Concept, mask: Tensor | None = None, **knobs: Any
    ) -> io.NodeOutput:
        return io.NodeOutput(*with_lag(model, clip, [localised_of(concept, mask, knobs)]))


class LagSampler(io.ComfyNode):
    """MODEL, CLIP, CONCEPTs and prompts -> LATENT, and where each concept was."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomLagSampler",
            display_name="LAG Sampler",
            category=LAG_CATEGORY,
            description="Draws with one or several concepts, each only where it is, and shows the "
            "masks while it draws. The settings below go for every concept; for different ones "
            "chain Apply LAG in front of any sampler.",
            search_aliases=["ksampler", "personalized residuals", "localized attention"],
            hidden=[io.Hidden.unique_id],
            inputs=[*_model_inputs(), _concepts_input(), *_sampler_inputs(), *lag_inputs()],
            outputs=[
                io.Latent.Output(
                    "latent", tooltip="What was drawn; VAE Decode makes pictures of it."
                ),
                io.Mask.Output(
                    "masks",
                    tooltip="One for every concept and picture: mean over blocks and steps.",
                ),
                io.Image.Output("blocks", tooltip="The mask of every block, mean over the steps."),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, concepts: dict[str, Concept], positive: str, negative: str,
        latent_image: dict[str, Any], seed: int, steps: int, cfg: float, sampler_name: str,
        scheduler: str, denoise: float, mask: Tensor | None = None, **knobs: Any,
    ) -> io.NodeOutput:  # fmt: skip
        given = [localised_of(concept, mask, knobs) for concept in concepts.values() if concept]
        maps, names = LagMaps(), [name for one in given for name in one.concept.names]
        patched, knowing = with_lag(model, clip, given, maps)
        call = KSamplerCall(
            positive=positive, negative=negative, seed=seed, steps=steps, cfg=cfg,
            sampler=sampler_name, scheduler=scheduler, denoise=denoise,
        )  # fmt: skip
        told = _Live(NodeProgress(cls.hidden.unique_id), maps, names)
        latent = sampled(patched, knowing, latent_image, call, told)
        drawn = latent["samples"]
        masks, blocks = shown_masks(maps, names, drawn.shape[-2:], len(drawn))
        return io.NodeOutput(latent, masks, blocks, ui=shown(cls, blocks))


class LagMapsNode(io.ComfyNode):
    """Where LAG would put concepts in a given picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomLagMaps",
            display_name="LAG Maps",
            category=LAG_CATEGORY,
            description="Shows the masks of LAG in a picture, block by block and averaged, without "
            "drawing: noise is added and one step of denoising watched.",
            search_aliases=["attention mask", "localized attention", "mask preview"],
            inputs=[
                *_model_inputs(),
                io.Vae.Input("vae", tooltip="Its VAE, which takes the picture to latents."),
                io.Image.Input("image", tooltip="The picture to look at; the first of a batch."),
                _concepts_input(),
                io.String.Input("prompt", default="", multiline=True, tooltip=_PROMPT),
                io.Int.Input(
                    "timestep",
                    default=400,
                    min=0,
                    max=999,
                    tooltip="Noise level to look at: 0 is the clean picture, 999 pure noise.",
                ),
                *lag_inputs(),
            ],
            outputs=[
                io.Image.Output("overlay", tooltip="The picture, dark where no concept is."),
                io.Image.Output("blocks", tooltip="The mask of every block."),
                io.Mask.Output("masks", tooltip="One for each concept: mean over the blocks."),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, vae: Any, image: Tensor, concepts: dict[str, Concept],
        prompt: str, timestep: int, mask: Tensor | None = None, **knobs: Any,
    ) -> io.NodeOutput:  # fmt: skip
        given = [localised_of(concept, mask, knobs) for concept in concepts.values() if concept]
        names = [name for one in given for name in one.concept.names]
        maps = read_masks(model, clip, vae, image, given, prompt, timestep)
        masks, blocks = shown_masks(maps, names, image.shape[1:3], 1)
        overlay = picture(masks_picture(masks, names, image[0, ..., :3]))
        return io.NodeOutput(overlay, blocks, masks, ui=shown(cls, overlay))


_OF_ONE = (
    "From Train Personalized Residuals, or Load Concept: low-rank, on output projections only."
)
_PROMPT = "Has to hold every concept's name and class word, for example: a photo of a <my-cat> cat."


def _model_inputs() -> list[io.Input]:
    return [
        io.Model.Input("model", tooltip="Of the kind that the concept was learned on."),
        io.Clip.Input("clip", tooltip="The CLIP of the same checkpoint."),
    ]


def _concepts_input() -> io.Input:
    template = io.Autogrow.TemplatePrefix(
        LearnedConcept.Input("concept", tooltip=_OF_ONE),
        prefix="concept",
        min=1,
        max=MOST_CONCEPTS,
    )
    return io.Autogrow.Input(
        "concepts",
        template=template,
        tooltip="One or several; a new socket appears with every one that you connect. Where two "
        "are looked for, the one with the stronger attention stays.",
    )


def _sampler_inputs() -> list[io.Input]:
    return [
        io.String.Input(
            "positive", default="a photo of a <my-cat> cat", multiline=True, tooltip=_PROMPT
        ),
        io.String.Input(
            "negative", default="", multiline=True, tooltip="What the picture should not show."
        ),
        io.Latent.Input("latent_image", tooltip="An empty latent, or a picture's to draw over."),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**64 - 1,
            control_after_generate=True,
            tooltip="Of the noise; the same seed gives the same picture.",
        ),
        io.Int.Input(
            "steps", default=30, min=1, max=10_000, tooltip="Few are quick and rough, 50 fine."
        ),
        io.Float.Input(
            "cfg",
            default=7.5,
            min=1.0,
            max=100.0,
            step=0.1,
            tooltip="How closely the prompt is followed. 1 leaves the negative prompt out.",
        ),
        io.Combo.Input(
            "sampler_name",
            options=SAMPLERS,
            default="ddim",
            tooltip="The same ones that KSampler has.",
        ),
        io.Combo.Input(
            "scheduler",
            options=SCHEDULERS,
            default="normal",
            tooltip="The same ones that KSampler has.",
        ),
        io.Float.Input(
            "denoise",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="1 draws anew; less keeps that much of the latent that came in.",
        ),
    ]  # fmt: skip


def with_lag(
    model: Any, clip: Any, given: Sequence[Localised], on_masks: OnMasks | None = None
) -> tuple[Any, Any]:
    """Clones of MODEL and CLIP with some concepts more; those from an earlier one stay on.

    Raises:
        ConceptLoomError: a concept does not fit the model, or LAG; two bring the same handle.
    """
    if not given:
        raise ConfigError("concepts", "empty", "at least one; connect a concept")
    host = host_of(model, clip)
    handles = stacked([(one.concept, 0.0) for one in given]).handles
    before: tuple[LagConcept, ...] = model.get_attachment(KEY) or ()
    concepts = (*before, *(lag_concept(host, one) for one in given))
    names = [concept.handle for concept in concepts]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError("concept", f"<{twice[0]}>", "a name that no other Apply LAG brings")

    def edits(run: SamplingRun) -> list[LagEdit]:
        if run.sigmas is not None:
            check_prompts(concepts, run.prompts)
        return [LagEdit(concepts, len(run.schedule), on_masks)]

    patched = with_edits(model, KEY, edits, replace=True)
    patched.set_attachments(KEY, concepts)
    return patched, clip_with_handles(clip, handles)


def read_masks(
    model: Any,
    clip: Any,
    vae: Any,
    image: Tensor,
    given: Sequence[Localised],
    prompt: str,
    timestep: int,
) -> LagMaps:
    """The masks of one forward pass over a noisy picture."""
    if image.ndim != 4 or image.shape[-1] not in (3, 4):
        raise ImageError(f"The image has the shape {list(image.shape)}; connect an RGB picture.")
    host = host_of(model, clip, vae)
    concepts = [lag_concept(host, one) for one in given]
    handles = stacked([(one.concept, 0.0) for one in given]).handles
    encoded = host.encode_prompt(prompt, handles)
    check_prompts(concepts, {prompt: encoded.tokens})
    latent = host.encode_image(image[:1, ..., :3])
    at = torch.tensor([timestep], device=latent.device)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0)).to(latent)
    maps = LagMaps()
    edit = LagEdit(concepts, len(host.schedule), maps)
    host.predict(host.schedule.add_noise(latent, noise, at), at, [encoded], [edit])
    return maps


def shown_masks(
    maps: LagMaps, names: Sequence[str], size: Sequence[int], pictures: int
) -> tuple[Tensor, Tensor]:
    """MASK [P * G, H, W] and IMAGE of the blocks; white and a blank sheet where LAG was off."""
    height, width = size
    if not maps:
        return torch.ones(pictures * len(names), height, width), torch.zeros(1, 64, 64, 3)
    masks = maps.averaged((height, width)).flatten(0, 1)
    return masks, picture(blocks_sheet(maps.blocks(), names))


class _Live:
    """Progress with the newest masks over the rough picture."""

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
