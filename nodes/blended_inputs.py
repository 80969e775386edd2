"""Widgets of the blended nodes; every default comes from the settings themselves."""

from __future__ import annotations

from collections.abc import Sequence

from comfy_api.latest import io

from ..samplers.blended import BlendConfig, Inside, SourceLevel
from ..samplers.editing import EditConfig

FEATHER_PX = 4  # seam of a 512 px picture; ours
MOST_STEPS = 10000  # of the host's samplers


def blend_inputs() -> list[io.Input]:
    """The knobs of `BlendConfig`."""
    config = BlendConfig()
    return [
        io.Int.Input(
            "start",
            default=config.start,
            min=0,
            max=MOST_STEPS,
            tooltip="Steps skipped at the noisy end (t_start). 0 ignores the old content, 5 to "
            "20 of 50 are usual, more keep more of it. Must be below the number of steps.",
        ),
        io.Float.Input(
            "eta",
            default=config.eta,
            min=0.0,
            max=1.0,
            step=0.05,
            tooltip="Fresh noise in every step. 0 is plain DDIM, 1 (CLiC) blends seams best.",
        ),
        io.Int.Input(
            "free_steps",
            default=config.free_steps,
            min=0,
            max=MOST_STEPS,
            advanced=True,
            tooltip="Last steps without blending the source picture in. 0 blends in every "
            "step, so latents outside the mask stay exact; CLiC's code frees 4 of 50.",
        ),
        io.Combo.Input(
            "source_level",
            options=[level.value for level in SourceLevel],
            default=config.source_level.value,
            advanced=True,
            tooltip="Noise level of the source picture when it is blended in: the level of the "
            "step (both papers), or one step noisier (code of Blended Latent Diffusion).",
        ),
        io.Combo.Input(
            "inside",
            options=[inside.value for inside in Inside],
            default=config.inside.value,
            advanced=True,
            tooltip="Initial content under the mask: the noised picture keeps its layout, pure "
            "noise discards it.",
        ),
        io.Boolean.Input(
            "fresh_noise",
            default=config.fresh_noise,
            advanced=True,
            tooltip="On: draws new noise for the source picture before every step, as both "
            "papers' code does. Off: uses the same noise in every step, which suits eta 0.",
        ),
    ]


def composite_inputs() -> list[io.Input]:
    """Whether and how softly what was drawn is put back into its picture."""
    return [
        io.Boolean.Input(
            "composite",
            default=True,
            tooltip="On: every pixel outside the mask stays exact. Off: the whole picture "
            "passes through the VAE, which changes it slightly everywhere.",
        ),
        io.Int.Input(
            "feather_px",
            default=FEATHER_PX,
            min=0,
            max=256,
            tooltip="Width of the seam inside the mask, in pixels: 0 is a hard edge, 16 a soft "
            "one.",
        ),
    ]


def edit_inputs(schedulers: Sequence[str]) -> list[io.Input]:
    """Everything that Masked Blended Edit takes."""
    config = EditConfig()
    return [
        io.Model.Input("model", tooltip="The model, with or without concepts and guidance."),
        io.Clip.Input("clip", tooltip="Its CLIP; after Apply Concept it knows learned names."),
        io.Vae.Input("vae", tooltip="Its VAE, for encoding and decoding."),
        io.Image.Input("image", tooltip="The picture to edit."),
        io.Mask.Input(
            "mask",
            tooltip="White is redrawn, grey is mixed. A batch of masks makes regions, each "
            "with its own line in the prompts.",
        ),
        io.String.Input(
            "prompts",
            default="a photo of a cup",
            multiline=True,
            dynamic_prompts=True,
            tooltip="What to draw under the mask: one line for each mask in order, or one line "
            "for all. Learned names such as <my-mug> work here.",
        ),
        io.String.Input(
            "negative",
            default="",
            multiline=True,
            dynamic_prompts=True,
            tooltip="What to avoid; may be empty.",
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**32 - 1,
            control_after_generate=True,
            tooltip="Seed of all noise; the same seed gives the same picture.",
        ),
        io.Int.Input(
            "steps",
            default=config.steps,
            min=1,
            max=MOST_STEPS,
            tooltip="Steps of the whole schedule, including the skipped ones: 20 is fast, 50 fine.",
        ),
        io.Float.Input(
            "cfg",
            default=config.cfg,
            min=1.0,
            max=100.0,
            step=0.5,
            tooltip="Guidance scale. 1 uses the prompt alone, 7.5 is usual; higher follows the "
            "prompt more closely and oversaturates.",
        ),
        io.Combo.Input(
            "scheduler",
            options=list(schedulers),
            default="ddim_uniform",
            tooltip="Spacing of the noise levels; both papers use ddim_uniform.",
        ),
        *blend_inputs(),
        io.Int.Input(
            "harmonise_steps",
            default=config.harmonise_steps,
            min=0,
            max=MOST_STEPS,
            advanced=True,
            tooltip="Last steps with the base model, the plain prompt and no blending, which "
            "harmonise old and new content: 0 is none, CLiC's code uses 5 of 50.",
        ),
        io.String.Input(
            "harmonise_prompt",
            default="",
            dynamic_prompts=True,
            advanced=True,
            tooltip="Prompt of the harmonising steps, without the learned name: a chair. Empty "
            "keeps your prompt.",
        ),
        *composite_inputs(),
        io.Model.Input(
            "base_model",
            optional=True,
            tooltip="The model for the harmonising steps, without the concept. Without it, "
            "they use the same model.",
        ),
    ]
