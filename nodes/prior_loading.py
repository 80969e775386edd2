"""Priors and image generators by the user's choice: TinyWorld, a text space, folders in models/.

Their code is imported on first use, so that ComfyUI starts quickly.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.model_management
import torch

from ..errors import ModelError
from ..host.comfyui.memory import free_vram
from ..host.ports import Host
from ..methods.conceptlab import SpaceDefaults
from ..vision.ports import PriorSampling
from .model_folders import CONFIG, INDEX, PRIORS, VQA, models_in
from .shared import CATEGORY, host_of

if TYPE_CHECKING:
    from ..vision.ports import ConceptSpace, ImageGenerator, VQAModel

LAB = f"{CATEGORY}/ConceptLab"
TINYWORLD, TEXT_SPACE, NONE = "TinyWorld", "none (text space)", "none"
ORACLE = "TinyWorld oracle"
PRECISIONS = {"half": torch.float16, "full": torch.float32}
SAMPLING = PriorSampling()


@dataclass(frozen=True, slots=True)
class LoadedPrior:
    """The value of the PRIOR socket: the concept space and its image generator."""

    space: ConceptSpace
    image_generator: ImageGenerator | None
    defaults: SpaceDefaults = field(default_factory=SpaceDefaults)


def prior_on_base_model(
    prior: str, model: Any, clip: Any, vae: Any, steps: int, cfg: float, size: int
) -> LoadedPrior:
    """TinyWorld's prior, or none, with a base model as the image generator.

    Raises:
        ModelError: MODEL, CLIP or VAE is not connected.
    """
    from ..vision.clip_space import ClipSpace
    from ..vision.generators import HostImageGenerator

    host = _connected(prior, model, clip, vae)
    image_generator = HostImageGenerator(host, steps=steps, cfg=cfg, size=(size, size))
    if prior == TEXT_SPACE:
        return LoadedPrior(ClipSpace(host), image_generator, SpaceDefaults((1.0, -1.0)))
    from ..tinyworld.prior import GALLERY, SENTENCES, load_tiny_prior
    from ..vision.prior_files import prior_on_host

    with torch.inference_mode(False):
        tiny = load_tiny_prior()
        space = prior_on_host(
            host,
            prior=tiny.prior,
            vision=tiny.vision,
            projection=tiny.projection,
            scheduler=tiny.scheduler,
        )
    return LoadedPrior(space, image_generator, SpaceDefaults(tiny.clamps, SENTENCES, GALLERY))


def prior_from_folders(
    prior: str, decoder: str, precision: str, steps: int, cfg: float, size: int
) -> LoadedPrior:
    """A prior of models/diffusion_priors, and its decoder if selected."""
    from ..vision.prior_files import decoder_generator, load_decoder, load_prior

    device = comfy.model_management.get_torch_device()
    dtype = _dtype(precision, device)
    drawing = None
    if decoder != NONE:
        drawing = load_decoder(folder_of(PRIORS, INDEX, decoder), dtype)
    folder = folder_of(PRIORS, INDEX, prior)
    space = load_prior(folder, device, dtype, decoder=drawing, free_vram=free_vram)
    image_generator = None
    if drawing is not None:
        image_generator = decoder_generator(
            space,
            drawing,
            device,
            sampling=SAMPLING,
            steps=steps,
            cfg=cfg,
            size=(size, size),
            free_vram=free_vram,
        )
    return LoadedPrior(space, image_generator)


def questions_from(model_folder: str, precision: str) -> VQAModel:
    """The VQA model: TinyWorld's judge, or a BLIP-2 in models/vqa."""
    if model_folder == ORACLE:
        from ..tinyworld.questions import JudgeVQA

        return JudgeVQA()
    from ..vision.vqa import load_blip2

    device = comfy.model_management.get_torch_device()
    folder = folder_of(VQA, CONFIG, model_folder)
    return load_blip2(folder, device, _dtype(precision, device), free_vram)


def folder_of(kind: str, holds: str, name: str) -> Path:
    """A folder from a list; checked again, because API calls can pass any name."""
    folders = models_in(kind, holds)
    if name not in folders:
        raise ModelError(
            f"There is no {name!r} in models/{kind}; copy the model's folder from Hugging Face "
            "(safetensors) there, and refresh the lists (key R)."
        )
    return folders[name]


def _connected(prior: str, model: Any, clip: Any, vae: Any) -> Host:
    if model is None or clip is None or vae is None:
        raise ModelError(
            f"{prior!r} reads the text encoder of a base model, which also draws: connect MODEL, "
            "CLIP and VAE of one checkpoint."
        )
    return host_of(model, clip, vae)


def _dtype(precision: str, device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "cpu" else PRECISIONS[precision]
