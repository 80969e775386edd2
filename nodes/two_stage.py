"""Two-Stage Generation: the base model lays out, then the concept applies."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..host.comfyui.sampling import (
    named_sampler,
    run_sampler,
    sampler_names,
    scheduler_names,
    sigmas_of,
)
from ..methods.clic.config import TwoStageConfig
from .blended import SAMPLING
from .inputs import seed_input


class TwoStageGeneration(io.ComfyNode):
    """Base model for the first steps, then the concept."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        config = TwoStageConfig()
        return io.Schema(
            node_id="ConceptLoomTwoStageGeneration",
            display_name="Two-Stage Generation",
            category=SAMPLING,
            description="Lets the base model lay out an object in the first steps, then "
            "applies the concept (CLiC), so that new objects keep their own shape.",
            search_aliases=["two pass", "clic generate", "prompt switch", "ksampler advanced"],
            inputs=[
                io.Model.Input("base_model", tooltip="The model without the concept."),
                io.Model.Input("model", tooltip="The model with it, from Apply Concept."),
                io.Conditioning.Input(
                    "base_positive", tooltip="Prompt of the first steps: a photo of a chair."
                ),
                io.Conditioning.Input(
                    "positive",
                    tooltip="Prompt of the remaining steps: a photo of a chair, with <x> style.",
                ),
                io.Conditioning.Input("negative", tooltip="What to avoid, in both stages."),
                io.Latent.Input(
                    "latent_image", tooltip="Usually an empty latent of the desired size."
                ),
                io.Int.Input(
                    "base_steps",
                    default=config.base_steps,
                    min=0,
                    max=10000,
                    tooltip="Steps with the base model: 0 uses the concept throughout, 5 of 50 "
                    "fix the outline, many leave no room for the concept.",
                ),
                seed_input(
                    "Seed of the noise; the same seed gives the same picture.", changes=True
                ),
                io.Int.Input(
                    "steps",
                    default=config.steps,
                    min=1,
                    max=10000,
                    tooltip="Steps of both stages together: 20 is fast, 50 fine.",
                ),
                io.Float.Input(
                    "cfg",
                    default=config.cfg,
                    min=0.0,
                    max=100.0,
                    step=0.5,
                    tooltip="Guidance scale. 1 uses the prompt alone, 7.5 is usual; higher "
                    "follows the prompt more closely and oversaturates.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=sampler_names(),
                    default="ddim",
                    tooltip="Sampler; the paper uses ddim. Samplers that keep earlier steps "
                    "start fresh at the second stage.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=scheduler_names(),
                    default="ddim_uniform",
                    tooltip="Spacing of the noise levels; the paper uses ddim_uniform.",
                ),
            ],
            outputs=[io.Latent.Output("latent", tooltip="The sampled latents, for VAE Decode.")],
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        return io.NodeOutput(drawn_in_two_stages(**inputs))


def drawn_in_two_stages(
    *, base_model: Any, model: Any, base_positive: Any, positive: Any, negative: Any,
    latent_image: dict[str, Any], base_steps: int, seed: int, steps: int, cfg: float,
    sampler_name: str, scheduler: str,
) -> dict[str, Any]:  # fmt: skip
    """LATENT sampled first with one model and prompt, then with another.

    Raises:
        ConfigError: the first stage has more steps than the whole schedule.
    """
    config = TwoStageConfig(base_steps=base_steps, steps=steps, cfg=cfg)
    sigmas, sampler = sigmas_of(model, scheduler, steps), named_sampler(sampler_name)
    stages = [
        (base_model, base_positive, sigmas[: config.base_steps + 1]),
        (model, positive, sigmas[config.base_steps :]),
    ]
    latent, done = latent_image, 0
    for which, prompt, levels in stages:
        if len(levels) < 2:
            continue
        latent = run_sampler(
            which, prompt, negative, cfg, sampler, levels, latent, seed,
            adds_noise=done == 0, progress_of=(done, len(sigmas) - 1),
        )  # fmt: skip
        done += len(levels) - 1
    return latent
