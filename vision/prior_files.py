"""Kandinsky's and Karlo's priors and Kandinsky's decoders from folders as diffusers saves them.

models/diffusion_priors/kandinsky-2-1-prior/   prior, text_encoder, tokenizer, scheduler,
                                               image_encoder, model_index.json
models/diffusion_priors/kandinsky-2-1/         unet, movq, text_encoder, tokenizer, scheduler
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError, UnsupportedModelError
from ..host.families.clip import BY_WIDTH, CHUNK, ENCODERS
from ..host.ports import Host
from .generators import DecoderImageGenerator
from .local_files import described_folder, from_folder
from .offload import FreeVRAM, OffloadedModules, fit_for_autograd
from .ports import PriorSampling
from .prior import DiffusionPrior
from .text_side import ClipText, HostText

INDEX = "model_index.json"
PRIORS = {
    "KandinskyPriorPipeline": "kandinsky 2.1",
    "KandinskyV22PriorPipeline": "kandinsky 2.2",
    "UnCLIPPipeline": "karlo",
}
DECODERS = ("KandinskyPipeline", "KandinskyV22Pipeline")
_SOURCE = "kandinsky-community/kandinsky-2-1-prior or kandinsky-2-2-prior"


def load_prior(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    *,
    decoder: Any = None,
    free_vram: FreeVRAM | None = None,
) -> DiffusionPrior:
    """A prior with its encoders.

    Args:
        decoder: pipeline of `load_decoder`; that of Kandinsky 2.1 brings the multilingual text
            encoder which the official code compares constraints in. Without it the prior's own
            text encoder does that, whose embeddings lie in the same space.
        free_vram: see `OffloadedModules`.

    Raises:
        ModelError: files are missing, or diffusers is not installed.
        UnsupportedModelError: the folder holds something else.
    """
    index = described_folder(folder, "diffusion prior", _SOURCE, INDEX)
    kind = index.get("_class_name")
    if kind not in PRIORS:
        raise UnsupportedModelError(f"{folder} is a {kind}; supported priors: {', '.join(PRIORS)}.")
    PriorTransformer, UnCLIPScheduler = _diffusers("PriorTransformer", "UnCLIPScheduler")
    from transformers import (
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        CLIPVisionModelWithProjection,
    )

    prior = from_folder(PriorTransformer, folder / "prior", dtype)
    model = from_folder(CLIPTextModelWithProjection, folder / "text_encoder", dtype)
    tokenizer = from_folder(CLIPTokenizer, folder / "tokenizer")
    place = "prior_scheduler" if (folder / "prior_scheduler").is_dir() else "scheduler"
    scheduler = from_folder(UnCLIPScheduler, folder / place)
    vision = None
    if (folder / "image_encoder").is_dir():
        vision = from_folder(CLIPVisionModelWithProjection, folder / "image_encoder", dtype)
    width = int(model.config.hidden_size)
    text = ClipText(BY_WIDTH.get(width, ENCODERS[0]), model, tokenizer)
    constraints, networks = None, [prior, model, *([vision] if vision is not None else [])]
    if decoder is not None and type(decoder).__name__ == "KandinskyPipeline":
        constraints = multilingual(decoder.text_encoder, decoder.tokenizer)
        networks.append(decoder.text_encoder)
    return DiffusionPrior(
        text=text,
        prior=prior,
        scheduler=scheduler,
        vision=vision,
        constraints=constraints,
        fingerprint=f"prior {PRIORS[kind]}, {text.name} {width}",
        offloaded=OffloadedModules(networks, device, free_vram),
    )


def prior_on_host(
    host: Host, *, prior: Any, vision: Any, projection: Tensor, scheduler: Any
) -> DiffusionPrior:
    """A prior that reads a base model's own text encoder, so that its handles are that model's.

    Args:
        projection: [W, D] makes the pooled text feature of the end token's state.
    """
    with fit_for_autograd():
        projection = projection.clone()
    return DiffusionPrior(
        text=HostText(host, projection),
        prior=prior,
        scheduler=scheduler,
        vision=vision,
        fingerprint=host.fingerprint,
        offloaded=OffloadedModules([prior, vision], host.device),
    )


def load_decoder(folder: Path, dtype: torch.dtype) -> Any:
    """Kandinsky's decoder as a diffusers pipeline, on the CPU.

    Raises:
        ModelError: files are missing, or diffusers is not installed.
        UnsupportedModelError: the folder holds something else.
    """
    index = described_folder(folder, "decoder", "kandinsky-community/kandinsky-2-1", INDEX)
    kind = str(index.get("_class_name"))
    if kind not in DECODERS:
        raise UnsupportedModelError(
            f"{folder} is a {kind}; supported decoders: {', '.join(DECODERS)}."
        )
    (pipeline,) = _diffusers(kind)
    return from_folder(pipeline, folder, dtype)


def decoder_generator(
    prior: DiffusionPrior,
    decoder: Any,
    device: torch.device,
    *,
    sampling: PriorSampling,
    steps: int,
    cfg: float,
    size: tuple[int, int],
    free_vram: FreeVRAM | None = None,
) -> DecoderImageGenerator:
    """A decoder behind a prior, after a look at whether they belong together.

    Raises:
        ModelError: the decoder was trained on embeddings of another width.
    """
    config = decoder.unet.config
    is_21 = config.encoder_hid_dim_type == "text_image_proj"
    width = int(config.cross_attention_dim if is_21 else config.encoder_hid_dim)
    if width != prior.width:
        raise ModelError(
            f"The decoder reads picture embeddings {width} wide, but the prior makes "
            f"{prior.width}; use the same version of both (2.1 with 2.1, 2.2 with 2.2)."
        )
    return DecoderImageGenerator(
        prior,
        decoder,
        device,
        sampling=sampling,
        steps=steps,
        cfg=cfg,
        size=size,
        free_vram=free_vram,
    )


def multilingual(model: Any, tokenizer: Any) -> Callable[[Sequence[str]], Tensor]:
    """Kandinsky 2.1's multilingual CLIP for constraints (coach.py:238-254), wherever it is."""

    def meant(texts: Sequence[str]) -> Tensor:
        tokens = tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=CHUNK,
            return_tensors="pt",
        )
        device = next(model.parameters()).device
        pooled, _ = model(
            input_ids=tokens.input_ids.to(device), attention_mask=tokens.attention_mask.to(device)
        )
        return pooled

    return meant


def _diffusers(*names: str) -> list[Any]:
    try:
        import diffusers
    except ImportError as error:
        raise ModelError(
            "ConceptLab's prior needs diffusers: pip install 'diffusers>=0.32' in the environment "
            "of this program."
        ) from error
    return [getattr(diffusers, name) for name in names]
