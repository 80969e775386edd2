"""Two-Stage Generation: the base model lays out, the concept comes in later."""

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


class TwoStageGeneration(io.ComfyNode):
    """Base model for the first steps, then the concept."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        config = TwoStageConfig()
        return io.Schema(
            node_id="ConceptLoomTwoStageGeneration",
            display_name="Two-Stage Generation",
            category=SAMPLING,
            description="Lets the base model lay an object out for the first steps and puts the "
            "concept on it afterwards (CLiC), so that new objects keep their own shape.",
            search_aliases=["two pass", "clic generate", "prompt switch", "ksampler advanced"],
            inputs=[
                io.Model.Input("base_model", tooltip="The model without the concept."),
                io.Model.Input("model", tooltip="The model with it, from Apply Concept."),
                io.Conditioning.Input(
                    "base_positive", tooltip="Prompt of the first steps: a photo of a chair."
                ),
                io.Conditioning.Input(
                    "positive", tooltip="Prompt of the rest: a photo of a chair, with <x> style."
                ),
                io.Conditioning.Input("negative", tooltip="What to keep away from, in both."),
                io.Latent.Input("latent_image", tooltip="Usually an empty latent of the size."),
                io.Int.Input(
                    "base_steps",
                    default=config.base_steps,
                    min=0,
                    max=10000,
                    tooltip="Steps of the base model: 0 is the concept alone, 5 of 50 fix the "
                    "outline, many leave the concept no room.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**32 - 1,
                    control_after_generate=True,
                    tooltip="Of the noise; the same seed gives the same picture.",
                ),
                io.Int.Input(
                    "steps",
                    default=config.steps,
                    min=1,
                    max=10000,
                    tooltip="Steps of both stages together: 20 quick, 50 fine.",
                ),
                io.Float.Input(
                    "cfg",
                    default=config.cfg,
                    min=0.0,
                    max=100.0,
                    step=0.5,
                    tooltip="1 looks at the prompt alone, 7.5 is usual, more follows it harder.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=sampler_names(),
                    default="ddim",
                    tooltip="How noise becomes a picture; ddim is the paper's. Samplers that "
                    "remember earlier steps begin anew at the second stage.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=scheduler_names(),
                    default="ddim_uniform",
                    tooltip="Spacing of the noise levels; ddim_uniform is the paper's.",
                ),
            ],
            outputs=[io.Latent.Output("latent", tooltip="What was drawn, for VAE Decode.")],
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        return io.NodeOutput(drawn_in_two_stages(**inputs))


def drawn_in_two_stages(
    *, base_model: Any, model: Any, base_positive: Any, positive: Any, negative: Any,
    latent_image: dict[str, Any], base_steps: int, seed: int, steps: int, cfg: float,
    sampler_name: str, scheduler: str,
) -> dict[str, Any]:  # fmt: skip
    """LATENT drawn first by one model and prompt, then by another.

    Raises:
        ConfigError: the first stage has more steps than there are.
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
