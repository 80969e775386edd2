"""Class images for prior preservation, drawn by the base model."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ImageError
from ..host.ports import Host, Progress, no_progress, part_of
from .ddim import sample_ddim, seeded_noise


def class_latents_of(
    host: Host,
    prompt: str,
    count: int,
    size_px: tuple[int, int],
    *,
    seed: int = 0,
    steps: int = 50,
    cfg: float = 7.5,
    rows: int = 4,
    progress: Progress = no_progress,
) -> Tensor:
    """[count, C, h, w] latents of pictures of a prompt, drawn by the base model itself.

    Source: Break-A-Scene's official code draws 100 with 50 steps at guidance 7.5
    (train.py:128-153, 669-723).

    Args:
        size_px: (H, W) of the pictures.
        rows: batch size.
    """
    positive, negative = host.encode_prompt(prompt), host.encode_prompt("")
    noise = seeded_noise(host, seed, count, size_px)
    drawn: list[Tensor] = []
    for start in range(0, count, rows):
        part = noise[start : start + rows]
        message = f"drawing class images of '{prompt}'"
        report = part_of(progress, start * steps, count * steps, message, each=len(part))
        latent = sample_ddim(
            host, [positive], negative, part, steps=steps, cfg=cfg, progress=report
        )
        drawn.append(latent.cpu())
    return torch.cat(drawn)


def encoded_class_latents(
    host: Host, images: Tensor, size_px: tuple[int, int], progress: Progress = no_progress
) -> Tensor:
    """[P, C, h, w] latents of the user's class images [P, H, W, 3].

    Raises:
        ImageError: they differ from the scene in size and cannot share a batch with it.
    """
    if tuple(images.shape[1:3]) != tuple(size_px):
        raise ImageError(
            f"The class images are {images.shape[2]}x{images.shape[1]} px but the scene trains at "
            f"{size_px[1]}x{size_px[0]} px; resize the class images."
        )
    latents: list[Tensor] = []
    for image in images:
        latents.append(host.encode_image(image[None]).cpu())
        progress(len(latents), len(images), "reading class images")
    return torch.cat(latents)
