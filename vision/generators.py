"""Image generators for handles: the base model, or a decoder of the prior."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..host.ports import HandleVectors, Host, Progress, no_progress, part_of
from ..samplers.ddim import sample_ddim, seeded_noise
from .offload import FreeVRAM, OffloadedModules
from .ports import PriorSampling
from .prior import DiffusionPrior


class HostImageGenerator:
    """Draws with the base model, for handles of its own text encoder.

    Args:
        steps: of DDIM.
        size: (height, width) in px.
    """

    def __init__(self, host: Host, *, steps: int, cfg: float, size: tuple[int, int]) -> None:
        self._host, self._steps, self._cfg, self._size = host, steps, cfg, size
        self.name = f"base model, {steps} steps, cfg {cfg:g}, {size[0]} x {size[1]} px"

    @torch.no_grad()
    def paint(
        self,
        prompts: Sequence[str],
        handles: HandleVectors,
        seed: int,
        progress: Progress = no_progress,
    ) -> Tensor:
        noise = seeded_noise(self._host, seed, 1, self._size)
        empty, latents = self._host.encode_prompt(""), list[Tensor]()
        total = len(prompts) * self._steps
        for number, text in enumerate(prompts):
            report = part_of(progress, number * self._steps, total, "drawing the gallery")
            prompt = self._host.encode_prompt(text, handles)
            latents.append(
                sample_ddim(
                    self._host,
                    [prompt],
                    empty,
                    noise,
                    steps=self._steps,
                    cfg=self._cfg,
                    progress=report,
                )
            )
        return self._host.decode_latent(torch.cat(latents))

    def offload(self) -> None:
        """Does nothing: the host manages its own networks."""


class DecoderImageGenerator:
    """Kandinsky's decoder draws the prior's embeddings (coach.py:92-102: 50 steps, 7.5, 512 px).

    Args:
        prior: its image encoder gives the unconditional embedding.
        pipeline: diffusers' KandinskyPipeline (2.1) or KandinskyV22Pipeline (2.2).
        device: where the pipeline computes.
        size: (height, width) in px, multiples of 64.
        free_vram: see `OffloadedModules`.
    """

    def __init__(
        self,
        prior: DiffusionPrior,
        pipeline: Any,
        device: torch.device,
        *,
        sampling: PriorSampling,
        steps: int = 50,
        cfg: float = 7.5,
        size: tuple[int, int] = (512, 512),
        free_vram: FreeVRAM | None = None,
    ) -> None:
        networks = [pipeline.unet, pipeline.movq, getattr(pipeline, "text_encoder", None)]
        self._offloaded = OffloadedModules(
            [n for n in networks if n is not None], device, free_vram
        )
        self._prior, self._pipeline, self._sampling = prior, pipeline, sampling
        self._steps, self._cfg, self._size = steps, cfg, size
        self._takes_text = hasattr(pipeline, "text_encoder")
        pipeline.set_progress_bar_config(disable=True)
        self.name = f"decoder, {steps} steps, cfg {cfg:g}, {size[0]} x {size[1]} px"

    @torch.no_grad()
    def paint(
        self,
        prompts: Sequence[str],
        handles: HandleVectors,
        seed: int,
        progress: Progress = no_progress,
    ) -> Tensor:
        imagined: list[Tensor] = []
        for text in prompts:
            progress(len(imagined), len(prompts), "imagining")
            generator = torch.Generator().manual_seed(seed)
            imagined.append(self._prior.imagine(text, handles, generator, self._sampling))
        return self.decode(torch.stack(imagined), seed, progress)

    @torch.no_grad()
    def decode(self, embeddings: Tensor, seed: int, progress: Progress = no_progress) -> Tensor:
        """[n, H, W, 3] pictures of embeddings [n, D], each from the same noise."""
        blank, pictures = self._prior.blank(), list[Tensor]()
        self._offloaded.onload()
        for number, embedding in enumerate(embeddings):
            steps = number * self._steps, len(embeddings) * self._steps
            with _reporting_passes(self._pipeline.unet, progress, *steps):
                pictures.append(self._decoded(embedding, blank, seed))
        return torch.stack(pictures).clamp(0, 1)

    def _decoded(self, embedding: Tensor, blank: Tensor, seed: int) -> Tensor:
        """[H, W, 3] picture of one embedding [D]."""
        drawn = self._pipeline(
            **({"prompt": ""} if self._takes_text else {}),
            image_embeds=embedding[None].to(self._pipeline.unet.dtype),
            negative_image_embeds=blank.to(self._pipeline.unet.dtype),
            num_inference_steps=self._steps,
            guidance_scale=self._cfg,
            height=self._size[0],
            width=self._size[1],
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
        ).images
        return torch.from_numpy(drawn[0]).float()

    def offload(self) -> None:
        self._offloaded.offload()


@contextmanager
def _reporting_passes(unet: nn.Module, progress: Progress, done: int, total: int) -> Iterator[None]:
    """Report before every pass of a network; pipelines differ in the callbacks that they take."""
    passes = itertools.count(done)
    hook = unet.register_forward_pre_hook(
        lambda *_: progress(min(next(passes), total), total, "decoding")
    )
    try:
        yield
    finally:
        hook.remove()
