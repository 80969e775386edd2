"""The diffusion loss that several methods share, on plain tensors."""

from __future__ import annotations

from torch import Tensor


def masked_noise_loss(
    predicted: Tensor, noise: Tensor, mask: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Squared error of the predicted noise, weighted by a mask inside of the square.

    Source: L_rec of Break-A-Scene, paper Sec. 4.2, official train.py:1152-1158, with masks of 0 and
    1; l_context of CLiC, paper Sec. 3.1, with soft ones. The mean runs over all latents and those
    outside of a hard mask count as zero: a small object pulls less.

    Args:
        predicted: [B, C, h, w] model output, noise units.
        noise: [B, C, h, w] the noise that was added.
        mask: [B, 1, h, w] factor of the error before it is squared, 0..1.
        weight: [B] factor of every row; `Schedule.native_weight` for v-prediction.

    Returns:
        [] dimensionless.
    """
    error = ((predicted - noise) * mask).square().mean(dim=(1, 2, 3))
    return (error if weight is None else error * weight).mean()
