"""Load Diffusion Prior, Load BLIP-2, Generate with Prior."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.model_management
import folder_paths
import torch
from comfy_api.latest import io
from torch import Tensor

from ..errors import ModelError
from ..host.comfyui.progress import NodeProgress
from ..host.ports import Host
from ..tinyworld.prior import GALLERY, SENTENCES, load_tiny_prior
from ..tinyworld.questions import OracleQuestions
from ..training.concept import Concept
from ..vision.clip_space import ClipSpace
from ..vision.painters import DecoderPainter, HostPainter
from ..vision.ports import ConceptSpace, Painter, PriorSampling
from ..vision.prior_files import INDEX, load_decoder, load_prior, painter_of, prior_on_host
from ..vision.vqa import load_blip2
from .shared import CATEGORY, host_of, shown
from .sockets import LearnedConcept, PriorSocket, VqaSocket

LAB = f"{CATEGORY}/ConceptLab"
PRIORS, VQA = "diffusion_priors", "vqa"  # folders of models/
TINYWORLD, TEXT_SPACE, NONE = "TinyWorld", "none (text space)", "none"
ORACLE = "TinyWorld oracle"
PRECISIONS = {"half": torch.float16, "full": torch.float32}
SAMPLING = PriorSampling()


@dataclass(frozen=True, slots=True)
class LoadedPrior:
    """What travels as PRIOR: where concepts are compared, and who draws them."""

    space: ConceptSpace
    painter: Painter | None
    ceiling: float | None = None  # clamps that this space wants instead of the method's
    floor: float | None = None
    sentences: tuple[str, ...] = ()  # to learn in, where the method's hold words unknown here
    gallery: tuple[str, ...] = ()


class LoadDiffusionPrior(io.ComfyNode):
    """A prior, and what draws its pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomLoadDiffusionPrior",
            display_name="Load Diffusion Prior",
            category=LAB,
            description="The prior that imagines a picture's embedding from a prompt, and who "
            f"draws it. Reads folders of models/{PRIORS} only; nothing is downloaded.",
            search_aliases=["kandinsky", "karlo", "unclip", "conceptlab"],
            inputs=[
                io.Combo.Input(
                    "prior",
                    options=[TINYWORLD, TEXT_SPACE, *model_folders(PRIORS, INDEX)],
                    tooltip=f"A folder of models/{PRIORS} as diffusers saves it, such as "
                    "kandinsky-2-1-prior; TinyWorld's own; or none, which compares texts in the "
                    "CLIP that is connected.",
                ),
                io.Combo.Input(
                    "decoder",
                    options=[NONE, *model_folders(PRIORS, INDEX)],
                    default=NONE,
                    tooltip="Kandinsky's decoder of the same version, which draws the pictures. "
                    "None: a connected base model draws, or nobody.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="half",
                    advanced=True,
                    tooltip="Of networks from folders: half needs 2 GB for a prior on a GPU; a CPU "
                    "always computes in full.",
                ),
                _number("steps", 50, 1, 200, "Sampling steps of a picture: 50 as the paper, 20 is "
                        "quick and rough."),
                io.Float.Input(
                    "cfg",
                    default=7.5,
                    min=1.0,
                    max=30.0,
                    step=0.5,
                    tooltip="Guidance of a picture: 1 is none, 7.5 the paper's, 3 for TinyWorld.",
                ),
                _number("size", 512, 32, 2048, "Side of a picture in px: 512 for Kandinsky and SD "
                        "1.5, 1024 for SDXL, 64 for TinyWorld.", step=8),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The base model that draws, for TinyWorld and the text space.",
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
            host = _connected(prior, model, clip, vae)
            return io.NodeOutput(on_host(prior, host, steps, cfg, size))
        return io.NodeOutput(from_folders(prior, decoder, precision, steps, cfg, size))


class LoadBlip2(io.ComfyNode):
    """Somebody who answers questions about pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomLoadBlip2",
            display_name="Load BLIP-2",
            category=LAB,
            description="The model that says what a picture shows. Reads folders of "
            f"models/{VQA} only; nothing is downloaded. It is on the GPU only while it answers.",
            search_aliases=["vqa", "caption", "question", "conceptlab"],
            inputs=[
                io.Combo.Input(
                    "model_folder",
                    options=[ORACLE, *model_folders(VQA, "config.json")],
                    tooltip=f"A folder of models/{VQA} such as blip2-flan-t5-xl (safetensors), or "
                    "the oracle that knows TinyWorld's shapes.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="half",
                    advanced=True,
                    tooltip="Half needs 8 GB for blip2-flan-t5-xl; a CPU always computes in full.",
                ),
            ],
            outputs=[VqaSocket.Output("vqa", tooltip="For BLIP-2 Adaptive Negatives Trainer.")],
        )

    @classmethod
    def execute(cls, model_folder: str, precision: str) -> io.NodeOutput:
        if model_folder == ORACLE:
            return io.NodeOutput(OracleQuestions())
        device = comfy.model_management.get_torch_device()
        folder, dtype = folder_of(VQA, "config.json", model_folder), _dtype(precision, device)
        return io.NodeOutput(load_blip2(folder, device, dtype))


class GenerateWithPrior(io.ComfyNode):
    """A prompt with handles -> pictures, and the embedding for unCLIP checkpoints."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomGenerateWithPrior",
            display_name="Generate with Prior",
            category=LAB,
            description="Lets the prior imagine a prompt with learned names, and draws it. The "
            "embedding also goes into ComfyUI's own unCLIPConditioning.",
            search_aliases=["kandinsky", "unclip", "conceptlab", "sample"],
            inputs=[
                PriorSocket.Input("prior", tooltip="From Load Diffusion Prior."),
                LearnedConcept.Input(
                    "concept",
                    optional=True,
                    tooltip="A concept that was learned with this prior; its name works in the "
                    "prompt.",
                ),
                io.String.Input(
                    "prompt",
                    default="a photo of a <my-pet>",
                    multiline=True,
                    tooltip="What to draw. Names of the concept stand in angle brackets.",
                ),
                _number("seed", 0, 0, 2**32 - 1, "The same seed gives the same picture."),
                _number("count", 1, 1, 64, "Pictures, each with the next seed."),
                _number("prior_steps", SAMPLING.steps, 2, 200, "Steps of the prior: 5 as it was "
                        "learned with, 25 is finer."),
                io.Float.Input(
                    "prior_guidance",
                    default=SAMPLING.guidance,
                    min=1.0,
                    max=20.0,
                    step=0.5,
                    tooltip="How closely the prior follows the prompt: 1 loosely, 4 as learned.",
                ),
            ],
            outputs=[
                io.Image.Output("images", tooltip="The pictures; empty without a decoder."),
                io.ClipVisionOutput.Output(
                    "clip_vision_output",
                    tooltip="The embeddings, for unCLIPConditioning with an unCLIP checkpoint of "
                    "the same CLIP (ViT-L for Karlo).",
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
        wish = Wish(prior, prompt, handles, range(seed, seed + count), sampling)
        embeddings = wish.imagined()
        images = wish.drawn(embeddings, NodeProgress(None))
        return io.NodeOutput(images, vision_output(embeddings), ui=shown(cls, images))


@dataclass(frozen=True, slots=True)
class Wish:
    """What Generate with Prior was asked for."""

    prior: LoadedPrior
    prompt: str
    handles: Any
    seeds: range
    sampling: PriorSampling

    def imagined(self) -> Tensor:
        """[n, D] one embedding for each seed."""
        space = self.prior.space
        with torch.no_grad():
            rows = [
                space.imagine(
                    self.prompt, self.handles, torch.Generator().manual_seed(s), self.sampling
                )
                for s in self.seeds
            ]
        return torch.stack(rows)

    def drawn(self, embeddings: Tensor, progress: NodeProgress) -> Tensor:
        """[n, H, W, 3] pictures; one small black one where nobody draws."""
        painter = self.prior.painter
        if painter is None:
            return torch.zeros(1, 64, 64, 3)
        if isinstance(painter, DecoderPainter):
            pictures = [
                painter.decode(row[None], seed, progress)
                for row, seed in zip(embeddings, self.seeds, strict=True)
            ]
        else:
            pictures = [
                painter.paint([self.prompt], self.handles, seed, progress) for seed in self.seeds
            ]
        painter.park()
        self.prior.space.park()
        return torch.cat(pictures)


def vision_output(embeddings: Tensor) -> Any:
    """Embeddings [n, D] as what CLIP Vision Encode gives, for the host's own unCLIP nodes."""
    output = comfy.clip_vision.Output()
    output["image_embeds"] = embeddings.detach().float().cpu()
    output["last_hidden_state"] = output["penultimate_hidden_states"] = None
    return output


def on_host(prior: str, host: Host, steps: int, cfg: float, size: int) -> LoadedPrior:
    """TinyWorld's prior, or none, with a base model that draws."""
    painter = HostPainter(host, steps=steps, cfg=cfg, size=(size, size))
    if prior == TEXT_SPACE:
        return LoadedPrior(ClipSpace(host), painter, 1.0, -1.0)
    with torch.inference_mode(False):
        tiny = load_tiny_prior()
        space = prior_on_host(
            host,
            prior=tiny.prior,
            vision=tiny.vision,
            projection=tiny.projection,
            scheduler=tiny.scheduler,
        )
    return LoadedPrior(space, painter, *tiny.clamps, SENTENCES, GALLERY)


def from_folders(
    prior: str, decoder: str, precision: str, steps: int, cfg: float, size: int
) -> LoadedPrior:
    """A prior of models/diffusion_priors, and its decoder where one was chosen."""
    device = comfy.model_management.get_torch_device()
    dtype = _dtype(precision, device)
    drawing = None
    if decoder != NONE:
        drawing = load_decoder(folder_of(PRIORS, INDEX, decoder), dtype)
    space = load_prior(folder_of(PRIORS, INDEX, prior), device, dtype, decoder=drawing)
    painter = None
    if drawing is not None:
        painter = painter_of(
            space, drawing, device, sampling=SAMPLING, steps=steps, cfg=cfg, size=(size, size)
        )
    return LoadedPrior(space, painter)


def model_folders(kind: str, holds: str) -> list[str]:
    """Names of the folders of models/<kind> that hold a file, in order."""
    found: dict[str, Path] = {}
    for root in folder_paths.folder_names_and_paths.get(kind, ([], set()))[0]:
        if Path(root).is_dir():
            found |= {f.name: f for f in sorted(Path(root).iterdir()) if (f / holds).is_file()}
    return sorted(found)


def folder_of(kind: str, holds: str, name: str) -> Path:
    """A folder that a list offered; looked at again, for lists can be forged."""
    for root in folder_paths.folder_names_and_paths.get(kind, ([], set()))[0]:
        if name in model_folders(kind, holds) and (Path(root) / name / holds).is_file():
            return Path(root) / name
    raise ModelError(
        f"There is no {name!r} in models/{kind}; put the model's folder there as it comes from "
        "Hugging Face (safetensors), and refresh the lists (key R)."
    )


def register_lab_folders() -> None:
    """Make models/diffusion_priors and models/vqa known to ComfyUI."""
    for kind in (PRIORS, VQA):
        folder_paths.add_model_folder_path(kind, str(Path(folder_paths.models_dir) / kind))


def _connected(prior: str, model: Any, clip: Any, vae: Any) -> Host:
    if model is None or clip is None or vae is None:
        raise ModelError(
            f"{prior!r} reads the text encoder of a base model, which also draws: connect MODEL, "
            "CLIP and VAE of one checkpoint."
        )
    return host_of(model, clip, vae)


def _dtype(precision: str, device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "cpu" else PRECISIONS[precision]


def _number(
    name: str, default: int, least: int, most: int, tooltip: str, step: int = 1
) -> io.Input:
    return io.Int.Input(
        name,
        default=default,
        min=least,
        max=most,
        step=step,
        control_after_generate=False,
        tooltip=tooltip,
    )
