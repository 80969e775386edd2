"""Generate with Prior: a prompt with handles as pictures, and as an embedding for unCLIP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.clip_vision
import torch
from comfy_api.latest import io
from torch import Tensor

from ..concepts.concept import Concept
from ..host.comfyui.progress import NodeProgress
from ..vision.ports import PriorSampling
from .prior import whole_input
from .prior_loading import LAB, SAMPLING, LoadedPrior
from .shared import shown
from .sockets import LearnedConcept, PriorSocket


class GenerateWithPrior(io.ComfyNode):
    """A prompt with handles -> pictures, and the embedding for unCLIP checkpoints."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomGenerateWithPrior",
            display_name="Generate with Prior",
            category=LAB,
            description="Predicts the embedding of a prompt with learned names and draws it. "
            "The embedding also fits ComfyUI's own unCLIPConditioning.",
            search_aliases=["kandinsky", "unclip", "conceptlab", "sample"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                PriorSocket.Input("prior", tooltip="From Load Diffusion Prior."),
                LearnedConcept.Input(
                    "concept",
                    optional=True,
                    tooltip="A concept trained with this prior; the prompt can use its name.",
                ),
                io.String.Input(
                    "prompt",
                    default="a photo of a <my-pet>",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What to draw. Write names of the concept in angle brackets.",
                ),
                whole_input("seed", 0, 0, 2**32 - 1, "The same seed gives the same picture."),
                whole_input("count", 1, 1, 64, "Number of pictures, each with the next seed."),
                whole_input("prior_steps", SAMPLING.steps, 2, 200, "Steps of the prior: "
                "training uses 5, 25 is finer."),
                io.Float.Input(
                    "prior_guidance",
                    default=SAMPLING.guidance,
                    min=1.0,
                    max=20.0,
                    step=0.5,
                    tooltip="Guidance scale of the prior: 1 follows the prompt loosely, 4 is "
                    "the training value.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "images", tooltip="The pictures; a small black one without an image generator."
                ),
                io.ClipVisionOutput.Output(
                    "clip_vision_output",
                    tooltip="The embeddings, for unCLIPConditioning with an unCLIP checkpoint "
                    "of the same CLIP (ViT-L for Karlo). It mixes several into one.",
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, prior: LoadedPrior, prompt: str, seed: int, count: int, prior_steps: int,
        prior_guidance: float, concept: Concept | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        sampling = PriorSampling(steps=prior_steps, guidance=prior_guidance, checkpointing=False)
        handles = {} if concept is None else concept.handles
        request = PriorRequest(prior, prompt, handles, range(seed, seed + count), sampling)
        progress = NodeProgress(cls.hidden.unique_id)
        try:
            embeddings = request.imagined(progress)
            images = request.drawn(embeddings, progress)
        finally:  # cancelled, too
            request.offload()
        return io.NodeOutput(images, vision_output(embeddings), ui=shown(cls, images))


@dataclass(frozen=True, slots=True)
class PriorRequest:
    """The request to Generate with Prior."""

    prior: LoadedPrior
    prompt: str
    handles: Any
    seeds: range
    sampling: PriorSampling

    def imagined(self, progress: NodeProgress) -> Tensor:
        """[n, D] one embedding for each seed."""
        rows: list[Tensor] = []
        for seed in self.seeds:
            progress(len(rows), len(self.seeds), "imagining")
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                rows.append(
                    self.prior.space.imagine(self.prompt, self.handles, generator, self.sampling)
                )
        return torch.stack(rows)

    def drawn(self, embeddings: Tensor, progress: NodeProgress) -> Tensor:
        """[n, H, W, 3] pictures; one small black one without an image generator."""
        from ..vision.generators import DecoderImageGenerator

        image_generator = self.prior.image_generator
        if image_generator is None:
            return torch.zeros(1, 64, 64, 3)
        if isinstance(image_generator, DecoderImageGenerator):
            pictures = [
                image_generator.decode(row[None], seed, progress)
                for row, seed in zip(embeddings, self.seeds, strict=True)
            ]
        else:
            pictures = [
                image_generator.paint([self.prompt], self.handles, seed, progress)
                for seed in self.seeds
            ]
        return torch.cat(pictures)

    def offload(self) -> None:
        """Offload all models."""
        if self.prior.image_generator is not None:
            self.prior.image_generator.offload()
        self.prior.space.offload()


def vision_output(embeddings: Tensor) -> Any:
    """Embeddings [n, D] in the form of CLIP Vision Encode, for ComfyUI's unCLIP nodes."""
    output = comfy.clip_vision.Output()
    output["image_embeds"] = embeddings.detach().float().cpu()
    output["last_hidden_state"] = output["penultimate_hidden_states"] = None
    return output
