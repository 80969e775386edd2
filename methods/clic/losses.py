"""The losses of CLiC on plain tensors. l_context and l_RoI as the paper writes them are
`training.losses.masked_loss`, with M_soft and with ones."""

from __future__ import annotations

from torch import Tensor

from ...attention.maps import normalised_min_max


def outside_weighted(mask: Tensor, background_weight: float) -> Tensor:
    """The official context mask: the region as it is, a constant weight around it.

    Source: learning.py:110-115. Its constant 0.25 is 0.5 * 0.5, because the paper's M_soft is
    inside the square, so that the error around the region counts a * a. The code uses the constant
    where the mask is below 0.05; here it is the minimum weight, so that a faint edge never weighs
    less than the area around it, and a = 1 is the plain loss.

    Args:
        mask: any shape, 0..1.
        background_weight: a, 0..1.
    """
    return mask.clamp_min(background_weight**2)


def area_loss(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Squared error of a prediction, divided by the sum of weights: small regions weigh the same.

    Source: learning.py:1002-1011. Channels are summed and the mask has one, so with four of them
    the value is four times the mean error.

    Args:
        predicted: [B, C, h, w] output of the network.
        target: [B, C, h, w] its target, `NoisePath.target`.
        mask: [B, 1, h, w] weight of each latent, 0..1.

    Returns:
        [] dimensionless; 0 where the mask is empty.
    """
    error = ((predicted - target).square() * mask).sum(dim=(1, 2, 3))
    return (error / (mask.sum(dim=(1, 2, 3)) + 1e-10)).mean()


def attention_loss(maps: Tensor, masks: Tensor) -> Tensor:
    """Distance of the concept's attention from its mask.

    Source: l_att, paper Sec. 3.1; learning.py:995-999: maps stretched to 0..1, mean over grid and
    pictures.

    Args:
        maps: [B, h, w] attention probabilities.
        masks: [B, h, w] on the same grid, 0..1.

    Returns:
        [] dimensionless, before its weight.
    """
    return (normalised_min_max(maps) - masks).square().mean()
