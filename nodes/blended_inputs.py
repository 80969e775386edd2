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
            tooltip="Steps skipped at the noisy end (t_start). 0 draws with no memory of what was "
            "there, 5 to 20 of 50 are usual, more keeps more of it. Must be below the steps.",
        ),
        io.Float.Input(
            "eta",
            default=config.eta,
            min=0.0,
            max=1.0,
            step=0.05,
            tooltip="Fresh noise in every step: 0 is plain DDIM, 1 (CLiC) lets seams heal best.",
        ),
        io.Int.Input(
            "free_steps",
            default=config.free_steps,
            min=0,
            max=MOST_STEPS,
            advanced=True,
            tooltip="Last steps that are no longer held to the picture. 0 holds all, so latents "
            "outside of the mask end exactly as they were; CLiC's code frees 4 of 50.",
        ),
        io.Combo.Input(
            "source_level",
            options=[level.value for level in SourceLevel],
            default=config.source_level.value,
            advanced=True,
            tooltip="How noisy the picture is when it is put around the mask: as noisy as the step "
            "(both papers), or one step noisier (code of Blended Latent Diffusion).",
        ),
        io.Combo.Input(
            "inside",
            options=[inside.value for inside in Inside],
            default=config.inside.value,
            advanced=True,
            tooltip="What stands under the mask at the start: the noised picture keeps its layout, "
            "pure noise forgets it.",
        ),
        io.Boolean.Input(
            "fresh_noise",
            default=config.fresh_noise,
            advanced=True,
            tooltip="On: new noise on the picture before every step, as both papers' code. Off: "
            "the same noise all along, which suits eta 0.",
        ),
    ]


def composite_inputs() -> list[io.Input]:
    """Whether and how softly what was drawn is put back into its picture."""
    return [
        io.Boolean.Input(
            "composite",
            default=True,
            tooltip="On: outside of the mask every pixel stays as it was. Off: the whole picture "
            "went through the VAE, which changes it a little everywhere.",
        ),
        io.Int.Input(
            "feather_px",
            default=FEATHER_PX,
            min=0,
            max=256,
            tooltip="Width of the seam, inside of the mask: 0 is a hard edge, 16 a soft one.",
        ),
    ]


def edit_inputs(schedulers: Sequence[str]) -> list[io.Input]:
    """Everything that Masked Blended Edit takes."""
    config = EditConfig()
    return [
        io.Model.Input("model", tooltip="The model, with concepts and guidance applied or not."),
        io.Clip.Input("clip", tooltip="Its CLIP; from Apply Concept it knows learned names."),
        io.Vae.Input("vae", tooltip="Its VAE, for both ways."),
        io.Image.Input("image", tooltip="The picture to edit."),
        io.Mask.Input(
            "mask",
            tooltip="White is drawn anew, grey is mixed. A batch of masks makes regions, each with "
            "its own line of the prompts.",
        ),
        io.String.Input(
            "prompts",
            default="a photo of a cup",
            multiline=True,
            dynamic_prompts=True,
            tooltip="What is drawn under the mask: one line for each mask in their order, or one "
            "line for all. Learned names such as <my-mug> may stand in them.",
        ),
        io.String.Input(
            "negative",
            default="",
            multiline=True,
            dynamic_prompts=True,
            tooltip="What to keep away from; may be empty.",
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**32 - 1,
            control_after_generate=True,
            tooltip="Of all noise; the same seed gives the same picture.",
        ),
        io.Int.Input(
            "steps",
            default=config.steps,
            min=1,
            max=MOST_STEPS,
            tooltip="Steps of the whole schedule, the skipped ones too: 20 quick, 50 fine.",
        ),
        io.Float.Input(
            "cfg",
            default=config.cfg,
            min=1.0,
            max=100.0,
            step=0.5,
            tooltip="1 looks at the prompt alone, 7.5 is usual, more follows it harder.",
        ),
        io.Combo.Input(
            "scheduler",
            options=list(schedulers),
            default="ddim_uniform",
            tooltip="Spacing of the noise levels; ddim_uniform is the papers'.",
        ),
        *blend_inputs(),
        io.Int.Input(
            "harmonise_steps",
            default=config.harmonise_steps,
            min=0,
            max=MOST_STEPS,
            advanced=True,
            tooltip="Last steps of the base model with the plain prompt, not held to the picture, "
            "so that old and new grow together: 0 none, 5 of 50 in CLiC's code.",
        ),
        io.String.Input(
            "harmonise_prompt",
            default="",
            dynamic_prompts=True,
            advanced=True,
            tooltip="Prompt of those steps, without the learned name: a chair. Empty keeps yours.",
        ),
        *composite_inputs(),
        io.Model.Input(
            "base_model",
            optional=True,
            tooltip="The model of the harmonising steps, without the concept; left out, the same.",
        ),
    ]
