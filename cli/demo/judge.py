"""What the stories measure beside the judge's verdicts: where words look, means."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...attention.capture import read_attention
from ...host.ports import HandleVectors, Host
from ...tinyworld.measures import Localisation, localisation
from ...tinyworld.scenes import Scene

ELSEWHERE_SEED = 7  # of unseen arrangements


def word_localisation(
    host: Host, vectors: HandleVectors, handles: Sequence[str], truth: Scene
) -> dict[str, Localisation]:
    """Where each handle looks in a rendered picture, against the exact masks.

    Args:
        handles: of the objects of `truth`, in order; the prompt names all of them.
    """
    words = [f"<{name}>" for name in handles]
    prompt = host.encode_prompt("a photo of " + " and ".join(words), vectors)
    latent = host.encode_image(as_image(truth.image)[None])
    maps = read_attention(host, latent, prompt, words)
    return {
        name: localisation(heat, mask)
        for name, heat, mask in zip(handles, maps.values(), truth.masks, strict=True)
    }


def as_image(pixels: np.ndarray) -> Tensor:
    """[H, W, 3], 0..1, of a rendered picture."""
    return torch.from_numpy(pixels.astype(np.float32) / 255)


def mean(values: Sequence[float]) -> float:
    """NaN of nothing."""
    return sum(values) / len(values) if values else float("nan")
