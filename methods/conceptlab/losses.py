"""The losses of ConceptLab on plain numbers: cosines in, one number out.

Source: arXiv 2308.02669, Sec. 4; official code at f94f43c, training/coach.py:301-337. The paper
describes S and S_max and their average; the two clamps stand in the code only.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def cosines(targets: Tensor, imagined: Tensor) -> Tensor:
    """<E(c), P(E_y(v))> for every constraint.

    Args:
        targets: [n, D] embeddings of constraints, of any length.
        imagined: [D] the concept's, of any length.

    Returns:
        [n] in -1..1, float32.
    """
    towards = functional.normalize(targets.float(), dim=-1)
    return towards @ functional.normalize(imagined.float(), dim=-1)


def positive_loss(similarities: Tensor, weights: Tensor, ceiling: float) -> Tensor:
    """sum_i w_i (1 - min(c_i, ceiling)); no gain above the ceiling.

    Args:
        similarities: [n] cosines with the positive constraints.
        weights: [n], summing to 1.
        ceiling: cosine above which the loss is constant; 1 disables it.
    """
    return (weights * (1 - similarities.clamp(max=ceiling))).sum()


def negative_loss(similarities: Tensor, floor: float) -> Tensor:
    """0.5 (mean_j c_j + max_j c_j), c_j = max(cos_j, floor); no gain below the floor.

    The maximum is the paper's regularisation: it prevents a collapse onto one member.

    Args:
        similarities: [m] cosines with the negative constraints; none gives 0.
        floor: cosine below which the loss is constant; -1 disables it.
    """
    if not similarities.numel():
        return similarities.new_zeros(())
    clamped = similarities.clamp(min=floor)
    return 0.5 * (clamped.mean() + clamped.max())


def mix_loss(similarities: Tensor, weights: Tensor) -> Tensor:
    """L_mix = 1 - sum_i w_i <E_im(c_i), P(E_y(v_mix))>.

    Differs from the official code, which compares the prompt's text feature with the parents
    (coach_evolution.py:116 takes a pair in the wrong order): `similarities` are of the prior's
    output here, as the paper writes.

    Args:
        similarities: [n] cosines with one picture of every parent.
        weights: [n], summing to 1.
    """
    return 1 - (weights * similarities).sum()


def shares(weights: tuple[float, ...], count: int) -> Tensor:
    """[count] weights that sum to 1; none given means equal ones."""
    weight = torch.tensor(weights if weights else (1.0,) * count)
    return weight / weight.sum()
