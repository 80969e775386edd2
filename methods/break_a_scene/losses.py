"""The attention loss of Break-A-Scene on plain tensors; L_rec is `training.losses`."""

from __future__ import annotations

from torch import Tensor

from ...attention.maps import normalised_by_max


def attention_loss(maps: Tensor, masks: Tensor, rows: int) -> Tensor:
    """Squared distance between the attention of each selected word and its mask.

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
