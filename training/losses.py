"""The diffusion loss that several methods share, on plain tensors."""

from __future__ import annotations

from torch import Tensor


def masked_loss(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Squared error of a prediction, weighted by a mask inside of the square.

    Source: L_rec of Break-A-Scene, paper Sec. 4.2, official train.py:1152-1158, with masks of 0 and
    1; l_context of CLiC, paper Sec. 3.1, with soft ones. The mean is over all latents; those
    outside a hard mask count as zero, so small objects weigh less.

    Args:
        predicted: [B, C, h, w] output of the network.
        target: [B, C, h, w] its target, `NoisePath.target`.
        mask: [B, 1, h, w] factor of the error before it is squared, 0..1.

    Returns:
        [] dimensionless.
    """
    return ((predicted - target) * mask).square().mean(dim=(1, 2, 3)).mean()
