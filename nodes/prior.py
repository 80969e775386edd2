"""Load Diffusion Prior, Load BLIP-2."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .model_folders import CONFIG, INDEX, PRIORS, VQA, models_in
from .prior_loading import (
    LAB,
    NONE,
    ORACLE,
    PRECISIONS,
    TEXT_SPACE,
    TINYWORLD,
    prior_from_folders,
    prior_on_base_model,
    questions_from,
)
from .sockets import PriorSocket, VqaSocket


class LoadDiffusionPrior(io.ComfyNode):
    """A prior, and what draws its pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomLoadDiffusionPrior",
            display_name="Load Diffusion Prior",
            category=LAB,
            description="Loads the prior, which predicts a picture's embedding from a prompt, and "
            f"selects the model that draws it. Reads only folders in models/{PRIORS}; downloads "
            "nothing.",
            search_aliases=["kandinsky", "karlo", "unclip", "conceptlab"],
            inputs=[
                io.Combo.Input(
                    "prior",
                    options=[TINYWORLD, TEXT_SPACE, *models_in(PRIORS, INDEX)],
                    tooltip=f"A folder in models/{PRIORS} in diffusers format, such as "
                    "kandinsky-2-1-prior; TinyWorld's own prior; or none, which compares texts "
                    "in the connected CLIP.",
                ),
                io.Combo.Input(
                    "decoder",
                    options=[NONE, *models_in(PRIORS, INDEX)],
                    default=NONE,
                    tooltip="Kandinsky decoder of the same version, which draws the pictures "
                    "of a prior from a folder; none draws no pictures. With TinyWorld and the "
                    "text space the base model draws instead.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="half",
                    advanced=True,
                    tooltip="Precision of networks from folders: half needs 2 GB for a prior "
                    "on a GPU; a CPU always uses full.",
                ),
                whole_input("steps", 50, 1, 200, "Sampling steps of a picture: the paper uses "
                "50, 20 is fast and rough."),
                io.Float.Input(
                    "cfg",
                    default=7.5,
                    min=1.0,
                    max=30.0,
                    step=0.5,
                    tooltip="Guidance scale of a picture: 1 disables guidance, the paper uses "
                    "7.5, TinyWorld 3.",
                ),
                whole_input("size", 512, 32, 2048, "Side of a picture in pixels: 512 for "
                "Kandinsky and SD 1.5, 1024 for SDXL, 128 for TinyWorld.", step=8),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The base model that draws the pictures, for TinyWorld and the "
                    "text space.",
                ),
                io.Clip.Input("clip", optional=True, tooltip="The CLIP of the same checkpoint."),
                io.Vae.Input("vae", optional=True, tooltip="The VAE of the same checkpoint."),
            ],
            outputs=[
                PriorSocket.Output("prior", tooltip="For the ConceptLab nodes."),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, prior: str, decoder: str, precision: str, steps: int, cfg: float, size: int,
        model: Any = None, clip: Any = None, vae: Any = None,
    ) -> io.NodeOutput:  # fmt: skip
        if prior in (TINYWORLD, TEXT_SPACE):
            loaded = prior_on_base_model(prior, model, clip, vae, steps, cfg, size)
        else:
            loaded = prior_from_folders(prior, decoder, precision, steps, cfg, size)
        return io.NodeOutput(loaded)


class LoadBlip2(io.ComfyNode):
    """Loads a VQA model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomLoadBlip2",
            display_name="Load BLIP-2",
            category=LAB,
            description="Loads the model that answers questions about pictures. Reads only "
            f"folders in models/{VQA}; downloads nothing. It occupies the GPU only while it "
            "answers.",
            search_aliases=["vqa", "caption", "question", "conceptlab"],
            inputs=[
                io.Combo.Input(
                    "model_folder",
                    options=[ORACLE, *models_in(VQA, CONFIG)],
                    tooltip=f"A folder in models/{VQA} such as blip2-flan-t5-xl (safetensors), or "
                    "TinyWorld's own judge, which knows its classes.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="half",
                    advanced=True,
                    tooltip="Precision: half needs 8 GB for blip2-flan-t5-xl; a CPU always "
                    "uses full.",
                ),
            ],
            outputs=[VqaSocket.Output("vqa", tooltip="For BLIP-2 Adaptive Negatives Trainer.")],
        )

    @classmethod
    def execute(cls, model_folder: str, precision: str) -> io.NodeOutput:
        return io.NodeOutput(questions_from(model_folder, precision))


def whole_input(
    name: str, default: int, least: int, most: int, tooltip: str, step: int = 1
) -> io.Input:
    """An integer widget without "control after generate"."""
    return io.Int.Input(
        name,
        default=default,
        min=least,
        max=most,
        step=step,
        control_after_generate=False,
        tooltip=tooltip,
    )
