"""The kind of a base model as a short string, the same in both hosts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from .ports import NoisePath, UNetSites


def fingerprint_of(
    sites: UNetSites,
    context_width: int,
    encoders: Mapping[str, int],
    noise_path: NoisePath | None,
    latent_channels: int,
) -> str:
    """For example "unet320 context768 clip_l768 eps 4ch 3f9a1c0b".

    The readable part is for error messages; the hash covers name, width and depth of every
    transformer block. Two checkpoints of one family share it: their concepts are compatible.

    Args:
        noise_path: None if the model is sampled in another way than it was trained.
    """
    blocks = " ".join(f"{s.name}:{s.width}x{s.depth}" for s in sites.transformers)
    target = noise_path.name if noise_path is not None else "any"
    texts = " ".join(f"{name}{width}" for name, width in sorted(encoders.items()))
    readable = (
        f"{sites.family}{sites.transformers[0].width} context{context_width} {texts} {target} "
        f"{latent_channels}ch"
    )
    digest = hashlib.sha256(f"{readable} {blocks}".encode()).hexdigest()[:8]
    return f"{readable} {digest}"
