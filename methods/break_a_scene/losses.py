"""The losses of Break-A-Scene on plain tensors."""

from __future__ import annotations

from torch import Tensor

from ...attention.maps import normalised_by_max


def masked_noise_loss(
    predicted: Tensor, noise: Tensor, mask: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Squared error of the predicted noise under the masks.

    Source: L_rec, paper Sec. 4.2; official train.py:1152-1158. As there, the mean runs over all
    latents and those outside of the mask count as zero: a small object pulls less.

    Args:
        predicted: [B, C, h, w] model output, noise units.
        noise: [B, C, h, w] the noise that was added.
        mask: [B, 1, h, w] union of the drawn concepts' masks, 0..1.
        weight: [B] factor of every row; `Schedule.native_weight` for v-prediction.

    Returns:
        [] dimensionless.
    """
    error = ((predicted - noise) * mask).square().mean(dim=(1, 2, 3))
    return (error if weight is None else error * weight).mean()


def attention_loss(maps: Tensor, masks: Tensor, rows: int) -> Tensor:
    """Distance of each drawn word's attention from its mask.

    Source: L_attn, paper Sec. 4.3; official train.py:1187-1225: maps divided by their maximum,
    mean over the grid, sum over the concepts of a picture, mean over the B pictures.

    Args:
        maps: [G, h, w] attention probabilities, G (picture, concept) pairs.
        masks: [G, h, w] the concept's own mask on that grid, 0..1.
        rows: B, the number of pictures.

    Returns:
        [] dimensionless, before its weight of 0.01.
    """
    return (masks - normalised_by_max(maps)).square().mean(dim=(1, 2)).sum() / rows
